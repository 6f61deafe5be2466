"""FAISS index (approximate nearest neighbours) of an index folder, made by ``index.py --ann``.

It proposes candidates, which a search then compares exactly. Shapes: N rows, E width of the common
space, M found.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFolderError
from retrieval.index.arrays import EMBEDDINGS, array_file, map_rows
from retrieval.index.writer import IndexWriter
from utils.errors import UserError
from utils.files import atomic_write

MIN_ROWS = 10_000  # below, comparing all of them is as fast
PROBES = 32  # cells that a query looks into
_ROWS_PER_CELL = 40  # that k-means needs for each cell
_CODE_BYTES = 64  # of an entry, at most
_NUMBERS_PER_BYTE = 4  # of the code, at least
_NUM_CHECKED = 100  # entries whose nearest ten are searched both ways


class AnnIndex:
    """A FAISS index of the first ``num_rows`` embeddings; raises ``UserError``."""

    def __init__(self, file: Path, num_rows: int) -> None:
        faiss = load_faiss()
        try:
            self.index = faiss.read_index(str(file))
        except RuntimeError as error:  # FAISS knows no other
            raise IndexFolderError(
                f"{file}: can't be read; make it anew with index.py --ann ({error})"
            ) from error
        self.num_rows = num_rows
        self.index.nprobe = min(PROBES, self.index.nlist)

    def find_rows(self, query: NDArray, count: int) -> NDArray:
        """Return up to ``count`` rows (M,) that are near a query (E,)."""
        _, rows = self.index.search(query[None], min(count, self.num_rows))
        return rows[0][rows[0] >= 0]


def load_faiss() -> Any:
    """Import FAISS; raises ``UserError`` with the way to get it."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"FAISS is needed: pip install faiss-cpu ({error})") from error
    return faiss


def build_ann(writer: IndexWriter, min_rows: int = MIN_ROWS) -> float:
    """Make a FAISS index of all rows; readers find it when it is complete.

    Returns:
        Recall on a sample of entries: the share of an entry's ten nearest that it finds.

    Raises:
        UserError: FAISS is not installed, or there are too few entries for it.
    """
    faiss = load_faiss()
    num_rows, width = writer.meta["num_rows"], writer.meta["width"]
    if num_rows < min_rows:
        raise UserError(
            f"{writer.folder}: --ann is for {min_rows:,} entries and more; this index has "
            f"{num_rows:,}, which are searched exactly in less time"
        )
    generation = writer.meta["generation"]
    source = array_file(writer.folder, EMBEDDINGS, generation)
    rows = np.asarray(map_rows(source, np.float32, num_rows, (width,)))
    index = _train_index(faiss, rows)
    for first in range(0, num_rows, 65536):
        index.add(rows[first : first + 65536])
    file = writer.folder / f"ann-{generation:06}-{num_rows}.faiss"
    with atomic_write(file) as temporary:
        faiss.write_index(index, str(temporary))
    writer.set_meta(ann={"file": file.name, "num_rows": num_rows})
    return _measure_recall(AnnIndex(file, num_rows), rows)


def _train_index(faiss: Any, rows: NDArray) -> Any:
    """Return an empty ``IVF,PQ`` index, trained on a sample of the rows."""
    num_rows, width = rows.shape
    cells = max(1, min(int(4 * math.sqrt(num_rows)), num_rows // _ROWS_PER_CELL))
    cells = 2 ** int(math.log2(cells))
    most = max(1, min(_CODE_BYTES, width // _NUMBERS_PER_BYTE))
    code = max(part for part in range(1, most + 1) if width % part == 0)
    index = faiss.index_factory(width, f"IVF{cells},PQ{code}", faiss.METRIC_INNER_PRODUCT)
    index.do_polysemous_training = False  # takes most of the time, for an order that is not used
    sample = np.random.default_rng(0).permutation(num_rows)[: cells * 2 * _ROWS_PER_CELL]
    index.train(rows[np.sort(sample)])
    return index


def _measure_recall(ann: AnnIndex, rows: NDArray, candidates: int = 1000, top: int = 10) -> float:
    sample = np.random.default_rng(1).permutation(len(rows))[:_NUM_CHECKED]
    found = 0
    for row in sample:
        exact = np.argsort(-(rows @ rows[row]))[:top]
        found += len(np.intersect1d(exact, ann.find_rows(rows[row], candidates)))
    return found / (len(sample) * min(top, len(rows)))
