"""Containers of video files: checks that a file is complete and has an index, without decoding."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from utils.files import FileListing, list_files

VIDEO_EXTENSIONS = (
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .m2v .ts .m2ts .mts .wmv .asf .flv .f4v .3gp .3g2 "
    ".ogv .ogm .vob .mxf .divx"
).split()
# Of one's own videos: animations, too, see ``list_searchable``. Data sets of images have them.
SEARCHABLE_EXTENSIONS = [*VIDEO_EXTENSIONS, ".gif"]
_MATROSKA_MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_TS_SYNC, _TS_PACKET = b"\x47", 188
_REPLACE = "download it again, or take it out of the data"


def check_container(path: str | Path) -> tuple[str, str] | None:
    """Return what is wrong with a video file and the remedy; None: no reason not to open it.

    A file that was cut short is recognised without a decoder: MP4 and MOV (ISO/IEC 14496-12) are a
    sequence of boxes that begin with their sizes, Matroska and WebM tell the size of it all, and
    MPEG-TS consists of packets of one size. What a recorder left behind when it was killed may
    tell no size.
    """
    return check_file(path, check_complete)


def check_file(
    path: str | Path, check: Callable[[BinaryIO, int], str | None] | None = None
) -> tuple[str, str] | None:
    """Return what is wrong with a file of any kind and the remedy, or None.

    ``check`` is given the open file and its size in bytes, and returns what is wrong or None.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            return "is a folder, not a file", "give the path of a file"
        if size == 0:
            return "is empty (0 bytes)", _REPLACE
        with path.open("rb") as file:
            error = check(file, size) if check is not None else None
        return None if error is None else (error, _REPLACE)
    except FileNotFoundError:
        return "is missing", "check the data folder and the path in the annotations"
    except OSError as error:
        return f"can't be read ({error.strerror})", "check its access rights and the disk"


def list_searchable(folder: Path, exclude: Iterable[str] = ()) -> FileListing:
    """List the videos below a folder that can be searched, see ``utils.files.list_files``.

    Files that only end like a video are left out: a GIF of one picture, TypeScript.
    """
    listing = list_files(folder, SEARCHABLE_EXTENSIONS, exclude)
    kinds = {name: find_other_kind(folder / name) for name in listing.names}
    listing.names = [name for name in listing.names if kinds[name] is None]
    listing.left_out = {name: kind for name, kind in kinds.items() if kind is not None}
    listing.num_others += len(listing.left_out)
    return listing


def may_be_other_kind(path: str | Path) -> bool:
    """Whether other files share a file's extension with videos, see ``find_other_kind``."""
    return os.path.splitext(path)[1].lower() in _OTHER_KINDS


def find_other_kind(
    path: str | Path, open_file: Callable[[], BinaryIO] | None = None
) -> str | None:
    """Return what a file is that shares its extension with videos; None: perhaps a video.

    Args:
        open_file: opens it for reading, where it is none of this machine's.
    """
    if not may_be_other_kind(path):
        return None
    try:
        with Path(path).open("rb") if open_file is None else open_file() as file:
            return _OTHER_KINDS[os.path.splitext(path)[1].lower()](file)
    except OSError:  # opening it as a video says so
        return None


def _find_still(file: BinaryIO) -> str | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return None if getattr(image, "is_animated", False) else "a picture"
    except (UnidentifiedImageError, EOFError, SyntaxError, ValueError):
        return None


def _find_text(file: BinaryIO) -> str | None:
    head = file.read(_TS_PACKET * 5)
    try:  # a character may be cut at the end
        text = head.decode() if len(head) < _TS_PACKET * 5 else head.decode("utf-8", "ignore")
    except UnicodeDecodeError:
        return None
    is_whole = len(text.encode()) > len(head) - 4
    return "text" if head and is_whole and b"\0" not in head else None


_OTHER_KINDS = {".gif": _find_still, ".ts": _find_text, ".mts": _find_text}


def has_index(path: str | Path) -> bool:
    """Whether the container lists its frames (MP4, MOV, Matroska, WebM, AVI)."""
    with open(path, "rb") as file:
        return _is_iso(file) or file.read(4) in (_MATROSKA_MAGIC, b"RIFF")


def is_cut_short(path: str | Path) -> bool:
    """Whether a file ends before its container says.

    MP4, MOV, Matroska, WebM, AVI, FLV and MPEG-TS say it; of others this is False.
    """
    try:
        return _is_cut_short(Path(path))
    except OSError:  # it is gone by now
        return False


def _is_cut_short(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(0)
        if head.startswith(b"RIFF"):
            return int.from_bytes(head[4:8], "little") + 8 > size
        if head.startswith(b"FLV"):
            return not _ends_with_tag(file, size)
        return check_complete(file, size) is not None


def check_complete(file: BinaryIO, size: int) -> str | None:
    """Return why a file, open at its beginning, was cut short, as ``check_container`` knows it."""
    head = file.read(_TS_PACKET + 1)
    file.seek(0)
    if head.startswith(_MATROSKA_MAGIC):
        end = _find_segment_end(file) or 0
        return f"is cut short ({size} of {end} bytes)" if end > size else None
    if head[:1] == head[_TS_PACKET:] == _TS_SYNC:
        return "is cut short (its last packet is not whole)" if size % _TS_PACKET else None
    return _check_iso(file, size)


def _ends_with_tag(file: BinaryIO, size: int) -> bool:
    """Whether an FLV file ends with a whole tag, which is followed by its size."""
    file.seek(-4, os.SEEK_END)
    length = int.from_bytes(file.read(4), "big")
    if not 11 <= length <= size - 4:  # bytes of a tag's header, and with what is in it
        return False
    file.seek(size - 4 - length)
    return int.from_bytes(file.read(4)[1:], "big") + 11 == length


def _find_segment_end(file: BinaryIO) -> int | None:
    """Return where the segment of a Matroska file should end; None: it doesn't tell (RFC 8794)."""
    file.seek(4)
    file.seek(_read_element_size(file) or 0, 1)
    if file.read(4) != _SEGMENT or (length := _read_element_size(file)) is None:
        return None
    return file.tell() + length


def _read_element_size(file: BinaryIO) -> int | None:
    """Read the size of a Matroska element; None: it is unknown, as in a live stream."""
    first = int.from_bytes(file.read(1), "big")  # 0 at the end
    num_bytes = 9 - first.bit_length()
    if num_bytes > 8:
        return None
    value = int.from_bytes(bytes([first & (0xFF >> num_bytes)]) + file.read(num_bytes - 1), "big")
    return None if value == (1 << 7 * num_bytes) - 1 else value


def _is_iso(file: BinaryIO) -> bool:
    head = file.read(8)
    file.seek(0)
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"styp")


def _check_iso(file: BinaryIO, size: int) -> str | None:
    if not _is_iso(file):
        return None
    kinds = set()
    for kind, end in _iterate_boxes(file, size):
        kinds.add(kind)
        # Only boxes of frames and of their index: junk at the end does no harm.
        if end > size and kind in (b"mdat", b"moov", b"moof"):
            return f"is cut short ({size} of at least {end} bytes)"
    return None if b"moov" in kinds else "is cut short (its index, the moov box, is missing)"


def _iterate_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield the kind of each top-level box and the position where it should end."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if length == 1:  # the size is a 64-bit number that follows
            length = int.from_bytes(file.read(8), "big")
        elif length == 0:  # to the end of the file
            length = size - start
        if length < 8:
            return
        yield kind, start + length
        start += length
