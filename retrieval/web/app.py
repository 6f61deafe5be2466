"""The web page and its API as one ASGI application."""

import logging
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from retrieval import VideoIndex
from retrieval.errors import IndexFolderError, MissingFileError, UnknownEntryError
from retrieval.web.answers import plain
from retrieval.web.api import make_api
from retrieval.web.guard import Access, Guard
from utils.errors import UserError

STATIC = Path(__file__).parent / "static"
logger = logging.getLogger(__name__)


def make_app(index: VideoIndex, access: Access) -> Guard:
    """Return the application.

    Args:
        index: open; may be updated while it is served.
        access: who may ask.
    """
    app = FastAPI(
        title="TextVR",
        description="Search your own videos.",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(make_api(index))
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    _tell_errors(app)
    return Guard(app, access)


def _tell_errors(app: FastAPI) -> None:
    """Answer what the user can mend with one message; everything else is our fault (500)."""

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = (f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors())
        return _problem(422, "; ".join(faults))

    @app.exception_handler(UserError)
    def refused(request: Request, error: UserError) -> JSONResponse:
        return _problem(422, str(error))

    @app.exception_handler(UnknownEntryError)
    def unknown(request: Request, error: UnknownEntryError) -> JSONResponse:
        return _problem(404, str(error))

    # Where files lie on this machine is for its user, not for those who ask.
    @app.exception_handler(MissingFileError)
    def missing(request: Request, error: MissingFileError) -> JSONResponse:
        logger.warning("%s", error)
        return _problem(404, "the file of this entry is not there any more; run index.py again")

    @app.exception_handler(IndexFolderError)
    def unreadable(request: Request, error: IndexFolderError) -> JSONResponse:
        logger.error("%s", error)
        return _problem(503, "the index can't be read; see what the server says")


def _problem(status: int, text: str) -> JSONResponse:
    return JSONResponse({"detail": plain(text)}, status)
