"""Arrays that grow by rows in an ``.npy`` file, while others have them mapped.

The database says how many rows count: what stands behind them was left by a writer that was killed,
and is overwritten. NumPy pads the header so that the number of rows can be rewritten in place; the
file is a plain ``.npy`` at any time. Everything written is on the disk when a function returns.
"""

import io
import os
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from retrieval.errors import IndexFolderError

REMEDY = "the index is damaged: delete its folder and make it anew with index.py"


def create_array(path: Path, dtype: DTypeLike, width: int | None) -> None:
    """Write, or replace, an array of no rows; ``width`` None: a row is one number."""
    with path.open("wb") as file:
        file.write(_make_header(np.dtype(dtype), _shape(0, width)))
        _sync(file)


def append_rows(path: Path, num_rows: int, rows: NDArray) -> None:
    """Write ``rows`` behind the first ``num_rows``.

    Raises:
        OSError: it can't be written; the first ``num_rows`` are as they were.
    """
    rows = np.ascontiguousarray(rows)
    header = _make_header(rows.dtype, (num_rows + len(rows), *rows.shape[1:]))
    with path.open("r+b") as file:
        file.seek(len(header) + num_rows * _row_bytes(rows.dtype, rows.shape[1:]))
        file.write(rows.tobytes())
        file.truncate()
        file.flush()
        file.seek(0)
        file.write(header)  # after the rows, so that it never promises what is not there
        _sync(file)


def map_rows(path: Path, dtype: DTypeLike, num_rows: int, width: int | None) -> NDArray:
    """Return the first ``num_rows`` rows, read from the disk where they are used.

    Raises:
        IndexFolderError: the file is missing, or has fewer rows.
    """
    shape = _shape(num_rows, width)
    start = len(_make_header(np.dtype(dtype), shape))
    needed = start + num_rows * _row_bytes(np.dtype(dtype), shape[1:])
    try:
        size = path.stat().st_size
        if size < needed:
            raise IndexFolderError(f"{path}: is cut short ({size} of {needed} bytes); {REMEDY}")
        if not num_rows:  # nothing can't be mapped
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, mode="r", offset=start, shape=shape)
    except OSError as error:
        raise IndexFolderError(f"{path}: {error.strerror}; {REMEDY}") from error


def _shape(num_rows: int, width: int | None) -> tuple[int, ...]:
    return (num_rows,) if width is None else (num_rows, width)


def _row_bytes(dtype: np.dtype, row: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(row, dtype=np.int64))


def _make_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def _sync(file: io.BufferedIOBase) -> None:
    file.flush()
    os.fsync(file.fileno())
