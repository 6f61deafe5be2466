"""Annotation files: reading, checks, entries; the JSON form is TextVR's.

``EntryBuilder`` has the one set of rules for the entries of every data set, so that check_data.py
and training refuse the same.

TextVR also publishes ``TextVR_test_rand.json``, the test captions with the videos shuffled: it was
made for matrices sent to the challenge server, and every metric on it is chance.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from base.base_dataset import VideoEntry
from data_loader.ocr.paths import find_document
from utils.errors import UserError, shorten
from utils.files import FileFinder, TextFileError, read_text
from utils.unicode_text import compose, has_surrogates

logger = logging.getLogger(__name__)

MAX_ERRORS_SHOWN = 10
MAX_ERROR, MAX_SHOWN = 400, 120  # characters of one, and of a name in it
MAX_CHARACTERS = 100_000  # of a caption
MAX_NAME, MAX_PATH = 255, 4095  # bytes that file systems take
ONE_CAPTION = "one caption a video"
SHUFFLED_MARK = "_rand"  # ends the stem of a shuffled file
UNSHUFFLED = "TextVR_test.json"


class AnnotationError(UserError):
    """An annotation file that can't be used; the message names the file and what is wrong."""


def read_annotation_text(path: Path) -> str:
    """Read a text file of annotations; raises ``AnnotationError``."""
    try:
        return read_text(path)
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such annotation file") from error
    except OSError as error:
        raise AnnotationError(f"{path}: can't be read ({error.strerror})") from error
    except TextFileError as error:
        raise AnnotationError(str(error)) from error


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not blank, stripped; raises ``AnnotationError``."""
    return [line.strip() for line in read_annotation_text(path).split("\n") if line.strip()]


def read_list(path: Path) -> list[str]:
    """Read a list of ids, one a line, in its order; raises ``AnnotationError``.

    Blank lines are skipped; a repeated id is taken once, with a warning.
    """
    listed = read_lines(path)
    ids = list(dict.fromkeys(listed))
    if not ids:
        raise AnnotationError(f"{path}: lists nothing")
    if len(ids) < len(listed):
        logger.warning(
            "%s: %d lines repeat an id; each is taken once", path, len(listed) - len(ids)
        )
    return ids


def read_json(path: Path) -> Any:
    """Read a JSON file in which no member is written twice; raises ``AnnotationError``."""
    try:
        return json.loads(read_annotation_text(path), object_pairs_hook=_join_members)
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}: is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from error
    except RecursionError as error:
        raise AnnotationError(f"{path}: is JSON nested too deeply to be annotations") from error
    except AnnotationError:
        raise
    except ValueError as error:  # a member that is written twice, a number of thousands of digits
        raise AnnotationError(f"{path}: can't be used: {error}") from error


def _join_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        name = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f'an object has the member "{shorten(name, MAX_SHOWN)}" twice; keep one')
    return members


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


def find_name_problem(name: str) -> str | None:
    """Return why a path can be none of a file in a folder; None: it can."""
    path = PurePath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        return "leads out of the data folder"
    try:
        parts = list(map(os.fsencode, path.parts))
    except UnicodeEncodeError:
        return "holds half a character, as no file's name does"
    if "\0" in name:
        return "holds a NUL, as no file's name does"
    if max(map(len, parts)) > MAX_NAME or sum(map(len, parts)) + len(parts) > MAX_PATH:
        return f"is too long: a name has at most {MAX_NAME} bytes, a path {MAX_PATH:,}"
    return None


def find_caption_problem(caption: Any) -> str | None:
    """Return why a value can't be a caption; None: it can."""
    if not isinstance(caption, str):
        return f"is a {type(caption).__name__}, no text"
    if not caption.strip():
        return "is empty"
    if len(caption) > MAX_CHARACTERS:
        return f"has {len(caption):,} characters, at most {MAX_CHARACTERS:,} are read"
    if has_surrogates(caption):
        return "holds half a character (a lone surrogate)"
    return None


def raise_entry_errors(path: Path, errors: Sequence[str]) -> None:
    """Raise ``AnnotationError`` if there are errors of entries; it names the first ten."""
    if errors:
        # On one line each, whatever the names in them hold.
        lines = [" ".join(error.split()) for error in errors[:MAX_ERRORS_SHOWN]]
        shown = [shorten(line, MAX_ERROR) for line in lines]
        if len(errors) > len(shown):
            shown.append(f"… and {len(errors) - len(shown)} more")
        lines = "\n  ".join(shown)
        raise AnnotationError(f"{path}: {len(errors)} entries can't be used\n  {lines}")


class EntryError(ValueError):
    """An entry that can't be used; the text is a clause that says why."""


class EntryBuilder:
    """Builds the entries of an annotation file, by rules that are the same for all data sets.

    Paths are taken without ``.`` and doubled slashes, and are looked up in both normal forms of
    Unicode.

    Args:
        folder: of the videos.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finder = FileFinder()
        self._names: dict[str, str] = {}  # file -> how the annotations call it

    def build(
        self,
        name: str,
        file: str,
        captions: Sequence[Any],
        document: Path | None = None,
        category: str | None = None,
    ) -> VideoEntry:
        """Build an entry; raises ``EntryError``.

        Args:
            name: how the annotations call the video.
            file: POSIX path within the folder.
        """
        path = self.locate(self.folder, file)
        for number, caption in enumerate(captions, 1):
            problem = find_caption_problem(caption)
            if problem is not None:
                raise EntryError(f"{name}: caption {number} {problem}")
        return VideoEntry(name, path, tuple(captions), document, category)

    def locate(self, folder: Path, name: str, what: str = "the path") -> Path:
        """Return the file that a path within a folder names; raises ``EntryError``."""
        problem = find_name_problem(name)
        path = folder if problem else self.finder.locate(folder, name)
        if "\\" in name and os.sep == "/" and not problem and not os.path.lexists(path):
            problem = 'has "\\" between its folders, as on Windows; write "/"'
        if problem is not None:
            raise EntryError(f"{what} {shorten(name, MAX_SHOWN)!r} {problem}")
        return path

    def check_not_repeated(self, entry: VideoEntry) -> None:
        """Raise ``EntryError`` where an earlier entry has the same file, however it is spelled."""
        file = str(entry.video)
        # Of files that are there each is one of its own, however much their names look alike.
        if not file.isascii() and not os.path.lexists(file):
            file = compose(file)
        if file in self._names:
            other = self._names[file]
            spelled = "" if other == entry.id else f" (before as {other!r})"
            raise EntryError(f"the path {entry.id!r} occurs twice{spelled}")
        self._names[file] = entry.id


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
        video_dir: folder that the entries' ``path`` is relative to.
        ocr_dir: folder that ``videos_info.Kwai_OCR`` is relative to.
        cut: the member of ``videos_info`` that names an entry's split; None: all entries count.
        splits: with ``cut``: the first of these that any entry has is the split that is read.

    Raises:
        AnnotationError: the file or entries of it can't be used; the first ten are named.
    """
    items = list(enumerate(read_json_list(path)))
    if cut is not None:
        items = _select_split(path, items, cut, splits)
    builder = EntryBuilder(video_dir)
    entries, errors = [], []
    for number, item in items:
        try:
            entry = _parse_entry(item, builder, ocr_dir)
            builder.check_not_repeated(entry)
            entries.append(entry)
        except EntryError as error:
            errors.append(f"entry {number}: {error}")
    raise_entry_errors(path, errors)
    return entries


def _select_split(
    path: Path, items: list[tuple[int, Any]], cut: str, splits: Sequence[str]
) -> list[tuple[int, Any]]:
    """Return the numbered entries of a split, in their order."""
    infos = [item.get("videos_info") if isinstance(item, dict) else None for _, item in items]
    named = [get_text(info, cut) for info in infos]
    without = [number for (number, _), split in zip(items, named, strict=True) if split is None]
    message = f'its "videos_info" names no split as "{cut}"'
    raise_entry_errors(path, [f"entry {number}: {message}" for number in without])
    wanted = next((split for split in splits if split in named), None)
    if wanted is None:
        raise AnnotationError(
            f'{path}: no entry\'s "{cut}" is {" or ".join(splits)}; '
            f"the file has {', '.join(sorted(set(named)))}"
        )
    if wanted != splits[0]:
        logger.info("%s: has no split %s; %s is used for it", path, splits[0], wanted)
    return [item for item, split in zip(items, named, strict=True) if split == wanted]


def _parse_entry(item: Any, builder: EntryBuilder, ocr_dir: Path) -> VideoEntry:
    """Read an entry; raises ``EntryError``."""
    if not isinstance(item, dict):
        raise EntryError(f"must be an object, is a JSON {type(item).__name__}")
    given = get_text(item, "path")
    if not given:
        raise EntryError('has no "path"')
    name = str(PurePosixPath(given))  # ./a and a//b are other spellings of a and a/b
    captions = _get_captions(item)
    if not captions or None in captions:
        raise EntryError(f'{name}: has no captions ("captions_info": [{{"caption": "…"}}])')
    category = name.split("/")[0] if "/" in name else None  # the folder, as in TextVR
    entry = builder.build(name, given, captions, category=category)
    info = item.get("videos_info", {})
    document = info.get("Kwai_OCR") if isinstance(info, dict) else None
    if document is None:
        return entry
    if not isinstance(document, str):
        raise EntryError(f"{name}: the Kwai_OCR path {document!r} leads out of the data folder")
    builder.locate(ocr_dir, document, f"{name}: the Kwai_OCR path")
    return replace(entry, ocr=find_document(ocr_dir, name, document, builder.finder))


def _get_captions(item: Any) -> list[str | None] | None:
    """Return an entry's captions, None where one is no text; None: it has no list of captions."""
    infos = item.get("captions_info") if isinstance(item, dict) else None
    return [get_text(info, "caption") for info in infos] if isinstance(infos, list) else None


def get_text(item: Any, key: str) -> str | None:
    """Return the text of a JSON object's member; None where there is none."""
    text = item.get(key) if isinstance(item, dict) else None
    return text if isinstance(text, str) else None


def keep_first_captions(entries: Sequence[VideoEntry]) -> list[VideoEntry]:
    """Return the entries with the first of their captions only."""
    return [replace(entry, captions=entry.captions[:1]) for entry in entries]


def describe_captions(entries: Sequence[VideoEntry], first: str = "") -> str:
    """Say which captions of the videos are the queries, "" where there are none.

    Args:
        first: why only the first caption of each video is one; "" where all of them are.
    """
    # A table, which makes its entries when they are asked for, has all their captions at once.
    captions = getattr(entries, "captions", None) or (entry.captions for entry in entries)
    most = max(map(len, captions), default=0)
    if most < 2:
        return ONE_CAPTION if most else ""
    return f"the first caption of each video ({first})" if first else "every caption of each video"


def is_held_out(name: str, share: float) -> bool:
    """Say whether a video is in the share of a training set that is held out for validation.

    A function of the name alone: videos that are added move none of the others, and what a smaller
    share holds out a larger one does, too.

    Args:
        name: the path by which the annotations name the video.
        share: in (0, 1).
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def count_captions(entries: Iterable[VideoEntry]) -> int:
    """Return the number of captions of all entries."""
    return sum(len(entry.captions) for entry in entries)


def explain_shuffled(annotation_file: Path) -> str | None:
    """Return why a file's pairs are known to be shuffled; None: they are not.

    A file is recognised by its name, or where ``TextVR_test.json`` lies beside it by its content:
    the same captions in the same order, most of them with another of the same videos.
    """
    if annotation_file.stem.endswith(SHUFFLED_MARK):
        right = find_unshuffled_beside(annotation_file)
        beside = f"; {right.name} beside it is the right one" if right is not None else ""
        return f'its name ends in "{SHUFFLED_MARK}"{beside}'
    right = _find_other(annotation_file, UNSHUFFLED)
    if right is None:
        return None
    moved, total = count_moved_videos(annotation_file, right)
    if 2 * moved <= total:
        return None
    return (
        f"it holds the captions of {right.name} in the same order, but {moved} of {total} have "
        f"another of its videos; {right.name} beside it is the right one"
    )


def find_unshuffled_beside(annotation_file: Path) -> Path | None:
    """Return the file that a ``_rand`` file was made from, if it lies beside it."""
    name = annotation_file.stem.removesuffix(SHUFFLED_MARK) + annotation_file.suffix
    return _find_other(annotation_file, name)


def find_shuffled_beside(annotation_file: Path) -> Path | None:
    """Return the shuffled file beside this one, if it is there."""
    name = annotation_file.stem + SHUFFLED_MARK + annotation_file.suffix
    return _find_other(annotation_file, name)


def _find_other(file: Path, name: str) -> Path | None:
    """Return the file of this name beside ``file``; None: it is missing, or is a link to it."""
    other = file.with_name(name)
    if not other.is_file() or file.exists() and file.samefile(other):
        return None
    return other


def count_moved_videos(file: Path, right: Path) -> tuple[int, int]:
    """Return how many captions have another of ``right``'s videos, and how many there are.

    (0, 0) where the files hold other captions, or the same in another order.
    """
    try:
        pairs, right_pairs = _read_pairs(file), _read_pairs(right)
    except AnnotationError as error:
        logger.warning("%s was not compared with %s: %s", file, right.name, error)
        return 0, 0
    captions = [texts for _, texts in pairs]
    if captions != [texts for _, texts in right_pairs] or None in captions:
        return 0, 0
    videos, right_videos = [name for name, _ in pairs], [name for name, _ in right_pairs]
    known = set(right_videos)
    both = zip(videos, right_videos, strict=True)
    return sum(video != other and video in known for video, other in both), len(videos)


def _read_pairs(file: Path) -> list[tuple[str | None, list[str | None] | None]]:
    """Return path and captions of each entry; None where they are unusable."""
    return [(get_text(item, "path"), _get_captions(item)) for item in read_json_list(file)]
