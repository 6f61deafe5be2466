"""Similarity matrices from files: checked for what they are before anything is said of them.

Shapes: Q captions, V videos.
"""

import io
import math
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from evaluation.ground_truth import GroundTruth
from utils.errors import UserError
from utils.ranking import compute_t2v_ranks, iterate_blocks

CLEARLY = 4.0  # standard deviations from chance
_ZIP_MAGIC = b"PK"
_MAX_HEADER = 10_000  # bytes; NumPy's own are a hundred or so
HOW = "write it with numpy.save, as test.py does"


class MatrixError(UserError):
    """A matrix file that can't be scored; the message names the file and the remedy."""


def load_matrix(path: Path) -> NDArray:
    """Map a matrix of finite numbers from its .npy file, without reading all of it at once.

    Raises:
        MatrixError: there is no such file, it is damaged, or it holds something else.
    """
    try:
        with path.open("rb") as file:
            shape, fortran_order, dtype = _read_header(file, path)
            start = file.tell()
        _check_form(path, shape, dtype, path.stat().st_size - start)
        order = "F" if fortran_order else "C"
        return np.memmap(path, dtype, mode="r", offset=start, shape=shape, order=order)
    except FileNotFoundError as error:
        raise MatrixError(f"{path}: no such matrix file") from error
    except IsADirectoryError as error:
        raise MatrixError(f"{path}: is a folder; name the .npy file in it") from error
    except OSError as error:
        raise MatrixError(f"{path}: can't be read ({error.strerror})") from error


def _read_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, order and type of an array; the file stands at its first value then."""
    head = file.read(12)
    if head.startswith(_ZIP_MAGIC):
        raise MatrixError(f"{path}: is an .npz archive; write the matrix alone, with numpy.save")
    size = 10 if head[6:7] == b"\1" else 12  # bytes before the header, its length among them
    length = int.from_bytes(head[8:size], "little")
    try:
        if length > _MAX_HEADER:
            raise ValueError(f"a header of {length:,} bytes")
        file.seek(0)
        header = io.BytesIO(file.read(size + length))
        version = npy.read_magic(header)
        # Version 3 differs in names of fields only, and a matrix has none.
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        return read(header, max_header_size=_MAX_HEADER)
    # What NumPy raises of a header that is no Python literal, or one that no array has.
    except (ValueError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError,
            OverflowError, tokenize.TokenError) as error:  # fmt: skip
        detail = " ".join(str(error).split())[:120]
        raise MatrixError(
            f"{path}: is no .npy file of numbers, or is cut short ({detail}); {HOW}"
        ) from error


def _check_form(path: Path, shape: tuple[int, ...], dtype: np.dtype, num_bytes: int) -> None:
    """Raise ``MatrixError`` unless the file holds the values of a matrix of numbers."""
    if dtype.kind not in "fiu":
        raise MatrixError(
            f"{path}: holds values of the type {dtype}, not real numbers; {HOW}, as float32"
        )
    if len(shape) != 2 or not all(type(size) is int and size > 0 for size in shape):
        raise MatrixError(
            f"{path}: has the shape {shape}, but a matrix has captions as rows and videos "
            f"as columns; {HOW}"
        )
    if math.prod(shape) * dtype.itemsize > num_bytes:
        needed = f"{shape[0]} x {shape[1]} values of {dtype}"
        raise MatrixError(
            f"{path}: is no .npy file of numbers, or is cut short ({num_bytes} bytes for {needed})"
            f"; {HOW}"
        )


def check_matrix(matrix: NDArray, path: Path, queries: GroundTruth) -> None:
    """Raise ``MatrixError`` unless the matrix fits the captions and videos and is finite."""
    captions, videos = queries.shape
    if matrix.shape != queries.shape:
        turned = "; it seems to be transposed: save matrix.T"
        other = "; score it with the annotation file that it was made from"
        raise MatrixError(
            f"{path}: has the shape {matrix.shape}, but {queries.annotation_file} has {captions} "
            f"captions (rows) and {videos} videos (columns)"
            f"{turned if matrix.shape == (videos, captions) else other}"
        )
    check_finite(matrix, path)


def check_finite(matrix: NDArray, path: Path) -> None:
    """Raise ``MatrixError`` where a score is NaN or infinite."""
    try:
        for _ in iterate_blocks(matrix):
            pass
    except ValueError as error:
        raise MatrixError(
            f"{path}: {error}; make it again from embeddings that are finite"
        ) from error


def follows_other_columns(matrix: NDArray, queries: GroundTruth, ids: Sequence[str]) -> bool:
    """Say whether the columns follow ``ids`` rather than the order of ``queries``.

    That is: with the order of ``queries`` the captions' mean rank is chance, with the other order
    it is clearly better. False where ``ids`` are other videos.
    """
    if set(ids) != set(queries.ids) or len(ids) != len(queries.ids):
        return False
    given = _measure_sigmas(matrix, queries)
    return given < CLEARLY and _measure_sigmas(matrix, queries.reorder_columns(ids, "")) > CLEARLY


def _measure_sigmas(matrix: NDArray, queries: GroundTruth) -> float:
    """How far the mean rank is better than chance, in standard deviations of chance."""
    captions, videos = queries.shape
    ranks = compute_t2v_ranks(matrix, *queries.get_positive_pairs())
    deviation = np.sqrt((videos**2 - 1) / 12 / captions)
    return float(((videos + 1) / 2 - ranks.mean()) / deviation) if videos > 1 else 0.0
