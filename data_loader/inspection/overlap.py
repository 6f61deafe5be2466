"""What entries share: captions of several videos, and videos of several splits."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from base.base_dataset import VideoEntry

_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class SharedCaptions:
    """Captions that stand at several videos.

    Attributes:
        captions: number of such captions.
        videos: number of videos that have one.
        best_r1: highest possible text-to-video R@1, in per cent, where one video is right per
            query; None without captions.
    """

    captions: int
    videos: int
    best_r1: float | None


def query_text(caption: str) -> str:
    """Return what of a caption a text model can see: letters lower-cased, single blanks."""
    return " ".join(caption.lower().split())


def shared_captions(entries: Iterable[VideoEntry]) -> SharedCaptions:
    """Count captions that stand at several videos.

    Equal queries have equal rankings, so that of those at different videos only one video's come
    first.
    """
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # text -> id -> count
    total = 0
    for entry in entries:
        for caption in entry.captions:
            found[query_text(caption)][entry.id] += 1
            total += 1
    shared = [videos for videos in found.values() if len(videos) > 1]
    first = sum(max(videos.values()) for videos in found.values())
    return SharedCaptions(
        captions=len(shared),
        videos=len(set().union(*shared)),
        best_r1=100 * first / total if total else None,
    )


def captions_in(entries: Iterable[VideoEntry], others: Iterable[VideoEntry]) -> int:
    """Count the captions of ``entries`` that are also captions of ``others``."""
    known = {query_text(caption) for entry in others for caption in entry.captions}
    return sum(query_text(caption) in known for entry in entries for caption in entry.captions)


def shared_files(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return those of ``names`` that are, links followed, also among ``others``; sorted."""
    known = set(map(os.path.realpath, others))
    return sorted(name for name in names if os.path.realpath(name) in known)


def copies(sizes: Mapping[str, int], others: Mapping[str, int]) -> dict[str, str]:
    """Return which files hold the same bytes as one of ``others``, and as which.

    Args:
        sizes: path -> bytes; only files of equal size are read.
        others: the same.
    """
    of_size = defaultdict(list)
    for name, size in others.items():
        of_size[size].append(name)
    candidates = {name: of_size[size] for name, size in sizes.items() if of_size.get(size)}
    needed = {*candidates, *chain.from_iterable(candidates.values())}
    read = {name: _digest(name) for name in needed}
    return {
        name: same[0]
        for name, alike in candidates.items()
        if (same := [other for other in alike if read[other] == read[name]])
    }


def _digest(name: str) -> bytes:
    digest = hashlib.blake2b()
    with open(name, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()
