"""Texts that are encoded once and looked up from then on.

Equal texts, which are those of equal tokens, share one row, and texts go through the encoder in
chunks that depend on nothing but the texts: the same vectors to the bit in whatever order the texts
come and on however many processes.

Shapes: N distinct texts, T tokens, D width of their vectors.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import groupby
from typing import Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from base.base_data_loader import BaseDataLoader
from base.base_model import RetrievalModel
from base.batch import Batch, TokenIds, Tokens
from utils.distributed import BAR_DELAY_S, all_reduce_max, gather, get_dist_info
from utils.precision import Precision

TOKENS_AT_ONCE = 4096

Encode = Callable[[Tokens], Tensor]  # (N, T) -> (N, D)
MustStop = Callable[[], bool]


class TextShards(Protocol):
    """Keeps the vectors of texts while they are made (``EmbeddingFiles``).

    Attributes:
        num_texts: vectors that are kept already.
        shard_size: vectors that are handed over at a time, about.
    """

    num_texts: int
    shard_size: int

    def read_texts(self) -> NDArray | None:
        """Return the vectors that are kept (n, D), in the first process; None: there are none."""

    def write_texts(self, vectors: NDArray) -> None:
        """Keep further vectors (n, D); the first process writes."""


class EmbeddingCache:
    """A vector for each distinct text: 4 N D bytes on the device, twice that while it is made."""

    def __init__(self, texts: Sequence[TokenIds], vectors: Tensor) -> None:
        self.vectors = vectors
        self._row = {text: row for row, text in enumerate(texts)}

    def to(self, device: torch.device) -> "EmbeddingCache":
        """Return the same with its vectors on another device."""
        moved = copy(self)
        moved.vectors = self.vectors.to(device)
        return moved

    def find_rows(self, texts: Iterable[TokenIds]) -> Tensor:
        """Return the row of each text, int64 on the CPU; raises ``KeyError``."""
        return torch.tensor([self._row[text] for text in texts], dtype=torch.int64)

    def add_word_vectors(self, batch: Batch) -> Batch:
        """Return a batch, not yet on the device, whose words need not be encoded any more.

        Raises:
            RuntimeError: a word is not among the texts (``get_words`` of the data set left it out).
        """
        try:
            rows = self.find_rows(batch.words.token_ids())
        except KeyError as error:
            raise RuntimeError(
                f"get_words of the data set names other words than its samples have: the one of "
                f"tokens {error} is missing; videos {', '.join(batch.ids[:4])} …"
            ) from None
        vectors = self.vectors[rows.to(self.vectors.device)]
        return replace(batch, words=replace(batch.words, vectors=vectors))


@torch.no_grad()
def encode_texts(
    texts: Iterable[TokenIds],
    encode: Encode,
    precision: Precision,
    must_stop: MustStop = lambda: False,
    name: str = "texts",
    shards: TextShards | None = None,
) -> EmbeddingCache | None:
    """Encode each distinct text once; several processes take their share of them and get all.

    Args:
        precision: that ``encode`` computes in, on its device.
        must_stop: asked before every chunk.
        shards: keep the vectors while they are made, and have those of a run that was stopped.

    Returns:
        The vectors, float32 in each precision, or None where some process was told to stop.
    """
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    info, device = get_dist_info(), precision.device
    groups = [list(split_by_length(distinct))]
    if shards is not None:
        groups = _group_chunks(groups[0], shards.num_texts, shards.shard_size)
    bar = tqdm(
        total=sum(map(len, groups)), desc=name, unit="chunk", delay=BAR_DELAY_S,
        disable=not info.is_main, dynamic_ncols=True,
    )  # fmt: skip
    with bar, precision.set_tf32(), precision.autocast():
        none = encode(_make_tokens([], device))  # (0, D): the width, where there is no chunk
        vectors = [precision.to_full(none)]
        if shards is not None and shards.num_texts:
            kept = shards.read_texts()
            vectors.append(
                gather(vectors[0] if kept is None else torch.from_numpy(kept).to(device))
            )
        for chunks in groups:
            places = (info.rank, info.rank + 1)
            start, stop = (len(chunks) * rank // info.world_size for rank in places)
            own = [none]
            for chunk in chunks[start:stop]:
                if must_stop():
                    break
                own.append(encode(_make_tokens(chunk, device)))
                bar.update(info.world_size)
            if all_reduce_max(must_stop(), device):
                return None
            vectors.append(gather(precision.to_full(torch.cat(own))))
            if shards is not None:
                shards.write_texts(vectors[-1].cpu().numpy())
    return EmbeddingCache(distinct, torch.cat(vectors))


def _group_chunks(
    chunks: Sequence[list[TokenIds]], num_done: int, size: int
) -> list[list[list[TokenIds]]]:
    """Put the chunks behind the first ``num_done`` texts into groups of at least ``size`` texts."""
    groups: list[list[list[TokenIds]]] = []
    position = 0
    for chunk in chunks:
        position += len(chunk)
        if position <= num_done:
            continue
        if not groups or sum(map(len, groups[-1])) >= size:
            groups.append([])
        groups[-1].append(chunk)
    return groups


def split_by_length(texts: Iterable[TokenIds]) -> Iterator[list[TokenIds]]:
    """Cut texts in ascending order of length into chunks of one length, so that none is padded."""
    for length, group in groupby(texts, key=len):
        same, size = list(group), max(1, TOKENS_AT_ONCE // length)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _make_tokens(texts: Sequence[TokenIds], device: torch.device) -> Tokens:
    ids = torch.tensor(texts, dtype=torch.int64).view(len(texts), -1 if texts else 0).to(device)
    return Tokens(ids, torch.ones_like(ids))


class WordVectorCache:
    """The vectors of OCR words in a run that does not train the word encoder.

    One cache for each data set, made once for the whole run; none where words are trained, or drawn
    for each sample.

    Args:
        model: on the device where the vectors are kept, float32, 4 bytes a number: 0.3 GB for
            100,000 words of width 768.
    """

    def __init__(self, model: RetrievalModel) -> None:
        self._model = model
        self._caches: dict[BaseDataLoader, EmbeddingCache] = {}

    def encode(
        self, loader: BaseDataLoader, precision: Precision, must_stop: MustStop = lambda: False
    ) -> bool:
        """Encode the words of a data set, unless that is done, or they are trained or drawn.

        Every process has to call this.

        Args:
            precision: of what uses the data set, training or evaluation.

        Returns:
            False where some process was told to stop.
        """
        is_of_use = self._model.frozen_word_encoder and not loader.dataset.draws_words
        if not is_of_use or loader in self._caches:
            return True
        texts = loader.word_tokens, self._model.encode_words, precision
        cache = encode_texts(*texts, must_stop, f"{loader.name}: OCR words")
        if cache is None:
            return False
        self._caches[loader] = cache
        return True

    def get(self, loader: BaseDataLoader) -> EmbeddingCache | None:
        """Return the words of a data set, or None: the model encodes them."""
        return self._caches.get(loader)
