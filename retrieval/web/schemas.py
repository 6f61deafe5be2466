"""Schemas of the web API: what may be asked, and the JSON that is answered.

Times are seconds from the video's first frame. Boxes are shares of the frame's width and height.
"""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, computed_field

from retrieval.index.words import get_words
from retrieval.results import MatchKind, Mode, rename_mode
from retrieval.search.hybrid import MAX_QUERY

MAX_HITS = 100


def replace_surrogates(text: str) -> str:
    """Return a text with U+FFFD in place of what is no character, as names of files may hold it."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def find_marks(text: str, word: str) -> list[tuple[int, int]]:
    """Return the places of a word, or of neighbouring words, in a line of text.

    Args:
        text: as it was read.
        word: as it was compared (``WordMatch.word``); those of a phrase are one blank apart.

    Returns:
        First character of each place and the one after its last, by position.
    """
    pieces = [
        (match.span(), own)
        for match in re.finditer(r"\S+", text)
        for own in get_words(match.group())
    ]
    wanted = word.split(" ")
    found, place = [], 0
    while place + len(wanted) <= len(pieces):
        part = pieces[place : place + len(wanted)]
        if [own for _, own in part] == wanted:
            found.append((part[0][0][0], part[-1][0][1]))
            place += len(wanted)
        else:
            place += 1
    return found


Text = Annotated[str, BeforeValidator(replace_surrogates)]


class SearchQuery(BaseModel):
    """What may be asked of ``/api/search``."""

    model_config = ConfigDict(extra="forbid")

    q: str = Field(
        min_length=1, max_length=MAX_QUERY, description='sentence, words, "quoted phrases"'
    )
    k: int = Field(24, ge=1, le=MAX_HITS, description="most hits")
    mode: Annotated[Mode, BeforeValidator(rename_mode)] = Field(
        "hybrid",
        description="by meaning, by the text that was read, or both lists fused; the names of "
        "earlier versions (meaning, words, fused) are taken, too",
    )
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
    """A word of the query that was read in an entry, and the line that it stands in."""

    query: Text
    word: Text
    kind: MatchKind
    text: Text
    start_s: float
    end_s: float
    box: BoxAnswer

    @computed_field  # type: ignore[prop-decorator]
    @property
    def marks(self) -> list[tuple[int, int]]:
        """Where in ``text``: first character (code point) and the one after the last."""
        return find_marks(self.text, self.word)


class HitAnswer(_Answer):
    """An entry that was found; see ``retrieval.results.Hit``."""

    id: int
    video: Text
    start_s: float
    end_s: float
    score: float
    similarity: float | None
    semantic_rank: int | None
    keyword_rank: int | None
    # As the ranks were called in earlier versions.
    meaning_rank: int | None = Field(validation_alias="semantic_rank")
    words_rank: int | None = Field(validation_alias="keyword_rank")
    words: list[WordAnswer]


class SearchAnswer(_Answer):
    """The hits, best first."""

    hits: list[HitAnswer]


def _list_boxes(boxes: Any) -> list[dict[str, float]]:
    return [{"time_s": time_s} | box._asdict() for time_s, box in boxes]


class TrackAnswer(_Answer):
    """A line of text that was followed through a video; ``boxes`` are in the order of time."""

    text: Text
    score: float
    start_s: float
    end_s: float
    box: BoxAnswer
    boxes: Annotated[list[TimedBox], BeforeValidator(_list_boxes)]


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
