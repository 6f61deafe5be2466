"""Vectors of an index's entries, and how near a query is to them.

An entry has the vector of its window. With frame vectors (``index.py --vectors frames``) it also
has one for each frame that the model was shown; its score is then the mean of two cosines, the
window's and its best frame's: the one knows the whole and the words, the other the moment. (X-CLIP,
Ma et al., ACM MM 2022, compares at both levels and takes the mean, too.)

Shapes: N rows (one an entry), M frames of all of them, E width of the common space, K asked for.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.processes import count_cpus

Vectors = Literal["windows", "frames"]  # that an index keeps

_CHUNK = 4096  # rows of a product, whose result stays in the cache
_BLOCK = 1 << 19  # numbers in half precision that are converted at a time: they stay in the cache
_BLOCKS_PER_THREAD = 16  # at least, or starting it takes longer
_ROWS_AT_A_TIME = 128  # whose frames are fetched together
_MOST_FETCHED = 0.5  # share of the rows from which on all are compared, which is faster


class BestFrame(NamedTuple):
    """The frame of an entry that is nearest to a query."""

    cosine: float
    time_s: float  # from the video's first frame


class FrameVectors:
    """The vectors of frames; those of a row stand together, in the order of the rows.

    Args:
        vectors: (M, E) float16 of length 1, perhaps mapped.
        times: (M,) seconds from the video's first frame.
        counts: (N,) how many frames each row has, at least 1.
    """

    def __init__(self, vectors: NDArray, times: NDArray, counts: NDArray) -> None:
        self.vectors, self.times = np.asarray(vectors), times
        self.counts = counts.astype(np.int64)
        self.starts = np.cumsum(self.counts) - self.counts

    def compare_all(self, query: NDArray) -> NDArray:
        """Return the cosine (N,) of each row's best frame with a query (E,)."""
        if not len(self.starts):
            return np.empty(0, dtype=np.float32)
        return np.maximum.reduceat(multiply_halves(self.vectors, query), self.starts)

    def compare_rows(self, query: NDArray, rows: NDArray) -> NDArray:
        """Return the cosine (K,) of the best frame of some rows (K,)."""
        best = np.empty(len(rows), dtype=np.float32)
        for first in range(0, len(rows), _ROWS_AT_A_TIME):
            own = rows[first : first + _ROWS_AT_A_TIME]
            cosines = multiply_halves(self.vectors[self.list_frames(own)], query)
            counts = self.counts[own]
            stops = np.cumsum(counts)
            best[first : first + len(own)] = np.maximum.reduceat(cosines, stops - counts)
        return best

    def take(self, rows: NDArray) -> "FrameVectors":
        """Return those of some rows (K,), in memory."""
        frames = self.list_frames(rows)
        return FrameVectors(self.vectors[frames], self.times[frames], self.counts[rows])

    def list_frames(self, rows: NDArray) -> NDArray:
        """Return the positions of the frames of some rows, row by row."""
        counts = self.counts[rows]
        stops = np.cumsum(counts)
        total = stops[-1] if len(stops) else 0
        return np.repeat(self.starts[rows] - (stops - counts), counts) + np.arange(total)


class EntryVectors:
    """The vectors of all entries.

    Args:
        windows: (N, E) float32 of length 1, perhaps mapped.
        frames: those of frames, where the index has them.

    Attributes:
        num_rows: N.
        width: E.
        num_frames: M; None without frame vectors.
    """

    def __init__(self, windows: NDArray, frames: FrameVectors | None = None) -> None:
        self.windows = np.asarray(windows)  # slices of the map itself are slow
        self.frames = frames
        self.num_rows, self.width = self.windows.shape
        self.num_frames = None if frames is None else len(frames.vectors)

    def score_all(self, query: NDArray) -> NDArray:
        """Return the score (N,) of every row, dead or alive, for a query (E,) of length 1."""
        return self.score_together([query])[0]

    def score_together(self, queries: Sequence[NDArray]) -> list[NDArray]:
        """Return the scores (N,) of every row for each of some queries (E,) of length 1.

        Windows are read once for all of them.
        """
        scores = multiply_rows(
            self.windows, np.stack(queries, dtype=np.float32, casting="same_kind")
        )
        if self.frames is None:
            return list(scores)
        pairs = zip(scores, queries, strict=True)
        return [(of_windows + self.frames.compare_all(query)) / 2 for of_windows, query in pairs]

    def score_rows(self, query: NDArray, rows: NDArray) -> NDArray:
        """Return the score (K,) of some rows (K,) for a query (E,) of length 1."""
        if self.frames is None:
            return self.windows[rows] @ query
        if len(rows) > _MOST_FETCHED * len(self.windows):
            return self.score_all(query)[rows]
        return (self.windows[rows] @ query + self.frames.compare_rows(query, rows)) / 2

    def take(self, rows: NDArray) -> "EntryVectors":
        """Return those of some rows (K,), in memory."""
        frames = None if self.frames is None else self.frames.take(rows)
        return EntryVectors(self.windows[rows], frames)

    def find_best_frame(self, query: NDArray, row: int) -> BestFrame | None:
        """Return the best frame of a row, the first of equal ones; None without frame vectors."""
        if self.frames is None:
            return None
        positions = self.frames.list_frames(np.array([row]))
        cosines = multiply_halves(self.frames.vectors[positions], query)
        best = int(np.argmax(cosines))
        return BestFrame(float(cosines[best]), float(self.frames.times[positions[best]]))


def multiply_rows(rows: NDArray, queries: NDArray) -> NDArray:
    """Return the products (Q, N) float32 of rows (N, E), perhaps mapped, with queries (Q, E).

    By torch and not NumPy: its threads don't wait busily for the next product, and there are as
    many of them as the program has chosen.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        mapped = torch.from_numpy(np.asarray(rows))
    products = np.empty((len(queries), len(rows)), dtype=np.float32)
    # With one column the product takes twice the time that it takes with two (MKL).
    factors = torch.from_numpy(np.resize(queries, (max(2, len(queries)), queries.shape[1])))
    for first in range(0, len(rows), _CHUNK):
        part = slice(first, first + _CHUNK)
        product = torch.nn.functional.linear(mapped[part], factors)  # (_CHUNK, Q)
        products[:, part] = product.numpy().T[: len(queries)]
    return products


def multiply_halves(rows: NDArray, query: NDArray) -> NDArray:
    """Return the products (M,) float32 of rows (M, E) float16 with a query (E,) float32.

    The rows must be finite. They are converted a block at a time, so that memory does not grow with
    them, and by moving their bits to where float32 has them, whose exponent is then 112 too small:
    NumPy's own conversion takes seven times as long. All but the sums is exact.
    """
    products = np.empty(len(rows), dtype=np.float32)
    query = query.astype(np.float32) * np.float32(2.0**112)
    bits = np.ascontiguousarray(rows).view(np.int16)
    threads = min(count_cpus(), bits.size // (_BLOCK * _BLOCKS_PER_THREAD))
    if threads < 2:
        _multiply_bits(bits, query, products)
        return products
    cuts = [len(rows) * part // threads for part in range(threads + 1)]
    parts = [slice(*ends) for ends in pairwise(cuts)]
    with ThreadPoolExecutor(threads) as pool:  # one of its own: a process may be forked at any time
        list(pool.map(lambda part: _multiply_bits(bits[part], query, products[part]), parts))
    return products


def _multiply_bits(bits: NDArray, query: NDArray, products: NDArray) -> None:
    """Write the products of rows, given as bits (M, E) int16, with the query times 2 ** 112."""
    count, width = bits.shape
    block = max(1, _BLOCK // width)
    buffer = np.empty((min(block, count), width), dtype=np.int32)
    for first in range(0, count, block):
        part = bits[first : first + block]
        moved = buffer[: len(part)]
        np.copyto(moved, part)  # the sign fills the upper half
        np.left_shift(moved, 13, out=moved)
        np.bitwise_and(moved, ~0x70001FFF, out=moved)  # one sign, exponent and fraction
        # Not np.dot, whose threads would wait for each other at the end of every block.
        np.vecdot(moved.view(np.float32), query, out=products[first : first + block])
