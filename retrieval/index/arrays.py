"""Arrays of an index: ``.npy`` files that grow by rows while other processes have them mapped.

The database says how many rows count: what follows them was left by a writer that was killed, and
is overwritten. NumPy pads the header, so the number of rows can be rewritten in place; the file is
a plain ``.npy`` at any time. Everything written is on the disk when a function returns. The shape
``row`` of one row is ``(width,)``, or ``()`` for a single number.
"""

import io
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from retrieval.errors import DamagedIndexError, explain_file_error
from retrieval.index.checksums import ARRAYS, hash_array
from retrieval.index.vectors import EntryVectors, FrameVectors
from utils.files import sync_file

EMBEDDINGS = "embeddings"
IDS = "entries"  # row -> entry
FRAMES = "frames"  # vectors of frames, in half precision, those of a row together
FRAME_TIMES = "frame_times"  # when each is shown, seconds
FRAME_COUNTS = "frame_counts"  # row -> how many frames it has
WITHOUT = {"vision": "embeddings_without_vision", "ocr": "embeddings_without_ocr"}
_CHUNK = 65536  # rows copied at a time
_SHAPE = re.compile(rb"'shape': \((\d{1,18}),")
# row -> checksums of its vectors and of its thumbnail, which tell what of a damaged index is right
CHECKSUMS = "checksums"


class ArrayKind(NamedTuple):
    """What an array of an index holds."""

    dtype: DTypeLike
    row: tuple[int, ...]  # shape of one row
    counted: str  # key of ``meta`` with the number of its rows


def keeps_frames(meta: dict[str, Any]) -> bool:
    """Whether an index has the vectors of frames beside those of windows."""
    return meta.get("num_frames") is not None


def list_arrays(meta: dict[str, Any]) -> dict[str, ArrayKind]:
    """Return the arrays of an index by name."""
    names = (EMBEDDINGS, *(WITHOUT[part] for part in meta["leaves_out"]))
    if meta.get("width") is None:  # an index of words only
        names = ()
    arrays = {name: ArrayKind(np.float32, (meta["width"],), "num_rows") for name in names}
    arrays[IDS] = ArrayKind(np.int64, (), "num_rows")
    if keeps_frames(meta):
        arrays[FRAMES] = ArrayKind(np.float16, (meta["width"],), "num_frames")
        arrays[FRAME_TIMES] = ArrayKind(np.float64, (), "num_frames")
        arrays[FRAME_COUNTS] = ArrayKind(np.int32, (), "num_rows")
    if ARRAYS in meta:  # an index of earlier releases has none
        arrays[CHECKSUMS] = ArrayKind(np.uint32, (2,), "num_rows")
    return arrays


def list_vectors(meta: dict[str, Any]) -> list[str]:
    """Return the names of the arrays that hold what a model has made of entries."""
    return [name for name in list_arrays(meta) if name not in (IDS, CHECKSUMS)]


def array_file(folder: Path, name: str, generation: int) -> Path:
    """Return the file of an array; where rows are dropped, a new generation of files is written."""
    return folder / f"{name}-{generation:06}.npy"


def create_array(path: Path, dtype: DTypeLike, row: tuple[int, ...]) -> None:
    """Write, or replace, an array of no rows."""
    path.write_bytes(_make_header(np.dtype(dtype), (0, *row)))
    sync_file(path)


def append_rows(path: Path, num_rows: int, rows: NDArray) -> None:
    """Write ``rows`` behind the first ``num_rows``.

    Raises:
        OSError: it can't be written; the first ``num_rows`` are as they were.
    """
    row = rows.shape[1:]
    header = _make_header(rows.dtype, (num_rows + len(rows), *row))
    with path.open("r+b") as file:
        file.seek(len(header) + num_rows * rows.dtype.itemsize * math.prod(row))
        file.write(rows.tobytes())
        file.truncate()
        file.flush()
        file.seek(0)
        file.write(header)  # after the rows, so that it never promises what is not there
    sync_file(path)


def map_rows(path: Path, dtype: DTypeLike, num_rows: int, row: tuple[int, ...]) -> NDArray:
    """Map the first ``num_rows`` rows; raises ``DamagedIndexError`` where there are fewer."""
    shape, dtype = (num_rows, *row), np.dtype(dtype)
    start = len(_make_header(dtype, shape))
    needed = start + dtype.itemsize * math.prod(shape)
    try:
        size = path.stat().st_size
        if size < needed:
            what = f"is cut short ({size} of {needed} bytes)"
            raise DamagedIndexError(path.parent, path.name, what)
        if not num_rows:  # no file can be mapped for no bytes
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, mode="r", offset=start, shape=shape)
    except OSError as error:
        raise explain_file_error(path.parent, path.name, error) from error


def describe_header(path: Path, dtype: DTypeLike, num_rows: int, row: tuple[int, ...]) -> str:
    """Return what is wrong with a file's header, where it has at least so many rows; or nothing.

    Raises ``DamagedIndexError``.
    """
    length = len(_make_header(np.dtype(dtype), (num_rows, *row)))
    try:
        with path.open("rb") as file:
            header = file.read(length)
    except OSError as error:
        raise explain_file_error(path.parent, path.name, error) from error
    found = _SHAPE.search(header)
    count = num_rows if found is None else int(found[1])
    if count < num_rows or header != _make_header(np.dtype(dtype), (count, *row)):
        return "has the header of another array, or none"
    return ""


def copy_rows(folder: Path, meta: dict[str, Any], name: str, generation: int, rows: NDArray) -> int:
    """Write some rows (K,) of an array as that of another generation; returns their checksum."""
    dtype, row, _ = list_arrays(meta)[name]
    source, target = map_array(folder, meta, name), array_file(folder, name, generation)
    create_array(target, dtype, row)
    checksum = 0
    for first in range(0, len(rows), _CHUNK):
        part = np.asarray(source[rows[first : first + _CHUNK]])
        append_rows(target, first, part)
        checksum = hash_array(part, checksum)
    return checksum


def hash_rows(arrays: dict[str, NDArray], num_rows: int) -> NDArray:
    """Return the checksum (N,) of each row's vectors, all arrays of them together.

    Args:
        arrays: those of ``list_vectors``, in its order, with the same N rows.
    """
    counts = arrays.get(FRAME_COUNTS)
    stops = np.arange(1, num_rows + 1) if counts is None else np.cumsum(counts, dtype=np.int64)
    sums = np.zeros(num_rows, dtype=np.uint32)
    for number in range(num_rows):
        for name, rows in arrays.items():
            part = slice(number, number + 1)
            if name in (FRAMES, FRAME_TIMES) and counts is not None:
                part = slice(stops[number] - counts[number], stops[number])
            sums[number] = hash_array(rows[part], int(sums[number]))
    return sums


def map_array(folder: Path, meta: dict[str, Any], name: str) -> NDArray:
    """Map an array of an index; raises ``DamagedIndexError``."""
    dtype, row, counted = list_arrays(meta)[name]
    return map_rows(array_file(folder, name, meta["generation"]), dtype, meta[counted], row)


def map_vectors(folder: Path, meta: dict[str, Any]) -> EntryVectors:
    """Map the vectors that a search compares; raises ``DamagedIndexError``.

    Of an index of words only their width is 0.
    """
    if meta.get("width") is None:
        return EntryVectors(np.empty((meta["num_rows"], 0), dtype=np.float32))
    frames = None
    if keeps_frames(meta):
        names = (FRAMES, FRAME_TIMES, FRAME_COUNTS)
        frames = FrameVectors(*(map_array(folder, meta, name) for name in names))
    return EntryVectors(map_array(folder, meta, EMBEDDINGS), frames)


def _make_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
