"""Arrays of an index: ``.npy`` files that grow by rows while other processes have them mapped.

The database says how many rows count: what follows them was left by a writer that was killed, and
is overwritten. NumPy pads the header, so the number of rows can be rewritten in place; the file is
a plain ``.npy`` at any time. Everything written is on the disk when a function returns. The shape
``row`` of one row is ``(width,)``, or ``()`` for a single number.
"""

import io
import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from retrieval.errors import IndexFolderError
from utils.files import sync_file

EMBEDDINGS = "embeddings"
IDS = "entries"  # row -> entry
WITHOUT = {"vision": "embeddings_without_vision", "ocr": "embeddings_without_ocr"}
_REMEDY = "the index is damaged: delete its folder and make it anew with index.py"


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
    """Map the first ``num_rows`` rows; raises ``IndexFolderError`` where there are fewer."""
    shape, dtype = (num_rows, *row), np.dtype(dtype)
    start = len(_make_header(dtype, shape))
    needed = start + dtype.itemsize * math.prod(shape)
    try:
        size = path.stat().st_size
        if size < needed:
            raise IndexFolderError(f"{path}: is cut short ({size} of {needed} bytes); {_REMEDY}")
        if not num_rows:  # no file can be mapped for no bytes
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, mode="r", offset=start, shape=shape)
    except OSError as error:
        raise IndexFolderError(f"{path}: {error.strerror}; {_REMEDY}") from error


def _make_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
