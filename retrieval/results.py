"""What a search returns.

Times are seconds from the video's first frame. Boxes are shares of the frame's width and height.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Mode = Literal["hybrid", "semantic", "keyword"]
MODES: tuple[Mode, ...] = ("hybrid", "semantic", "keyword")
_FORMER_MODES = {"fused": "hybrid", "meaning": "semantic", "words": "keyword"}
MatchKind = Literal["exact", "prefix", "substring", "fuzzy"]


def rename_mode(name: str) -> str:
    """Return the name of a mode for that of a former release; other names as they are."""
    return _FORMER_MODES.get(name, name)


class Box(NamedTuple):
    """A rectangle on a frame; each number is in [0, 1], from the left and from the top."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class WordMatch:
    """A word of a query that was read in an entry.

    Attributes:
        kind: ``exact``, the ``prefix`` of a word, a ``substring`` of it, or ``fuzzy``: a fuzzy
            match, some letters away.
    """

    query: str  # the word or quoted phrase of the query, as it was compared
    word: str  # the word, or words, of the video that it matches, as they were compared
    kind: MatchKind
    text: str  # the whole line as it was read
    start_s: float  # when the line is first seen
    end_s: float  # when it was last seen
    box: Box  # where, on average


@dataclass(frozen=True)
class Explanation:
    """Where a hit's similarity comes from, by leaving vision and OCR out of the fused embedding.

    Attributes:
        without_vision: the same, when the fusion layer may attend to the words only; None for a
            model that does not fuse.
        vision: share of vision: what the similarity loses without it, over both losses (a gain
            counts as no loss); None where neither is lost, or the model does not fuse.
    """

    similarity: float  # cosine of the query's and the entry's embedding
    without_vision: float | None
    without_ocr: float | None  # the same, when it may attend to the frames only; None likewise
    vision: float | None
    ocr: float | None  # share of OCR; ``vision + ocr`` is 1


@dataclass(frozen=True)
class Hit:
    """An entry that was found.

    Attributes:
        score: what the hits are ordered by: in the mode ``semantic`` the cosine, in ``keyword`` the
            sum of the matched words' scores, in ``hybrid`` the sum of reciprocal ranks.
        similarity: cosine of the query's and the entry's embedding; None in the mode ``keyword``.
        keyword_rank: place in the keyword list, from 1, shared by equal scores; None: not in it.
        explanation: where ``explain`` was asked for and the mode is not ``keyword``.
    """

    id: int  # of the entry; stays as long as its video is unchanged
    video: str  # path of the video within the indexed folder, ``/`` between its parts
    start_s: float  # begin of the entry's time span
    end_s: float  # end of it
    score: float
    similarity: float | None
    semantic_rank: int | None  # place in the semantic list, from 1; None: not in it
    keyword_rank: int | None
    words: tuple[WordMatch, ...]  # what matched, best first
    explanation: Explanation | None = None


@dataclass(frozen=True)
class Entry:
    """One window of a video."""

    id: int  # as in ``Hit``
    video: str  # path of the video within the indexed folder
    start_s: float  # begin of the time span
    end_s: float  # end of it
    duration_s: float  # of the whole video
    width: int  # of a frame, pixels
    height: int  # of a frame, pixels


@dataclass(frozen=True)
class TextTrack:
    """A line of text that was followed through a video.

    Attributes:
        boxes: (time, box) of every frame in which it was spotted, in the order of time.
    """

    text: str  # as it was read
    score: float  # confidence of the reading, as the OCR document has it
    start_s: float  # when it is first seen
    end_s: float  # when it was last seen
    box: Box  # where, on average
    boxes: tuple[tuple[float, Box], ...]
