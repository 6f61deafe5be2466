"""JSON API of one video: its lines of text, and everything that a player needs.

A video is asked for by its number, or looked up by its path in the index; no path that is sent is
ever opened. What has to be decoded or encoded is a job: at most one a core runs at a time, the
others wait, and one whose client has left is stopped.
"""

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import av
from anyio import CapacityLimiter, create_task_group, sleep, to_thread
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.convertors import IntegerConvertor, register_url_convertor

from retrieval import VideoIndex
from retrieval.errors import MissingFileError, UnknownEntryError, UnreachableFileError
from retrieval.results import Video
from retrieval.web.api import (
    PROBLEMS,
    UNKNOWN,
    Problem,
    Text,
    TrackAnswer,
    check_ending,
    replace_surrogates,
)
from retrieval.web.files import (
    FileAnswer,
    check_conditions,
    get_media_type,
    identify_file,
    route_file,
    send_content,
)
from retrieval.web.playback.cache import DiskCache
from retrieval.web.playback.clip import cut_clip
from retrieval.web.playback.decoding import Job, JobCancelledError, NoPictureError, decode_picture
from retrieval.web.playback.media import (
    SEGMENT_S,
    Media,
    PlaybackKind,
    UnplayableError,
    probe_media,
    stamp_opened,
)
from retrieval.web.playback.segments import make_segment
from retrieval.web.sending import VideoSender, explain_remote_errors
from retrieval.web.videos import VideoAnswer
from utils.files import FileStamp, open_resolved
from utils.times import LONGEST_S

MAX_WIDTH = 1280  # of a picture
POLL_S = 0.1  # between two looks whether the client has left
_FORM = "2"  # of what is kept in the cache; another number when it is made otherwise
_GONE = 499  # nobody reads this answer
T = TypeVar("T")
logger = logging.getLogger(__name__)


class NumberConvertor(IntegerConvertor):
    """Numbers in addresses, of at most 18 digits: Python refuses to read some thousands of them."""

    regex = "[0-9]{1,18}"


register_url_convertor("number", NumberConvertor())
Seconds = Annotated[float, Query(ge=0, le=LONGEST_S, allow_inf_nan=False)]


class PlaybackAnswer(BaseModel):
    """How a video is played.

    As a ``file``, as it is; as a ``stream`` of segments for Media Source Extensions; as single
    ``pictures``, where it can't be streamed either; or not, as it is ``missing``. Segments are to
    be had of every video that can be decoded, for browsers that fail on the file.
    """

    kind: PlaybackKind
    media_type: str | None = None
    codecs: str | None = Field(None, description="of the segments, which are video/mp4")
    segment_s: float | None = Field(None, description="segment n has what is shown from n times it")
    num_segments: int | None = None
    duration_s: float | None = None
    reason: Text | None = Field(None, description="why it is not played as it is")


class WholeVideoAnswer(VideoAnswer):
    """A video with all of its lines of text, and how it is played."""

    tracks: list[TrackAnswer]
    playback: PlaybackAnswer


class JobRunner:
    """Runs jobs in threads, at most one a core at a time."""

    def __init__(self) -> None:
        self.num_cores = os.cpu_count() or 1
        self._limiter: CapacityLimiter | None = None

    @property
    def num_running(self) -> int:
        """How many jobs run now."""
        return 0 if self._limiter is None else self._limiter.borrowed_tokens

    @property
    def num_waiting(self) -> int:
        """How many jobs wait for their turn."""
        return 0 if self._limiter is None else self._limiter.statistics().tasks_waiting

    async def run(self, request: Request, work: Callable[[Job], T]) -> T:
        """Run a job.

        Raises:
            JobCancelledError: the client has left.
            NoPictureError: it can't be done.
        """
        if self._limiter is None:  # made within the event loop
            self._limiter = CapacityLimiter(self.num_cores)
        left = threading.Event()

        def check() -> None:
            if left.is_set():
                raise JobCancelledError

        def start() -> T:
            check()
            num_threads = max(1, self.num_cores // max(1, self.num_running))
            try:
                return work(Job(check, num_threads))
            except (av.FFmpegError, OSError) as error:
                raise NoPictureError(f"FFmpeg fails on it ({error.strerror})") from error

        outcome: list[tuple[T | None, Exception | None]] = []
        async with create_task_group() as group:

            async def watch() -> None:
                while not await request.is_disconnected():
                    await sleep(POLL_S)
                left.set()
                group.cancel_scope.cancel()  # also while it waits for its turn

            group.start_soon(watch)
            try:
                outcome.append((await to_thread.run_sync(start, limiter=self._limiter), None))
            except Exception as error:  # as it is, where the group would wrap it
                outcome.append((None, error))
            group.cancel_scope.cancel()
        left.set()
        if not outcome:
            raise JobCancelledError
        result, error = outcome[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]


class Playback:
    """What the routes share.

    Attributes:
        index: open; may be updated meanwhile.
        jobs: that encode or cut.
        pictures: jobs that decode one frame, so that no picture has to wait for a film.
    """

    def __init__(
        self, index: VideoIndex, cache: DiskCache, sender: VideoSender | None = None
    ) -> None:
        self.index, self.cache, self.sender = index, cache, sender or VideoSender()
        self.jobs, self.pictures = JobRunner(), JobRunner()

    def open(self, video: Video) -> tuple[Media, str]:
        """Return a video's media, and a key of what is made of it; raises ``UnplayableError``."""
        file = self.index.locate_video(video)
        if isinstance(file, Path):
            try:
                with open_resolved(file) as opened:
                    stamp = FileStamp.of(opened.fileno())
            except OSError as error:
                text = f"{video.video}: can't be read ({error.strerror})"
                raise MissingFileError(text) from error
        else:
            with explain_remote_errors(file), file.open_reader() as opened:
                stamp = stamp_opened(opened)
        first_s, duration_s = self.index.first_time(video.id), video.duration_s
        key = f"{_FORM} {file} {stamp.size} {stamp.mtime_ns} {first_s} {duration_s}"
        return probe_media(file, stamp, duration_s, first_s), key

    def describe(self, video: Video) -> WholeVideoAnswer:
        """Return all that a page needs to know of a video."""
        try:
            media, _ = self.open(video)
            playback = PlaybackAnswer(
                kind=media.kind, media_type=media.media_type, codecs=media.codecs,
                segment_s=SEGMENT_S, num_segments=media.num_segments,
                duration_s=media.duration_s, reason=media.reason,
            )  # fmt: skip
        except MissingFileError as error:
            logger.warning("%s", error)
            is_there = isinstance(error, UnreachableFileError)
            reason = "its store gives nothing; see what the server says" if is_there else None
            playback = PlaybackAnswer(kind="missing", reason=reason)
        except UnplayableError as error:
            playback = PlaybackAnswer(kind="pictures", reason=str(error))
        found = vars(video) | {
            "tracks": self.index.video_tracks(video.id), "playback": playback
        }  # fmt: skip
        return WholeVideoAnswer.model_validate(found, from_attributes=True)

    async def answer(
        self,
        request: Request,
        runner: JobRunner,
        key: str,
        media_type: str,
        make: Callable[[Job], bytes],
    ) -> Response:
        """Answer with something from the cache, or make and keep it; 204 where it is empty.

        Raises:
            NoPictureError: it can't be made.
        """
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        headers = {"etag": f'"{digest}"'}
        known = check_conditions(request.headers, headers)
        if known is not None:
            return known
        content = await to_thread.run_sync(self.cache.get, key)
        if content is None:
            try:
                content = await runner.run(request, make)
            except JobCancelledError:
                return Response(status_code=_GONE)
            await to_thread.run_sync(self.cache.put, key, content)
        return Response(content, 200 if content else 204, headers, media_type)

    def open_or_refuse(self, video_id: int) -> tuple[Media, str]:
        """Do as ``open``; raises ``HTTPException`` where nothing can be decoded."""
        try:
            return self.open(self.index.video(video_id))
        except UnplayableError as error:
            raise HTTPException(422, str(error)) from error


def build_playback_api(playback: Playback) -> APIRouter:
    """Return the routes of single videos."""
    router = APIRouter(prefix="/api", responses=PROBLEMS)
    index = playback.index

    @router.get("/videos/lookup", responses=UNKNOWN)
    def lookup(path: Annotated[str, Query(max_length=4096)]) -> WholeVideoAnswer:
        """Describe the video with a path within the indexed folder."""
        return playback.describe(_find_video(index, path))

    @router.get("/videos/{video_id:number}", responses=UNKNOWN)
    def video(video_id: int) -> WholeVideoAnswer:
        """Describe a video, all lines of text in it, and how it is played."""
        return playback.describe(index.video(video_id))

    @route_file(router, "/videos/{video_id:number}/file.{ending}", "video/*", UNKNOWN)
    @route_file(router, "/videos/{video_id:number}/file", "video/*", UNKNOWN)
    def file(request: Request, video_id: int, ending: str | None = None) -> Response:
        """Send the whole file, or the range that is asked for."""
        found = index.video(video_id)
        check_ending(found.video, ending)
        kind, place = get_media_type(found.video), index.locate_video(found)
        if not playback.sender.sends_link(request, place):
            with suppress(UnplayableError):  # it can be saved nevertheless
                media, _ = playback.open(found)
                kind = media.media_type if media.kind == "file" else kind
        return playback.sender.send(request, place, kind, found.video)

    _add_media(router, playback)
    return router


def _add_media(router: APIRouter, playback: Playback) -> None:
    """Add the routes whose answers are made on demand."""
    index = playback.index
    made: dict[int | str, Any] = UNKNOWN | {422: {"model": Problem, "description": "Undecodable"}}

    def route(path: str, kind: str) -> Any:
        responses = made | {200: {"content": {kind: {}}}}
        return router.get(path, responses=responses, response_class=Response, response_model=None)

    def send_thumbnail(video_id: int, time_s: float) -> FileAnswer:
        """Send the picture that the index has, of an entry near to a time."""
        entry = index.nearest_entry(video_id, time_s)
        return send_content(index.read_thumbnail(entry), "image/jpeg", f"{entry}.jpg")

    @route("/videos/{video_id:number}/segments/{number:number}.mp4", "video/mp4")
    async def segment(request: Request, video_id: int, number: int) -> Response:
        """Send a part of a video as H.264 and AAC, with its own header.

        204: all of it is part of a later one.
        """
        media, key = await to_thread.run_sync(playback.open_or_refuse, video_id)
        if number >= media.num_segments:
            raise HTTPException(404, f"the video has {media.num_segments} segments")
        try:
            return await playback.answer(
                request, playback.jobs, f"{key} segment {number}", "video/mp4",
                lambda job: make_segment(media, number, job),
            )  # fmt: skip
        except NoPictureError as error:
            raise HTTPException(422, str(error)) from error

    @route("/videos/{video_id:number}/frame", "image/jpeg")
    async def frame(
        request: Request,
        video_id: int,
        t: Seconds,
        width: Annotated[int, Query(ge=16, le=MAX_WIDTH)] = 480,
    ) -> Response:
        """Send the picture that is shown at a time, upright."""
        try:
            media, key = await to_thread.run_sync(lambda: playback.open(index.video(video_id)))
            return await playback.answer(
                request, playback.pictures, f"{key} frame {t:.3f} {width}", "image/jpeg",
                lambda job: decode_picture(media, t, width, job),
            )  # fmt: skip
        except (MissingFileError, NoPictureError, UnplayableError):
            return await to_thread.run_sync(send_thumbnail, video_id, t)

    @route("/videos/{video_id:number}/clip", "video/mp4")
    async def clip(request: Request, video_id: int, start: Seconds, end: Seconds) -> Response:
        """Send a part of a video as a file, copied where that is exact to half a second."""
        media, _ = await to_thread.run_sync(playback.open_or_refuse, video_id)
        if not start < min(end, media.duration_s):
            raise HTTPException(422, f"give 0 <= start < end, start < {media.duration_s:g}")
        name = PurePosixPath(index.video(video_id).video).stem
        return await _send_clip(request, playback, media, (start, end), name)


async def _send_clip(
    request: Request, playback: Playback, media: Media, span: tuple[float, float], stem: str
) -> Response:
    """Cut a clip; the file is removed when it is sent, or as soon as nobody waits for it."""
    number, name = tempfile.mkstemp(".mp4", "clip-")
    os.close(number)
    file = Path(name)
    try:
        clip = await playback.jobs.run(request, lambda job: cut_clip(media, *span, file, job))
    except BaseException as error:
        file.unlink(missing_ok=True)
        if isinstance(error, JobCancelledError):
            return Response(status_code=_GONE)
        if isinstance(error, NoPictureError):
            raise HTTPException(422, str(error)) from error
        raise
    span = f"{_format_time(clip.start_s)}-{_format_time(clip.end_s)}"
    headers = {
        "X-Clip-Start": f"{clip.start_s:.3f}",
        "X-Clip-End": f"{clip.end_s:.3f}",
        "X-Clip-Method": "copied" if clip.is_copy else "encoded",
    }
    content = file.open("rb", buffering=0)
    return FileAnswer(
        content, identify_file(content), "video/mp4", f"{replace_surrogates(stem)}_{span}.mp4",
        headers, shown=False, background=BackgroundTask(file.unlink, missing_ok=True),
    )  # fmt: skip


def _find_video(index: VideoIndex, path: str) -> Video:
    """Return the video with a path, also as the API shows one that is no text."""
    try:
        return index.find_video(path)
    except UnknownEntryError:
        if "\ufffd" not in path:
            raise
        return index.find_video(
            next((name for name in index.paths() if replace_surrogates(name) == path), path)
        )


def _format_time(seconds: float) -> str:
    """Return a time as it stands in names: ``1h02m03s``, ``0m12s``."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h{minutes:02d}m" if hours else f"{minutes}m") + f"{whole:02d}s"
