"""Whether an entry is like a query, or only the least unlike: calibration of similarities.

Semantic search finds the nearest entries of any query, also of one that matches nothing. How high a
cosine is says little by itself: it depends on the model, on the query, and on how many entries the
best one is the best of. So a query is compared with texts that have nothing to do with the videos
(``retrieval.index.unrelated``), over a fixed random sample of entries:

- the *level* of a text is the median of its similarities to the sample. It is the text's own
  background: some texts are nearer to everything than others, above all in spaces where all
  cosines are high. Entries that match a text don't raise it, unless they are half of all;
- the *best* of an unrelated text is its highest similarity to more entries, or to all. A line
  through levels and bests of the unrelated texts says what best is to be expected at a level. Its
  slope is 0 where a level says nothing of the best, and 1 where all bests are as far above their
  levels;
- the best of still more entries is higher, by the same for each doubling: by as much as two halves
  of the entries differ in their bests.

The **z-score** of a hit is how far its similarity lies above the best that is to be expected of an
unrelated text, in standard deviations of such bests. Above 2 (``MIN_Z_SCORE``) lies about one
unrelated text in twenty, as bests are skewed to the right. Medians and quantiles are used
throughout, so that some of the unrelated texts may be related after all.

A z-score within the query's own similarities alone would be simpler and says less. The best of N
independent entries is some sqrt(2 ln N) standard deviations above their mean, but real entries come
in clusters and their cosines are bounded: on the demonstration the best entry of a caption has such
a z-score of 2.8, that of a text without a match 2.2, and the best of as many normal numbers 3.0.
And a query that has to do with the videos spreads its similarities, which makes its own smaller.
``python -m benchmarks.nothing_found`` measures on the demonstration how often either is told.

Shapes: N rows, M entries, U unrelated texts, S entries of the sample, C entries that are compared
with the unrelated texts, E width of the common space.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.store import VectorReader
from retrieval.index.vectors import EntryVectors

MIN_Z_SCORE = 2.0  # of a hit that counts as found
MIN_ENTRIES = 20  # of an index; among fewer a median is no background, and nothing is judged
SAMPLE = 1000  # entries whose median is a level, at most
MAX_COMPARED = 10_000  # entries, the sample among them, of which an unrelated text's best is taken
_MAX_DEVIATION = 2.5  # of a query's level from those of unrelated texts, in standard deviations
_QN = 2.2219  # standard deviation of a normal distribution / first quartile of differences
_EPS = 1e-6  # of a scale
_GUMBEL_SCALE = math.sqrt(6) / math.pi  # of a Gumbel distribution with standard deviation 1
_FAR = 500.0  # beyond it float64 ends


class ExpectedBest(NamedTuple):
    """The similarity of the best entry to an unrelated text."""

    mean: float
    std: float

    def compute_z_scores(self, similarities: NDArray) -> NDArray:
        """Return z-scores, in the shape of the similarities."""
        return (similarities - self.mean) / self.std

    def compute_evidence(self, similarities: NDArray) -> NDArray:
        """Return how surprising similarities are, in nats: -ln P(an unrelated text's best is more).

        The bests have about a Gumbel distribution, whose median and standard deviation are known.
        """
        z_scores = self.compute_z_scores(np.asarray(similarities, dtype=np.float64))
        scaled = np.clip(z_scores / _GUMBEL_SCALE, -_FAR, _FAR)
        return -np.log(-np.expm1(-math.log(2) * np.exp(-scaled)))


class Calibration:
    """What similarity an unrelated text finds among the entries of an index.

    The sample depends on the entries alone, not on the query, nor on the folder that is searched.

    Args:
        vectors: of N rows; similarities are their scores, as those of hits are.
        alive: rows (M,) of the entries, at least ``MIN_ENTRIES``.
        unrelated: embeddings (U, E) of length 1 of the unrelated texts.
    """

    def __init__(
        self, vectors: VectorReader | EntryVectors, alive: NDArray, unrelated: NDArray
    ) -> None:
        most = MAX_COMPARED
        if vectors.num_frames is not None:  # which take as much time as entries
            most = max(SAMPLE, most * vectors.num_rows // vectors.num_frames)
        rows = np.random.default_rng(0).permutation(alive)[:most]
        compared = vectors.take(rows)
        scores = np.stack([compared.score_all(text) for text in unrelated])  # (U, C)
        self._sample = compared.take(np.arange(min(SAMPLE, len(rows))))  # each search needs it
        levels, bests = np.median(scores[:, :SAMPLE], axis=1), scores.max(axis=1)
        middle, spread = _describe(levels)
        self._levels = middle - _MAX_DEVIATION * spread, middle + _MAX_DEVIATION * spread
        levels = np.clip(levels, *self._levels)
        self._slope = _fit_slope(levels, bests)
        self._centre, self._scale = _describe(bests - self._slope * levels)
        half = len(rows) // 2
        gaps = np.abs(scores[:, :half].max(axis=1) - scores[:, half:].max(axis=1))
        # A best has about a Gumbel distribution; the difference of two then a logistic one, whose
        # absolute value has the median ln 3, and twice as many entries raise the best by ln 2.
        growth = np.median(gaps) * math.log(2) / math.log(3)
        self._centre += growth * math.log2(len(alive) / len(rows))

    def expect_best(self, query: NDArray) -> ExpectedBest:
        """Return what similarity the best entry would have, if a query (E,) were unrelated.

        A level beyond those of the unrelated texts is taken for theirs: most of the videos match
        such a query, and they shall not hide each other.
        """
        level = np.clip(np.median(self._sample.score_all(query)), *self._levels)
        return ExpectedBest(float(self._centre + self._slope * level), self._scale)


def _describe(values: NDArray) -> tuple[float, float]:
    """Return the median, and the standard deviation as most of the values have it.

    Source: the estimator Qn of Rousseeuw and Croux, "Alternatives to the Median Absolute
    Deviation", JASA 1993; of 64 normal values, its error is two thirds of that of the quartiles'.
    """
    first, second = np.triu_indices(len(values), 1)
    spread = _QN * float(np.quantile(np.abs(values[first] - values[second]), 0.25))
    return float(np.median(values)), max(spread, _EPS)


def _fit_slope(levels: NDArray, bests: NDArray) -> float:
    """Return the median slope of all pairs (Theil-Sen), within [0, 1]."""
    first, second = np.triu_indices(len(levels), 1)
    run, rise = levels[first] - levels[second], bests[first] - bests[second]
    apart = np.abs(run) > _EPS
    return float(np.clip(np.median(rise[apart] / run[apart]), 0, 1)) if apart.any() else 0.0
