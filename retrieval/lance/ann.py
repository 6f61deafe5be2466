"""Index of nearest neighbours in LanceDB, made by ``index.py --ann``.

It is an inverted file (IVF) of vectors in RaBitQ codes (Gao and Long, SIGMOD 2024), one bit a
number: small, and made in less time than product quantization. Codes alone find about half of the
ten nearest; so it proposes many candidates, which a search then compares exactly. Vectors
that come later are compared one by one until the index is brought up to date.
"""

import math
from typing import Any

import numpy as np

from retrieval.index.arrays import keeps_frames
from retrieval.lance.database import PURPOSE, Table
from retrieval.lance.schema import WINDOW
from retrieval.lance.vectors import FRAME_INDEX, WINDOW_INDEX, LanceVectors
from utils.optional import import_optional

_CODE_STEP = 8  # widths of which RaBitQ codes are made are multiples of it
_NUM_CHECKED = 100  # entries whose nearest ten are searched both ways
_CANDIDATES, _TOP = 1000, 10
_TOGETHER = 10  # queries for which all vectors are read once


def build_indexes(table: Table, meta: dict[str, Any]) -> str:
    """Make the indexes of a table of vectors, in the place of former ones; returns their kind."""
    index = import_optional("lancedb.index", PURPOSE)
    has_codes = meta["width"] % _CODE_STEP == 0
    kind = index.IvfRq if has_codes else index.IvfSq
    cells = max(1, int(math.sqrt(meta["num_rows"])))
    table.create_index(WINDOW, kind(distance_type="dot", num_partitions=cells), WINDOW_INDEX)
    if keeps_frames(meta):
        cells = max(1, int(math.sqrt(meta["num_frames"])))
        # Lists of vectors are compared by their cosines only.
        table.create_index(
            "frames", kind(distance_type="cosine", num_partitions=cells), FRAME_INDEX
        )
    return "IVF_RQ" if has_codes else "IVF_SQ"


def measure_recall(vectors: LanceVectors) -> float:
    """Return the share of an entry's ten nearest that the index finds, on a sample of entries."""
    sample = np.random.default_rng(1).permutation(vectors.num_rows)[:_NUM_CHECKED]
    queries = list(vectors.read_windows(np.sort(sample)))
    found = 0
    for first in range(0, len(queries), _TOGETHER):
        some = queries[first : first + _TOGETHER]
        for query, scores in zip(some, vectors.score_together(some), strict=True):
            candidates = vectors.find_candidates(query, _CANDIDATES)
            found += len(np.intersect1d(np.argsort(-scores)[:_TOP], candidates))
    return found / (len(sample) * min(_TOP, vectors.num_rows))
