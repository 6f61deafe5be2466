"""JSON API: what may be asked under ``/api`` and the answers; the files of entries.

Times are seconds from the video's first frame. Boxes are shares of the frame's width and height.
A file is asked for by the number of an entry and never by a path. ``VideoIndex`` says which file
that is, and that it lies in the indexed folder or in one that a link led to when it was indexed.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any

from anyio import CapacityLimiter, fail_after, to_thread
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    computed_field,
    field_validator,
)
from starlette.requests import ClientDisconnect

from retrieval import VideoIndex
from retrieval.index.words import get_words
from retrieval.results import MatchKind, Mode, TrackKind, rename_mode
from retrieval.search.example import MAX_EXAMPLES, MAX_PICTURE_BYTES
from retrieval.search.grouping import NEAR_DUPLICATE
from retrieval.search.hybrid import MAX_QUERY
from retrieval.web.files import FileAnswer, get_media_type, route_file, send_content
from retrieval.web.sending import VideoSender
from utils.unicode_text import replace_surrogates

MAX_HITS = 100
MAX_SEARCHES = 32  # at a time, each in a thread
MAX_UPLOADS = 4  # pictures that are received or searched with at a time; the others wait
UPLOAD_S = 60.0  # that a picture may take to come
_LIKE = "id of an entry, or PATH@SECONDS: more like this"
PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


Text = Annotated[str, BeforeValidator(replace_surrogates)]
Examples = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=MAX_EXAMPLES)]


class QueryOptions(BaseModel):
    """What is looked for, and where."""

    model_config = ConfigDict(extra="forbid")

    like: Examples = Field([], description=_LIKE)
    q: str = Field(
        "",
        max_length=MAX_QUERY,
        description='sentence, words, "quoted phrases"; may be empty beside an example',
        validate_default=True,
    )
    k: int = Field(24, ge=1, le=MAX_HITS, description="most hits")
    mode: Annotated[Mode, BeforeValidator(rename_mode)] = Field(
        "hybrid",
        description="by meaning, by the text that was read or said, or by the evidence of both (of "
        "an index without a model the text alone); the names of earlier versions (meaning, words, "
        "fused) are taken, too",
    )
    folder: str = Field("", max_length=4096, description="only videos in it and below; empty: all")
    minus: str = Field("", max_length=MAX_QUERY, description="words that say what is not wanted")
    minus_like: Examples = Field([], description="as like, not wanted")


class SearchOptions(QueryOptions):
    """What may be asked of ``/api/search``, with a picture or without."""

    group: bool = Field(
        False, description="near-duplicates are one hit, whose also has the others; k counts those"
    )
    near_duplicate: float = Field(
        NEAR_DUPLICATE, gt=0, le=1, description="cosine from which entries are near-duplicates"
    )


class SearchQuery(SearchOptions):
    """What may be asked without a picture."""

    @field_validator("q")
    @classmethod
    def check_something_is_wanted(cls, q: str, given: ValidationInfo) -> str:
        """Raise ``ValueError`` where there are neither words nor an example."""
        if not q and not given.data.get("like"):
            raise ValueError("say what to look for, with words or with like")
        return q


class PictureOptions(QueryOptions):
    """What may be asked with a picture."""

    minus_image: bool = Field(False, description="the picture shows what is not wanted")


class PictureQuery(SearchOptions, PictureOptions):
    """What may be asked of ``/api/search`` with a picture."""


class Problem(BaseModel):
    """What is wrong with a request, and the remedy."""

    detail: str


class BoxAnswer(BaseModel):
    """A rectangle on a frame; each number is in [0, 1], from the left and from the top."""

    left: float
    top: float
    right: float
    bottom: float


class TimedBox(BoxAnswer):
    """Where a line of text was spotted at a time."""

    time_s: float


class WordAnswer(BaseModel):
    """A word of the query that an entry has, and the line that it stands in."""

    query: Text
    word: Text
    kind: MatchKind
    text: Text
    start_s: float
    end_s: float
    box: BoxAnswer | None = Field(description="null: not in the picture, but said or a file's name")
    track_kind: TrackKind

    @computed_field  # type: ignore[prop-decorator]
    @property
    def marks(self) -> list[tuple[int, int]]:
        """Where in ``text``: first character (code point) and the one after the last."""
        return find_marks(self.text, self.word)


class SameAnswer(BaseModel):
    """An entry that shows the same as a hit."""

    id: int
    video: Text
    start_s: float
    end_s: float


class HitAnswer(BaseModel):
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
    time_s: float | None
    frame_similarity: float | None
    z_score: float | None = Field(
        description="of the similarity, against texts that have nothing to do with the videos"
    )
    likely: bool | None = Field(
        description="whether it is like the query; false: only the least unlike, null: not judged"
    )
    num_also: int
    also: list[SameAnswer]


class SearchAnswer(BaseModel):
    """The hits: those that are likely, best first, then the others, best first."""

    hits: list[HitAnswer]


class TrackAnswer(BaseModel):
    """A line of text that was followed through a video, or said; ``boxes`` are by time."""

    text: Text
    score: float
    start_s: float
    end_s: float
    kind: TrackKind
    box: BoxAnswer | None
    boxes: Annotated[
        list[TimedBox],
        BeforeValidator(
            lambda boxes: [{"time_s": time_s} | box._asdict() for time_s, box in boxes]
        ),
    ]


class EntryAnswer(BaseModel):
    """One window of a video, and the lines of text that are seen in it."""

    id: int
    video: Text
    start_s: float
    end_s: float
    duration_s: float
    width: int
    height: int
    tracks: list[TrackAnswer]


class FoldersAnswer(BaseModel):
    """Every folder that holds videos, how many entries the index has, and how it is searched."""

    num_entries: int
    folders: list[Text]
    modes: list[Mode] = Field(description="without a model only keyword: there is no meaning")


UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is no such entry, or file, any more"}
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    422: {"model": Problem, "description": "The request can't be answered as it is"},
    503: {"model": Problem, "description": "The index can't be read"},
}
REFUSED = UNKNOWN | {
    408: {"model": Problem, "description": "The picture did not come in time"},
    413: {"model": Problem, "description": "The picture is too large"},
    415: {"model": Problem, "description": "The body is not called a picture"},
}


def build_api(index: VideoIndex, sender: VideoSender) -> APIRouter:
    """Return the routes for an index that is open.

    Args:
        sender: answers with the videos.
    """
    router = APIRouter(prefix="/api", responses=PROBLEMS)
    _add_searches(router, index)

    @router.get("/folders")
    def folders() -> FoldersAnswer:
        """List the folders that a search can be limited to, and the modes that there are."""
        return FoldersAnswer(
            num_entries=len(index), folders=index.folders(), modes=list(index.modes)
        )

    @router.get("/entries/{entry_id}", responses=UNKNOWN)
    def entry(entry_id: int) -> EntryAnswer:
        """Describe an entry and the lines of text in it."""
        found = vars(index.entry(entry_id)) | {"tracks": index.tracks(entry_id)}
        return EntryAnswer.model_validate(found, from_attributes=True)

    _add_files(router, index, sender)
    return router


def _add_searches(router: APIRouter, index: VideoIndex) -> None:
    """Add the routes that find entries."""
    gate = SearchGate()

    def run_search(asked: SearchOptions, **pictures: bytes) -> Response:
        folder = restore_folder(index, asked.folder)
        others = {"q", "k", "mode", "folder", "minus_image"}
        options = asked.model_dump(exclude=others, exclude_defaults=True)
        hits = index.search(asked.q, asked.k, asked.mode, folder, **options, **pictures)
        answer = SearchAnswer.model_validate({"hits": hits}, from_attributes=True)
        # As it is: FastAPI would check it once more, in the thread that answers all.
        return Response(answer.model_dump_json(), media_type="application/json")

    @router.get("/search", response_model=SearchAnswer, responses=UNKNOWN)
    async def search(asked: Annotated[SearchQuery, Query()]) -> Response:
        """Find the entries that fit a query best."""
        return await gate.run(run_search, asked)

    @router.post(
        "/search", response_model=SearchAnswer, responses=REFUSED, openapi_extra=PICTURE_BODY
    )
    async def search_by_picture(
        request: Request, asked: Annotated[PictureQuery, Query()]
    ) -> Response:
        """Find what looks like the picture in the body, and fits what else is asked."""
        return await gate.run_with_picture(run_search, asked, request)


def _add_files(router: APIRouter, index: VideoIndex, sender: VideoSender) -> None:
    """Add the routes that send an entry's picture and its video."""

    @route_file(router, "/entries/{entry_id}/thumbnail", "image/jpeg", UNKNOWN)
    def thumbnail(entry_id: int) -> FileAnswer:
        """Send an entry's picture."""
        return send_content(index.read_thumbnail(entry_id), "image/jpeg", f"{entry_id}.jpg")

    @route_file(router, "/entries/{entry_id}/video.{ending}", "video/*", UNKNOWN)
    @route_file(router, "/entries/{entry_id}/video", "video/*", UNKNOWN)
    def video(request: Request, entry_id: int, ending: str | None = None) -> Response:
        """Send the whole file that an entry is a part of, or the range that is asked for."""
        name = index.entry(entry_id).video
        check_ending(name, ending)
        return sender.send(request, index.video_file(entry_id), get_media_type(name), name)


def check_ending(video: str, ending: str | None) -> None:
    """Raise ``HTTPException`` where an address ends otherwise than the video's name.

    Some players ask for nothing whose address has no ending; it is the same file.
    """
    if ending is not None and f".{ending}".lower() != PurePosixPath(video).suffix.lower():
        raise HTTPException(404, "the video's name has another ending")


def restore_folder(index: VideoIndex, folder: str) -> str | None:
    """Return the folder that is meant, whose name may be no text, or None for all of them."""
    if "\ufffd" in folder:  # perhaps as /folders shows it
        names = (name for name in index.folders() if replace_surrogates(name) == folder)
        folder = next(names, folder)
    return folder or None


class SearchGate:
    """Runs searches in threads, and limits how many there are at a time.

    More than there are cores, for those that wait are embedded and compared together; files need
    not wait for searches.
    """

    def __init__(self) -> None:
        self._searches, self._uploads = CapacityLimiter(MAX_SEARCHES), CapacityLimiter(MAX_UPLOADS)

    async def run(
        self, search: Callable[..., Response], asked: QueryOptions, **pictures: bytes
    ) -> Response:
        """Return what ``search`` answers to what is asked, and to pictures."""
        return await to_thread.run_sync(partial(search, asked, **pictures), limiter=self._searches)

    async def run_with_picture(
        self,
        search: Callable[..., Response],
        asked: PictureOptions,
        request: Request,
    ) -> Response:
        """Do so with the picture in the body of a request."""
        async with self._uploads:
            name = "minus_image" if asked.minus_image else "image"
            return await self.run(search, asked, **{name: await read_picture(request)})


async def read_picture(request: Request) -> bytes:
    """Return the body of a request; raises ``HTTPException`` where it is no small picture.

    A page of another server can send a body without being asked for permission first, but not one
    that is called a picture.
    """
    if not request.headers.get("content-type", "").startswith("image/"):
        raise HTTPException(415, "send the picture as the body, with its Content-Type: image/…")
    too_large = HTTPException(
        413, f"a picture may have {MAX_PICTURE_BYTES:,} bytes; make it smaller"
    )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_PICTURE_BYTES:
        raise too_large
    content = bytearray()
    try:
        with fail_after(UPLOAD_S):
            async for part in request.stream():
                content += part
                if len(content) > MAX_PICTURE_BYTES:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the picture did not come within {UPLOAD_S:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the picture is not complete") from None
    return bytes(content)


def find_marks(text: str, word: str) -> list[tuple[int, int]]:
    """Return where a word, or neighbouring words, stand in a line of text, in its order.

    ``word`` is as it was compared (``WordMatch.word``), the words of a phrase one blank apart. Of
    each occurrence: its first character and the one after its last.
    """
    pieces = [
        (match.span(), piece)
        for match in re.finditer(r"\S+", text)
        for piece in get_words(match.group())
    ]
    wanted = word.split(" ")
    marks, start = [], 0
    while start + len(wanted) <= len(pieces):
        part = pieces[start : start + len(wanted)]
        if [piece for _, piece in part] == wanted:
            marks.append((part[0][0][0], part[-1][0][1]))
            start += len(wanted)
        else:
            start += 1
    return marks
