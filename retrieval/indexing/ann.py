"""The FAISS index that ``index.py --ann`` makes beside the embeddings.

Shapes: N rows, E width of the common space.
"""

import math
import os

import numpy as np
from numpy.typing import NDArray

from retrieval.searching.ann import AnnIndex, load_faiss
from retrieval.searching.meaning import products
from retrieval.storage import arrays
from retrieval.storage.layout import EMBEDDINGS, ann_file, array_file
from retrieval.storage.writer import IndexWriter
from utils.errors import UserError

LEAST_ROWS = 10_000  # below, comparing all of them is as fast
_ROWS_PER_CELL = 40  # that k-means wants for each cell
_CODE_BYTES = 64  # of an entry, at most
_NUMBERS_OF_BYTE = 4  # that one byte of the code stands for, at least
_LEAST_KNOWN = 0.9
_CHECKED = 100  # entries whose nearest ten are looked for both ways


def is_current(writer: IndexWriter) -> bool:
    """Whether there is a FAISS index that knows nearly all rows; a search compares the others."""
    ann = writer.meta.get("ann")
    return ann is not None and ann["num_rows"] >= _LEAST_KNOWN * writer.meta["num_rows"]


def build_ann(writer: IndexWriter, least_rows: int = LEAST_ROWS) -> float:
    """Make a FAISS index of all rows; readers find it when it is complete.

    Returns:
        How many of the ten nearest of an entry it finds, as a share, on a sample of entries.

    Raises:
        UserError: FAISS is not installed, or there are too few entries for it.
    """
    faiss = load_faiss()
    num_rows, width = writer.meta["num_rows"], writer.meta["width"]
    if num_rows < least_rows:
        raise UserError(
            f"{writer.folder}: --ann is for {least_rows:,} entries and more; this index has "
            f"{num_rows:,}, which are searched exactly in less time"
        )
    generation = writer.meta["generation"]
    source = array_file(writer.folder, EMBEDDINGS, generation)
    rows = np.asarray(arrays.mapped(source, np.float32, num_rows, width))
    index = trained(faiss, rows)
    for first in range(0, num_rows, 65536):
        index.add(rows[first : first + 65536])
    file = ann_file(writer.folder, generation, num_rows)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    faiss.write_index(index, str(temporary))
    temporary.replace(file)
    writer.set_meta(ann={"file": file.name, "num_rows": num_rows})
    return recall(AnnIndex(file, num_rows), rows)


def trained(faiss: object, rows: NDArray) -> object:
    """Return an empty ``IVF,PQ`` index, trained on a sample of the rows."""
    num_rows, width = rows.shape
    cells = max(1, min(int(4 * math.sqrt(num_rows)), num_rows // _ROWS_PER_CELL))
    cells = 2 ** int(math.log2(cells))
    most = max(1, min(_CODE_BYTES, width // _NUMBERS_OF_BYTE))
    code = max(part for part in range(1, most + 1) if width % part == 0)
    index = faiss.index_factory(width, f"IVF{cells},PQ{code}", faiss.METRIC_INNER_PRODUCT)
    index.do_polysemous_training = False  # most of the time, for an order that is not used
    sample = np.random.default_rng(0).permutation(num_rows)[: cells * 2 * _ROWS_PER_CELL]
    index.train(rows[np.sort(sample)])
    return index


def recall(ann: AnnIndex, rows: NDArray, candidates: int = 1000, top: int = 10) -> float:
    """Return which share of the exact nearest rows is among the candidates."""
    sample = np.random.default_rng(1).permutation(len(rows))[:_CHECKED]
    found = 0
    for row in sample:
        exact = np.argsort(-products(rows, rows[row]))[:top]
        found += len(np.intersect1d(exact, ann.rows(rows[row], candidates)))
    return found / (len(sample) * min(top, len(rows)))
