"""Folder of videos at a URL: which videos are in it, whether they have changed, and local copies.

``s3://bucket/videos``, ``gs://…``, ``az://…``, and ``https://…`` where the server lists its
folders. The URL holds no credentials: those are the environment's, as fsspec and the store's own
library read them. Decoders want files, so a video is copied to a temporary one while it is read.
"""

import hashlib
import io
import logging
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from data_loader.readers.container import (
    SEARCHABLE_EXTENSIONS,
    find_other_kind,
    may_be_other_kind,
)
from retrieval.index.records import ContentStamp
from utils.errors import UserError
from utils.files import FileListing, FileStamp, make_folder_rule, select_files
from utils.remote_files import RemoteError, strip_url
from utils.remote_store import (
    STATUS_S,
    RemoteFile,
    RemoteReader,
    RemoteStatus,
    RemoteStore,
    ReplacedFileError,
)

PURPOSE = "a folder of videos at a URL"
_CHUNK = 2**23  # bytes that are asked for at a time
_ROOM = 2**26  # bytes that a copy leaves free on the disk
_TRIES = 3  # to copy a video that others replace meanwhile
_QUESTIONS = 16  # asked at a time
_BATCH = 10_000  # of them that wait
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


class LocalCopy(NamedTuple):
    """A file of this machine with the content of a video, and the stamp of that."""

    path: Path
    stamp: ContentStamp


class RemoteVideos(RemoteStore):
    """A folder of videos at a URL; raises as ``RemoteStore``.

    Raises:
        UserError: the URL holds credentials, or is none.
    """

    def __init__(self, url: str) -> None:
        shown = strip_url(url)
        if shown != url:
            raise UserError(
                f"{shown}: leave out user, password and what follows the question mark: an index "
                "keeps its URL, and commands and logs show it. Credentials are those in the "
                "environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, FSSPEC_HTTPS ...)"
            )
        super().__init__(url, PURPOSE)
        self._listed: dict[str, RemoteStatus | None] = {}  # all files, when last listed
        self._folders: dict[str, list[str]] = {}  # the files in each folder, by their whole names

    def list_searchable(self, exclude: Iterable[str] = ()) -> FileListing:
        """List the videos, by the rules of ``data_loader.readers.container.list_searchable``.

        Raises ``StoreUnreachableError``: what can't be listed is never an empty folder.
        """
        unseen, exclude = FileListing(), tuple(exclude)
        found = self.list_files(make_folder_rule(exclude, unseen))
        listing = select_files(found.files, SEARCHABLE_EXTENSIONS, exclude)
        listing.unreadable = found.unreadable
        listing.hidden = sorted([*listing.hidden, *unseen.hidden])
        listing.excluded = sorted([*listing.excluded, *unseen.excluded])
        self._listed = found.files
        self._folders = defaultdict(list)
        for name in sorted(found.files):
            self._folders[name.rpartition("/")[0]].append(name)
        # Web servers tell nothing of a file but its name.
        unknown = [name for name in listing.names if self._listed[name] is None]
        self._listed |= _ask_all(self._look, unknown)
        doubtful = [name for name in listing.names if may_be_other_kind(name)]
        kinds = _ask_all(self._find_kind, doubtful)
        listing.left_out = {name: kind for name, kind in kinds.items() if kind is not None}
        listing.names = [name for name in listing.names if name not in listing.left_out]
        listing.num_others += len(listing.left_out)
        return listing

    def _look(self, name: str) -> RemoteStatus | None:
        try:
            return self.read_status(name)
        except (FileNotFoundError, RemoteError):
            return None  # who reads it says why

    def _find_kind(self, name: str) -> str | None:
        status = self._listed[name]

        def open_file() -> BinaryIO:
            if status is None:
                raise FileNotFoundError(name)
            return io.BufferedReader(RemoteReader(self.open_file(name, status)))

        return find_other_kind(name, open_file)

    def list_beside(self, folder: str, extensions: Collection[str]) -> "list[RemoteVideo]":
        """Return the files of some extensions in a folder within this one, when last listed."""
        return [
            RemoteVideo(self, name)
            for name in self._folders.get(folder, ())
            if PurePosixPath(name).suffix.lower() in extensions
        ]

    def get_status(self, name: str) -> RemoteStatus:
        """Return what is said of a file, as it was listed; raises ``UserError``."""
        status = self._listed.get(name)
        if status is None:
            with self._explain_missing(name):
                status = self.read_status(name)
            if name in self._listed:
                self._listed[name] = status
        return status

    def find_same(self, name: str, known: ContentStamp) -> ContentStamp | None:
        """Return the stamp of a video that still has this content; None where it has another.

        One of the same size, time and ETag counts as unchanged; otherwise its content decides, for
        which it is read. Raises ``UserError``.
        """
        status = self.get_status(name)
        if status.tells_changes and status.make_stamp() == FileStamp(known.size, known.mtime_ns):
            return known
        if status.size != known.size:
            return None
        found = self.read_stamp(name)
        return found if found.sha256 == known.sha256 else None

    def read_stamp(self, name: str) -> ContentStamp:
        """Read a video for the stamp of its content, and keep nothing; raises ``UserError``."""
        return self._read_whole(name, io.BytesIO, lambda sink, part: 0)

    @contextmanager
    def fetch(self, name: str) -> Iterator[LocalCopy]:
        """Copy a video to a temporary file, which is removed at the end of the ``with`` block.

        What is said of the copy within the block, in errors and in the log, is said of the URL.

        Raises:
            UserError: it can't be read, or there is no room for it.
        """
        url = self.name_file(name)
        with tempfile.TemporaryDirectory(prefix="textvr-") as folder:
            suffix = PurePosixPath(name).suffix.lower()
            path = Path(folder) / f"video{suffix if _SUFFIX.fullmatch(suffix) else ''}"
            _check_room(url, self.get_status(name).size, path.parent)
            try:
                stamp = self._read_whole(
                    name, lambda: path.open("wb"), lambda file, part: file.write(part)
                )
            except OSError as error:
                raise UserError(
                    f"{url}: can't be copied to {folder} ({error.strerror}): free some space, or "
                    "set TMPDIR to a folder on another disk"
                ) from error
            with _speak_of(url, path):
                yield LocalCopy(path, stamp)

    def _read_whole(
        self,
        name: str,
        open_sink: Callable[[], BinaryIO],
        write: Callable[[BinaryIO, bytes], Any],
    ) -> ContentStamp:
        """Read one version of a video, a part at a time."""
        for left in reversed(range(_TRIES)):
            with self._explain_missing(name):
                status, digest = self.read_status(name), hashlib.sha256()
                try:
                    with open_sink() as sink, closing(self.open_file(name, status)) as file:
                        for start in range(0, status.size, _CHUNK):
                            part = file.read(start, min(start + _CHUNK, status.size))
                            digest.update(part)
                            write(sink, part)
                    # Not every store takes a version for a condition of what it sends.
                    if self.read_status(name) == status:
                        stamp = status.make_stamp()
                        return ContentStamp(stamp.size, stamp.mtime_ns, digest.hexdigest())
                except ReplacedFileError:
                    if not left:
                        raise
        raise UserError(f"{self.name_file(name)}: is being replaced all the time; run again later")

    @contextmanager
    def _explain_missing(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(
                f"{self.name_file(name)}: is not there any more; run the command again"
            ) from error


@dataclass(frozen=True)
class RemoteFolderPlace:
    """A folder within a folder at a URL."""

    videos: RemoteVideos
    path: str

    def list_files(self, extensions: Collection[str]) -> "list[RemoteVideo]":
        """Return the files in it that have one of some extensions, when last listed."""
        return self.videos.list_beside(self.path, extensions)


@dataclass(frozen=True)
class RemoteVideo:
    """A video, or a file beside one, at a URL: where local ones have a ``Path``.

    Attributes:
        path: within the folder.
    """

    videos: RemoteVideos
    path: str

    def __str__(self) -> str:
        return self.videos.name_file(self.path)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """Its name without the extension."""
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        """The extension of its name."""
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> RemoteFolderPlace:
        """The folder that it is in."""
        return RemoteFolderPlace(self.videos, self.path.rpartition("/")[0])

    def get_status(self) -> RemoteStatus:
        """Return what is said of it, as it was listed; raises ``UserError``."""
        return self.videos.get_status(self.path)

    def read_bytes(self) -> bytes:
        """Read all of a small file; raises ``UserError``."""
        try:
            with closing(self.open()) as file:
                return file.read(0, file.status.size)
        except FileNotFoundError as error:
            raise UserError(f"{self}: is not there any more; run the command again") from error

    def open(self, max_age_s: float = 0.0) -> RemoteFile:
        """Open it as it is now, or was so long ago; raises as ``RemoteStore.read_status``."""
        return self.videos.open_file(self.path, self.videos.read_status(self.path, max_age_s))

    def open_reader(self) -> RemoteReader:
        """Open it for a decoder; raises as ``open``."""
        return RemoteReader(self.open(STATUS_S))

    def sign_link(self, seconds: int) -> str:
        """Return a link by which anyone can read it for some seconds; raises ``UserError``."""
        return self.videos.sign_link(self.path, seconds)


Place = Path | RemoteVideo  # of a file


def _ask_all(ask: Callable[[str], Any], names: Sequence[str]) -> dict[str, Any]:
    """Ask about many files, several at a time; returns name -> answer."""
    with ThreadPoolExecutor(_QUESTIONS) as pool:
        parts = (names[start : start + _BATCH] for start in range(0, len(names), _BATCH))
        return {
            name: found
            for part in parts
            for name, found in zip(part, pool.map(ask, part), strict=True)
        }


def _check_room(url: str, size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size + _ROOM > free:
        raise UserError(
            f"{url}: has {size:,} bytes, and a copy needs them for a while, but {folder.parent} "
            f"has only {free:,} left: free some space, or set TMPDIR to a folder on another disk"
        )


@contextmanager
def _speak_of(url: str, copy: Path) -> Iterator[None]:
    """Let errors and the log name a URL, where they would name the copy of what is there."""
    make_record, name = logging.getLogRecordFactory(), str(copy)

    def make_speaking_record(*args: Any, **options: Any) -> logging.LogRecord:
        record = make_record(*args, **options)
        if name in (text := record.getMessage()):
            record.msg, record.args = text.replace(name, url), None
        return record

    logging.setLogRecordFactory(make_speaking_record)
    try:
        yield
    except UserError as error:
        if name not in str(error):
            raise
        raise UserError(str(error).replace(name, url)) from error
    finally:
        logging.setLogRecordFactory(make_record)
