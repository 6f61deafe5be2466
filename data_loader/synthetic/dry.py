"""Job 2 of ``data_loader.synthetic``: stand-ins for the files that a real annotation file names.

They have the right names and formats, so that a real configuration can be tried from end to end
before 5.4 GB are fetched. Nothing can be learned from them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.synthetic.files import (
    OCR_FOLDER,
    TEXT_MODEL_FOLDER,
    VIDEO_FOLDER,
    check_workers,
    is_inside,
    replacing,
    run_tasks,
    write_json,
    write_video,
)
from data_loader.synthetic.text_model import write_text_model
from data_loader.synthetic.words import make_document, make_record, noise_text, random_boxes
from utils.errors import UserError

MARKER_FILE = "dry_run.json"  # a folder that has it holds stand-ins and nothing else
WIDTH, HEIGHT, NUM_FRAMES, FPS = 64, 48, 10, 10
MAX_OCR_LINES = 6


@dataclass(frozen=True)
class StandIn:
    """What is made for one annotation entry; paths are relative, None for nothing."""

    video: str | None
    ocr: str | None
    captions: tuple[str, ...]


@dataclass(frozen=True)
class DryRunResult:
    """What `make_dry_run` did; a video counts as kept if it and its OCR document existed."""

    num_made: int
    num_kept: int


def make_dry_run(
    annotations: Path,
    out: Path,
    limit: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> DryRunResult:
    """Makes a small video and an OCR document for each entry of a real annotation file.

    The annotation file is copied, and a `text_model` is made from its captions. What exists is
    kept, so an interrupted run is taken up where it stopped, and several annotation files can
    share a folder.

    Args:
        annotations: a TextVR annotation file.
        out: the folder.
        limit: only the first so many entries, in the copy of the annotation file too.
        workers: number of processes.
        overwrite: make files anew that exist, also where they are none of this command's.
        progress: whether a bar is shown on standard error.

    Raises:
        UserError: if the annotation file is no such file or names a path outside of `out`, or
            `out` holds anything but stand-ins and `overwrite` is not set, or a number is not
            positive. Nothing is written.
    """
    check_workers(workers)
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}: at least 1 entry is needed")
    contents, entries = _read_annotations(annotations)
    stand_ins = [_stand_in(f"{annotations}: entry {i}", entry) for i, entry in enumerate(entries)]
    captions = [caption for stand_in in stand_ins for caption in stand_in.captions]
    if limit is not None and limit < len(entries):
        stand_ins = stand_ins[:limit]
        contents = (json.dumps(entries[:limit], ensure_ascii=False) + "\n").encode("utf-8")
    if not overwrite:
        _check_out(out, annotations)

    write_json(out / MARKER_FILE, {"made_by": "python -m data_loader.synthetic --annotations"})
    copy = out / annotations.name
    if not (copy.exists() and copy.samefile(annotations)):
        with replacing(copy) as temporary:
            temporary.write_bytes(contents)
    if overwrite or not (out / TEXT_MODEL_FOLDER / "config.json").exists():
        write_text_model(out / TEXT_MODEL_FOLDER, captions)
    write = partial(_write_stand_in, out, overwrite)
    made = run_tasks(write, _without_repeats(stand_ins), workers, progress, "videos")
    return DryRunResult(num_made=sum(made), num_kept=len(made) - sum(made))


def _read_annotations(path: Path) -> tuple[bytes, list[Any]]:
    """The annotation file as bytes and as a list of entries, which are not looked into yet."""
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}): check --annotations") from None
    try:
        entries = json.loads(contents.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error}): check --annotations") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: must hold a list of at least one entry, as TextVR_test.json does")
    return contents, entries


def _stand_in(where: str, entry: Any) -> StandIn:
    """Checks one annotation entry; `where` begins the message of the UserError."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not an object with path, captions_info and videos_info")
    path = entry.get("path")
    if not isinstance(path, str) or not path:
        raise UserError(f"{where} has no path: it must name the video, as a text")
    where = f"{where} ({path!r})"
    infos = entry.get("captions_info")
    if not isinstance(infos, list) or not infos:
        raise UserError(f"{where} has no captions_info: it must be a list of captions")
    captions = [info.get("caption") if isinstance(info, dict) else None for info in infos]
    if not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where} has a member of captions_info without a text as caption")
    videos_info = entry.get("videos_info")
    ocr = videos_info.get("Kwai_OCR") if isinstance(videos_info, dict) else None
    if not isinstance(ocr, str) or not ocr:
        raise UserError(f"{where} has no videos_info.Kwai_OCR: it must name the OCR document")
    for name, value in (("path", path), ("videos_info.Kwai_OCR", ocr)):
        if not is_inside(value):
            raise UserError(
                f"{where}: {name} {value!r} leads out of the data folder: "
                "it must be a relative path without '..'"
            )
    return StandIn(path, ocr, tuple(captions))


def _without_repeats(stand_ins: list[StandIn]) -> list[StandIn]:
    """Each file once, made for the first entry that names it: two workers must not write one."""
    seen: set[tuple[str, str]] = set()

    def first_time(kind: str, path: str | None) -> str | None:
        if path is None or (kind, path) in seen:
            return None
        seen.add((kind, path))
        return path

    unique = [
        replace(item, video=first_time("video", item.video), ocr=first_time("ocr", item.ocr))
        for item in stand_ins
    ]
    return [item for item in unique if item.video or item.ocr]


def _check_out(out: Path, annotations: Path) -> None:
    """Refuses a folder where stand-ins could be taken for real files, or the other way round."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is not a folder: give another --out")
    others = [path for path in out.iterdir() if not path.samefile(annotations)]
    if others and not (out / MARKER_FILE).exists():
        raise UserError(
            f"{out} holds something else than a dry run ({others[0].name}): give another --out, "
            "so that made-up files don't mix with real ones, or --overwrite"
        )


def _write_stand_in(out: Path, anew: bool, item: StandIn) -> bool:
    """Writes an entry's files if they are missing or `anew`; whether there was one to write."""
    made = False
    if item.video is not None:
        video = out / VIDEO_FOLDER / item.video
        if anew or not video.exists():
            write_video(video, _pattern(_generator(item.video)), FPS)
            made = True
    if item.ocr is not None:
        ocr = out / OCR_FOLDER / item.ocr
        if anew or not ocr.exists():
            write_json(ocr, _ocr_document(_generator(item.ocr), item.captions))
            made = True
    return made


def _generator(path: str) -> np.random.Generator:
    """The random numbers of a file: they depend on its path only."""
    digest = hashlib.sha256(path.encode("utf-8")).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest[:16], "big")))


def _pattern(rng: np.random.Generator) -> list[np.ndarray]:
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


def _ocr_document(rng: np.random.Generator, captions: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Lines of one to three words of the captions, and noise."""
    words = [word for caption in captions for word in caption.split()]
    texts = []
    for _ in range(min(MAX_OCR_LINES, len(words))):
        start = int(rng.integers(len(words)))
        texts.append(" ".join(words[start : start + int(rng.integers(1, 4))]))
    texts += [noise_text(rng) for _ in range(rng.integers(1, 4))]
    records = []
    for text in texts:
        boxes = random_boxes(rng, NUM_FRAMES, WIDTH, HEIGHT)
        records.append(make_record(rng, text, boxes, lowest_score=0.3))
    return make_document(rng, records)
