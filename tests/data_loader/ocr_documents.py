"""OCR documents on disk for tests of the store, and readers of them."""

import json
import os
import random
from pathlib import Path

from base.base_dataset import VideoEntry
from data_loader.ocr.ocr_reader import OcrReader
from data_loader.ocr.ocr_words import OcrParams

PIECES = ["SALE", "sale", "now", "Café", "中文字", "OPEN", "\ud83d", "x", "breaking", "\t"]
RULES = [
    OcrParams(),
    OcrParams(max_char=None, min_length=1, duplicates="keep"),
    OcrParams(max_char=None, duplicates="drop", max_words=2),
    OcrParams(track_order="time"),
]


def line(text: str, score: float = 0.5, shift: float = 0.0) -> dict:
    box = [shift, 0.1, 32 + shift, 0.1, 32 + shift, 24.7, shift, 24.7]
    # Out of order, so that the order of a line's frames matters.
    return {"text": text, "score": score, "tracks": {"3": [x * 1.1 for x in box], "0": box}}


def write(path: Path, *texts: str, age_s: float = 60) -> Path:
    """Write a document that was last changed a while ago, so that its time of change tells."""
    document = {str(key): line(text, 0.5 + key / 7) for key, text in enumerate(texts)}
    return aged(path, json.dumps(document), age_s)


def aged(path: Path, text: str, age_s: float = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    now = path.stat().st_mtime
    os.utime(path, (now, now - age_s))
    return path


def write_odd(folder: Path, count: int = 12) -> list[Path]:
    """Write documents of every kind: many lines, ties, lines without a track, no word at all."""
    draw = random.Random(1)
    paths = [write(folder / "empty.json"), write(folder / "none.json", "", "  ", "a b")]
    for number in range(count):
        lines = {
            str(key): line(
                " ".join(draw.choices(PIECES, k=draw.randint(0, 5))),
                draw.choice([0.25, 0.5, 0.75]),
                draw.uniform(-9, 9),
            )
            for key in range(draw.randint(0, 9))
        }
        lines["lost"] = {"text": "lost", "score": 1, "tracks": {}}
        paths.append(aged(folder / f"sub/{number}.json", json.dumps(lines)))
    return paths


def reader(paths: list[Path | None], cache: Path | None, params: OcrParams = RULES[0]) -> OcrReader:
    """A reader that has been opened, as a loader has it."""
    entries = [VideoEntry(str(n), Path(f"{n}.mp4"), (), path) for n, path in enumerate(paths)]
    folder = next(path for path in paths if path is not None).parent
    found = OcrReader(entries, params, folder, cache)
    found.open_store()
    return found


def words(found: OcrReader) -> list[list[str] | None]:
    reads = [found.read(index) for index in range(len(found.entries))]
    return [None if read is None else read.words for read in reads]


def same_bits(one: OcrReader, other: OcrReader) -> bool:
    """Whether two readers give the same of every video."""
    pairs = [(one.read(n), other.read(n)) for n in range(len(one.entries))]
    return all(
        a.words == b.words
        and a.num_skipped == b.num_skipped
        and a.tracks.dtype == b.tracks.dtype
        and a.tracks.shape == b.tracks.shape
        and a.tracks.tobytes() == b.tracks.tobytes()
        for a, b in pairs
    )
