"""Files: written so that the old one stays until the new one is complete, locked, listed, compared.

Texts of foreign files are read here. Also the cache folder, where what is worked out once is kept
for later runs.
"""

import codecs
import errno
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import translate
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import Self

from utils.errors import UserError
from utils.unicode_text import compose

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

CACHE_VARIABLE, CACHE_FOLDER = "TEXTVR_CACHE", "~/.cache/textvr"
CACHE_OFF = "off"

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # .NAME.PROCESS.tmp, as atomic_write names it
_LOCK = ".lock"  # in the folder of atomic_folder, as long as its process is at work
_CHUNK = 2**20  # bytes read at a time
# A folder on the way to a file, which need not be readable, and is no link.
_ON_THE_WAY = (
    getattr(os, "O_PATH", os.O_RDONLY)
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
)

MAX_TEXT_BYTES = 4 << 30  # of a text file: more is no list of videos, but a device or a mistake
# The mark that begins a text -> its encoding. That of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path that takes the name ``path`` when the ``with`` block has succeeded.

    Until then, and where anything goes wrong, what stood at ``path`` stays as it is and nothing is
    left of the new file.

    Args:
        path: its folder must exist.
        durable: wait until the file and its name are on the disk, so that a power cut loses
            neither the old nor the new file.

    Raises:
        OSError: the file can't be written or renamed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            sync_file(temporary)
        temporary.replace(path)
        if durable:
            sync_file(path.parent)
    finally:
        with suppress(OSError):  # the first error says why
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that takes the name ``path`` when the ``with`` block has succeeded.

    What stood at ``path`` is removed then, and stays as it is where anything goes wrong; between
    two renames there is an instant without either. What a process that was killed has left of such
    a folder is removed by the next one.

    Args:
        path: the folder that it lies in must exist.

    Raises:
        OSError: the folder can't be made or renamed.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if _TEMPORARY.fullmatch(left.name) and (left / _LOCK).is_file():
            with suppress(FileLockedError), lock_file(left / _LOCK, wait=False):
                remove_path(left)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        with lock_file(temporary / _LOCK, wait=False):
            yield temporary
            (temporary / _LOCK).unlink()
        if path.is_dir():
            former = path.with_name(f".{path.name}.{os.getpid()}.former.tmp")
            path.replace(former)
            try:
                temporary.replace(path)
            except OSError:
                former.replace(path)
                raise
            remove_path(former)
        else:
            temporary.replace(path)
    finally:
        remove_path(temporary)


class TextFileError(UserError):
    """A file that is no text in a known encoding; ``reason`` says it without the file's name."""

    def __init__(self, text: str, reason: str = "") -> None:  # one argument, as it is pickled
        super().__init__(text)
        self.reason = reason

    @classmethod
    def about(cls, path: str | Path, reason: str) -> Self:
        """Return the error of a file."""
        return cls(f"{path}: {reason}", reason)


def read_text(path: str | Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a text file of unknown origin; line ends become ``\\n``, as Python reads texts.

    It is UTF-8, or what its byte-order mark says: UTF-8, UTF-16 or UTF-32. A code page is never
    guessed: half of the guesses would be another text without a word.

    Args:
        max_bytes: a larger file is an error, before it is read.

    Raises:
        OSError: the file can't be read.
        TextFileError: it is in another encoding, too large, or no file (a pipe, a device).
    """
    return decode_text(read_bytes(path, max_bytes), path)


def read_bytes(path: str | Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Read the content of a text file, for ``decode_text``; see ``read_text``."""
    try:
        status = os.stat(path)
    except ValueError as error:  # a NUL, or half a character
        raise TextFileError.about(path, f"no file has such a name ({error}); correct it") from error
    # Reading a folder is an OSError that says so.
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise TextFileError.about(path, "is a pipe or device; write its text to a file")
    if status.st_size > max_bytes:
        size = f"{status.st_size:,} bytes, at most {max_bytes:,}"
        raise TextFileError.about(path, f"is too large ({size}); give another file, or split it")
    return Path(path).read_bytes()


def decode_text(content: bytes, path: str | Path) -> str:
    """Decode the content of the text file ``path`` as ``read_text`` does."""
    mark, encoding = find_encoding(content)
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        place = len(mark) + error.start
        text = f"is not {encoding.upper()} text (byte {place}); save it as UTF-8"
        raise TextFileError.about(path, text) from None
    if "\0" in text:  # UTF-16 without a mark is UTF-8 with a NUL in each letter
        place = len(mark) + len(text[: text.index("\0")].encode(encoding))
        raise TextFileError.about(
            path,
            f"is not UTF-8 text (byte {place} is NUL: UTF-16 without a byte-order mark, or no "
            "text at all); save it as UTF-8",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def find_encoding(content: bytes) -> tuple[bytes, str]:
    """Return the byte-order mark that a text begins with (b"": none), and its encoding."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return mark, encoding
    return b"", "utf-8"


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write UTF-8 text with ``atomic_write``."""
    write_bytes(path, text.encode("utf-8"), durable)


def write_bytes(path: Path, content: bytes, durable: bool = False) -> None:
    """Write bytes with ``atomic_write``."""
    with atomic_write(path, durable) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write JSON, indented, with ``atomic_write``."""
    write_text(path, json.dumps(value, indent=2) + "\n", durable)


def write_array(path: Path, array: np.ndarray, durable: bool = False) -> None:
    """Write a .npy file with ``atomic_write``; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, durable) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def remove_temporary_files(folder: Path) -> list[str]:
    """Remove what writers that were killed have left in a folder; returns the names."""
    found = [path for path in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(path.name)]
    for path in found:
        remove_path(path)
    return sorted(path.name for path in found)


def remove_path(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class FileLockedError(Exception):
    """Another process holds the lock."""


@contextmanager
def lock_file(lock: Path, wait: bool = True) -> Iterator[None]:
    """Be the only process that is in a ``with`` block of this lock file.

    Where there are no locks (Windows, some network folders) no one waits, so that the block must
    be one that may run twice. The lock goes with the process, however that ends; the file stays.

    Args:
        lock: made if need be; its content is left as it is.
        wait: for the process that holds it.

    Raises:
        FileLockedError: another process holds it, and ``wait`` is false.
        OSError: the file can't be made.
    """
    number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(number, lock, wait)
        yield
    finally:
        os.close(number)


def _acquire(number: int, lock: Path, wait: bool) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise FileLockedError(str(lock)) from None
        logger.info("%s: another process is at work there; waiting for it", lock)
        fcntl.flock(number, fcntl.LOCK_EX)
    except OSError as error:
        logger.info("%s: can't be locked here (%s)", lock, error.strerror)


@dataclass(frozen=True)
class FileStamp:
    """What tells without reading it that a file has not changed.

    Attributes:
        size: bytes.
        mtime_ns: time of its last change.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | Path | int) -> Self:
        """Look at a file, which may be an open one; raises ``OSError``."""
        status = os.stat(path)
        return cls(status.st_size, status.st_mtime_ns)


def open_resolved(path: Path) -> FileIO:
    """Open a regular file for reading by a path that ``resolve`` has returned.

    No part of it may have become a link since: who may write to a folder could otherwise lead out
    of it between a check of the path and its opening.

    Raises:
        OSError: there is no such regular file, or a link is in its path.
    """
    return open(path, "rb", buffering=0, opener=_open_part_by_part)


def _open_part_by_part(path: str, flags: int) -> int:
    flags |= getattr(os, "O_NONBLOCK", 0)  # nobody waits for who writes to a pipe
    parts = Path(path).parts
    if os.open in os.supports_dir_fd:
        folder = os.open(parts[0], _ON_THE_WAY)
        try:
            for part in parts[1:-1]:
                deeper = os.open(part, _ON_THE_WAY, dir_fd=folder)
                os.close(folder)
                folder = deeper
            number = os.open(parts[-1], flags | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
    else:
        number = os.open(path, flags)
        if Path(path).resolve() != Path(path):
            os.close(number)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "is no regular file", path)
    return number


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal; raises ``OSError``."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def compute_crc32(path: Path) -> int:
    """Return the CRC-32 of a file's content; raises ``OSError``."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


class FileFinder:
    """Finds files whose names are spelled in another normal form of Unicode on the disk.

    A Mac may write é as a letter and an accent, where a list that names the file has one
    character, or the other way round. A file that is spelled as asked for comes first. Folders are
    listed once.
    """

    def __init__(self) -> None:
        self._spellings: dict[Path, dict[str, str | None]] = {}  # NFC -> the name on the disk

    def locate(self, folder: Path, name: str) -> Path:
        """Return a file in a folder as the disk spells it; as asked for where there is none.

        Args:
            name: POSIX path within the folder.
        """
        path = folder / name
        if name.isascii() or os.path.lexists(path):
            return path
        path = folder
        for part in PurePosixPath(name).parts:
            if not os.path.lexists(path / part):
                part = self._list_spellings(path).get(compose(part)) or part
            path /= part
        return path

    def _list_spellings(self, folder: Path) -> dict[str, str | None]:
        if folder not in self._spellings:
            found: dict[str, str | None] = {}
            with suppress(OSError):
                for name in os.listdir(folder):
                    if not name.isascii():
                        # Of two that differ only so neither is another spelling of the name.
                        found[compose(name)] = None if compose(name) in found else name
            self._spellings[folder] = found
        return self._spellings[folder]


# Folders that systems and storage make for themselves, in lower case, beside hidden ones: of disks,
# of Windows, and of NAS (Synology, QNAP).
_SYSTEM_FOLDERS = frozenset(
    (
        "lost+found", "$recycle.bin", "recycler", "recycled", "system volume information",
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "__macosx",
        "network trash folder", "temporary items",
    )
)  # fmt: skip
_MAX_NAMED = 3  # names in one line


@dataclass
class FileListing:
    """The files of a folder, and what was left out.

    Attributes:
        names: POSIX paths within the folder, sorted.
        num_others: files with other extensions.
        link_targets: the resolved files and folders outside of it that links in it lead to.
        num_links: links that lead there.
        left_out: name -> what a file is that has such an extension for another reason.
        hidden: folders, and files of such an extension, that are hidden or of the system.
        unreadable: folder -> why it can't be read.
        excluded: files and folders that the user leaves out.
    """

    names: list[str] = field(default_factory=list)
    num_others: int = 0
    link_targets: list[Path] = field(default_factory=list)
    num_links: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    excluded: list[str] = field(default_factory=list)

    def describe_left_out(self) -> str | None:
        """Return one line about what is left out, and links that are followed; None: nothing."""
        said = []
        if self.left_out:
            name, kind = next(iter(self.left_out.items()))
            more = f", and {len(self.left_out) - 1} more such files" * (len(self.left_out) > 1)
            said.append(f"{name}: left out, it is {kind}, no video{more}")
        for names, what in (
            (self.hidden, "hidden or of the system and left out"),
            (self.excluded, "left out by --exclude"),
            ([f"{name}: {why}" for name, why in self.unreadable.items()], "folders can't be read"),
        ):
            if names:
                named = ", ".join(names[:_MAX_NAMED]) + ", ..." * (len(names) > _MAX_NAMED)
                said.append(f"{len(names)} {what} ({named})")
        if self.num_links:
            one = self.num_links == 1
            verbs = "link leads" if one else "links lead", "is" if one else "are"
            said.append(f"{self.num_links} {verbs[0]} out of the folder and {verbs[1]} followed")
        return "; ".join(said) or None


def list_files(
    folder: Path, extensions: Collection[str], exclude: Iterable[str] = ()
) -> FileListing:
    """List the files below a folder that have one of some extensions, whatever their case.

    The one rule for every command: what is hidden (its name begins with a dot) or a folder of the
    system (``lost+found``, ``@eaDir``) is left out; symbolic links to files and folders are
    followed, but no folder is listed twice, and by a link only where there is no other way; named
    pipes and the like are no files. Names may hold anything, blanks, quotes and line ends included.

    Args:
        folder: may itself be a symbolic link.
        extensions: in lower case, with their dots.
        exclude: patterns as of a shell (``*``, ``?``, ``[a-z]``). What fits one, by its path within
            the folder or by its name, is left out, a folder with all that is in it.

    Raises:
        UserError: there is no such folder, or it can't be read. Folders in it that can't be are
            counted: an index must not take what it can't see for deleted.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}; give the folder that holds the files")
    lister = _FileLister(folder, extensions, exclude)
    lister.list_all()
    if "" in lister.listing.unreadable:
        raise UserError(
            f"{folder}: the folder can't be read ({lister.listing.unreadable['']}); give access to "
            "it, or move it elsewhere"
        )
    return lister.listing


def select_files(
    names: Iterable[str], extensions: Collection[str], exclude: Iterable[str] = ()
) -> FileListing:
    """Return what ``list_files`` does of a folder whose files have these names within it."""
    listing, rules = FileListing(), _FileRules(extensions, exclude)
    folders: dict[str, bool] = {"": False}  # whether it, or one above it, is left out

    def is_left_out(folder: str) -> bool:
        if folder not in folders:
            above = is_left_out(folder.rpartition("/")[0])
            folders[folder] = above or rules.leave_out(folder, True, listing)
        return folders[folder]

    for name in sorted(names):
        if is_left_out(name.rpartition("/")[0]) or rules.leave_out(name, False, listing):
            continue
        if rules.fits(name):
            listing.names.append(name)
        else:
            listing.num_others += 1
    return listing


def make_folder_rule(exclude: Iterable[str], listing: FileListing) -> Callable[[str], bool]:
    """Return a function: path of a folder -> whether ``list_files`` leaves it out by its name.

    Args:
        listing: those that are left out are added to it.
    """
    rules = _FileRules((), exclude)
    return lambda path: rules.leave_out(path, True, listing)


class _FileRules:
    """Which files and folders are listed, by their paths within the folder."""

    def __init__(self, extensions: Collection[str], exclude: Iterable[str]) -> None:
        self._extensions = extensions
        patterns = (pattern.rstrip("/") for pattern in exclude)
        self._exclude = [re.compile(translate(pattern)) for pattern in patterns if pattern]

    def fits(self, path: str) -> bool:
        """Whether a file has one of the extensions."""
        return os.path.splitext(path)[1].lower() in self._extensions

    def leave_out(self, path: str, is_folder: bool, listing: FileListing) -> bool:
        """Return whether it is left out by its name, and add it to a listing's counts then."""
        name = path.rpartition("/")[2]
        is_hidden = _is_hidden(name, is_folder)
        if not is_hidden and not any(one.match(path) or one.match(name) for one in self._exclude):
            return False
        if is_folder or self.fits(path):
            (listing.hidden if is_hidden else listing.excluded).append(path)
        return True


class _Folder(NamedTuple):
    prefix: str  # of the names in it
    path: Path
    resolved: Path  # without links


class _FileLister:
    """Lists a folder; each of those in it once, however links lead to it."""

    def __init__(self, folder: Path, extensions: Collection[str], exclude: Iterable[str]) -> None:
        self.listing = FileListing()
        self._root = _Folder("", folder, folder.resolve())
        self._rules = _FileRules(extensions, exclude)
        self._targets: dict[Path, None] = {}
        self._seen: set[Path] = set()  # resolved folders

    def list_all(self) -> None:
        """Fill the listing: what links lead to comes last, so that the rest has its own names."""
        waiting = [self._root]
        while waiting:
            links: list[_Folder] = []
            for folder in waiting:
                below = [folder]
                while below:
                    below += self._list_folder(below.pop(), links)
            waiting = links
        self.listing.names.sort()
        self.listing.link_targets = list(self._targets)

    def _list_folder(self, folder: _Folder, links: list[_Folder]) -> list[_Folder]:
        """List one folder; returns those in it, and adds to ``links`` those it links to."""
        if folder.resolved in self._seen:
            return []
        self._seen.add(folder.resolved)
        try:
            with os.scandir(folder.path) as found:
                looked = [(entry, _look_at(entry)) for entry in found]
        except OSError as error:
            self.listing.unreadable[folder.prefix.rstrip("/")] = error.strerror or str(error)
            return []
        inside = []
        for entry, status in sorted(looked, key=lambda pair: pair[0].name):
            path = folder.prefix + entry.name
            is_folder = status is not None and stat.S_ISDIR(status.st_mode)
            if self._rules.leave_out(path, is_folder, self.listing):
                continue
            if is_folder and entry.is_symlink():
                target = self._resolve_link(entry)
                links.append(_Folder(f"{path}/", Path(entry.path), target))
            elif is_folder:
                inside.append(_Folder(f"{path}/", Path(entry.path), folder.resolved / entry.name))
            elif not self._rules.fits(path):
                self.listing.num_others += 1
            elif status is None or stat.S_ISREG(status.st_mode):
                # A broken link, or one to itself, is an unreadable file, not none.
                self.listing.names.append(path)
                if status is not None and entry.is_symlink():
                    self._resolve_link(entry)
        return inside[::-1]

    def _resolve_link(self, entry: "os.DirEntry[str]") -> Path:
        target = Path(entry.path).resolve()
        if not target.is_relative_to(self._root.resolved):
            self.listing.num_links += 1
            self._targets[target] = None
        return target


def _look_at(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """Return what an entry of a folder, or what it links to, is; None: that can't be seen.

    Raises ``OSError`` where the folder lets nobody look at what is in it.
    """
    try:
        return entry.stat()
    except OSError as error:
        if entry.is_symlink() or isinstance(error, FileNotFoundError):
            return None
        raise


def _is_hidden(name: str, is_folder: bool) -> bool:
    return name.startswith(".") or (is_folder and name.lower() in _SYSTEM_FOLDERS)


def get_cache_folder(name: str | None) -> Path | None:
    """Return the folder of what is worked out once and kept for later runs; None: there is none.

    Args:
        name: the folder, environment variables and ``~`` are expanded; ``off``: none; None: what
            ``TEXTVR_CACHE`` says, or else ``~/.cache/textvr``.

    Raises:
        UserError: this user has no home folder.
    """
    name = name or os.environ.get(CACHE_VARIABLE) or CACHE_FOLDER
    try:
        return None if name == CACHE_OFF else Path(os.path.expandvars(name)).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{name}: this user has no home folder ({error}); set data_loader.args.cache_dir or "
            f'the environment variable {CACHE_VARIABLE} to a folder, or to "{CACHE_OFF}"'
        ) from error
