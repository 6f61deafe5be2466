"""Time to open a data set with many OCR documents, and to read the words of one of its videos.

    python -m benchmarks.ocr_open            # a table: 10,500 documents of 100 KB
    python -m benchmarks.ocr_open --json     # the same as JSON, each run's numbers included

The documents are synthetic, in the layout of TextVR, and lie in the page cache. Each run opens the
set in fresh processes: without a store of the words (which the first opening makes), with it, and
after one document has changed. Then the words of videos are read from documents and store in turn.
The start of Python and its imports are not counted; median and range of several runs.
"""

import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import measuring
from data_loader.datasets.text_video_dataset import (
    OCR_FOLDER,
    DatasetOptions,
    LoaderTextParams,
    LoaderVideoParams,
)
from data_loader.datasets.textvr import TextVR
from data_loader.ocr.ocr_words import OcrParams
from data_loader.transforms import ClipTransform, TransformParams
from utils.cli import positive_int, run_cli

FRAMES_A_LINE, LINES = 30, 64  # of the made-up tracks
NUM_WORDS = 20_000  # that the lines are drawn from
READ_VIDEOS = 200
OPENINGS = {
    "first": "first opening: every document parsed, store written",
    "second": "second opening",
    "changed": "opening after one document has changed",
}
READINGS = {
    "document": "words of a video, parsed from its document",
    "store": "words of a video, from the store",
}


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    default = "(default: %(default)s)"
    parser.add_argument("--documents", type=positive_int, default=10_500, help=default)
    parser.add_argument("--kilobytes", type=positive_int, default=100, help="of each document")
    parser.add_argument("--runs", type=positive_int, default=5, help=default)
    asked = parser.parse_args()
    found = measure_openings(asked.documents, asked.kilobytes, asked.runs)
    measuring.write_result(measuring.describe_machine() | found, asked.json, make_table)


def measure_openings(documents: int, kilobytes: int, runs: int) -> measuring.Result:
    """Measure in a temporary folder.

    Returns:
        ``seconds`` of each opening and ``milliseconds`` of each reading, one value a run, and
        ``store_bytes``.
    """
    seconds: dict[str, list[float]] = {name: [] for name in OPENINGS}
    milliseconds: dict[str, list[float]] = {name: [] for name in READINGS}
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "TextVR", Path(name) / "cache"
        changing = write_dataset(folder, documents, kilobytes * 1000)
        for _ in range(runs):
            shutil.rmtree(cache, ignore_errors=True)
            for opening in OPENINGS:
                if opening == "changed":
                    changing.write_bytes(changing.read_bytes() + b"\n")
                seconds[opening].append(measuring.run_in_new_process(time_opening, folder, cache))
            times = measuring.run_in_new_process(time_readings, folder, cache)
            for reading, value in times.items():
                milliseconds[reading].append(value)
        store_bytes = sum(file.stat().st_size for file in cache.iterdir())
    found = {"documents": documents, "kilobytes": kilobytes, "seconds": seconds}
    return found | {"milliseconds": milliseconds, "store_bytes": store_bytes}


def time_opening(folder: Path, cache: Path) -> float:
    """Open the data set as a loader does; returns the seconds."""
    start = time.perf_counter()
    build_dataset(folder).prepare(cache)
    return time.perf_counter() - start


def time_readings(folder: Path, cache: Path) -> dict[str, float]:
    """Read the same videos' words from documents and store in turn; median of each video's time."""
    datasets = {"document": build_dataset(folder), "store": build_dataset(folder)}
    datasets["store"].prepare(cache)
    times: dict[str, list[float]] = {name: [] for name in datasets}
    for video in range(min(READ_VIDEOS, len(datasets["store"]))):
        words = {}
        for name, dataset in datasets.items():
            start = time.perf_counter()
            words[name] = dataset.get_words(video)
            times[name].append(1000 * (time.perf_counter() - start))
        assert words["store"] == words["document"]
    return {name: statistics.median(values) for name, values in times.items()}


def build_dataset(folder: Path) -> TextVR:
    """Return the training set of the folder."""
    options = DatasetOptions(
        split="train",
        training=True,
        video=LoaderVideoParams(),
        text=LoaderTextParams(),
        ocr=OcrParams(),
        reader="decord",
        uses_vision=True,
        uses_ocr=True,
    )
    return TextVR(folder, options, ClipTransform(TransformParams().resolve("textvr", 224), True))


def write_dataset(folder: Path, documents: int, size: int) -> Path:
    """Write annotations and documents of about ``size`` bytes; returns one of the documents."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(3, 9))) for _ in range(NUM_WORDS)]
    tracks = [json.dumps(_make_track(draw)) for _ in range(LINES)]
    (folder / OCR_FOLDER).mkdir(parents=True)
    (folder / "Videos").mkdir()
    entries = []
    for number in range(documents):
        lines, length = [], 0
        while length < size:
            text = " ".join(draw.choices(words, k=draw.randint(1, 5)))
            head = f'"text": "{text}", "score": "{draw.random():.4f}"'
            lines.append(f'"{len(lines)}": {{{head}, "tracks": {draw.choice(tracks)}}}')
            length += len(lines[-1])
        path = folder / OCR_FOLDER / f"{number}.json"
        path.write_text("{" + ", ".join(lines) + "}")
        caption = {"caption": f"video {number}", "caption_info": {}}
        info = {"Kwai_OCR": path.name}
        entries.append({"path": f"{number}.mp4", "captions_info": [caption], "videos_info": info})
    (folder / "TextVR_train.json").write_text(json.dumps(entries))
    return path


def _make_track(draw: random.Random) -> dict[str, list[float]]:
    """The corners of a line that drifts through frames."""
    x, y, step = draw.uniform(0, 1000), draw.uniform(0, 600), draw.uniform(-3, 3)
    top, bottom = round(y, 2), round(y + 40, 2)
    track = {}
    for frame in range(FRAMES_A_LINE):
        left, right = round(x + frame * step, 2), round(x + 200 + frame * step, 2)
        track[str(5 * frame)] = [left, top, right, top, right, bottom, left, bottom, 0.0, 1.0]
    return track


def make_table(result: measuring.Result) -> str:
    """Return the results as a Markdown table: medians, with the range over the runs."""
    rows = []
    for texts, key, digits, unit in (
        (OPENINGS, "seconds", 2, "s"),
        (READINGS, "milliseconds", 3, "ms"),
    ):
        for name, text in texts.items():
            rows.append([text, f"{measuring.format_spread(result[key][name], digits)} {unit}"])
    size = f"store {result['store_bytes'] / 1e6:.1f} MB"
    title = f"{result['documents']} documents of {result['kilobytes']} KB; {size}"
    table = measuring.format_table(("what", "time"), rows)
    return f"{measuring.format_head(result)}\n{title}\n\n{table}"


if __name__ == "__main__":
    run_cli(main)
