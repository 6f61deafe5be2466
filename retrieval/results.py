"""What a search returns.

Times are seconds from the video's first frame. Boxes are shares of the frame's width and height.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Mode = Literal["fused", "meaning", "words"]
MODES: tuple[Mode, ...] = ("fused", "meaning", "words")
MatchKind = Literal["exact", "prefix", "substring", "edits"]


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
        query: the word or quoted phrase of the query, as it was compared.
        word: the word, or words, of the video that it met, as they were compared.
        kind: ``exact``, at the ``prefix`` of a word, a ``substring`` of it, or ``edits`` away.
        text: the whole line as it was read.
        start_s: when the line is first seen.
        end_s: when it was last seen.
        box: where, on average.
    """

    query: str
    word: str
    kind: MatchKind
    text: str
    start_s: float
    end_s: float
    box: Box


@dataclass(frozen=True)
class Explanation:
    """Where a hit's similarity comes from, by leaving vision and OCR out of the fused embedding.

    Attributes:
        similarity: cosine of the query's and the entry's embedding.
        without_vision: the same, when the fusion layer may attend to the words only; None for a
            model that does not fuse.
        without_ocr: the same, when it may attend to the frames only; None likewise.
        vision: share of vision: what the similarity loses without it, over both losses (a gain
            counts as no loss); None where neither is lost, or the model does not fuse.
        ocr: share of OCR; ``vision + ocr`` is 1.
    """

    similarity: float
    without_vision: float | None
    without_ocr: float | None
    vision: float | None
    ocr: float | None


@dataclass(frozen=True)
class Hit:
    """An entry that was found.

    Attributes:
        id: of the entry; stays as long as its video is unchanged.
        video: path of the video within the indexed folder, ``/`` between its parts.
        start_s: begin of the entry's time span.
        end_s: end of it.
        score: what the hits are ordered by: in the mode ``meaning`` the cosine, in ``words`` the
            weight of the matched words, in ``fused`` the sum of reciprocal ranks.
        similarity: cosine of the query's and the entry's embedding; None in the mode ``words``.
        meaning_rank: place in the list by meaning, from 1; None: not in it.
        words_rank: place in the list by words, from 1, shared by equal scores; None: not in it.
        words: what matched, best first.
        explanation: where ``explain`` was asked for and the meaning was searched.
    """

    id: int
    video: str
    start_s: float
    end_s: float
    score: float
    similarity: float | None
    meaning_rank: int | None
    words_rank: int | None
    words: tuple[WordMatch, ...]
    explanation: Explanation | None = None


@dataclass(frozen=True)
class Entry:
    """One window of a video.

    Attributes:
        id: as in ``Hit``.
        video: path of the video within the indexed folder.
        start_s: begin of the time span.
        end_s: end of it.
        duration_s: of the whole video.
        width: of a frame, pixels.
        height: of a frame, pixels.
    """

    id: int
    video: str
    start_s: float
    end_s: float
    duration_s: float
    width: int
    height: int


@dataclass(frozen=True)
class TextTrack:
    """A line of text that was followed through a video.

    Attributes:
        text: as it was read.
        score: confidence of the reading, as the OCR document has it.
        start_s: when it is first seen.
        end_s: when it was last seen.
        box: where, on average.
        boxes: (time, box) of every frame in which it was spotted, in the order of time.
    """

    text: str
    score: float
    start_s: float
    end_s: float
    box: Box
    boxes: tuple[tuple[float, Box], ...]
