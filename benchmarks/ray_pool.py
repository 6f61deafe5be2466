"""Throughput of ``spot_text.py --ray`` against its own processes, on one machine.

    python -m benchmarks.ray_pool                       # a table
    python -m benchmarks.ray_pool --videos 60 --rounds 5

Writes a folder of videos with text (640 x 360 pixels, 4 seconds), and spots the text of all of it
by processes of this machine and by the workers of a Ray cluster of one's own, as many of each, in
alternation. A first run of each is not counted. ``whole`` is the time from the call to the last
document, with the start of the workers; ``steady`` the videos a second from the moment at which
each worker has done its first video to the last one, which is what counts in a long run. The ratio
is that of a round's pair.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.inputs import TextVideo
from retrieval.spotting.folder import spot_folder
from retrieval.spotting.rapid_ocr import RapidOcrSpotter
from utils.cli import positive_int, run_cli
from utils.processes import RunTasks, TaskDone, run_tasks
from utils.ray_pool import LOCAL, RayOptions, RayPool

KIND = TextVideo(letter_height=24)


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--videos", type=positive_int, default=40, help="(default: %(default)s)")
    parser.add_argument("--workers", type=positive_int, default=2, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=3, help="(default: %(default)s)")
    asked = parser.parse_args()
    result = measuring.describe_machine() | vars(asked)
    with tempfile.TemporaryDirectory() as folder, RayPool(RayOptions(LOCAL), asked.workers) as pool:
        videos = Path(folder) / "videos"
        videos.mkdir()
        for seed in range(asked.videos):
            KIND.write(videos / f"{seed:04}.mp4", seed)
        runs = {"processes": partial(run_tasks, workers=asked.workers), "ray": pool.run_tasks}
        rounds = []
        for _ in range(asked.rounds + 1):  # the first one warms up
            rounds.append(
                {name: measure_run(videos, run, asked.workers) for name, run in runs.items()}
            )
    result["rounds"] = rounds[1:]
    measuring.write_result(result, asked.json, make_table)


def measure_run(videos: Path, run: RunTasks, workers: int) -> dict[str, float]:
    """Spot a folder's text; returns the seconds of ``whole``, and videos a second, ``steady``."""
    ends: list[float] = []

    def note(make_work: Callable[[], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        for event in run(make_work, tasks):
            if isinstance(event, TaskDone):
                ends.append(time.perf_counter())
            yield event

    out = videos.parent / "documents"
    start = time.perf_counter()
    spot_folder(videos, out, RapidOcrSpotter(), run=note)
    shutil.rmtree(out)
    return compute_speed(start, ends, workers)


def compute_speed(start: float, ends: Sequence[float], workers: int) -> dict[str, float]:
    """Return ``whole`` and ``steady`` of a run, by when it began and when its videos were done."""
    steady = (len(ends) - workers) / (ends[-1] - ends[workers - 1])
    return {"whole": ends[-1] - start, "steady": steady}


def make_table(result: measuring.Result) -> str:
    """Return the medians of both, and the ratio of ``steady``."""
    rows = []
    for name in ("processes", "ray"):
        spread = [
            measuring.format_spread([part[name][key] for part in result["rounds"]], digits=2)
            for key in ("whole", "steady")
        ]
        rows.append([name, *spread])
    ratios = [part["ray"]["steady"] / part["processes"]["steady"] for part in result["rounds"]]
    head = ("", "whole, s", "steady, videos/s")
    return (
        f"{measuring.format_head(result)}; {result['videos']} videos, {result['workers']} workers\n"
        f"{measuring.format_table(head, rows)}\n"
        f"ray / processes, steady: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})\n"
    )


if __name__ == "__main__":
    run_cli(main)
