"""Results of a search.

Times are seconds from the video's first frame. Boxes are shares of the frame's width and height.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Mode = Literal["hybrid", "semantic", "keyword"]
MODES: tuple[Mode, ...] = ("hybrid", "semantic", "keyword")
_FORMER_MODES = {"fused": "hybrid", "meaning": "semantic", "words": "keyword"}
# ``variant``: the same word, or a part of it, written with other signs, marks or digits; see
# ``retrieval.index.words``. ``pieces``: what is one word in the query is several words beside each
# other in the line, or the other way round; of scripts without blanks, its pieces stand there.
# ``fuzzy``: some letters away; see ``retrieval.search.keyword.Term.max_distance``. ``similar``: of
# like meaning, where that is asked for; see ``retrieval.search.word_vectors``.
MatchKind = Literal["exact", "variant", "pieces", "prefix", "substring", "fuzzy", "similar"]
# ``read`` in the picture, ``spoken`` (subtitles or speech), or the ``name`` of the file.
TrackKind = Literal["read", "spoken", "name"]
Sort = Literal["relevance", "newest", "oldest", "longest", "shortest", "name"]
SORTS: tuple[Sort, ...] = ("relevance", "newest", "oldest", "longest", "shortest", "name")


def rename_mode(name: str) -> str:
    """Translate the name that a mode had in a former release; return other names as they are."""
    return _FORMER_MODES.get(name, name)


class Box(NamedTuple):
    """A rectangle on a frame; each number is in [0, 1], from the left and from the top."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class WordMatch:
    """A word of a query that an entry has in a line of text."""

    query: str  # the word or quoted phrase of the query, folded
    word: str  # the word, or words, of the video that it matches, folded
    kind: MatchKind
    text: str  # the line as it was read
    start_s: float  # when the line is first seen, or begins to be said
    end_s: float  # when it was last seen
    box: Box | None  # the mean over its frames; None of what is not in the picture
    track_kind: TrackKind = "read"


@dataclass(frozen=True)
class Explanation:
    """Parts of vision and OCR in a hit's similarity, by leaving each out of the fused embedding.

    All but ``similarity`` are None for a model that does not fuse, and where a picture is searched
    with; ``vision`` and ``ocr`` also where the similarity loses nothing without either.
    """

    similarity: float  # cosine of the query's and the entry's embedding
    without_vision: float | None  # the same, when the fusion may attend to the words only
    without_ocr: float | None  # the same, when it may attend to the frames only
    vision: float | None  # share of the loss without vision in both losses; a gain is no loss
    ocr: float | None  # 1 - ``vision``


class Evidence(NamedTuple):
    """Parts of a hit's score in the mode ``hybrid``, in nats: see ``retrieval.search.hybrid``."""

    seen: float
    read: float
    said: float
    named: float  # by the name of the file


class SameEntry(NamedTuple):
    """An entry that a hit stands for, beside its own: it shows the same."""

    id: int
    video: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Hit:
    """An entry that was found."""

    id: int  # of the entry; stays as long as its video is unchanged
    video: str  # path of the video within the indexed folder, ``/`` between its parts
    start_s: float  # of the entry's time span
    end_s: float
    # What hits are ordered by: in the mode ``semantic`` the cosine, or with frame vectors the mean
    # of ``similarity`` and ``frame_similarity``, in ``keyword`` the evidence of the matched words,
    # in ``hybrid`` the sum of ``evidence``; in nats.
    score: float
    similarity: float | None  # cosine of query and entry; None in the mode ``keyword``
    semantic_rank: int | None  # in the semantic list, from 1; None: not in it
    keyword_rank: int | None  # likewise in the keyword list; equal scores share a rank
    words: tuple[WordMatch, ...]  # what matched, best first
    explanation: Explanation | None = None  # with ``explain``, but not in the mode ``keyword``
    # The frame of the entry that is nearest to the query, from which a player starts. Both are None
    # in an index without frame vectors, and in the mode ``keyword``.
    time_s: float | None = None
    frame_similarity: float | None = None  # its cosine
    # How far the similarity lies above the best of a text that has nothing to do with the videos,
    # in standard deviations of such bests: see ``retrieval.search.calibration``. None where nothing
    # is judged: in the mode ``keyword``, and in an index of fewer than ``MIN_ENTRIES`` entries.
    z_score: float | None = None
    # Whether it is like the query: its z-score is at least ``MIN_Z_SCORE``, or a word of the query
    # was read in it. False: others are even less alike, no more. None where nothing is judged.
    likely: bool | None = None
    # With ``group``: how many entries that show the same this one stands for, and the best of them.
    num_also: int = 0
    also: tuple[SameEntry, ...] = ()
    evidence: Evidence | None = None  # in the mode ``hybrid``
    # When to play from: where the line begins that matches best, or is first seen or said within
    # the entry; else ``time_s``, else ``start_s``.
    moment_s: float = 0.0
    moment_box: Box | None = None  # of that line, at that time


@dataclass(frozen=True)
class Entry:
    """One window of a video."""

    id: int  # as in ``Hit``
    video: str  # path of the video within the indexed folder
    start_s: float  # of the time span
    end_s: float
    duration_s: float  # of the video
    width: int  # of a frame, pixels
    height: int


@dataclass(frozen=True)
class TextTrack:
    """A line of text that was followed through a video, or said in it."""

    text: str  # as it was read
    score: float  # confidence of the reading, as the OCR document has it
    start_s: float  # when it is first seen, or begins to be said
    end_s: float  # when it was last seen
    box: Box | None  # the mean over its frames; None of what is not in the picture
    boxes: tuple[tuple[float, Box], ...]  # (time, box) of every frame in which it was spotted
    kind: TrackKind = "read"


@dataclass(frozen=True)
class Video:
    """A video of the index."""

    id: int  # stays as long as the file is unchanged
    video: str  # path within the indexed folder
    duration_s: float
    width: int  # of a frame, pixels
    height: int
    modified_s: float  # time of the file's last change, seconds since 1970, UTC


@dataclass(frozen=True)
class VideoMoment:
    """A time of a video from which it is worth playing for a query."""

    entry_id: int  # the entry that the time lies in
    time_s: float  # to play from: where the line begins that matches best, or the best frame
    start_s: float  # of the entry
    end_s: float
    score: float  # as ``Hit.score``
    similarity: float | None  # as ``Hit.similarity``
    likely: bool | None  # as ``Hit.likely``
    box: Box | None  # of the line that matches best; None where nothing is to be marked
    words: tuple[WordMatch, ...]  # what is read or said from this time on, best first


@dataclass(frozen=True)
class VideoHit:
    """A video that was found, with its moments."""

    video: Video
    score: float  # of its best entry
    likely: bool | None  # as ``Hit.likely``, of any of its entries
    z_score: float | None  # of its most similar entry
    has_words: bool  # whether it shows or says a word of the query
    moments: tuple[VideoMoment, ...]  # best first, no two nearer than a second
    num_moments: int  # of all, where ``moments`` has the best only


@dataclass(frozen=True)
class QueryTerm:
    """A word or phrase of a query, and how many of the videos have it."""

    query: str
    num_videos: int
    kind: MatchKind | None  # of the best match; None: no video has it


@dataclass(frozen=True)
class VideoResults:
    """A page of the videos that a query finds."""

    videos: tuple[VideoHit, ...]
    num_with_words: int  # videos that show or say a word of the query
    num_likely: int  # videos that are found; the others are only the least unlike
    num_videos: int  # videos on all pages
    terms: tuple[QueryTerm, ...]


@dataclass(frozen=True)
class LatestVideo:
    """A video, and a few of the lines that can be read in it."""

    video: Video
    texts: tuple[str, ...]


class ExampleWord(NamedTuple):
    """A word to search for."""

    text: str
    track_kind: TrackKind  # read or spoken


@dataclass(frozen=True)
class LibraryOverview:
    """What an index holds, for those who have not searched yet."""

    num_videos: int
    num_entries: int
    duration_s: float  # of all videos
    latest: tuple[LatestVideo, ...]  # the last changed first
    examples: tuple[ExampleWord, ...]  # those of most videos first
