"""FAISS index (approximate nearest neighbours) of an index folder, made by ``index.py --ann``.

It has the vectors of all windows and, where the index keeps them, of all frames, each by the row of
its entry. It proposes candidates, which a search then compares exactly. Shapes: N rows, V vectors,
E width of the common space, M found.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import DamagedIndexError
from retrieval.index.arrays import keeps_frames, map_vectors
from retrieval.index.checksums import hash_files
from retrieval.index.integrity import describe_ann_damage
from retrieval.index.vectors import EntryVectors
from utils.errors import UserError
from utils.files import atomic_write

PROBES = 32  # cells that a query looks into
_ROWS_PER_CELL = 40  # that k-means needs for each cell
_CODE_BYTES = 64  # of a vector, at most
_NUMBERS_PER_BYTE = 4  # of the code, at least
_NUM_CHECKED = 100  # entries whose nearest ten are searched both ways


class AnnIndex:
    """A FAISS index of the vectors of the first ``num_rows`` rows; raises ``UserError``.

    Args:
        folder: of the index.
        found: what its ``meta`` says of the file.
    """

    def __init__(self, folder: Path, found: dict[str, Any]) -> None:
        faiss = load_faiss()
        if said := describe_ann_damage(folder, found):
            raise DamagedIndexError(folder, found["file"], said)
        try:
            self.index = faiss.read_index(str(folder / found["file"]))
        except RuntimeError as error:  # FAISS knows no other
            raise DamagedIndexError(folder, found["file"], f"can't be read ({error})") from error
        self.num_rows = found["num_rows"]
        self.index.nprobe = min(PROBES, self.index.nlist)

    def find_rows(self, query: NDArray, count: int) -> NDArray:
        """Return up to ``count`` distinct rows (M,) that are near a query (E,), nearest first."""
        total = self.index.ntotal
        per_row = math.ceil(total / max(1, self.num_rows))  # all of them may be near
        _, rows = self.index.search(query[None], min(count * per_row, total))
        rows, places = np.unique(rows[0][rows[0] >= 0], return_index=True)
        return rows[np.argsort(places)][:count]


def load_faiss() -> Any:
    """Import FAISS; raises ``UserError`` with the way to get it."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"FAISS is needed: pip install faiss-cpu ({error})") from error
    return faiss


def count_vectors(meta: dict[str, Any]) -> int:
    """Return how many vectors of an index a search compares."""
    return meta["num_rows"] + meta.get("num_frames", 0)


def write_ann(folder: Path, meta: dict[str, Any], min_vectors: int) -> tuple[dict[str, Any], float]:
    """Write a FAISS index of all vectors into an index folder.

    Returns:
        What ``meta`` gets, by which readers find it; and the recall on a sample of entries: the
        share of an entry's ten nearest that it finds.

    Raises:
        UserError: FAISS is not installed, or there are too few vectors for it.
    """
    faiss = load_faiss()
    if count_vectors(meta) < min_vectors:
        what = "vectors" if keeps_frames(meta) else "entries"
        raise UserError(
            f"{folder}: --ann is for {min_vectors:,} {what} and more; this index has "
            f"{count_vectors(meta):,}, which are searched exactly in less time"
        )
    vectors = map_vectors(folder, meta)
    num_rows = meta["num_rows"]
    index = _train_index(faiss, vectors)
    rows = np.arange(num_rows)
    _add_vectors(index, vectors.windows, rows)
    if vectors.frames is not None:
        _add_vectors(index, vectors.frames.vectors, np.repeat(rows, vectors.frames.counts))
    file = folder / f"ann-{meta['generation']:06}-{num_rows}.faiss"
    with atomic_write(file) as temporary:
        faiss.write_index(index, str(temporary))
    size, checksum = hash_files(folder, [file])[file.name]
    found = {"file": file.name, "num_rows": num_rows, "size": size, "checksum": checksum}
    return found, _measure_recall(AnnIndex(folder, found), vectors)


def _train_index(faiss: Any, vectors: EntryVectors) -> Any:
    """Return an empty ``IVF,PQ`` index, trained on a sample of the vectors."""
    parts = [vectors.windows] + ([] if vectors.frames is None else [vectors.frames.vectors])
    total, width = sum(map(len, parts)), vectors.windows.shape[1]
    cells = max(1, min(int(4 * math.sqrt(total)), total // _ROWS_PER_CELL))
    cells = 2 ** int(math.log2(cells))
    most = max(1, min(_CODE_BYTES, width // _NUMBERS_PER_BYTE))
    code = max(part for part in range(1, most + 1) if width % part == 0)
    index = faiss.index_factory(width, f"IVF{cells},PQ{code}", faiss.METRIC_INNER_PRODUCT)
    index.do_polysemous_training = False  # takes most of the time, for an order that is not used
    chosen = np.random.default_rng(0).permutation(total)[: cells * 2 * _ROWS_PER_CELL]
    chosen.sort()
    split = np.searchsorted(chosen, len(vectors.windows))
    places = [chosen[:split], chosen[split:] - len(vectors.windows)]
    sample = [part[own] for part, own in zip(parts, places, strict=False)]
    index.train(np.concatenate(sample, dtype=np.float32))
    return index


def _add_vectors(index: Any, vectors: NDArray, rows: NDArray) -> None:
    """Add vectors (V, E) to a FAISS index by their rows (V,)."""
    for first in range(0, len(vectors), 65536):
        part = slice(first, first + 65536)
        index.add_with_ids(vectors[part].astype(np.float32, copy=False), rows[part])


def _measure_recall(
    ann: AnnIndex, vectors: EntryVectors, candidates: int = 1000, top: int = 10
) -> float:
    num_rows = len(vectors.windows)
    sample = np.random.default_rng(1).permutation(num_rows)[:_NUM_CHECKED]
    found = 0
    for row in sample:
        query = vectors.windows[row]
        exact = np.argsort(-vectors.score_all(query))[:top]
        found += len(np.intersect1d(exact, ann.find_rows(query, candidates)))
    return found / (len(sample) * min(top, num_rows))
