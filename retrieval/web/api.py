"""Routes under ``/api``: search, entries, and the files of entries.

A file is asked for by the number of an entry and never by a path. ``VideoIndex`` says which file
that is, and that it lies in the indexed folder or in one that a link led to when it was indexed.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query
from fastapi.responses import FileResponse

from retrieval import VideoIndex
from retrieval.errors import MissingFileError
from retrieval.web.schemas import (
    EntryAnswer,
    FoldersAnswer,
    Problem,
    SearchAnswer,
    SearchQuery,
    replace_surrogates,
)

# Not those of the system's table: that one knows other types on every machine.
MEDIA_TYPES = {
    "video/mp4": ".mp4 .m4v .f4v",
    "video/quicktime": ".mov",
    "video/matroska": ".mkv",
    "video/webm": ".webm",
    "video/x-msvideo": ".avi .divx",
    "video/mpeg": ".mpg .mpeg .m2v .vob",
    "video/mp2t": ".ts .m2ts .mts",
    "video/x-ms-asf": ".wmv .asf",
    "video/x-flv": ".flv",
    "video/3gpp": ".3gp",
    "video/3gpp2": ".3g2",
    "video/ogg": ".ogv .ogm",
    "application/mxf": ".mxf",
}
_TYPE_OF = {ending: kind for kind, endings in MEDIA_TYPES.items() for ending in endings.split()}
_NO_CHARACTER = "\ufffd"


def build_api(index: VideoIndex) -> APIRouter:
    """Return the routes for an index that is open."""
    problems: dict[int | str, dict[str, Any]] = {
        422: {"model": Problem, "description": "The request can't be answered as it is"},
        503: {"model": Problem, "description": "The index can't be read"},
    }
    unknown = {404: {"model": Problem, "description": "There is no such entry, or file, any more"}}
    router = APIRouter(prefix="/api", responses=problems)
    # As many searches at a time as there are cores; the others wait, and files need not.
    searching = CapacityLimiter(os.cpu_count() or 1)

    @router.get("/search")
    async def search(asked: Annotated[SearchQuery, Query()]) -> SearchAnswer:
        """Find the entries that fit a query best."""

        def run_search() -> SearchAnswer:
            folder = _find_folder(index, asked.folder) if asked.folder else None
            hits = index.search(asked.q, asked.k, asked.mode, folder)
            return SearchAnswer.model_validate({"hits": hits})

        return await to_thread.run_sync(run_search, limiter=searching)

    @router.get("/folders")
    def folders() -> FoldersAnswer:
        """List the folders that a search can be limited to."""
        return FoldersAnswer(num_entries=len(index), folders=index.folders())

    @router.get("/entries/{entry_id}", responses=unknown)
    def entry(entry_id: int) -> EntryAnswer:
        """Describe an entry and the lines of text in it."""
        found = vars(index.entry(entry_id)) | {"tracks": index.tracks(entry_id)}
        return EntryAnswer.model_validate(found)

    route_file = partial(_route_file, router, unknown)

    @route_file("/entries/{entry_id}/thumbnail", "image/jpeg")
    def thumbnail(entry_id: int) -> FileResponse:
        """Send an entry's picture."""
        return _send_file(index.thumbnail_file(entry_id), "image/jpeg", f"{entry_id}.jpg")

    @route_file("/entries/{entry_id}/video", "video/*")
    def video(entry_id: int) -> FileResponse:
        """Send the whole file that an entry is a part of, or the range that is asked for."""
        file = index.video_file(entry_id)
        name = Path(index.entry(entry_id).video).name
        kind = _TYPE_OF.get(Path(name).suffix.lower(), "application/octet-stream")
        return _send_file(file, kind, replace_surrogates(name))

    return router


def _find_folder(index: VideoIndex, shown: str) -> str:
    """Return the folder that is shown by a name: as it is, unless it is no text."""
    if _NO_CHARACTER not in shown:
        return shown
    return next((name for name in index.folders() if replace_surrogates(name) == shown), shown)


def _route_file(
    router: APIRouter, unknown: dict[int | str, dict[str, Any]], path: str, kind: str
) -> Any:
    """Return a decorator: answers GET and HEAD; ranges of bytes (RFC 9110, 14) are understood."""
    content: dict[str, Any] = {"content": {kind: {}}}
    responses = unknown | {
        200: content | {"description": "The file"},
        206: content | {"description": "The range of bytes that was asked for"},
        416: {"description": "The file has no such bytes"},
    }

    def decorate(endpoint: Any) -> Any:
        options: dict[str, Any] = {"response_class": FileResponse, "response_model": None}
        router.head(path, include_in_schema=False, **options)(endpoint)
        return router.get(path, responses=responses, **options)(endpoint)

    return decorate


def _send_file(file: Path, kind: str, name: str) -> FileResponse:
    """Return the answer that sends a file; raises ``MissingFileError`` before it has begun."""
    try:
        with file.open("rb") as opened:
            found = os.fstat(opened.fileno())
    except OSError as error:
        raise MissingFileError(f"{name}: can't be read ({error.strerror})") from error
    return FileResponse(
        file, media_type=kind, filename=name, stat_result=found, content_disposition_type="inline"
    )
