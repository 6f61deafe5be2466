"""Files over HTTP: conditional requests and ranges of bytes (RFC 9110, sections 13 and 14).

A file is opened once, and what is sent is what was opened, whatever has its name by then. Just the
ranges are read that are asked for, a bounded part at a time.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timezone
from email.utils import formatdate, parsedate_to_datetime
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from starlette.background import BackgroundTask
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from retrieval.errors import MissingFileError
from utils.files import open_resolved

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
    "image/gif": ".gif",
}
_TYPE_OF = {ending: kind for kind, endings in MEDIA_TYPES.items() for ending in endings.split()}
MAX_RANGES = 64  # of one request; of one that asks for more the whole file is sent
CHUNK = 64 * 1024  # bytes read at a time
LAST_DATE_S = int(datetime(9999, 12, 31, tzinfo=timezone.utc).timestamp())
_LONGEST = 18  # digits of a position; more are beyond the end of any file
_TAG = re.compile(r'(?:W/)?"[^"]*"')
_RANGE = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")


def get_media_type(name: str) -> str:
    """Return the media type of a video by the ending of its name."""
    return _TYPE_OF.get(Path(name).suffix.lower(), "application/octet-stream")


class Version(NamedTuple):
    """What tells one state of a file from others."""

    size: int
    tag: str  # as an ETag stands between its quotes
    changed_s: int | None  # when it was last changed; None: not known


def identify_file(file: FileIO) -> Version:
    """Return the version of a file that is open."""
    status = os.fstat(file.fileno())
    tag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return Version(status.st_size, tag, min(max(0, int(status.st_mtime)), LAST_DATE_S))


class Readable(Protocol):
    """A file that is open."""

    def seek(self, offset: int, /) -> int:
        """Go to a place."""

    def read(self, size: int, /) -> bytes:
        """Read some bytes, as many or fewer; raises ``OSError``."""

    def close(self) -> None:
        """Close it."""


class Piece(NamedTuple):
    """A part of an answer: what is written before it, and from where to where the file is."""

    head: bytes
    first: int
    end: int


class FileAnswer(Response):
    """A file, or the ranges of it that are asked for, or that it is as the client knows it.

    Args:
        file: open; closed when the answer is sent.
        version: of its content.
        name: by which it is saved.
        shown: in the browser; False: saved.
        background: called at the end, whatever that is.
        chunk: bytes that are read at a time.
        limiter: of the threads that read; None: that of all answers.
    """

    def __init__(
        self,
        file: Readable,
        version: Version,
        media_type: str,
        name: str,
        headers: Mapping[str, str] | None = None,
        shown: bool = True,
        background: BackgroundTask | None = None,
        chunk: int = CHUNK,
        limiter: CapacityLimiter | None = None,
    ) -> None:
        self._chunk, self._limiter = chunk, limiter
        self._file, self.size, self._changed_s = file, version.size, version.changed_s
        self.status_code, self.media_type, self.background = 200, media_type, background
        quoted = quote(name)
        as_name = f'filename="{name}"' if quoted == name else f"filename*=utf-8''{quoted}"
        given = {
            "Accept-Ranges": "bytes",
            "ETag": f'"{version.tag}"',
            "Content-Disposition": f"{'inline' if shown else 'attachment'}; {as_name}",
        }
        if version.changed_s is not None:
            given["Last-Modified"] = formatdate(version.changed_s, usegmt=True)
        self.body = b""
        self.init_headers(given | dict(headers or {}))
        del self.headers["content-length"]  # of the empty body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        try:
            with closing(self._file):
                answer = check_conditions(request.headers, self.headers, self._changed_s)
                pieces = [Piece(b"", 0, self.size)]
                asked = request.headers.get("range")
                if answer is None and asked is not None and self._may_be_part(request.headers):
                    try:
                        ranges = parse_ranges(asked, self.size)
                    except ValueError:
                        answer = _refuse(400, "Range: expected bytes=FIRST-LAST")
                    else:
                        if ranges == []:
                            answer = _refuse(416, "the file has no such bytes")
                            answer.headers["Content-Range"] = f"bytes */{self.size}"
                        elif ranges is not None:
                            pieces = self._cut(ranges)
                if answer is None:
                    await self._send_pieces(pieces, request, send)
                else:
                    await answer(scope, receive, send)
        finally:
            if self.background is not None:
                await self.background()

    def _may_be_part(self, headers: Headers) -> bool:
        """Whether the client has the other bytes of the same file, as it is now (If-Range)."""
        known = self.headers["etag"], self.headers.get("last-modified")
        return headers.get("if-range") in (None, *known)

    def _cut(self, ranges: list[tuple[int, int]]) -> list[Piece]:
        """Set the headers of a part of the file; returns what is to be sent."""
        self.status_code = 206
        spans = [f"bytes {first}-{end - 1}/{self.size}" for first, end in ranges]
        if len(ranges) == 1:
            self.headers["Content-Range"] = spans[0]
            return [Piece(b"", *ranges[0])]
        boundary, kind = secrets.token_hex(16), self.headers["content-type"]
        self.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
        head = f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: "
        pieces = [
            Piece(f"{head}{span}\r\n\r\n".encode("latin-1"), *part)
            for span, part in zip(spans, ranges, strict=True)
        ]
        return [*pieces, Piece(f"\r\n--{boundary}--\r\n".encode(), 0, 0)]

    async def _send_pieces(self, pieces: list[Piece], request: Request, send: Send) -> None:
        length = sum(len(head) + end - first for head, first, end in pieces)
        self.headers["Content-Length"] = str(length)
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start"} | start)
        if request.method != "HEAD":
            for body in self._read(pieces):
                content = body
                if not isinstance(body, bytes):
                    content = await to_thread.run_sync(body, limiter=self._limiter)
                if await request.is_disconnected() or not content:
                    return  # the file is shorter by now: the connection ends, and says so
                await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _read(self, pieces: list[Piece]) -> Iterator[Any]:
        """Yield bytes, and functions that read some; those have to be called in turn."""
        for head, first, end in pieces:
            if head:
                yield head
            while first < end:
                number = min(self._chunk, end - first)
                yield lambda first=first, number=number: self._read_exactly(first, number)
                first += number

    def _read_exactly(self, first: int, number: int) -> bytes:
        """Return bytes of the file; none where it has not as many, or can't be read."""
        try:
            self._file.seek(first)
            content = self._file.read(number)
            while content and len(content) < number:
                more = self._file.read(number - len(content))
                content = content + more if more else b""
        except OSError:
            return b""
        return content


def check_conditions(
    asked: Headers, given: Mapping[str, str], changed_s: int | None = None
) -> Response | None:
    """Return the answer to a conditional request (304 or 412); None: that is the whole answer.

    Args:
        asked: headers of the request.
        given: those of the whole answer, with an ETag.
        changed_s: when what is asked for was last changed, whole seconds; None: not known.
    """
    tag = given["etag"]
    match, none_match = (asked.getlist(name) for name in ("if-match", "if-none-match"))
    if match:
        fails = not _has_tag(match, tag)
    else:
        fails = _is_later(changed_s, asked.get("if-unmodified-since")) is True
    if fails:
        return _refuse(412, "it is not any more as it is asked for")
    if none_match:
        is_known = _has_tag([text.replace("W/", "") for text in none_match], tag)
    else:
        is_known = _is_later(changed_s, asked.get("if-modified-since")) is False
    if not is_known:
        return None
    kept = {name: given[name] for name in ("etag", "last-modified") if name in given}
    return Response(status_code=304, headers=kept)


def _has_tag(texts: list[str], tag: str) -> bool:
    """Whether the values of a header name a tag, or any by ``*``."""
    listed = ", ".join(texts).strip()
    return listed == "*" or tag in _TAG.findall(listed)


def _is_later(changed_s: int | None, date: str | None) -> bool | None:
    """Whether a change came after a date as HTTP writes it; None: one of them is not known."""
    if changed_s is None or date is None:
        return None
    try:
        since = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None  # what is no date is ignored
    since = since if since.tzinfo else since.replace(tzinfo=timezone.utc)
    return datetime.fromtimestamp(changed_s, timezone.utc) > since


def parse_ranges(text: str, size: int) -> list[tuple[int, int]] | None:
    """Return the ranges that a Range header asks for, ascending, those that overlap as one.

    Returns:
        Of each its first byte and the one after its last. Empty: none of them is in the file. None:
        the whole file is to be sent, as the unit is not known or too many are asked for.

    Raises:
        ValueError: it is malformed.
    """
    unit, sign, listed = text.partition("=")
    if sign and unit.strip().lower() != "bytes":
        return None
    specs = [spec.strip() for spec in listed.split(",") if spec.strip()]
    matches = [_RANGE.fullmatch(spec) for spec in specs]
    if not matches or None in matches:
        raise ValueError(text)
    found = []
    for match in matches:
        first, last, suffix = (_read_position(digits) for digits in match.groups())
        if first is not None and last is not None and last < first:
            raise ValueError(text)
        if first is None:
            begin, end = max(0, size - suffix), size
        else:
            begin, end = first, size if last is None else min(last + 1, size)
        if begin < end:
            found.append((begin, end))
    if len(matches) > MAX_RANGES:
        return None
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if merged and begin <= merged[-1][1]:
            begin, end = merged[-1][0], max(merged.pop()[1], end)
        merged.append((begin, end))
    return merged


def _read_position(digits: str | None) -> int | None:
    if not digits:
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _LONGEST else 10**_LONGEST


def _refuse(status: int, text: str) -> Response:
    return JSONResponse({"detail": text}, status)


def send_file(file: Path, kind: str, name: str) -> FileAnswer:
    """Return the answer that sends a file.

    Args:
        file: a resolved path, see ``utils.files.open_resolved``.

    Raises:
        MissingFileError: it can't be opened.
    """
    try:
        opened = open_resolved(file)
        return FileAnswer(opened, identify_file(opened), kind, name)
    except OSError as error:
        raise MissingFileError(f"{name}: can't be read ({error.strerror})") from error


def send_content(content: bytes, kind: str, name: str) -> FileAnswer:
    """Return the answer that sends a small file's content, which also is its version."""
    version = Version(len(content), hashlib.sha256(content).hexdigest()[:32], None)
    return FileAnswer(BytesIO(content), version, kind, name)


def route_file(router: APIRouter, path: str, kind: str, responses: Mapping[Any, Any]) -> Any:
    """Return a decorator: answers GET and HEAD, conditional requests, and ranges of bytes."""
    content: dict[str, Any] = {"content": {kind: {}}}
    described = dict(responses) | {
        200: content | {"description": "The file"},
        206: content | {"description": "The ranges of bytes that were asked for"},
        304: {"description": "The file is as the client knows it"},
        412: {"description": "The file is not any more as it is asked for"},
        416: {"description": "The file has no such bytes"},
    }

    def add_routes(endpoint: Any) -> Any:
        options: dict[str, Any] = {"response_class": Response, "response_model": None}
        router.head(path, include_in_schema=False, **options)(endpoint)
        return router.get(path, responses=described, **options)(endpoint)

    return add_routes
