"""Shuffled annotation files, whose captions and videos do not belong together.

TextVR publishes ``TextVR_test_rand.json``, the test captions with the videos shuffled: it was made
for matrices sent to the challenge server, and every metric on it is chance.
"""

import logging
from pathlib import Path
from typing import Any

from data_loader.datasets.annotations import AnnotationError, read_json_list

logger = logging.getLogger(__name__)

MARK = "_rand"  # ends the stem of a shuffled file
UNSHUFFLED = "TextVR_test.json"


def explain_shuffled(annotation_file: Path) -> str | None:
    """Say why a file's pairs are known to be shuffled; None: they are not.

    A file is known by its name, and by its content where ``TextVR_test.json`` lies beside it: the
    same captions in the same order, most of them with another of the same videos.
    """
    if annotation_file.stem.endswith(MARK):
        right = find_unshuffled_beside(annotation_file)
        beside = f"; {right.name} beside it is the right one" if right is not None else ""
        return f'its name ends in "{MARK}"{beside}'
    right = _find_other(annotation_file, UNSHUFFLED)
    if right is None:
        return None
    moved, total = count_moved_videos(annotation_file, right)
    if 2 * moved <= total:
        return None
    return (
        f"it holds the captions of {right.name} in the same order, but {moved} of {total} stand "
        f"with another of its videos; {right.name} beside it is the right one"
    )


def find_unshuffled_beside(annotation_file: Path) -> Path | None:
    """Return the file that a ``_rand`` file was made from, if it lies beside it."""
    name = annotation_file.stem.removesuffix(MARK) + annotation_file.suffix
    return _find_other(annotation_file, name)


def find_shuffled_beside(annotation_file: Path) -> Path | None:
    """Return the shuffled file beside this one, if it is there."""
    return _find_other(annotation_file, annotation_file.stem + MARK + annotation_file.suffix)


def _find_other(file: Path, name: str) -> Path | None:
    """The file of this name beside ``file``; None: it is not there, or is the same by a link."""
    other = file.with_name(name)
    if not other.is_file() or file.exists() and file.samefile(other):
        return None
    return other


def count_moved_videos(file: Path, right: Path) -> tuple[int, int]:
    """Return how many captions stand with another of ``right``'s videos, and how many there are.

    (0, 0) where the files hold other captions, or the same in another order.
    """
    try:
        pairs, right_pairs = _read_pairs(file), _read_pairs(right)
    except AnnotationError as error:
        logger.warning("%s was not compared with %s: %s", file, right.name, error)
        return 0, 0
    captions = [own for _, own in pairs]
    if captions != [own for _, own in right_pairs] or None in captions:
        return 0, 0
    videos = {video for video, _ in right_pairs}
    both = zip(pairs, right_pairs, strict=True)
    return sum(own != other and own in videos for (own, _), (other, _) in both), len(pairs)


def _read_pairs(file: Path) -> list[tuple[str | None, list[Any] | None]]:
    """Path and captions of each entry; None where they can't be used, which is said elsewhere."""
    pairs = []
    for item in read_json_list(file):
        infos = item.get("captions_info") if isinstance(item, dict) else None
        captions = [_get_text(i, "caption") for i in infos] if isinstance(infos, list) else None
        pairs.append((_get_text(item, "path"), captions))
    return pairs


def _get_text(item: Any, key: str) -> str | None:
    text = item.get(key) if isinstance(item, dict) else None
    return text if isinstance(text, str) else None
