"""Text in videos that ``spot_text.py`` finds: how much of it, how surely, and how fast.

    python -m benchmarks.spotting                      # a table
    python -m benchmarks.spotting --json               # the same as JSON, each video's numbers
    python -m benchmarks.spotting --scenes             # signage, pixel fonts, watermarks, ...
    python -m benchmarks.spotting --scenes --max_side 960
    python -m benchmarks.spotting --demo work_dirs/demo/fusion/model_last.pth

Writes videos with known words (640 x 360 pixels, 4 seconds) for every letter height, blur and speed
and compares the words that a model would be given with those that were written. With --scenes: the
same for the hard kinds of ``benchmarks.text_scenes``, with the seconds of a whole run by frame that
was looked at; --max_side is that of spot_text.py (former versions had 960). With --demo: R@1 of
a demonstration's model (make demo) with the OCR documents that came with its test videos, and with
those that spot_text.py writes.
"""

import itertools
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from benchmarks.inputs import TextVideo
from benchmarks.text_scenes import SCENES, TextScene
from data_loader.ocr.ocr_words import OcrParams, extract_words, load_ocr_document
from data_loader.ocr.paths import find_document
from parse_config import load_run_config
from retrieval.spotting.rapid_ocr import RapidOcrSpotter
from retrieval.spotting.text_spotter import TextLine
from retrieval.spotting.video import spot_video
from utils.cli import positive_int, run_cli

LETTER_HEIGHTS = (10, 14, 24, 48)  # pixels
BLURS = (0.0, 1.0, 2.0)  # pixels
SPEEDS = (0.0, 60.0, 240.0)  # pixels a second
KIND = ("letter_height", "blur", "speed")


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--videos", type=positive_int, default=3, help="of each kind")
    parser.add_argument("--demo", type=Path, metavar="CHECKPOINT", help="a demonstration's model")
    parser.add_argument("--scenes", action="store_true", help="the hard kinds")
    parser.add_argument("--max_side", type=positive_int, metavar="PIXELS", help="for the detector")
    asked = parser.parse_args()
    packages = ("rapidocr-onnxruntime", "onnxruntime")
    versions = [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
    result = measuring.describe_machine() | {
        "machine": f"one thread, {platform.machine()}", "versions": ", ".join(versions)
    }  # fmt: skip
    if asked.demo is not None:
        result["demo"] = measure_demo(asked.demo)
        measuring.write_result(result, asked.json, make_demo_table)
        return
    if asked.scenes:
        result["kinds"] = [
            {"name": scene.name} | measure_kind(scene, asked.videos, asked.max_side)
            for scene in SCENES
        ]
        measuring.write_result(result, asked.json, make_scenes_table)
        return
    kinds = itertools.starmap(TextVideo, itertools.product(LETTER_HEIGHTS, BLURS, SPEEDS))
    result["kinds"] = [
        {name: getattr(kind, name) for name in KIND}
        | measure_kind(kind, asked.videos, asked.max_side)
        for kind in kinds
    ]
    measuring.write_result(result, asked.json, make_table)


class TimedSpotter(RapidOcrSpotter):
    """The engine, with the seconds that each picture took."""

    seconds: list[float]

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        """Find and read the lines of text; see the base class."""
        start = time.perf_counter()
        lines = super().spot(picture)
        self.seconds.append(time.perf_counter() - start)
        return lines


def measure_kind(
    kind: TextVideo | TextScene, num_videos: int, max_side: int | None = None
) -> measuring.Result:
    """Write and spot videos of a kind; returns the numbers of each."""
    spotter, found = TimedSpotter(max_side=max_side), []
    spotter.load()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(num_videos):
            path = Path(folder) / f"{seed}.mp4"
            lines = kind.write(path, seed)
            spotter.seconds = []
            start = time.process_time()
            counts = count_words(lines, spot_video(path, spotter))
            run = (time.process_time() - start) / len(spotter.seconds)
            times = {"s_per_frame": statistics.median(spotter.seconds), "run_s_per_frame": run}
            found.append(counts | times)
    return {name: [video[name] for video in found] for name in found[0]}


def count_words(lines: Iterable[str], document: dict[str, Any]) -> dict[str, int]:
    """Count words: written, spotted, both, and those of both that a single track holds."""
    written = {word for line in lines for word in line.lower().split()}
    params = OcrParams(duplicates="keep")
    tracks = [set(extract_words({"0": record}, params).words) for record in document.values()]
    spotted = set().union(*tracks)
    found = written & spotted
    single = [word for word in found if sum(word in words for words in tracks) == 1]
    sets = {"written": written, "spotted": spotted, "found": found, "single": single}
    return {name: len(words) for name, words in sets.items()}


def measure_demo(checkpoint: Path) -> measuring.Result:
    """Test a demonstration's model with given and with spotted OCR documents.

    Returns:
        For "given" and "spotted": test.py's metrics, text to video; the number of test videos, and
        of those whose word was spotted, and the seconds that spotting took.
    """
    data = Path(load_run_config(checkpoint, None).data_loader[0].kwargs()["data_dir"])
    entries = json.loads((data / "TextVR_test.json").read_text(encoding="utf-8"))
    shown = json.loads((data / "synthetic.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos, documents, matrix = folder / "videos", folder / "ocr", folder / "matrix.npy"
        for entry in entries:
            target = videos / entry["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / "Videos" / entry["path"], target)
        start = time.perf_counter()
        spot = ("spot_text.py", videos, "--out", documents)
        measuring.run_command(*spot, show_progress=True)
        result: measuring.Result = {
            "videos": len(entries),
            "videos_with_their_word": 0,
            "seconds": time.perf_counter() - start,
        }
        for entry in entries:
            word = shown["words"][shown["test"][entry["path"]]["word"]]
            document = load_ocr_document(find_document(documents, entry["path"]))
            result["videos_with_their_word"] += word in extract_words(document, OcrParams()).words
        options = {"given": [], "spotted": ["--set", f"data_loader.args.ocr_dir={documents}"]}
        for source, changes in options.items():
            test = ("test.py", "-r", checkpoint, "--sim_path", matrix, *changes)
            measuring.run_command(*test, show_progress=True)
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            result[source] = metrics["t2v_metrics"]
        return result


def make_demo_table(result: measuring.Result) -> str:
    """Return the demonstration's results as Markdown."""
    demo, keys = result["demo"], ("R1", "R5", "R10", "MedR")
    title = (
        f"{demo['videos']} test videos, {demo['seconds']:.0f} s; the word was spotted in "
        f"{demo['videos_with_their_word']}"
    )
    rows = [[source, *(f"{demo[source][key]:.2f}" for key in keys)]
            for source in ("given", "spotted")]  # fmt: skip
    table = measuring.format_table(("OCR documents", "R@1", "R@5", "R@10", "MedR"), rows)
    return f"{measuring.format_head(result)}\n{title}\n\n{table}"


def make_table(result: measuring.Result) -> str:
    """Return the results as Markdown: every kind, then by height, blur and speed."""
    columns = ["letters, px", "blur, px", "speed, px/s"]
    columns += ["recall", "precision", "in one track", "s/frame"]
    rows = [_make_row([f"{kind[name]:g}" for name in KIND], [kind]) for kind in result["kinds"]]
    for place, name in enumerate(KIND):
        for value in sorted({kind[name] for kind in result["kinds"]}):
            cells = ["all"] * len(KIND)
            cells[place] = f"{value:g}"
            rows.append(_make_row(cells, [k for k in result["kinds"] if k[name] == value]))
    rows.append(_make_row(["all"] * len(KIND), result["kinds"]))
    return f"{measuring.format_head(result)}\n\n{measuring.format_table(columns, rows, 0)}"


def make_scenes_table(result: measuring.Result) -> str:
    """Return the results of the scenes as Markdown."""
    columns = ["scene", "recall", "precision", "in one track", "s/frame", "CPU s/frame of the run"]
    rows = []
    for kind in result["kinds"]:
        run = statistics.median(kind["run_s_per_frame"])
        rows.append([*_make_row([kind["name"]], [kind]), f"{run:.3f}"])
    return f"{measuring.format_head(result)}\n\n{measuring.format_table(columns, rows)}"


def _make_row(cells: list[str], kinds: list[measuring.Result]) -> list[str]:
    """The shares of all words of the kinds' videos in per cent, and the median time."""
    total = {
        name: sum(sum(kind[name]) for kind in kinds)
        for name in ("written", "spotted", "found", "single")
    }
    pairs = (("found", "written"), ("found", "spotted"), ("single", "found"))
    shares = [f"{100 * total[a] / total[b]:.1f}" if total[b] else "-" for a, b in pairs]
    seconds = statistics.median(itertools.chain(*(kind["s_per_frame"] for kind in kinds)))
    return [*cells, *shares, f"{seconds:.3f}"]


if __name__ == "__main__":
    run_cli(main)
