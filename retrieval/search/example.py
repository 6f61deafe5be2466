"""Query by example: what is looked for, and what is not, as one embedding.

Rocchio's rule (Relevance Feedback in Information Retrieval, 1971) on vectors of length 1:

    embedding = normalise(sum of what is wanted - ``MINUS_WEIGHT`` x sum of what is not)

Words, pictures and entries of the index count alike. A picture has no words: where the model fuses
frames and words, it is embedded without words and compared with the entries' embeddings without
words, which the index has, too. (Of the first ten entries that frames of the demonstration's videos
find, 96 % have the right look that way, and 53 % by whole embeddings.)

Shapes: E width of the common space, M found.
"""

import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

from retrieval.errors import UnknownEntryError
from retrieval.index.store import StoreReader
from retrieval.search.snapshot import Snapshot, find_video, read_entry
from utils.errors import UserError

# Less than a half of what is wanted and the whole would be turned away from it.
MINUS_WEIGHT = 0.5
MAX_EXAMPLES = 20  # of a search, of each kind
MAX_PICTURE_BYTES = 32 * 2**20
_NEAR_NAMES = 3  # of a video that the index does not have
_CANCELLED = 1e-3  # length of a sum that says nothing

Like = int | str  # id of an entry, or PATH@SECONDS
Picture = str | os.PathLike[str] | bytes  # a file, or its content
Weighted = tuple[float, NDArray]  # 1 or -``MINUS_WEIGHT``, and an embedding (E,) of length 1


class Moment(NamedTuple):
    """A time in a video of the index."""

    video: str  # path within the indexed folder
    time_s: float


def parse_like(text: Like) -> int | Moment:
    """Read the id of an entry, or ``PATH@SECONDS``, also as ``PATH@1:02:03.5``.

    Raises:
        UserError: it is neither.
    """
    if isinstance(text, int):
        return text
    if re.fullmatch(r"[0-9]+", text):
        return int(text)
    video, at, time = text.rpartition("@")
    if not (at and video and re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", time, re.ASCII)):
        raise UserError(
            f'"{text}": is neither the id of an entry nor a moment of a video; give '
            "PATH@SECONDS, such as a/b.mp4@12.5"
        )
    seconds = 0.0
    for part in time.split(":"):
        seconds = 60 * seconds + float(part)
    return Moment(video, seconds)


def find_entry(reader: StoreReader, snapshot: Snapshot, like: Like) -> int:
    """Return the id of the entry that is meant: the one whose centre is nearest to the time.

    Raises:
        UnknownEntryError: there is no such entry, or no such video, whose near names it says, or
            the time is not within it.
        UserError: it is neither an id nor a moment.
    """
    moment = parse_like(like)
    if isinstance(moment, int):
        return moment
    video = reader.find_video(snapshot.spell_video(reader, moment.video))
    entries = [] if video is None else reader.list_entries(video.id)
    if not entries:
        raise UnknownEntryError(_name_near(snapshot.list_paths(reader), moment.video))
    doubled = 2 * moment.time_s
    for entry_id, start_s, end_s in sorted(
        entries, key=lambda entry: (abs(entry[1] + entry[2] - doubled), entry[0])
    ):
        if start_s <= moment.time_s <= end_s:
            return entry_id
    last = max(end_s for _, _, end_s in entries)
    raise UnknownEntryError(
        f"{moment.video}: is {last:.1f} s long, so has no moment {moment.time_s:g} s; give a time "
        "within it"
    )


def _name_near(names: Sequence[str], video: str) -> str:
    """Return the message about a video that the index does not have, among the names it has."""
    ending = "/" + video.rsplit("/", 1)[-1]
    near = [name for name in names if f"/{name}".endswith(ending)][:_NEAR_NAMES]
    if not near:
        found = process.extract(video, names, scorer=fuzz.ratio, score_cutoff=60, limit=_NEAR_NAMES)
        near = [name for name, *_ in found]
    meant = f"; did you mean {' or '.join(near)}?" if near else "; search again"
    return f"{video}: the index has no such video{meant}"


class Examples(NamedTuple):
    """Entries of the index that are wanted, or not."""

    weighted: list[Weighted]
    nearby: NDArray  # (M,) int64: the entries themselves, and those that share a time with one


class QueryEmbedding(NamedTuple):
    """What entries are compared with: the sum of both products is the similarity."""

    whole: NDArray  # (E,), with their embeddings
    seen: NDArray | None  # (E,), with those without OCR words; None: nothing is


def read_examples(
    reader: StoreReader, snapshot: Snapshot, like: Sequence[Like], minus: Sequence[Like]
) -> Examples:
    """Look up the entries that are searched with; raises ``UserError``."""
    weighted: list[Weighted] = []
    nearby: list[int] = []
    for weight, text in [(1.0, one) for one in like] + [(-MINUS_WEIGHT, one) for one in minus]:
        entry = read_entry(reader, find_entry(reader, snapshot, text))
        rows = snapshot.find_rows_of(np.array([entry.id]))
        weighted.append((weight, snapshot.vectors.read_windows(rows)[0]))
        others = reader.list_entries(find_video(reader, snapshot, entry.video).id)
        nearby.append(entry.id)
        nearby += [
            other
            for other, start_s, end_s in others
            if start_s < entry.end_s and end_s > entry.start_s
        ]
    return Examples(weighted, np.unique(np.array(nearby, dtype=np.int64)))


def combine_embeddings(
    weighted: Sequence[Weighted], pictures: Sequence[Weighted], apart: bool
) -> QueryEmbedding:
    """Return one query of all that is wanted and that is not.

    Args:
        weighted: of words and entries.
        pictures: those of pictures.
        apart: whether the index has embeddings without OCR words, which pictures are compared with.

    Raises:
        UserError: what is wanted and what is not cancel each other out.
    """
    if len(weighted) == 1 and not pictures:  # wanted, or ``SearchRequest`` has refused it
        return QueryEmbedding(weighted[0][1], None)
    both = np.zeros_like([*weighted, *pictures][0][1])
    whole, seen = (
        sum((weight * embedding for weight, embedding in part), both)
        for part in (weighted, pictures)
    )
    both = whole + seen
    length = math.sqrt(float(both @ both))
    if length < _CANCELLED:
        raise UserError("what is wanted and what is not cancel each other out; leave one out")
    if not (apart and pictures):
        return QueryEmbedding((both / length).astype(np.float32), None)
    return QueryEmbedding(*((part / length).astype(np.float32) for part in (whole, seen)))
