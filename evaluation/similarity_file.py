"""Similarity matrices from files: checked for what they are before anything is said of them.

Shapes: Q captions, V videos.
"""

import tokenize
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.ground_truth import GroundTruth
from utils.errors import UserError
from utils.ranking import compute_t2v_ranks, iterate_blocks

CLEARLY = 4.0  # standard deviations from chance
HOW = "write it with numpy.save, as test.py does"


class MatrixError(UserError):
    """A matrix file that can't be scored; the message names the file and the remedy."""


def load_matrix(path: Path) -> NDArray:
    """Map a matrix of finite numbers from its .npy file, without reading all of it at once.

    Raises:
        MatrixError: there is no such file, it is damaged, or it holds something else.
    """
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise MatrixError(f"{path}: no such matrix file") from error
    except IsADirectoryError as error:
        raise MatrixError(f"{path}: is a folder; name the .npy file in it") from error
    except (ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError) as error:
        detail = " ".join(str(error).split())[:120]
        raise MatrixError(
            f"{path}: is no .npy file of numbers, or is cut short ({detail}); {HOW}"
        ) from error
    if not isinstance(matrix, np.ndarray):
        matrix.close()
        raise MatrixError(f"{path}: is an .npz archive; write the matrix alone, with numpy.save")
    if matrix.dtype.kind not in "fiu":
        raise MatrixError(
            f"{path}: holds values of the type {matrix.dtype}, not real numbers; {HOW}, as float32"
        )
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise MatrixError(
            f"{path}: has the shape {matrix.shape}, but a matrix has captions as rows and videos "
            f"as columns; {HOW}"
        )
    return matrix


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
