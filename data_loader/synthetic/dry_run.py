"""Stand-ins for the files that a real annotation file names.

They have the right names and formats, so that a real configuration can be tried from end to end
before 5.4 GB are fetched. Nothing can be learned from them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from base.base_dataset import VideoEntry
from data_loader.datasets.annotations import read_textvr_entries
from data_loader.synthetic.layout import (
    OCR_FOLDER,
    TEXT_MODEL_FOLDER,
    VIDEO_FOLDER,
    check_is_folder,
    write_json_line,
    write_video,
)
from data_loader.synthetic.text_model import write_text_model
from data_loader.synthetic.words import draw_boxes, make_document, make_noise, make_record
from utils.errors import UserError
from utils.files import write_bytes
from utils.processes import map_tasks

MARKER_FILE = "dry_run.json"  # a folder that has it holds stand-ins and nothing else
WIDTH, HEIGHT, NUM_FRAMES, FPS = 64, 48, 10, 10
MAX_OCR_LINES = 6


class DryRunResult(NamedTuple):
    """What ``make_dry_run`` did; a video counts as kept if it and its OCR document existed."""

    num_made: int
    num_kept: int


def make_dry_run(
    annotations: Path,
    out: Path,
    limit: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> DryRunResult:
    """Make a small video and an OCR document for each entry of a real annotation file.

    The annotation file is copied, and a ``text_model`` is made from its captions. What exists is
    kept, so an interrupted run is taken up where it stopped, and several annotation files can
    share a folder. ``limit``, at least 1, keeps the first entries only, in the copy, too;
    ``overwrite`` makes files anew that exist, also where they are none of this command's.

    Raises:
        UserError: the annotation file can't be used for training or names a path outside of
            ``out``, or ``out`` holds anything but stand-ins and ``overwrite`` is not set. Nothing
            is written.
    """
    entries = read_textvr_entries(annotations, out / VIDEO_FOLDER, out / OCR_FOLDER)
    captions = [caption for entry in entries for caption in entry.captions]
    contents = annotations.read_bytes()
    if limit is not None and limit < len(entries):
        entries = entries[:limit]
        shortened = json.dumps(json.loads(contents)[:limit], ensure_ascii=False)
        contents = f"{shortened}\n".encode()
    if not overwrite:
        _check_out(out, annotations)

    write_json_line(out / MARKER_FILE, {"made_by": "python -m tools.make_data --annotations"})
    copy = out / annotations.name
    if not (copy.exists() and copy.samefile(annotations)):
        write_bytes(copy, contents)
    if overwrite or not (out / TEXT_MODEL_FOLDER / "config.json").exists():
        write_text_model(out / TEXT_MODEL_FOLDER, captions)
    seen: set[Path | None] = {None}  # two workers must not write one document
    tasks = []
    for entry in entries:
        tasks.append(entry if entry.ocr not in seen else replace(entry, ocr=None))
        seen.add(entry.ocr)
    write = partial(_write_stand_in, out, overwrite)
    made = map_tasks(write, tasks, workers, "videos", chunk=8, unit=" videos")
    return DryRunResult(num_made=sum(made), num_kept=len(made) - sum(made))


def _check_out(out: Path, annotations: Path) -> None:
    """Refuse a folder where stand-ins could be taken for real files, or the other way round."""
    check_is_folder(out)
    if not out.exists():
        return
    others = [path for path in out.iterdir() if not path.samefile(annotations)]
    if others and not (out / MARKER_FILE).exists():
        raise UserError(
            f"{out} holds something else than a dry run ({others[0].name}): give another --out, "
            "so that made-up files don't mix with real ones, or --overwrite"
        )


def _write_stand_in(out: Path, anew: bool, entry: VideoEntry) -> bool:
    """Write an entry's files if they are missing or ``anew``; whether there was one to write."""
    is_missing = anew or not entry.video.exists()
    if is_missing:
        write_video(entry.video, _draw_stripes(_make_generator(entry.id)), FPS)
    if entry.ocr is None or not anew and entry.ocr.exists():
        return is_missing
    rng = _make_generator(entry.ocr.relative_to(out / OCR_FOLDER).as_posix())
    write_json_line(entry.ocr, _make_ocr_document(rng, entry.captions))
    return True


def _make_generator(path: str) -> np.random.Generator:
    """The random numbers of a file: they depend on its path only."""
    digest = hashlib.sha256(path.encode("utf-8")).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest[:16], "big")))


def _draw_stripes(rng: np.random.Generator) -> list[np.ndarray]:
    """Moving stripes in two colours: NUM_FRAMES arrays (HEIGHT, WIDTH, 3), uint8 RGB."""
    dark, light = rng.integers(0, 128, size=3), rng.integers(128, 256, size=3)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    across, down = rng.integers(-3, 4, size=2)
    speed, period = rng.integers(1, 5), rng.integers(16, 64)
    frames = []
    for frame in range(NUM_FRAMES):
        phase = (across * columns + down * rows + speed * frame) % period
        striped = np.where((phase < period // 2)[..., None], dark, light)  # (HEIGHT, WIDTH, 3)
        frames.append(striped.astype(np.uint8))
    return frames


def _make_ocr_document(rng: np.random.Generator, captions: Sequence[str]) -> dict[str, Any]:
    """Lines of one to three words of the captions, and noise."""
    words = [word for caption in captions for word in caption.split()]
    texts = []
    for _ in range(min(MAX_OCR_LINES, len(words))):
        start = int(rng.integers(len(words)))
        texts.append(" ".join(words[start : start + int(rng.integers(1, 4))]))
    texts += [make_noise(rng) for _ in range(rng.integers(1, 4))]
    records = []
    for text in texts:
        boxes = draw_boxes(rng, NUM_FRAMES, WIDTH, HEIGHT)
        records.append(make_record(rng, text, boxes, lowest_score=0.3))
    return make_document(rng, records)
