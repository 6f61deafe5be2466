"""The FAISS index of an index folder: candidates that are compared exactly afterwards.

Shapes: N rows, E width of the common space, M found.
"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from retrieval.errors import IndexFolderError
from utils.errors import UserError

PROBES = 32  # cells that a query looks into


class AnnIndex:
    """A FAISS index of the first rows of the embeddings.

    Args:
        file: as ``build_ann`` has written it.
        num_rows: how many rows it knows.

    Raises:
        IndexFolderError: the file is missing or damaged.
        UserError: FAISS is not installed.
    """

    def __init__(self, file: Path, num_rows: int) -> None:
        faiss = load_faiss()
        try:
            self.index = faiss.read_index(str(file))
        except RuntimeError as error:  # whatever is wrong with it
            raise IndexFolderError(
                f"{file}: can't be read; make it anew with index.py --ann ({error})"
            ) from error
        self.num_rows = num_rows
        self.index.nprobe = min(PROBES, self.index.nlist)

    def rows(self, query: NDArray, count: int) -> NDArray:
        """Return up to ``count`` rows (M,) that are near a query (E,)."""
        _, rows = self.index.search(query[None], min(count, self.num_rows))
        return rows[0][rows[0] >= 0]


def load_faiss() -> Any:
    """Import FAISS; raises ``UserError`` with the way to get it."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"FAISS is wanted: pip install faiss-cpu ({error})") from error
    return faiss
