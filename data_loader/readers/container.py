"""Containers of video files: whether one is whole and has an index, before a decoder sees it."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

VIDEO_EXTENSIONS = (
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .m2v .ts .m2ts .mts .wmv .asf .flv .f4v .3gp .3g2 "
    ".ogv .ogm .vob .mxf .divx"
).split()
_MATROSKA_MAGIC = b"\x1a\x45\xdf\xa3"
_REPLACE = "download it again, or take it out of the data"


def check_container(path: str | Path) -> tuple[str, str] | None:
    """Return what is wrong with a file that no reader could read in full, and the remedy, or None.

    MP4 and MOV files (ISO/IEC 14496-12) are a row of boxes with their sizes in front, so that a
    file which was cut short is known at once, whatever a decoder would make of the rest.
    """
    path = Path(path)
    error = check_file(path)
    if error is not None:
        return error
    try:
        with path.open("rb") as file:
            return _check_iso(file, path.stat().st_size) if _is_iso(file) else None
    except OSError as error:
        return _describe_os_error(error)


def check_file(path: str | Path) -> tuple[str, str] | None:
    """Return what is wrong with a file of any kind, and the remedy, or None."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            return "is a folder, not a file", "give the path of a file"
        if size == 0:
            return "is empty (0 bytes)", _REPLACE
        with path.open("rb"):
            return None
    except OSError as error:
        return _describe_os_error(error)


def _describe_os_error(error: OSError) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return "is missing", "check the data folder and the path in the annotations"
    return f"can't be read ({error.strerror})", "check its access rights and the disk"


def has_index(path: str | Path) -> bool:
    """Whether the container lists its frames (MP4, MOV, Matroska, WebM, AVI)."""
    with open(path, "rb") as file:
        return _is_iso(file) or file.read(4) in (_MATROSKA_MAGIC, b"RIFF")


def _is_iso(file: BinaryIO) -> bool:
    head = file.read(8)
    file.seek(0)
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"styp")


def _check_iso(file: BinaryIO, size: int) -> tuple[str, str] | None:
    kinds = set()
    for kind, end in _iterate_boxes(file, size):
        kinds.add(kind)
        # Only what holds the frames or their index: trailing junk does no harm.
        if end > size and kind in (b"mdat", b"moov", b"moof"):
            return f"is cut short ({size} of at least {end} bytes)", _REPLACE
    if b"moov" not in kinds:
        return "is cut short (its index, the moov box, is missing)", _REPLACE
    return None


def _iterate_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield each top-level box's kind and the position where it says it ends."""
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
