"""A similarity matrix that is never whole: its blocks are computed when they are read.

What ranks need of a matrix (``utils/ranking.py``): its shape, its rows block by block, and the
scores of single pairs. Each reading computes all blocks anew, each from the same rows by the same
products, so that a score is the same to the bit whenever it is looked at.

Shapes: Q captions, D distinct captions, V videos, E width of the common space.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.capacity import format_size, measure_free_disk, measure_free_memory
from utils.distributed import show_progress
from utils.ranking import MOST_ROWS

logger = logging.getLogger(__name__)

PRODUCT_SCORES = 2**24  # of distinct captions, computed at a time
ROWS_SCORES = 2**22  # handed out at a time
BYTES_A_SCORE = 4
PEAK_BYTES_A_SCORE = 9  # of distinct captions, of all captions, and whether it is finite


class SimilarityBlocks:
    """The similarities of captions and videos, computed in blocks.

    Args:
        compare: (n, E) texts, (m, E) videos -> (n, m) similarities.
        text: (D, E) the distinct captions.
        text_row: (Q,) the row of each caption among them.
        videos: (n, E) parts, which together are the V videos; may be mapped from files.
    """

    ndim = 2

    def __init__(
        self,
        compare: Callable[[Tensor, Tensor], Tensor],
        text: Tensor,
        text_row: NDArray,
        videos: Sequence[NDArray],
    ) -> None:
        self._compare = compare
        self._text = text
        self._text_row = text_row
        self._videos = videos
        self._scores: dict[tuple[bytes, bytes], NDArray] = {}
        self.shape = len(text_row), sum(map(len, videos))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, pairs: tuple[NDArray, NDArray]) -> NDArray:
        """Return the scores (P,) of pairs, given as their rows and their columns."""
        query, video = (np.ascontiguousarray(part, dtype=np.int64) for part in pairs)
        key = query.tobytes(), video.tobytes()
        if key not in self._scores:
            rows, scores = self._text_row[query], np.empty(len(query), dtype=np.float32)
            for part, local, block in self._iterate_products(rows):
                scores[part] = block[local, video[part]]
            self._scores[key] = scores
        return self._scores[key]

    def iterate_blocks(self) -> Iterator[tuple[NDArray, NDArray]]:
        """Yield the numbers of some captions and their scores (n, V), until all had their turn.

        Equal captions come from the same product, and so have equal scores.
        """
        size = min(MOST_ROWS, max(1, ROWS_SCORES // max(1, self.shape[1])))
        for part, local, block in self._iterate_products(self._text_row):
            for start in range(0, len(part), size):
                chosen = slice(start, start + size)
                yield part[chosen], block[local[chosen]]

    def _iterate_products(self, rows: NDArray) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
        """Yield, for each block of distinct captions, which of ``rows`` are in it, where, and it.

        The block is (n, V).
        """
        order = np.argsort(rows, kind="stable")
        in_order = rows[order]
        size = max(1, PRODUCT_SCORES // max(1, self.shape[1]))
        for start in show_progress(range(0, len(self._text), size), "similarities", " blocks"):
            text = self._text[start : start + size]
            first, last = np.searchsorted(in_order, (start, start + len(text)))
            if first == last:
                continue
            # A copy of each part: torch takes no read-only arrays, as mapped files are.
            parts = [self._compare(text, torch.from_numpy(np.array(part))) for part in self._videos]
            yield order[first:last], in_order[first:last] - start, torch.cat(parts, dim=1).numpy()


@dataclass(frozen=True)
class MatrixPlan:
    """Whether the whole matrix is made.

    Attributes:
        is_made: otherwise metrics are computed in blocks.
        note: what is said of it before anything is encoded.
        does_not_fit: whether it was wanted.
    """

    is_made: bool
    note: str
    does_not_fit: bool = False


def plan_matrix(shape: tuple[int, int], path: Path, is_wanted: bool) -> MatrixPlan:
    """Decide, before anything is encoded, whether the matrix is made.

    Args:
        shape: (Q, V).
        path: where it would be written.
        is_wanted: whether the user wants it.
    """
    scores = shape[0] * shape[1]
    size = f"{shape[0]:,} x {shape[1]:,} float32, {format_size(BYTES_A_SCORE * scores)}"
    blocks = "metrics are computed in blocks, which takes longer"
    if not is_wanted:
        return MatrixPlan(False, f"no similarity matrix is made (--no_matrix; {size}): {blocks}")
    memory, disk = measure_free_memory(), measure_free_disk(path)
    short = []
    if memory is not None and PEAK_BYTES_A_SCORE * scores > memory:
        needed = format_size(PEAK_BYTES_A_SCORE * scores)
        short.append(f"{needed} of memory while it is made, and {format_size(memory)} are free")
    if BYTES_A_SCORE * scores > disk:
        short.append(f"that much disk at {path}, and {format_size(disk)} are free")
    if short:
        text = f"the similarity matrix ({size}) does not fit: it needs {'; '.join(short)}"
        return MatrixPlan(False, f"{text}. NO MATRIX IS MADE: {blocks}", does_not_fit=True)
    return MatrixPlan(True, f"the similarity matrix will be {size}, at {path}")
