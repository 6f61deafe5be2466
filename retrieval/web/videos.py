"""JSON API of the page's results: videos with their moments, and what the library holds."""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, Field, computed_field

from retrieval import VideoIndex
from retrieval.results import MatchKind, Mode, Sort, TrackKind
from retrieval.search.videos import VideoFilter
from retrieval.web.api import (
    PICTURE_BODY,
    PROBLEMS,
    REFUSED,
    UNKNOWN,
    BoxAnswer,
    PictureOptions,
    QueryOptions,
    SearchGate,
    Text,
    WordAnswer,
    restore_folder,
)

MAX_OFFSET = 1_000_000
LAST_DATE_S = 250_000_000_000
# What is being done to keep the library up to date; None: nothing.
GetWork = Callable[[], dict[str, Any] | None]


class VideoSearchQuery(QueryOptions):
    """What may be asked of ``/api/videos/search``; without a query, a filter lists the library."""

    after: date | None = Field(None, description="changed on this day or later")
    before: date | None = Field(None, description="changed on this day or earlier")
    min_length: float | None = Field(None, ge=0, description="seconds")
    max_length: float | None = Field(None, ge=0, description="seconds")
    has_text: bool | None = Field(None, description="whether anything is read or said in it")
    sort: Sort = Field("relevance", description="of what is found; then of the others")
    offset: int = Field(0, ge=0, le=MAX_OFFSET, description="videos to leave out before the first")

    def make_filter(self) -> VideoFilter:
        """Return what the search is limited to; days are those of this machine's time zone."""

        def begin(day: date) -> float:
            return datetime.combine(day, time()).timestamp()

        return VideoFilter(
            after_s=None if self.after is None else begin(self.after),
            before_s=None if self.before is None else begin(self.before + timedelta(days=1)),
            min_length_s=self.min_length,
            max_length_s=self.max_length,
            has_text=self.has_text,
            sort=self.sort,
            offset=self.offset,
            k=self.k,
        )


class VideoPictureQuery(VideoSearchQuery, PictureOptions):
    """What may be asked of ``/api/videos/search`` with a picture."""


def read_time(seconds: float) -> datetime:
    """Return a time of this machine's zone; what no date can say is the nearest that one can."""
    try:
        return datetime.fromtimestamp(seconds).astimezone()
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(LAST_DATE_S if seconds > 0 else 0).astimezone()


class VideoAnswer(BaseModel):
    """A video of the index."""

    id: int
    video: Text
    duration_s: float
    width: int
    height: int
    modified: Annotated[datetime, BeforeValidator(read_time)] = Field(
        validation_alias="modified_s", description="last change of the file"
    )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.video).name

    @computed_field  # type: ignore[prop-decorator]
    @property
    def folder(self) -> str:
        """The rest of the path; empty in the indexed folder itself."""
        folder = str(PurePosixPath(self.video).parent)
        return "" if folder == "." else folder


class MomentAnswer(BaseModel):
    """A time of a video to play from; see ``retrieval.results.VideoMoment``."""

    entry_id: int
    time_s: float
    start_s: float
    end_s: float
    score: float
    similarity: float | None
    likely: bool | None
    box: BoxAnswer | None
    words: list[WordAnswer]


class FoundVideoAnswer(VideoAnswer):
    """A video that was found, with its moments, best first."""

    likely: bool | None
    z_score: float | None
    has_words: bool
    moments: list[MomentAnswer]
    num_moments: int


class TermAnswer(BaseModel):
    """A word or phrase of the query, how many videos have it, and how at best."""

    query: Text
    num_videos: int
    kind: MatchKind | None


class VideoSearchAnswer(BaseModel):
    """A page of videos: those that are found, then those that only look most alike."""

    num_with_words: int = Field(description="videos that show or say words of the query")
    num_likely: int = Field(description="videos that are found")
    num_videos: int = Field(description="videos on all pages")
    terms: list[TermAnswer]
    videos: list[FoundVideoAnswer]


class LatestAnswer(VideoAnswer):
    """A video and a few of the lines that can be read in it."""

    texts: list[Text]


class ExampleAnswer(BaseModel):
    """Something to search for."""

    text: Text
    track_kind: TrackKind


class FailedAnswer(BaseModel):
    """A video that could not be indexed."""

    video: Text
    reason: Text


class WorkAnswer(BaseModel):
    """What is being done to keep the library up to date."""

    state: Literal["working", "watching", "done", "stopped"]
    step: str | None = None
    video: Text | None = None
    share: float = Field(0.0, ge=0, le=1, description="of that video")
    num_done: int = 0
    num_total: int = 0
    remaining_s: float | None = None
    failed: list[FailedAnswer] = []
    num_failed: int = 0
    message: str | None = None


class LibraryAnswer(BaseModel):
    """What the library holds, and what is being done to it."""

    num_videos: int
    num_entries: int
    duration_s: float
    folders: list[Text]
    modes: list[Mode]
    roots: list[Text]
    latest: list[LatestAnswer]
    examples: list[ExampleAnswer]
    work: WorkAnswer | None


def build_videos_api(index: VideoIndex, get_work: GetWork | None = None) -> APIRouter:
    """Return the routes for an index that is open.

    Args:
        get_work: says what is being done to the library, as ``WorkAnswer``; None: nothing is.
    """
    router = APIRouter(prefix="/api", responses=PROBLEMS)
    gate = SearchGate()

    def run_search(asked: VideoSearchQuery, **pictures: bytes) -> Response:
        examples = ("minus", "like", "minus_like")
        options = {name: getattr(asked, name) for name in examples if getattr(asked, name)}
        folder = restore_folder(index, asked.folder)
        found = index.search_videos(
            asked.q, asked.make_filter(), asked.mode, folder, **options, **pictures
        )
        videos = [vars(hit.video) | vars(hit) | {"video": hit.video.video} for hit in found.videos]
        answer = VideoSearchAnswer.model_validate(
            vars(found) | {"videos": videos}, from_attributes=True
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    @router.get("/videos/search", response_model=VideoSearchAnswer, responses=UNKNOWN)
    async def search_videos(asked: Annotated[VideoSearchQuery, Query()]) -> Response:
        """Find the videos that fit a query best, or list the library."""
        return await gate.run(run_search, asked)

    @router.post(
        "/videos/search",
        response_model=VideoSearchAnswer,
        responses=REFUSED,
        openapi_extra=PICTURE_BODY,
    )
    async def search_videos_by_picture(
        request: Request, asked: Annotated[VideoPictureQuery, Query()]
    ) -> Response:
        """Find videos that look like the picture in the body, and fit what else is asked."""
        return await gate.run_with_picture(run_search, asked, request)

    @router.get("/library")
    def library() -> LibraryAnswer:
        """Describe what the library holds, and what is being done to it."""
        overview = index.describe_library()
        latest = [vars(one.video) | {"texts": list(one.texts)} for one in overview.latest]
        return LibraryAnswer.model_validate(
            vars(overview)
            | {
                "latest": latest,
                "examples": [example._asdict() for example in overview.examples],
                "folders": index.folders(),
                "modes": list(index.modes),
                "roots": [str(path) for path in index.roots.folders.values()],
                "work": None if get_work is None else get_work(),
            }
        )

    return router
