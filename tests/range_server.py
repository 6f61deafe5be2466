"""HTTP server of a folder that lists it, answers ranges of bytes, and can be made to fail."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

Fault = Literal["none", "whole", "short", "drop", "error", "flip"]


class RangeServer(ThreadingHTTPServer):
    """A server at a port that the system chose.

    Attributes:
        spoilt: extension of the files that ``fault`` and ``requests`` are about.
        fault: what is done to the answers about them from now on. whole: ranges are
            ignored; short: half of a range comes, as if it were all; drop: the connection ends in
            the middle; error: 503; flip: a bit is wrong.
        num_faults: how many answers are still to be spoilt; None: all of them.
        requests: for ranges of them: (path, first byte, last byte).
        tells_versions: whether files have an ETag and a time.
        redirect: what is added to the address of a spoilt file, where it is refused; None: nothing.
        authorization: header that is asked for; None: none is.
        refused: paths of folders that are not listed, and of files that are not sent.
    """

    daemon_threads = True

    def __init__(self, folder: Path, spoilt: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.spoilt = folder, spoilt
        self.fault: Fault = "none"
        self.num_faults: int | None = None
        self.requests: list[tuple[str, int, int]] = []
        self.refused: set[str] = set()
        self.tells_versions = True
        self.redirect: str | None = None
        self.authorization: str | None = None
        self.is_gone = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take_fault(self) -> Fault:
        if self.num_faults is None:
            return self.fault
        self.num_faults -= 1
        return self.fault if self.num_faults >= 0 else "none"


class _Handler(SimpleHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if self.server.is_gone:  # connections that are kept open end, too
            self.close_connection = True
            return
        path = self.server.folder / unquote(self.path.lstrip("/"))
        if self.server.redirect and with_body and self.path.endswith(self.server.spoilt):
            self.send_response(307)
            self.send_header("Location", self.path + self.server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "?" in self.path and self.server.redirect:
            self.send_error(403)
            return
        wanted = self.server.authorization
        if unquote(self.path.strip("/")) in self.server.refused or (
            wanted is not None and self.headers.get("Authorization") != wanted
        ):
            self.send_error(403)
            return
        if path.is_dir():
            self._list_folder(path, with_body)
            return
        if not path.is_file():
            self.send_error(404)
            return
        data, ranges = (
            path.read_bytes(),
            re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")),
        )
        fault = (
            self.server.take_fault() if path.suffix == self.server.spoilt and with_body else "none"
        )
        if self.server.fault == "whole" and path.suffix == self.server.spoilt:
            ranges = None
        if fault == "error":
            self.send_error(503)
            return
        status, part = 200, data
        if ranges is not None:
            first, last = map(int, ranges.groups())
            if path.suffix == self.server.spoilt:
                self.server.requests.append((self.path, first, last))
            if first >= len(data):
                self.send_error(416)
                return
            status, part = 206, data[first : last + 1]
        if fault == "short":
            part = part[: len(part) // 2]
        elif fault == "flip":
            part = bytes([part[0] ^ 1]) + part[1:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(part)))
        if self.server.tells_versions:
            found = path.stat()
            self.send_header("ETag", f'"{found.st_mtime_ns:x}-{found.st_size:x}"')
            self.send_header("Last-Modified", formatdate(found.st_mtime, usegmt=True))
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if fault == "drop":
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
        elif with_body:
            self.wfile.write(part)

    def _list_folder(self, folder: Path, with_body: bool) -> None:
        names = [one.name + "/" * one.is_dir() for one in sorted(folder.iterdir())]
        links = [f'<a href="{quote(name)}">{name}</a>' for name in ["../", *names]]
        # As Apache has them: the order of the page, and the folder above by its path.
        page = "\n".join(['<a href="?C=N;O=D">Name</a>', '<a href="/">Up</a>', *links]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if with_body:
            self.wfile.write(page)


@contextmanager
def serve_folder(folder: Path, spoilt: str = ".bin") -> Iterator[RangeServer]:
    """Serve a folder until the block ends."""
    with RangeServer(folder, spoilt) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.is_gone = True
            server.shutdown()
            thread.join()
