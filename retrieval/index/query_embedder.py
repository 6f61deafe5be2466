"""Query encoder of an index, kept in it: a search needs neither checkpoint nor network.

Shapes: E width of the common space.
"""

import json
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from base.config import Config, PrecisionName, resolve_config
from base.registry import ARCHITECTURES
from retrieval.errors import IndexFolderError
from retrieval.index.unrelated import UNRELATED_TEXTS, name_unrelated, read_unrelated
from utils.files import hash_file, write_array, write_json

if TYPE_CHECKING:
    from base.base_model import RetrievalModel
    from data_loader.collate import Collate

WEIGHTS, SETTINGS = "weights.safetensors", "query_encoder.json"
MAX_BATCH = 32  # queries
_REMEDY = "make the index anew with index.py"


def save_query_encoder(
    folder: Path, model: "RetrievalModel", config: Config, collate: "Collate"
) -> str:
    """Write a model's query encoder and its tokenizer; returns the checksum of the weights.

    Raises ``IndexFolderError`` where they can't be written.
    """
    from utils.checkpoint.files import write_safetensors

    encoder, weights = type(model).build_query_encoder(**config.arch.kwargs()), model.state_dict()
    weights = {name: weights[name].cpu().contiguous().clone() for name in encoder.state_dict()}
    settings = {"arch": resolve_config(config)["arch"], **collate.query_settings}
    try:
        folder.mkdir(exist_ok=True)
        write_safetensors(folder / WEIGHTS, weights, {})
        collate.tokenizer.save_pretrained(folder)
        encoder.save_text_config(folder)
        write_json(folder / SETTINGS, settings)
        return hash_file(folder / WEIGHTS)
    except Exception as error:  # of safetensors and tokenizers: the types share no base class
        raise IndexFolderError(
            f"{folder}: can't be written ({error}); free some space, or give access, and run the "
            "command again"
        ) from error


class QueryEmbedder:
    """Embeds queries on the CPU; may be used by several threads at once.

    Args:
        precision: that the encoder computes in. By default not that of the index: few CPUs are
            faster in half precision, and its error would add to that of the videos' embeddings.

    Raises:
        IndexFolderError: a file is missing, damaged or not the one of the checksum.
        UserError: there is no such precision.
    """

    def __init__(self, folder: Path, checksum: str, precision: PrecisionName = "fp32") -> None:
        import torch

        import model.registrations  # noqa: F401
        from data_loader.collate import Collate, load_tokenizer
        from parsing.blocks import check_block
        from utils.checkpoint.weights import load_weights
        from utils.precision import Precision

        self._unrelated_file = folder / name_unrelated(checksum)
        self._precision = Precision(precision, torch.device("cpu"))
        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            found = hash_file(folder / WEIGHTS)
        except (OSError, ValueError) as error:
            raise IndexFolderError(f"{folder}: can't be read ({error}); {_REMEDY}") from error
        if found != checksum:
            raise IndexFolderError(
                f"{folder / WEIGHTS}: is not the query encoder that the index was made with "
                f"(sha256 {found[:12]}, not {checksum[:12]}); {_REMEDY}"
            )
        self._collate = Collate.for_queries(load_tokenizer(str(folder)), settings)
        block, errors = check_block(settings["arch"], ("arch",), ARCHITECTURES)
        if block is None or errors:
            raise IndexFolderError(f"{folder / SETTINGS}: can't be used ({errors}); {_REMEDY}")
        build = ARCHITECTURES.get(block.type).build_query_encoder
        self._model = build(text_folder=folder, **block.kwargs())
        load_weights(self._model, folder / WEIGHTS)
        self._model.eval()
        self._lock = threading.Lock()
        self._waiting: deque[_PendingQuery] = deque()
        self._unrelated_lock = threading.Lock()
        self._unrelated: NDArray | None = None

    def load_unrelated(self) -> NDArray:
        """Return the embeddings (U, E) of ``UNRELATED_TEXTS``; embedded now where they aren't kept.

        Raises ``IndexFolderError`` where the file that keeps them can't be read.
        """
        with self._unrelated_lock:
            if self._unrelated is None:
                self._unrelated = read_unrelated(self._unrelated_file)
            if self._unrelated is None:  # an index of an earlier release
                self._unrelated = np.stack([self.embed(text) for text in UNRELATED_TEXTS])
            return self._unrelated

    def save_unrelated(self) -> NDArray:
        """Keep them beside the weights, so that no search has to embed them; returns them."""
        embeddings = self.load_unrelated()
        try:
            write_array(self._unrelated_file, embeddings)
        except OSError as error:
            raise IndexFolderError(
                f"{self._unrelated_file}: can't be written ({error.strerror}); free some space, or "
                "give access, and run the command again"
            ) from error
        return embeddings

    def embed(self, query: str) -> NDArray:
        """Return the embedding of a query, (E,) float32 of length 1.

        Queries that wait at the same time are embedded as one batch, which takes little longer than
        one of them; the embeddings then differ by rounding from those of single queries.
        """
        pending = _PendingQuery(query)
        self._waiting.append(pending)
        with self._lock:
            if pending.embedding is None:  # not part of another thread's batch
                self._embed_waiting(pending)
        return pending.embedding

    def _embed_waiting(self, first: "_PendingQuery") -> None:
        import torch

        batch = [first]
        while self._waiting and len(batch) < MAX_BATCH:
            pending = self._waiting.popleft()
            if pending is not first and pending.embedding is None:
                batch.append(pending)
        tokens = self._collate.tokenize_queries([pending.query for pending in batch])
        # Without set_tf32, which is of the whole process: other threads compute meanwhile.
        with torch.inference_mode(), self._precision.autocast():
            embeddings = normalize_rows(self._model(tokens).float().numpy())
        for pending, embedding in zip(batch, embeddings, strict=True):
            pending.embedding = embedding


@dataclass(eq=False)
class _PendingQuery:
    query: str
    embedding: NDArray | None = None  # once it is known


def normalize_rows(rows: NDArray, eps: float = 1e-8) -> NDArray:
    """Return rows (N, E) of length 1, so that their products are cosines."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), eps)
