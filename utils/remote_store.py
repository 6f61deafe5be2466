"""Store of remote files that are not ours: listed, asked about, read as they are now, and signed.

A folder of videos in a bucket, or one that a web server lists. Others may change it at any moment,
so each file is read in one version, or not at all.
"""

import errno
import hashlib
import io
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from utils.errors import UserError
from utils.files import FileStamp
from utils.optional import import_optional
from utils.remote_files import RemoteError, RemoteFolder, strip_secrets

logger = logging.getLogger(__name__)

STATUS_S = 2.0  # how long a file is taken for what it was found to be, where that may be
_BLOCK = 2**20  # bytes that a decoder's reads are rounded to
_MAX_BLOCKS = 64  # of all files, in memory
_MAX_STATUSES = 1000
_WEB = ("http://", "https://")
_S3 = "s3", "s3a"
# botocore and s3fs would each try five times, and botocore wait for a minute each time.
_S3_LIMITS = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 0}}
_TAGS = "ETag", "etag", "md5Hash", "generation"
_TIMES = "LastModified", "last_modified", "Last-Modified", "mtime", "updated", "modified", "created"
_SECOND = 10**9  # nanoseconds
_REFUSED = range(400, 500)  # of HTTP: another try gives the same
_GONE = 404, 410
_NO_RANGES = (
    "its server does not answer ranges of bytes; serve the folder with one that does (nginx, "
    "Apache, S3), or copy it here"
)


class StoreUnreachableError(Exception):
    """Nothing of a store can be had now; the message names its URL and the remedy.

    It is no ``UserError``, which concerns one file and is survived by a run over many: this one
    ends the run, so that no file is taken for one that is gone.
    """


class ReplacedFileError(RemoteError):
    """A file is another one than it was when it was last looked at."""


@dataclass(frozen=True)
class RemoteStatus:
    """What a store says of a file.

    Attributes:
        size: bytes.
        mtime_ns: time of its last change; 0 where the store tells none.
        tag: its ETag, or what the store has in the place of one; empty: none.
    """

    size: int
    mtime_ns: int
    tag: str = ""

    @property
    def tells_changes(self) -> bool:
        """Whether more than the size tells that the file has changed."""
        return bool(self.tag or self.mtime_ns)

    def make_stamp(self) -> FileStamp:
        """Return the stamp of a file; in that the fraction of the second stands for the ETag.

        Stores tell whole seconds, in which a file may change twice.
        """
        if not self.tag:
            return FileStamp(self.size, self.mtime_ns)
        digest = int.from_bytes(hashlib.sha256(self.tag.encode()).digest()[:8], "big")
        return FileStamp(self.size, self.mtime_ns // _SECOND * _SECOND + digest % _SECOND)


# URL of a folder, name of a file -> when it was asked about, and the answer.
_STATUSES: dict[tuple[str, str], tuple[float, RemoteStatus]] = {}


@dataclass(frozen=True)
class StoreListing:
    """The files below a URL.

    Attributes:
        files: name within the folder -> what is said of it; None: that has to be asked.
        unreadable: folder -> why it can't be listed, where a server lists each on its own.
    """

    files: dict[str, RemoteStatus | None]
    unreadable: dict[str, str]


class RemoteStore(RemoteFolder):
    """A folder at a URL whose files are not ours.

    Equal where the URL is. Raises, beside what each method says, ``StoreUnreachableError``.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def _choose_options(self) -> dict[str, Any]:
        options = super()._choose_options()
        if self.is_web:
            return options
        options["use_listings_cache"] = False  # what is asked is what is there now
        protocol = self.url.partition("://")[0]
        if protocol in _S3:
            given = import_optional("fsspec.config", self.purpose).conf.get(protocol, {})
            options["config_kwargs"] = _S3_LIMITS | given.get("config_kwargs", {})
        return options

    def _connect(self) -> tuple[Any, str]:
        system, path = super()._connect()
        if self.url.startswith(tuple(f"{protocol}://" for protocol in _S3)):
            system.retries = 1  # each would wait as long as a try here, and all of them are tried
        return system, path

    @property
    def is_web(self) -> bool:
        """Whether a web server has it, whose names are escaped in URLs."""
        return self.url.startswith(_WEB)

    def name_file(self, name: str) -> str:
        """Return the URL of a file, for messages."""
        return super().name_file(self._escape(name))

    def list_files(self, is_left_out: Callable[[str], bool]) -> StoreListing:
        """List all files below the URL.

        Args:
            is_left_out: whether a folder, by its name within this one, is not looked into.

        Raises:
            StoreUnreachableError: it can't be listed, or there is no such folder.
        """
        try:
            return self._try("", lambda system, root: self._list(system, root, is_left_out))
        except FileNotFoundError as error:
            raise StoreUnreachableError(f"{self.url}: no such folder; correct the URL") from error
        except RemoteError as error:
            raise self._explain_unreachable(error) from error

    def _list(self, system: Any, root: str, is_left_out: Callable[[str], bool]) -> StoreListing:
        system.invalidate_cache()
        if _lists_at_once(system):
            found = system.find(root, detail=True)
            names = {path[len(root) + 1 :]: info for path, info in found.items()}
            # An object whose name ends with a stroke stands for a folder.
            files = {
                name: read_status(info)
                for name, info in names.items()
                if name and not name.endswith("/") and info.get("type") != "directory"
            }
            return StoreListing(files, {})
        return self._walk(system, root, is_left_out)

    def _walk(self, system: Any, root: str, is_left_out: Callable[[str], bool]) -> StoreListing:
        """List one folder after the other, as web servers have a page of each."""
        listing = StoreListing({}, {})
        waiting, seen = [""], {""}
        while waiting:
            folder = waiting.pop()
            try:
                found = system.ls(self._locate(root, folder) + "/", detail=True)
            except Exception as error:
                if not folder or not _is_refusal(error):
                    raise
                listing.unreadable[folder] = _describe(error)
                continue
            for info in found:
                path = info["name"]
                if not path.startswith(f"{root}/") or (self.is_web and _has_query(path)):
                    continue  # of another folder, or the order of this page
                name = path[len(root) + 1 :]
                name = unquote(name) if self.is_web else name
                if info["type"] != "directory":
                    listing.files[name] = None if self.is_web else read_status(info)
                    continue
                name = name.rstrip("/")
                is_below = name.startswith(f"{folder}/" if folder else "") and name not in seen
                if is_below and not {".", ".."} & set(name.split("/")) and not is_left_out(name):
                    seen.add(name)
                    waiting.append(name)
        return listing

    def read_status(self, name: str, max_age_s: float = 0.0) -> RemoteStatus:
        """Ask about a file.

        Args:
            max_age_s: how long ago it may have been asked.

        Raises:
            FileNotFoundError: it is not there.
            RemoteError: the store refuses to tell.
        """
        known = _STATUSES.get((self.url, name))
        if known is not None and time.monotonic() - known[0] < max_age_s:
            return known[1]

        def look(system: Any, path: str) -> RemoteStatus:
            found = _get_info(system, path)
            if found.get("type") == "directory":
                raise FileNotFoundError(errno.ENOENT, "is a folder", path)
            if found.get("size") is None:
                raise RemoteError(f"{self.name_file(name)}: its server does not tell its size")
            return read_status(found)

        status = self._ask(name, look)
        if len(_STATUSES) >= _MAX_STATUSES:
            _STATUSES.clear()
        _STATUSES[self.url, name] = time.monotonic(), status
        return status

    def open_file(self, name: str, status: RemoteStatus | None = None) -> "RemoteFile":
        """Open a file in the version that it has now, or ``status`` has; nothing is read as yet.

        Raises ``FileNotFoundError`` or ``RemoteError``.
        """
        return RemoteFile(self, name, status or self.read_status(name))

    def read_part(self, name: str, status: RemoteStatus, start: int, end: int) -> bytes:
        """Read the bytes of a file from ``start`` up to before ``end``, in one version of it.

        Raises:
            FileNotFoundError: it is not there.
            ReplacedFileError: it has another version by now.
            RemoteError: it can't be read.
        """

        def read(system: Any, path: str) -> bytes:
            with closing(self._open(system, path, name, status)) as file:
                file.seek(start)
                return _read_exactly(file, end - start, self.name_file(name))

        return self._ask(name, read)

    def _open(self, system: Any, path: str, name: str, status: RemoteStatus) -> Any:
        """Open a file with fsspec, where it still has a version.

        What S3 is asked for then has that version as a condition.
        """
        found = _get_info(system, path) if self.is_web else None
        known = {} if found is None else {"size": found.get("size")}
        file = system.open(path, "rb", cache_type="none", **known)
        found = found or getattr(file, "details", None) or system.info(path)
        if read_status(found) != status:
            file.close()
            raise ReplacedFileError(
                f"{self.name_file(name)}: has just been replaced; run the command again"
            )
        return file

    def sign_link(self, name: str, seconds: int) -> str:
        """Return a link by which anyone can read a file for some seconds; raises ``UserError``."""

        def sign(system: Any, path: str) -> str:
            try:
                return system.sign(path, expiration=seconds)
            except NotImplementedError as error:
                raise RemoteError(
                    f"{self.url}: this kind of store signs no links; do without them"
                ) from error

        return self._try(name, sign)

    def check_reachable(self) -> None:
        """Raise ``StoreUnreachableError`` where nothing of the store can be had."""
        try:
            self._try("", _get_info)
        except FileNotFoundError as error:
            raise StoreUnreachableError(
                f"{self.url}: is not there any more; see where it is now"
            ) from error
        except RemoteError as error:
            raise self._explain_unreachable(error) from error

    def _ask(self, name: str, call: Callable[[Any, str], Any]) -> Any:
        """Do as ``_try`` with a file; whatever goes wrong, the store is seen to be there."""
        try:
            return self._try(name, call)
        except ReplacedFileError:
            raise
        except (FileNotFoundError, RemoteError):
            self.check_reachable()
            raise

    def _explain_unreachable(self, error: RemoteError) -> StoreUnreachableError:
        reason = str(error).removeprefix(f"{self.url}: ")
        return StoreUnreachableError(
            f"{self.url}: {reason.partition('; mend ')[0]}; see whether the URL is right, the "
            "network there, and the credentials in the environment (of S3: AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_ENDPOINT_URL). What was known before stays"
        )

    def _locate(self, root: str, name: str) -> str:
        return f"{root}/{self._escape(name)}" if name else root

    def _escape(self, name: str) -> str:
        return quote(name) if self.is_web else name


class RemoteFile:
    """A remote file in one version, read at any place; close it, and use it in one thread."""

    def __init__(self, store: RemoteStore, name: str, status: RemoteStatus) -> None:
        self.store, self.name, self.status = store, name, status
        self._opened: Any = None

    def __str__(self) -> str:
        return self.store.name_file(self.name)

    def read(self, start: int, end: int) -> bytes:
        """Read from a byte to before another one, over one connection as long as that lasts.

        Raises as ``RemoteStore.read_part``.
        """

        def read(system: Any, path: str) -> bytes:
            if self._opened is None:
                self._opened = self.store._open(system, path, self.name, self.status)
            try:
                self._opened.seek(start)
                return _read_exactly(self._opened, end - start, str(self))
            except Exception:
                self.close()
                raise

        return self.store._ask(self.name, read) if start < end else b""

    def close(self) -> None:
        """Let go of the file; it may be read again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


class _BlockCache:
    """The blocks that were read last, of all files: decoders read headers again and again."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple, read: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        content = read()
        with self._lock:
            self._blocks[key] = content
            while len(self._blocks) > _MAX_BLOCKS:
                self._blocks.popitem(last=False)
        return content


_BLOCKS = _BlockCache()


class RemoteReader(io.RawIOBase):
    """A remote file for decoders: read from any place, a block at a time.

    What can't be read is an ``OSError``, as of other files.
    """

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self.name = str(file)
        self._place = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return self.file.status.size

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:  # noqa: D102
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:  # noqa: D102
        return self._place

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        number = self._place // _BLOCK
        start, end = number * _BLOCK, min((number + 1) * _BLOCK, self.size)
        if self._place >= end:
            return 0
        file = self.file
        try:
            block = _BLOCKS.get(
                (file.store.url, file.name, file.status, number), lambda: file.read(start, end)
            )
        except (UserError, StoreUnreachableError, OSError) as error:
            logger.warning("%s", error)
            raise OSError(errno.EIO, "its store gives nothing") from error
        part = block[self._place - start : self._place - start + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)

    def close(self) -> None:  # noqa: D102
        self.file.close()
        super().close()


def _read_exactly(file: Any, count: int, url: str) -> bytes:
    parts = []
    while count > 0:
        try:
            part = file.read(count)
        except ValueError as error:  # a stream, or an answer that is no range
            raise RemoteError(f"{url}: {_NO_RANGES}") from error
        if not part:
            raise OSError(errno.EIO, "it ends before its size", url)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_status(info: dict[str, Any]) -> RemoteStatus:
    """Return what fsspec has of a file, whatever the store calls it."""
    tag = next((str(info[key]) for key in _TAGS if info.get(key)), "")
    time_ns = next((_read_time(info[key]) for key in _TIMES if info.get(key)), 0)
    # A list and a question may differ in the fraction.
    time_ns = time_ns // _SECOND * _SECOND if tag else time_ns
    return RemoteStatus(int(info["size"]), time_ns, tag.removeprefix("W/").strip('"'))


def _read_time(value: Any) -> int:
    """Return a time in nanoseconds; 0 where it can't be read."""
    with suppress(ValueError, TypeError, OverflowError):
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                value = parsedate_to_datetime(value)
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            value = value.timestamp()
        return int(value * _SECOND)
    return 0


def _lists_at_once(system: Any) -> bool:
    """Whether a file system lists all below a folder by itself.

    Otherwise fsspec goes from folder to folder, and leaves out those that can't be listed.
    """
    for kind in type(system).__mro__:
        if kind.__module__ in ("fsspec.asyn", "fsspec.spec"):
            return False
        if {"find", "_find"} & vars(kind).keys():
            return True
    return False


def _get_info(system: Any, path: str) -> dict[str, Any]:
    """Ask about a file or folder; over http, fsspec calls all that fails a missing file."""
    try:
        return system.info(path)
    except FileNotFoundError as error:
        cause, status = error.__cause__, getattr(error.__cause__, "status", None)
        if not isinstance(cause, Exception) or status in _GONE:
            raise
        if status in _REFUSED:
            raise PermissionError(errno.EACCES, f"HTTP status {status}", path) from error
        raise cause from None


def _is_refusal(error: Exception) -> bool:
    is_final = isinstance(error, (FileNotFoundError, PermissionError))
    return is_final or getattr(error, "status", None) in _REFUSED


def _describe(error: Exception) -> str:
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError):
        return "is not there"
    return f"is refused, {status}" if status else strip_secrets(str(error))


def _has_query(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.query or parts.fragment)
