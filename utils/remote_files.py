"""Remote files: those of a folder at a URL, read whole or by ranges of bytes.

Any URL that fsspec knows will do: ``https://``, ``s3://``, ``gs://``. Credentials and endpoints are
those that fsspec and the storage's own library find, as in ``AWS_ENDPOINT_URL`` or ``FSSPEC_S3``.
"""

import os
import re
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import UserError
from utils.optional import INSTALL, import_optional

Location = Path | str  # a folder here, or the URL of one
Span = tuple[int, int]  # from a byte to the one after the last

PAUSES_S = (0.5, 2.0, 8.0)  # between tries
_TIMEOUT_S = 60.0  # of one try over http, whose client would wait for five minutes
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^\s/?#@'\"]*@)?(?P<place>[^\s?#'\"<>]*)(?:\?[^\s'\"<>)]*)?",
    re.IGNORECASE,
)
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError)  # another try gives the same

Result = TypeVar("Result")


class RemoteError(UserError):
    """What can't be read at a URL; the message names it."""


class _DamagedError(Exception):
    """Bytes came, but not the right ones; another try may give them."""


def is_url(name: str) -> bool:
    """Whether a text names a place of fsspec's, not a file here."""
    return "://" in name


def expand_location(name: str) -> Location:
    """Return what a configuration names; environment variables are expanded."""
    expanded = os.path.expandvars(name)
    return expanded.rstrip("/") if is_url(expanded) else Path(expanded).expanduser()


def join_location(folder: Location, name: str) -> Location:
    """Return what has a name in a folder, or below a URL."""
    return f"{folder}/{name}" if isinstance(folder, str) else folder / name


class RemoteFolder:
    """Files below a URL.

    Each process opens its own connections, when it first reads: they run in a thread, which a
    forked process does not have. What fails is tried again; then it is a ``RemoteError``.

    Args:
        url: of the folder.
        purpose: what is read there, for a message that a package is missing.
    """

    def __init__(self, url: str, purpose: str) -> None:
        self.url = url.rstrip("/")
        self.purpose = purpose
        self._opened: tuple[int, Any, str] | None = None  # process, file system, path in it

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def name_file(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{name}"

    def read_file(self, name: str) -> bytes:
        """Read a whole file; raises ``FileNotFoundError`` or ``RemoteError``."""
        return self._try(name, lambda system, path: system.cat_file(path))

    def read_files(self, names: Sequence[str]) -> list[bytes]:
        """Read whole files, several at a time; raises ``FileNotFoundError`` or ``RemoteError``."""

        def read(system: Any, path: str) -> list[bytes]:
            paths = [f"{path}/{name}" for name in names]
            found = system.cat(paths, on_error="raise") if paths else {}
            return [found[path] for path in paths]

        return self._try("", read)

    def read_range(self, name: str, span: Span) -> bytes:
        """Read a range of a file, without a checksum.

        Raises ``FileNotFoundError`` or ``RemoteError``.
        """

        def read(system: Any, path: str) -> bytes:
            return _check_length(system.cat_file(path, start=span[0], end=span[1]), span)

        return self._try(name, read)

    def read_ranges(
        self, name: str, spans: Sequence[Span], checksums: Sequence[int], what: str
    ) -> list[bytes]:
        """Read ranges of a file, all at a time, and compare each with its CRC-32.

        Args:
            what: is read, for messages.

        Raises:
            RemoteError: one can't be had, or is not what it should be.
        """

        def read(system: Any, path: str) -> list[bytes]:
            wanted = [span for span in spans if span[0] < span[1]]  # no server answers the others
            starts, ends = ([span[side] for span in wanted] for side in (0, 1))
            found = system.cat_ranges([path] * len(wanted), starts, ends, on_error="raise")
            left = iter(found)
            parts = [next(left) if start < end else b"" for start, end in spans]
            for span, part, checksum in zip(spans, parts, checksums, strict=True):
                if zlib.crc32(_check_length(part, span)) != checksum:
                    start, end = span
                    raise _DamagedError(f"bytes {start} to {end} differ from their checksum")
            return parts

        return self._try(name, read, what) if spans else []

    def check_ranges(self, name: str, size: int) -> None:
        """Check that a file has a size, and that its server answers a range of it.

        One that ignores ranges would send gigabytes for each; nothing of them is read here.

        Raises:
            RemoteError: it has not, or does not.
        """

        url = self.name_file(name)

        def look(system: Any, path: str) -> int:
            with system.open(path, "rb", block_size=2**10, cache_type="readahead") as file:
                if file.size is not None and file.size != size:
                    return file.size
                try:
                    file.seek(size - 1)
                    return size - 1 + len(file.read(1))
                except ValueError as error:  # a stream, or an answer that is no range
                    raise RemoteError(
                        f"{url}: its server does not answer ranges of bytes; serve the folder with "
                        "one that does (nginx, Apache, S3), or copy it here"
                    ) from error

        try:
            found = self._try(name, look)
        except FileNotFoundError as error:
            raise RemoteError(f"{url}: is missing; copy it there") from error
        if found != size:
            raise RemoteError(f"{url}: has {found} bytes, not {size}; copy it there again")

    def _try(self, name: str, call: Callable[[Any, str], Result], what: str = "") -> Result:
        """Return what a call gives of a file system and a path in it."""
        url = self.name_file(name) if name else self.url
        system, root = self._connect()
        for pause in (*PAUSES_S, None):
            try:
                return call(system, self._locate(root, name))
            except RemoteError:
                raise
            except (*_FINAL, ValueError) as error:
                if isinstance(error, FileNotFoundError) and not what:
                    raise  # the caller's to explain
                raise self._make_error(url, what, error) from error
            except Exception as error:  # of every store's own library
                if pause is None:
                    tries = f" in {len(PAUSES_S) + 1} tries"
                    raise self._make_error(url, what, error, tries) from error
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _choose_options(self) -> dict[str, Any]:
        """Return options of the file system beside those of the environment."""
        protocol = self.url.partition("://")[0]
        if protocol not in ("http", "https"):
            return {}
        aiohttp = import_optional("aiohttp", self.purpose)
        given = import_optional("fsspec.config", self.purpose).conf.get(protocol, {})
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        return {"client_kwargs": {"timeout": timeout} | given.get("client_kwargs", {})}

    def _locate(self, root: str, name: str) -> str:
        """Return the path of a file in the file system; without a name, that of the folder."""
        return f"{root}/{name}" if name else root

    def _make_error(self, url: str, what: str, error: Exception, tries: str = "") -> RemoteError:
        reason = str(error)
        if not isinstance(error, _DamagedError):
            reason = " ".join(strip_secrets(reason).split())[:300]
            reason = f"{type(error).__name__}: {reason}"
        subject = f"{what} can't be read" if what else "can't be read"
        return RemoteError(
            f"{url}: {subject}{tries} ({reason}); mend the connection, or the copy there"
        )

    def _connect(self) -> tuple[Any, str]:
        """Return the file system of this process, and the folder's path in it."""
        if self._opened is None or self._opened[0] != os.getpid():
            fsspec = import_optional("fsspec", self.purpose)
            try:
                system, path = fsspec.url_to_fs(self.url, **self._choose_options())
            except ImportError as error:
                raise UserError(f"{self.url}: {error}; S3 and http: {INSTALL}") from error
            except Exception as error:  # an unknown protocol, no credentials
                raise UserError(
                    f"{self.url}: can't be opened ({strip_secrets(str(error))}); correct the URL"
                ) from error
            self._opened = (os.getpid(), system, path.rstrip("/"))
        return self._opened[1:]


def strip_url(url: str) -> str:
    """Return a URL without user, password and query."""
    scheme, mark, rest = url.partition("?")[0].partition("://")
    host, stroke, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{stroke}{path}"


def strip_secrets(text: str) -> str:
    """Return a text without what URLs in it hold beside their place: user, password, query.

    Links that are signed, and tokens, are in queries.
    """
    return _URL.sub(lambda found: found["scheme"] + found["place"], text)


def _check_length(part: bytes, span: Span) -> bytes:
    wanted = span[1] - span[0]
    if len(part) != wanted:
        raise _DamagedError(
            f"{len(part)} bytes came in place of the {wanted} from byte {span[0]}: the file is cut "
            "short, or its server does not answer ranges"
        )
    return part
