"""Query encoder of an index, kept in it: a search needs neither checkpoint nor network.

Weights are kept in half precision where that changes next to nothing, and linear layers multiply
in 8-bit integers unless that changes the embeddings too much, which is measured when the encoder
is loaded.

Shapes: Q queries, T tokens of the longest, E width of the common space.
"""

import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from base.config import Config, PrecisionName, resolve_config
from base.registry import ARCHITECTURES
from retrieval.errors import IndexFolderError
from retrieval.index.unrelated import UNRELATED_TEXTS, name_unrelated, read_unrelated
from utils.batching import Batcher
from utils.errors import UserError
from utils.files import atomic_write, hash_file, write_array, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from base.base_model import RetrievalModel
    from base.batch import Tokens
    from data_loader.collate import Collate

logger = logging.getLogger(__name__)

QueryPrecision = Literal["auto", "int8"] | PrecisionName
QUERY_PRECISIONS: tuple[str, ...] = ("auto", "int8", *get_args(PrecisionName))

WEIGHTS, SETTINGS = "weights.safetensors", "query_encoder.json"
MAX_BATCH = 16  # queries; more at a time are no faster, and keep the first waiting
# What linear layers are fitted to and judged by: few words and many, names, numbers, symbols.
SAMPLE_QUERIES = (
    "a red car passes the sign casino",
    "hotel",
    "two people talk in a kitchen while a dog sleeps under the table",
    "Goal! 3:1 after 87 minutes",
    "exit 24 b",
    "a woman in a yellow coat walks past a bakery at night, it is raining and the street is empty",
    "how do I change the tyre of a bicycle?",
    "das Logo von ACME & Co. auf einem weißen Lkw",
)
# Of the samples. Other queries may come out a little worse: all shall be above 0.99.
MIN_COSINE = 0.995
MIN_INT8_WEIGHTS = 5_000_000  # of linear layers; a smaller encoder is fast enough in float32
_MAX_HALF_ERROR = 1e-3  # relative, of a weight matrix; half precision itself is at 2e-4
_GROUP_COST = 12  # tokens whose computing takes as long as one more call of the model
_REMEDY = "make the index anew with index.py"


def save_query_encoder(
    folder: Path, model: "RetrievalModel", config: Config, collate: "Collate"
) -> str:
    """Write a model's query encoder and its tokenizer; returns the checksum of the weights.

    Raises ``IndexFolderError`` where they can't be written.
    """
    from utils.checkpoint.files import write_safetensors

    encoder, weights = type(model).build_query_encoder(**config.arch.kwargs()), model.state_dict()
    halves = {name: shrink_weight(weights[name]) for name in encoder.state_dict()}
    settings = {"arch": resolve_config(config)["arch"], **collate.query_settings}
    try:
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / WEIGHTS) as temporary:  # searches may have the old one mapped
            write_safetensors(temporary, halves, {})
        collate.tokenizer.save_pretrained(folder)
        encoder.save_text_config(folder)
        write_json(folder / SETTINGS, settings)
        return hash_file(folder / WEIGHTS)
    except Exception as error:  # of safetensors and tokenizers: the types share no base class
        raise IndexFolderError(
            f"{folder}: can't be written ({error}); free some space, or give access, and run the "
            "command again"
        ) from error


def shrink_weight(weight: "Tensor") -> "Tensor":
    """Return a copy of a weight as it is kept: matrices in half precision, if they lose little.

    What is lost is much where numbers are above 65504 or nearly all below 1e-5.
    """
    weight = weight.detach().cpu()
    half = weight.half()
    if weight.is_floating_point() and weight.dim() > 1:
        error = (half.float() - weight.float()).norm()
        if error <= _MAX_HALF_ERROR * weight.float().norm():  # False where half is infinite, too
            return half.contiguous()
    return weight.contiguous().clone()


class QueryEmbedder:
    """Embeds queries on the CPU; may be used by several threads at once.

    Args:
        precision: that the encoder computes in, whatever that of the index. ``int8``: linear layers
            in 8-bit integers, all else in float32; ``auto``: that, if the encoder is large, the CPU
            can, and the embeddings of ``SAMPLE_QUERIES`` have cosines of at least ``MIN_COSINE``
            with those in float32, else ``fp32``. Few CPUs are faster in ``bf16`` or ``fp16``.

    Attributes:
        precision: that it computes in, never ``auto``.

    Raises:
        IndexFolderError: a file is missing, damaged or not the one of the checksum.
        UserError: there is no such precision, or this machine has none.
    """

    def __init__(self, folder: Path, checksum: str, precision: QueryPrecision = "auto") -> None:
        import model.registrations  # noqa: F401
        from data_loader.collate import Collate, load_tokenizer
        from parsing.blocks import check_block

        self._unrelated_file = folder / name_unrelated(checksum)
        if precision not in QUERY_PRECISIONS:
            names = ", ".join(QUERY_PRECISIONS)
            raise UserError(f'there is no precision "{precision}"; choose one of {names}')
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
        self._folder = folder
        self._collate = Collate.for_queries(load_tokenizer(str(folder)), settings)
        block, errors = check_block(settings["arch"], ("arch",), ARCHITECTURES)
        if block is None or errors:
            raise IndexFolderError(f"{folder / SETTINGS}: can't be used ({errors}); {_REMEDY}")
        self._arch = block
        self._load_model(precision)
        self._batcher: Batcher[str, NDArray] = Batcher(self._embed_batch, MAX_BATCH)
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

        Queries that wait at the same time are embedded as one batch, which takes less long than one
        after the other; the embeddings then differ by rounding from those of single queries.
        """
        return self._batcher.ask(query)

    def _load_model(self, precision: QueryPrecision) -> None:
        """Load the encoder; ``self.precision`` is then what it computes in."""
        import torch

        from model.int8_linear import find_linears, is_int8_usable
        from utils.precision import Precision

        if precision == "int8" and not is_int8_usable():
            raise UserError('this machine can\'t compute in "int8"; choose "auto"')
        self.precision = "fp32" if precision == "auto" else precision
        self._precision = Precision("fp32", torch.device("cpu"))
        if precision == "int8" or (precision == "auto" and is_int8_usable()):
            self._model = self._read_encoder(keeps_linears=True)
            count = sum(linear.weight.numel() for linear in find_linears(self._model))
            if precision == "int8" or count >= MIN_INT8_WEIGHTS:
                if self._quantize() >= MIN_COSINE or precision == "int8":
                    self.precision = "int8"
                    return
        self._precision = Precision(self.precision, torch.device("cpu"))
        self._model = self._read_encoder(keeps_linears=False)

    def _quantize(self) -> float:
        """Round linear layers; returns the least cosine of samples with float32."""
        from model.int8_linear import quantize_linears

        tokens = self._collate.tokenize_queries(SAMPLE_QUERIES)
        exact = normalize_rows(quantize_linears(self._model, lambda: self._run(tokens)))
        cosine = float((exact * normalize_rows(self._run(tokens))).sum(1).min())
        if not cosine >= MIN_COSINE:
            logger.warning(
                "%s: embeddings of sample queries in int8 have cosines with those in fp32 down to "
                "%.3f; --precision auto then takes fp32, which is slower", self._folder, cosine,
            )  # fmt: skip
        return cosine

    def _read_encoder(self, keeps_linears: bool) -> "nn.Module":
        """Build the encoder, in float32 but for tables of embeddings; and linear layers, if asked.

        Of a table only the rows that a query needs are converted, which is the same.
        """
        from torch import float16, float32, nn

        from model.int8_linear import find_linears
        from utils.checkpoint.weights import build_with_weights

        build, arguments = ARCHITECTURES.get(self._arch.type), self._arch.kwargs()
        encoder = build_with_weights(
            lambda: build.build_query_encoder(text_folder=self._folder, **arguments),
            self._folder / WEIGHTS,
        ).eval()
        for part in encoder.modules():
            if isinstance(part, nn.Embedding) and part.weight.dtype == float16:
                table = part.weight.detach()
                del part.weight
                part.register_buffer("weight", table)  # a model takes its parameters' dtype for its
                part.register_forward_hook(lambda _, inputs, rows: rows.float())
        kept = {id(part.weight) for part in find_linears(encoder)} if keeps_linears else set()
        for weight in encoder.parameters():
            if id(weight) not in kept and weight.is_floating_point():
                weight.data = weight.data.to(float32, copy=True)  # not in the file, not aligned
        return encoder.requires_grad_(False)

    def _embed_batch(self, queries: Sequence[str]) -> list[NDArray]:
        """Return the embedding (E,) of each query."""
        from base.batch import Tokens

        tokens = self._collate.tokenize_queries(queries)
        lengths = tokens.attention_mask.sum(1).numpy()
        embeddings: list[NDArray | None] = [None] * len(queries)
        for rows in group_by_length(lengths):
            longest = int(lengths[rows].max())
            ids, mask = tokens.input_ids[rows, :longest], tokens.attention_mask[rows, :longest]
            part = Tokens(ids, mask)
            for row, embedding in zip(rows, normalize_rows(self._run(part)), strict=True):
                embeddings[row] = embedding
        return embeddings

    def _run(self, tokens: "Tokens") -> NDArray:
        """Return the encoder's output (Q, E) in float32."""
        import torch

        # Without set_tf32, which is of the whole process: other threads compute meanwhile.
        with torch.inference_mode(), self._precision.autocast():
            return self._model(tokens).float().numpy()


def group_by_length(lengths: NDArray) -> list[NDArray]:
    """Divide texts, (Q,) tokens of each, so that encoding the groups takes the least time.

    A group is padded to its longest text; each group is a call of the model. Returns the rows of
    each group.
    """
    order = np.argsort(lengths, kind="stable")
    costs, starts = [0], [0]  # of the first so many texts; where the last group of them begins
    for stop, row in enumerate(order, 1):
        options = [
            costs[start] + (stop - start) * int(lengths[row]) + _GROUP_COST for start in range(stop)
        ]
        starts.append(int(np.argmin(options)))
        costs.append(options[starts[-1]])
    groups, stop = [], len(order)
    while stop:
        groups.append(order[starts[stop] : stop])
        stop = starts[stop]
    return groups


def normalize_rows(rows: NDArray, eps: float = 1e-8) -> NDArray:
    """Return rows (N, E) of length 1, so that their products are cosines."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), eps)
