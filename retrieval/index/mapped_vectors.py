"""Vectors of an index folder, mapped, and the FAISS index of them.

Shapes: N rows, E width of the common space, K asked for.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.ann import AnnIndex
from retrieval.index.arrays import IDS, WITHOUT, map_array, map_vectors
from retrieval.index.integrity import VectorCheck
from retrieval.index.vectors import EntryVectors


class MappedVectors(EntryVectors):
    """Those of one commit, as ``retrieval.index.store.VectorReader`` has them.

    Args:
        folder: of the index.
        meta: of the commit.
        check: that reads them before they are compared.

    Attributes:
        ids: (N,) int64: row -> entry.
        without: ``vision`` and ``ocr`` -> (N, E) float32 of length 1, where the model fuses.

    Raises:
        DamagedIndexError: a file is not there, or too short.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], check: VectorCheck) -> None:
        vectors = map_vectors(folder, meta)
        super().__init__(vectors.windows, vectors.frames)
        arrays = {part: map_array(folder, meta, WITHOUT[part]) for part in meta["leaves_out"]}
        self.without = {part: np.asarray(array) for part, array in arrays.items()}
        self.parts = tuple(self.without)
        self.ids = np.asarray(map_array(folder, meta, IDS))
        self._folder, self._meta, self._check = folder, meta, check
        self._lock = threading.Lock()
        self._ann: AnnIndex | None = None

    def check(self) -> None:
        """Read all vectors that were not read before; raises ``DamagedIndexError``."""
        self._check.check(self._meta)

    def score_all_without(self, part: str, query: NDArray) -> NDArray:
        """Return the products (N,) of a query (E,) with the windows without a part."""
        return self.without[part] @ query

    def read_windows(self, rows: NDArray) -> NDArray:
        """Return the vectors (K, E) of the windows of some rows (K,)."""
        return self.windows[rows]

    def read_without(self, part: str, rows: NDArray) -> NDArray:
        """Return those (K, E) without a part."""
        return self.without[part][rows]

    def find_candidates(self, query: NDArray, count: int) -> NDArray | None:
        """Return rows that are near a query, and all that the FAISS index does not cover.

        It is read when it is first needed. None where there is none.
        """
        found = self._meta.get("ann")
        if found is None:
            return None
        with self._lock:
            if self._ann is None:
                self._ann = AnnIndex(self._folder, found)
        newer = np.arange(self._ann.num_rows, self.num_rows)
        return np.concatenate([self._ann.find_rows(query, count), newer])
