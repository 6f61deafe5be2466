"""What the web page's server answers, as JSON.

Times are seconds from the video's first frame. Boxes are shares of the frame's width and height.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from retrieval.results import Box, Entry, Hit, MatchKind, Mode, TextTrack, WordMatch
from retrieval.searching.search import MAX_QUERY
from retrieval.web.marks import marks_of

MOST_HITS = 100


def plain(text: str) -> str:
    """Return a text with U+FFFD in place of what is no character, as names of files may hold it."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


Text = Annotated[str, BeforeValidator(plain)]


class SearchQuery(BaseModel):
    """What may be asked of ``/api/search``."""

    model_config = ConfigDict(extra="forbid")

    q: str = Field(
        min_length=1, max_length=MAX_QUERY, description='sentence, words, "quoted phrases"'
    )
    k: int = Field(24, ge=1, le=MOST_HITS, description="most hits")
    mode: Mode = Field("fused", description="by meaning, by words, or both lists fused")
    folder: str = Field("", max_length=4096, description="only videos in it and below; empty: all")


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Problem(_Answer):
    """What is wrong with a request, and the remedy."""

    detail: str


class BoxAnswer(_Answer):
    """A rectangle on a frame; each number is in [0, 1], from the left and from the top."""

    left: float
    top: float
    right: float
    bottom: float


class TimedBox(BoxAnswer):
    """Where a line of text was spotted at a time."""

    time_s: float


class WordAnswer(_Answer):
    """A word of the query that was read in an entry, and the line that it stands in.

    ``marks`` says where in ``text``: first character (code point) and the one after the last.
    """

    query: Text
    word: Text
    kind: MatchKind
    text: Text
    marks: list[tuple[int, int]]
    start_s: float
    end_s: float
    box: BoxAnswer


class HitAnswer(_Answer):
    """An entry that was found; see ``retrieval.results.Hit``."""

    id: int
    video: Text
    start_s: float
    end_s: float
    score: float
    similarity: float | None
    meaning_rank: int | None
    words_rank: int | None
    words: list[WordAnswer]


class SearchAnswer(_Answer):
    """The hits, best first."""

    hits: list[HitAnswer]


class TrackAnswer(_Answer):
    """A line of text that was followed through a video; ``boxes`` are in the order of time."""

    text: Text
    score: float
    start_s: float
    end_s: float
    box: BoxAnswer
    boxes: list[TimedBox]


class EntryAnswer(_Answer):
    """One window of a video, and the lines of text that are seen in it."""

    id: int
    video: Text
    start_s: float
    end_s: float
    duration_s: float
    width: int
    height: int
    tracks: list[TrackAnswer]


class FoldersAnswer(_Answer):
    """Every folder that holds videos, and how many entries the index has."""

    num_entries: int
    folders: list[Text]


def search_answer(hits: Sequence[Hit]) -> SearchAnswer:
    """Return hits as they are sent."""
    return SearchAnswer(hits=[_hit(hit) for hit in hits])


def entry_answer(entry: Entry, tracks: Sequence[TextTrack]) -> EntryAnswer:
    """Return an entry with its lines as it is sent."""
    return EntryAnswer(**vars(entry), tracks=[_track(track) for track in tracks])


def _hit(hit: Hit) -> HitAnswer:
    own = {name: value for name, value in vars(hit).items() if name in HitAnswer.model_fields}
    return HitAnswer(**own | {"words": [_word(match) for match in hit.words]})


def _word(match: WordMatch) -> WordAnswer:
    marks = marks_of(plain(match.text), match.word)
    return WordAnswer(**vars(match) | {"marks": marks, "box": _box(match.box)})


def _track(track: TextTrack) -> TrackAnswer:
    boxes = [TimedBox(time_s=time, **box._asdict()) for time, box in track.boxes]
    return TrackAnswer(**vars(track) | {"boxes": boxes, "box": _box(track.box)})


def _box(box: Box) -> BoxAnswer:
    return BoxAnswer(**box._asdict())
