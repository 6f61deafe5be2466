"""Annotation files in the TextVR form: read, checked, turned into entries."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from base.base_dataset import VideoEntry
from utils.errors import UserError

logger = logging.getLogger(__name__)

MAX_FAULTS_SHOWN = 10


class AnnotationError(UserError):
    """An annotation file that can't be used; the message names the file and what is wrong."""


def read_text(path: Path) -> str:
    """Read a text file of annotations; raises ``AnnotationError``."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such annotation file") from error
    except OSError as error:
        raise AnnotationError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: is not UTF-8 text ({error})") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ``AnnotationError``."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}: is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from error
    except RecursionError as error:
        raise AnnotationError(f"{path}: is JSON nested too deeply to be annotations") from error


def read_json_list(path: Path) -> list[Any]:
    """Read a JSON file that holds a list; raises ``AnnotationError``."""
    data = read_json(path)
    if not isinstance(data, list):
        raise AnnotationError(
            f"{path}: must hold a list of entries, holds a JSON {type(data).__name__}"
        )
    if not data:
        raise AnnotationError(f"{path}: holds no entries")
    return data


def inside(folder: Path, relative: str) -> Path | None:
    """Return ``folder / relative``, or None where that leads out of the folder."""
    path = Path(relative)  # once, which tells in a large set
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in relative:
        return None
    return folder / path


def textvr_entries(
    path: Path,
    video_dir: Path,
    ocr_dir: Path,
    cut: str | None = None,
    splits: Sequence[str] = (),
) -> list[VideoEntry]:
    """Read an annotation file of the TextVR form.

    Args:
        path: the file.
        video_dir: folder of the videos.
        ocr_dir: folder of the OCR documents, which ``videos_info.Kwai_OCR`` is relative to.
        cut: the member of ``videos_info`` that names an entry's split; None: all entries count.
        splits: with ``cut``: the first of these that any entry has is the split that is read.

    Raises:
        AnnotationError: the file can't be read, or entries are faulty; the first ten are named.
    """
    items = list(enumerate(read_json_list(path)))
    if cut is not None:
        items = _of_split(path, items, cut, splits)
    entries, faults, seen = [], [], set()
    for number, item in items:
        entry = _entry(item, video_dir, ocr_dir)
        if isinstance(entry, VideoEntry) and entry.id in seen:
            entry = f"the path {entry.id!r} occurs twice"
        if isinstance(entry, str):
            faults.append(f"entry {number}: {entry}")
        else:
            seen.add(entry.id)
            entries.append(entry)
    raise_faults(path, faults)
    return entries


def _of_split(
    path: Path, items: list[tuple[int, Any]], cut: str, splits: Sequence[str]
) -> list[tuple[int, Any]]:
    """The numbered entries of a split, in their order."""
    named, faults = [], []
    for number, item in items:
        info = item.get("videos_info") if isinstance(item, dict) else None
        split = info.get(cut) if isinstance(info, dict) else None
        named.append(split)
        if not isinstance(split, str):
            faults.append(f'entry {number}: its "videos_info" names no split as "{cut}"')
    raise_faults(path, faults)
    wanted = next((split for split in splits if split in named), None)
    if wanted is None:
        raise AnnotationError(
            f'{path}: no entry\'s "{cut}" is {" or ".join(splits)}; '
            f"the file has {', '.join(sorted(set(named)))}"
        )
    if wanted != splits[0]:
        logger.info("%s: has no split %s; %s stands for it", path, splits[0], wanted)
    return [item for item, split in zip(items, named, strict=True) if split == wanted]


def raise_faults(path: Path, faults: Sequence[str]) -> None:
    """Raise ``AnnotationError`` where there are faults of entries; it names the first ten."""
    if faults:
        more = len(faults) - MAX_FAULTS_SHOWN
        shown = [*faults[:MAX_FAULTS_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
        raise AnnotationError(f"{path}: {len(faults)} faulty entries\n  " + "\n  ".join(shown))


def _entry(item: Any, video_dir: Path, ocr_dir: Path) -> VideoEntry | str:
    """An entry, or what is wrong with it."""
    if not isinstance(item, dict):
        return f"must be an object, is a JSON {type(item).__name__}"
    name = item.get("path")
    if not isinstance(name, str) or not name:
        return 'has no "path"'
    video = inside(video_dir, name)
    if video is None:
        return f"the path {name!r} leads out of the data folder"
    captions = _captions(item.get("captions_info"))
    if not captions:
        return f'{name}: has no captions ("captions_info": [{{"caption": "…"}}])'
    info = item.get("videos_info", {})
    ocr_name = info.get("Kwai_OCR") if isinstance(info, dict) else None
    if ocr_name is None:
        return VideoEntry(name, video, captions, category=_category(name))
    ocr = inside(ocr_dir, ocr_name) if isinstance(ocr_name, str) else None
    if ocr is None:
        return f"{name}: the Kwai_OCR path {ocr_name!r} leads out of the data folder"
    return VideoEntry(name, video, captions, ocr, _category(name))


def _category(name: str) -> str | None:
    """The folder that a video lies in, which is TextVR's category."""
    return name.split("/")[0] if "/" in name else None


def _captions(infos: Any) -> tuple[str, ...]:
    """All captions, or none when one of them is missing or blank."""
    if not isinstance(infos, list):
        return ()
    texts = [info.get("caption") if isinstance(info, dict) else None for info in infos]
    good = all(isinstance(text, str) and text.strip() for text in texts)
    return tuple(texts) if good else ()


def count_captions(entries: Iterable[VideoEntry]) -> int:
    """Return the number of captions of all entries."""
    return sum(len(entry.captions) for entry in entries)
