"""JSON API: what an index is of, and what the work on it is at."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from retrieval import VideoIndex

GetWork = Callable[[], dict[str, Any] | None]  # the fields of ``retrieval.library.status.Work``


def build_library_api(index: VideoIndex, get_work: GetWork | None = None) -> APIRouter:
    """Return the routes for an index that is open."""
    router = APIRouter(prefix="/api")

    @router.get("/library")
    def library() -> dict[str, Any]:
        """Say what the index is of, and what the work on it is at."""
        return {
            "num_entries": len(index),
            "roots": [str(path) for path in index.roots.folders.values()],
            "work": None if get_work is None else get_work(),
        }

    return router
