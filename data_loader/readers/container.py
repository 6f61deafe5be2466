"""Containers of video files: checks that a file is complete and has an index, without decoding."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

VIDEO_EXTENSIONS = (
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .m2v .ts .m2ts .mts .wmv .asf .flv .f4v .3gp .3g2 "
    ".ogv .ogm .vob .mxf .divx"
).split()
_MATROSKA_MAGIC = b"\x1a\x45\xdf\xa3"
_REPLACE = "download it again, or take it out of the data"


def check_container(path: str | Path) -> tuple[str, str] | None:
    """Return what is wrong with a video file and the remedy; None: no reason not to open it.

    MP4 and MOV files (ISO/IEC 14496-12) are a sequence of boxes that begin with their sizes, so
    that a file which was cut short is recognised without a decoder.
    """
    return check_file(path, _check_iso)


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


def has_index(path: str | Path) -> bool:
    """Whether the container lists its frames (MP4, MOV, Matroska, WebM, AVI)."""
    with open(path, "rb") as file:
        return _is_iso(file) or file.read(4) in (_MATROSKA_MAGIC, b"RIFF")


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
