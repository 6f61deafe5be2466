"""What embeds queries, kept in the index: a search needs neither checkpoint nor network.

Shapes: E width of the common space.
"""

import json
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.config import Config, resolved
from base.registry import ARCHITECTURES
from retrieval.errors import IndexFolderError
from retrieval.storage.contents import sha256_of
from utils.files import write_json

if TYPE_CHECKING:
    from base.base_model import RetrievalModel
    from data_loader.collate import Collate

WEIGHTS, SETTINGS = "weights.safetensors", "query_encoder.json"
MOST_AT_ONCE = 32  # queries of a batch
_ANEW = "make the index anew with index.py"


def save_query_encoder(
    folder: Path, model: "RetrievalModel", config: Config, collate: "Collate"
) -> str:
    """Write a model's query encoder and its tokenizer; returns the checksum of the weights.

    Args:
        folder: made if need be.
        model: with its weights.
        config: the model's.
        collate: gives the tokenizer and the most tokens of a query.

    Raises:
        IndexFolderError: they can't be written.
    """
    from utils.checkpoint.safe_tensors import write_safetensors

    encoder, weights = type(model).query_encoder(**config.arch.kwargs()), model.state_dict()
    own = {name: weights[name].cpu().contiguous().clone() for name in encoder.state_dict()}
    settings = {"arch": resolved(config)["arch"], "max_tokens": collate.max_tokens}
    try:
        folder.mkdir(exist_ok=True)
        write_safetensors(folder / WEIGHTS, own, {})
        collate.tokenizer.save_pretrained(folder)
        encoder.save_text_config(folder)
        write_json(folder / SETTINGS, settings)
        return sha256_of(folder / WEIGHTS)
    except Exception as error:  # of safetensors and tokenizers: the types share no base class
        raise IndexFolderError(
            f"{folder}: can't be written ({error}); free some space, or give access, and run the "
            "command again"
        ) from error


class QueryEncoder:
    """Embeds queries; may be used by several threads at once.

    Args:
        folder: as ``save_query_encoder`` has written it.
        checksum: what it has returned.

    Raises:
        IndexFolderError: a file is missing, damaged or another one.
    """

    def __init__(self, folder: Path, checksum: str) -> None:
        import model.registrations  # noqa: F401
        from data_loader.collate import Collate
        from data_loader.tokenizer import load_tokenizer
        from utils.checkpoint.weights import load_weights

        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            found = sha256_of(folder / WEIGHTS)
        except (OSError, ValueError) as error:
            raise IndexFolderError(f"{folder}: can't be read ({error}); {_ANEW}") from error
        if found != checksum:
            raise IndexFolderError(
                f"{folder / WEIGHTS}: is not the query encoder that the index was made with "
                f"(sha256 {found[:12]}, not {checksum[:12]}); {_ANEW}"
            )
        self._collate = Collate(load_tokenizer(str(folder)), False, settings["max_tokens"])
        self._model = _build(settings["arch"], folder)
        load_weights(self._model, folder / WEIGHTS)
        self._model.eval()
        self._lock = threading.Lock()
        self._waiting: deque[_Asked] = deque()

    def embed(self, query: str) -> NDArray:
        """Return the embedding of a query, (E,) float32 of length 1.

        Queries that wait at the same time are embedded as one batch, which takes little longer than
        one of them; their embeddings then differ from those alone by rounding.
        """
        own = _Asked(query)
        self._waiting.append(own)
        with self._lock:
            if own.embedding is None:  # no thread before has taken it along
                self._embed_waiting(own)
        return own.embedding

    def _embed_waiting(self, own: "_Asked") -> None:
        import torch

        batch = [own]
        while self._waiting and len(batch) < MOST_AT_ONCE:
            asked = self._waiting.popleft()
            if asked is not own and asked.embedding is None:
                batch.append(asked)
        tokens = self._collate.queries([asked.query for asked in batch])
        with torch.inference_mode():
            embeddings = unit(self._model(tokens).float().numpy())
        for asked, embedding in zip(batch, embeddings, strict=True):
            asked.embedding = embedding


@dataclass(eq=False)
class _Asked:
    """A query and, once it is known, its embedding."""

    query: str
    embedding: NDArray | None = None


def _build(arch: dict[str, Any], folder: Path) -> Any:
    from parsing.blocks import check_block

    args = arch["args"] | {
        "text_params": arch["args"]["text_params"] | {"model": str(folder), "pretrained": False}
    }
    block, faults = check_block({"type": arch["type"], "args": args}, ("arch",), ARCHITECTURES)
    if block is None or faults:
        raise IndexFolderError(f"{folder / SETTINGS}: can't be used ({faults}); {_ANEW}")
    return ARCHITECTURES.get(block.type).query_encoder(**block.kwargs())


def unit(rows: NDArray, eps: float = 1e-8) -> NDArray:
    """Return rows (N, E) of length 1, so that their products are cosines."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), eps)
