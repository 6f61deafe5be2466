"""Sending of videos: files of this machine, or what is at a URL, through this server or by a link.

Only videos of the index are sent, whatever else lies beside them.
"""

import errno
import hashlib
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from anyio import CapacityLimiter
from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from retrieval import VideoIndex
from retrieval.errors import MissingFileError, UnreachableFileError
from retrieval.index.remote_videos import Place, RemoteVideo, RemoteVideos
from retrieval.web.files import LAST_DATE_S, FileAnswer, Version, send_file
from utils.errors import UserError
from utils.remote_files import RemoteError
from utils.remote_store import STATUS_S, RemoteFile, StoreUnreachableError
from utils.unicode_text import replace_surrogates

CHUNK = 2**20  # bytes that a store is asked for at a time
_MAX_READS = 32  # from stores at a time, each in a thread; other answers need not wait for them
_TRIAL_S = 60
logger = logging.getLogger(__name__)


class VideoSender:
    """Answers with videos.

    Args:
        link_s: how long a link to a store is good, in seconds, by which a browser reads a video
            from there; None: it is read through this server.

    Attributes:
        link_origins: servers that links lead to, as the page's security policy names them.
    """

    def __init__(self, link_s: int | None = None) -> None:
        self._link_s, self._limiter = link_s, CapacityLimiter(_MAX_READS)
        self.link_origins: tuple[str, ...] = ()

    @classmethod
    def with_links(cls, index: VideoIndex, link_s: int) -> "VideoSender":
        """Return one that sends links; raises ``UserError`` where no store of an index signs any.

        Args:
            link_s: as above.
        """
        remote = [one for one in index.roots.folders.values() if isinstance(one, RemoteVideos)]
        if not remote:
            raise UserError(
                f"{index.store.location}: its videos are files of this machine, for which there "
                "are no signed links; leave out --signed-links"
            )
        sender, origins = cls(link_s), {}
        for folder in remote:
            parts = urlsplit(folder.sign_link("video.mp4", _TRIAL_S))
            origins[f"{parts.scheme}://{parts.netloc}"] = None
        sender.link_origins = tuple(origins)
        return sender

    def sends_link(self, request: Request, place: Place) -> bool:
        """Whether a request is answered with a link; one that asks for no content never is."""
        return self._link_s is not None and request.method == "GET" and not isinstance(place, Path)

    def send(self, request: Request, place: Place, kind: str, video: str) -> Response:
        """Return the answer that sends a video.

        Args:
            place: of the video, as the index says it.
            kind: media type.
            video: its name in the index.

        Raises:
            MissingFileError: it is not there, or can't be read.
        """
        name = replace_surrogates(PurePosixPath(video).name)
        if isinstance(place, Path):
            return send_file(place, kind, name)
        with explain_remote_errors(place):
            if self.sends_link(request, place):
                return RedirectResponse(place.sign_link(self._link_s), 307)
            file = place.open(STATUS_S)
        return FileAnswer(
            RemoteContent(file), identify_remote(file), kind, name,
            chunk=CHUNK, limiter=self._limiter,
        )  # fmt: skip


class RemoteContent:
    """A remote file for an answer, which reads just what it asks for."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._place = file, 0

    def seek(self, offset: int, /) -> int:
        """Go to a place."""
        self._place = offset
        return offset

    def read(self, size: int, /) -> bytes:
        """Read as many bytes; raises ``OSError``, and says in the log why."""
        start = self._place
        try:
            content = self._file.read(start, start + size)
        except (UserError, StoreUnreachableError, OSError) as error:
            logger.warning("%s", error)
            raise OSError(errno.EIO, "its store gives nothing") from error
        self._place += len(content)
        return content

    def close(self) -> None:
        """Close it."""
        self._file.close()


def identify_remote(file: RemoteFile) -> Version:
    """Return the version of a remote file."""
    status = file.status
    # Where nothing tells one version from another, no part is put together with an older one.
    told = status if status.tells_changes else secrets.token_hex()
    tag = hashlib.sha256(f"{file} {told}".encode()).hexdigest()[:32]
    changed_s = status.mtime_ns // 10**9
    return Version(status.size, tag, min(changed_s, LAST_DATE_S) if changed_s > 0 else None)


@contextmanager
def explain_remote_errors(place: RemoteVideo) -> Iterator[None]:
    """Turn what goes wrong at a store into errors of the index's files."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"{place}: is not there any more; run index.py again") from error
    except (RemoteError, StoreUnreachableError) as error:
        raise UnreachableFileError(str(error)) from error
