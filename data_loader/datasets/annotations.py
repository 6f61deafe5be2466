"""Annotation files: read, checked, turned into entries; the JSON form is TextVR's."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from base.base_dataset import VideoEntry
from data_loader.ocr.paths import find_document
from utils.errors import UserError

logger = logging.getLogger(__name__)

MAX_ERRORS_SHOWN = 10


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


def read_list(path: Path) -> list[str]:
    """Read a list of ids, one a line, in its order; raises ``AnnotationError``.

    Blank lines count as none; an id that stands there again is taken once, with a warning.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    listed = [line for line in lines if line]
    ids = list(dict.fromkeys(listed))
    if not ids:
        raise AnnotationError(f"{path}: lists nothing")
    if len(ids) < len(listed):
        logger.warning(
            "%s: %d lines repeat an id; each is taken once", path, len(listed) - len(ids)
        )
    return ids


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


def join_inside(folder: Path, relative: str) -> Path | None:
    """Return ``folder / relative``, or None where that leads out of the folder."""
    path = Path(relative)  # once, which tells in a large set
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in relative:
        return None
    return folder / path


def raise_entry_errors(path: Path, errors: Sequence[str]) -> None:
    """Raise ``AnnotationError`` where there are errors of entries; it names the first ten."""
    if errors:
        more = len(errors) - MAX_ERRORS_SHOWN
        shown = [*errors[:MAX_ERRORS_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
        lines = "\n  ".join(shown)
        raise AnnotationError(f"{path}: {len(errors)} entries can't be used\n  {lines}")


def read_textvr_entries(
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
        AnnotationError: the file or entries of it can't be used; the first ten are named.
    """
    items = list(enumerate(read_json_list(path)))
    if cut is not None:
        items = _select_split(path, items, cut, splits)
    entries, errors, seen = [], [], set()
    for number, item in items:
        entry = _parse_entry(item, video_dir, ocr_dir)
        if isinstance(entry, VideoEntry) and entry.id in seen:
            entry = f"the path {entry.id!r} occurs twice"
        if isinstance(entry, str):
            errors.append(f"entry {number}: {entry}")
        else:
            seen.add(entry.id)
            entries.append(entry)
    raise_entry_errors(path, errors)
    return entries


def _select_split(
    path: Path, items: list[tuple[int, Any]], cut: str, splits: Sequence[str]
) -> list[tuple[int, Any]]:
    """The numbered entries of a split, in their order."""
    named, errors = [], []
    for number, item in items:
        info = item.get("videos_info") if isinstance(item, dict) else None
        split = info.get(cut) if isinstance(info, dict) else None
        named.append(split)
        if not isinstance(split, str):
            errors.append(f'entry {number}: its "videos_info" names no split as "{cut}"')
    raise_entry_errors(path, errors)
    wanted = next((split for split in splits if split in named), None)
    if wanted is None:
        raise AnnotationError(
            f'{path}: no entry\'s "{cut}" is {" or ".join(splits)}; '
            f"the file has {', '.join(sorted(set(named)))}"
        )
    if wanted != splits[0]:
        logger.info("%s: has no split %s; %s stands for it", path, splits[0], wanted)
    return [item for item, split in zip(items, named, strict=True) if split == wanted]


def _parse_entry(item: Any, video_dir: Path, ocr_dir: Path) -> VideoEntry | str:
    """An entry, or what is wrong with it."""
    if not isinstance(item, dict):
        return f"must be an object, is a JSON {type(item).__name__}"
    name = item.get("path")
    if not isinstance(name, str) or not name:
        return 'has no "path"'
    video = join_inside(video_dir, name)
    if video is None:
        return f"the path {name!r} leads out of the data folder"
    captions = _parse_captions(item.get("captions_info"))
    if not captions:
        return f'{name}: has no captions ("captions_info": [{{"caption": "…"}}])'
    category = name.split("/")[0] if "/" in name else None  # the folder, as in TextVR
    info = item.get("videos_info", {})
    given = info.get("Kwai_OCR") if isinstance(info, dict) else None
    if given is None:
        return VideoEntry(name, video, captions, category=category)
    if not isinstance(given, str) or join_inside(ocr_dir, given) is None:
        return f"{name}: the Kwai_OCR path {given!r} leads out of the data folder"
    return VideoEntry(name, video, captions, find_document(ocr_dir, name, given), category)


def _parse_captions(infos: Any) -> tuple[str, ...]:
    """All captions, or none when one of them is missing or blank."""
    if not isinstance(infos, list):
        return ()
    texts = [info.get("caption") if isinstance(info, dict) else None for info in infos]
    good = all(isinstance(text, str) and text.strip() for text in texts)
    return tuple(texts) if good else ()


def count_captions(entries: Iterable[VideoEntry]) -> int:
    """Return the number of captions of all entries."""
    return sum(len(entry.captions) for entry in entries)
