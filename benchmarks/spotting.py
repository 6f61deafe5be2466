"""How much of the text in videos ``spot_text.py`` finds, how surely, and how fast.

    python -m benchmarks.spotting                      # a table
    python -m benchmarks.spotting --json               # the same as JSON, each video's numbers
    python -m benchmarks.spotting --demo work_dirs/demo/fusion/model_last.pth

Writes videos with known words (benchmarks.text_videos: 640 x 360 pixels, 4 seconds) for every
letter height, blur and speed and compares the words that a model would be given with those that
were written. With --demo: R@1 of a demonstration's model (make demo) with the OCR documents that
came with its test videos, and with those that spot_text.py writes.
"""

import argparse
import datetime
import itertools
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.text_videos import TextVideo
from data_loader.ocr.ocr_words import OcrParams, extract_words, load_ocr_document
from parse_config import load_run_config
from retrieval.spotting.rapid_ocr import RapidOcrSpotter
from retrieval.spotting.text_spotter import TextLine, TextSpotter
from retrieval.spotting.video import spot_video
from utils.cli import positive_int, run_cli
from utils.errors import UserError

LETTER_HEIGHTS = (10, 14, 24, 48)  # pixels
BLURS = (0.0, 1.0, 2.0)  # pixels
SPEEDS = (0.0, 60.0, 240.0)  # pixels a second
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=positive_int, default=3, help="of each kind")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--demo", type=Path, metavar="CHECKPOINT", help="a demonstration's model")
    arguments = parser.parse_args()
    if arguments.demo is not None:
        result = head() | {"demo": compare_demo(arguments.demo)}
        text = demo_table(result)
    else:
        result = head() | {"kinds": [measured(kind, arguments.videos) for kind in kinds()]}
        text = table(result)
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if arguments.json else text)


class Timed(TextSpotter):
    """Another engine, with the seconds that each picture took."""

    def __init__(self, spotter: TextSpotter) -> None:
        self._spotter = spotter
        self.seconds: list[float] = []

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        """See the base class."""
        start = time.perf_counter()
        lines = self._spotter.spot(picture)
        self.seconds.append(time.perf_counter() - start)
        return lines


def kinds() -> list[TextVideo]:
    """Return every kind of video."""
    product = itertools.product(LETTER_HEIGHTS, BLURS, SPEEDS)
    return [TextVideo(height, blur, speed) for height, blur, speed in product]


def measured(kind: TextVideo, num_videos: int) -> dict[str, Any]:
    """Write and spot videos of a kind; returns the numbers of each."""
    spotter, found = Timed(RapidOcrSpotter()), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(num_videos):
            path = Path(folder) / f"{seed}.mp4"
            lines = kind.write(path, seed)
            spotter.seconds = []
            counts = compared(lines, spot_video(path, spotter))
            found.append(counts | {"s_per_frame": statistics.median(spotter.seconds)})
    return {"letter_height": kind.letter_height, "blur": kind.blur, "speed": kind.speed} | {
        name: [video[name] for video in found] for name in found[0]
    }


def compared(lines: Iterable[str], document: dict[str, Any]) -> dict[str, int]:
    """Count words: written, spotted, both, and those of both that a single track holds."""
    written = {word for line in lines for word in line.lower().split()}
    params = OcrParams(duplicates="keep")
    spotted = [set(extract_words({"0": record}, params).words) for record in document.values()]
    found = written & set().union(*spotted)
    once = [word for word in found if sum(word in words for words in spotted) == 1]
    return {
        "written": len(written),
        "spotted": len(set().union(*spotted)),
        "found": len(found),
        "single": len(once),
    }


def compare_demo(checkpoint: Path) -> dict[str, Any]:
    """Test a demonstration's model with given and with spotted OCR documents.

    Returns:
        For "given" and "spotted": test.py's metrics, text to video; the share of words in the
        given documents' place that were spotted, and the seconds that spotting took.
    """
    data = Path(load_run_config(checkpoint, None).data_loader[0].kwargs()["data_dir"])
    entries = json.loads((data / "TextVR_test.json").read_text(encoding="utf-8"))
    shown = json.loads((data / "synthetic.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for entry in entries:
            target = folder / "videos" / entry["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / "Videos" / entry["path"], target)
        start = time.perf_counter()
        run("spot_text.py", folder / "videos", "--out", folder / "ocr")
        seconds = time.perf_counter() - start
        words = [shown["words"][shown["test"][entry["path"]]["word"]] for entry in entries]
        documents = [
            load_ocr_document((folder / "ocr" / entry["path"]).with_suffix(".json"))
            for entry in entries
        ]
        num_read = sum(
            word in extract_words(document, OcrParams()).words
            for word, document in zip(words, documents, strict=True)
        )
        return {
            "given": demo_metrics(checkpoint, folder),
            "spotted": demo_metrics(
                checkpoint, folder, "--set", f"data_loader.args.ocr_dir={folder / 'ocr'}"
            ),
            "videos": len(entries),
            "videos_with_their_word": num_read,
            "seconds": seconds,
        }


def demo_metrics(checkpoint: Path, folder: Path, *options: str) -> dict[str, float]:
    """Run test.py; returns its text-to-video metrics."""
    run("test.py", "-r", checkpoint, "--sim_path", folder / "matrix.npy", *options)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics["t2v_metrics"]


def run(*command: str | Path) -> None:
    """Run one of the project's commands; raises ``UserError`` when it fails."""
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(words[1:])}: ended with code {done.returncode}")


def demo_table(result: dict[str, Any]) -> str:
    """Return the demonstration's results as Markdown."""
    demo = result["demo"]
    lines = [
        f"{result['date']}; {result['machine']}; {result['versions']}",
        f"{demo['videos']} test videos, {demo['seconds']:.0f} s; the word was spotted in "
        f"{demo['videos_with_their_word']}",
        "",
        "| OCR documents | R@1 | R@5 | R@10 | MedR |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in ("given", "spotted"):
        cells = [f"{demo[name][key]:.2f}" for key in ("R1", "R5", "R10", "MedR")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def head() -> dict[str, str]:
    """Return the day, the machine and the versions."""
    from importlib.metadata import version

    packages = ("rapidocr-onnxruntime", "onnxruntime")
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"one thread, {platform.machine()}",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages),
    }


def table(result: dict[str, Any]) -> str:
    """Return the results as Markdown: every kind, then by height, blur and speed."""
    columns = ("letter_height", "blur", "speed")
    lines = [
        f"{result['date']}; {result['machine']}; {result['versions']}",
        "",
        "| letters, px | blur, px | speed, px/s | recall | precision | in one track | s/frame |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_row([kind[name] for name in columns], [kind]) for kind in result["kinds"]]
    for place, name in enumerate(columns):
        for value in sorted({kind[name] for kind in result["kinds"]}):
            cells: list[Any] = ["all"] * len(columns)
            cells[place] = value
            lines.append(_row(cells, [kind for kind in result["kinds"] if kind[name] == value]))
    lines.append(_row(["all"] * len(columns), result["kinds"]))
    return "\n".join(lines) + "\n"


def _row(cells: list[Any], kinds: list[dict[str, Any]]) -> str:
    """One line: shares of all words of the kinds' videos, and the median time."""
    total = {
        name: sum(sum(kind[name]) for kind in kinds)
        for name in ("written", "spotted", "found", "single")
    }
    pairs = (("found", "written"), ("found", "spotted"), ("single", "found"))
    shares = [f"{100 * total[a] / total[b]:.1f}" if total[b] else "-" for a, b in pairs]
    seconds = statistics.median(itertools.chain(*(kind["s_per_frame"] for kind in kinds)))
    texts = [f"{cell:g}" if cell != "all" else cell for cell in cells]
    return f"| {' | '.join([*texts, *shares, f'{seconds:.3f}'])} |"


if __name__ == "__main__":
    run_cli(main)
