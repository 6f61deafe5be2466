"""Annotation files whose captions and videos do not belong together.

TextVR publishes ``TextVR_test_rand.json``, the test captions with the videos shuffled: it was made
for matrices sent to the challenge server, and every metric on it is chance.
"""

import logging
from pathlib import Path
from typing import Any

from data_loader.annotations import AnnotationError, read_json_list

logger = logging.getLogger(__name__)

MARK = "_rand"  # ends the stem of a shuffled file
UNSHUFFLED = "TextVR_test.json"


def is_shuffled(annotation_file: Path) -> str | None:
    """Say why a file's pairs are known to be shuffled, or return None.

    A file is known by its name, and by its content where ``TextVR_test.json`` lies beside it: the
    same captions in the same order, most of them with another of the same videos.
    """
    if annotation_file.stem.endswith(MARK):
        right = unshuffled_beside(annotation_file)
        beside = f"; {right.name} beside it is the right one" if right is not None else ""
        return f'its name ends in "{MARK}"{beside}'
    right = annotation_file.with_name(UNSHUFFLED)
    if not right.is_file() or _is_same(right, annotation_file):
        return None
    moved, total = moved_videos(annotation_file, right)
    if 2 * moved <= total:
        return None
    return (
        f"it holds the captions of {right.name} in the same order, but {moved} of {total} stand "
        f"with another of its videos; {right.name} beside it is the right one"
    )


def unshuffled_beside(annotation_file: Path) -> Path | None:
    """Return the file that a ``_rand`` file was made from, if it lies beside it."""
    name = annotation_file.stem.removesuffix(MARK) + annotation_file.suffix
    file = annotation_file.with_name(name)
    return file if file.is_file() and not _is_same(file, annotation_file) else None


def shuffled_beside(annotation_file: Path) -> Path | None:
    """Return the shuffled file beside this one, if it is there."""
    file = annotation_file.with_name(annotation_file.stem + MARK + annotation_file.suffix)
    return file if file.is_file() and not _is_same(file, annotation_file) else None


def moved_videos(file: Path, right: Path) -> tuple[int, int]:
    """Return how many captions stand with another of ``right``'s videos, and how many there are.

    (0, 0) where the files hold other captions, or the same in another order.
    """
    try:
        pairs, right_pairs = _pairs(file), _pairs(right)
    except AnnotationError as error:
        logger.warning("%s was not compared with %s: %s", file, right.name, error)
        return 0, 0
    same = [captions for _, captions in pairs] == [captions for _, captions in right_pairs]
    if not same or None in (captions for _, captions in pairs):
        return 0, 0
    videos = {video for video, _ in right_pairs}
    both = zip(pairs, right_pairs, strict=True)
    return sum(own != other and own in videos for (own, _), (other, _) in both), len(pairs)


def _is_same(file: Path, other: Path) -> bool:
    return other.exists() and file.samefile(other)


def _pairs(file: Path) -> list[tuple[str | None, list[Any] | None]]:
    """Path and captions of each entry; None where the entry is faulty, which is said elsewhere."""
    return [(_text(item, "path"), _captions(item)) for item in read_json_list(file)]


def _text(item: Any, key: str) -> str | None:
    text = item.get(key) if isinstance(item, dict) else None
    return text if isinstance(text, str) else None


def _captions(item: Any) -> list[Any] | None:
    infos = item.get("captions_info") if isinstance(item, dict) else None
    return [_text(info, "caption") for info in infos] if isinstance(infos, list) else None
