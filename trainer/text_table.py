"""Texts that are encoded once and looked up from then on.

Equal texts, which are those of equal tokens, share one row, and texts go through the encoder in
chunks that depend on nothing but the texts: the same vectors to the bit in whatever order the texts
come and on however many processes.

Shapes: N distinct texts, T tokens, D width of their vectors.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor
from tqdm import tqdm

from base.batch import Batch, TokenIds, Tokens
from utils.distributed import agree, gather, ranks

TOKENS_AT_ONCE = 4096
_SHOWN_AFTER_S = 1.0  # what is done before that needs no bar

Encode = Callable[[Tokens], Tensor]  # (N, T) -> (N, D)
MustStop = Callable[[], bool]


class TextTable:
    """A vector for each distinct text: 4 N D bytes on the device, twice that while it is made.

    Args:
        texts: the distinct texts.
        vectors: (N, D), in their order.
    """

    def __init__(self, texts: Sequence[TokenIds], vectors: Tensor) -> None:
        self.vectors = vectors
        self._row = {text: row for row, text in enumerate(texts)}

    def rows(self, texts: Iterable[TokenIds]) -> Tensor:
        """Return the row of each text, int64 on the CPU; raises ``KeyError``."""
        return torch.tensor([self._row[text] for text in texts], dtype=torch.int64)

    def with_vectors(self, batch: Batch) -> Batch:
        """Return a batch, not yet on the device, whose words need not be encoded any more.

        Raises:
            RuntimeError: a word is not in the table (``words_of`` of the data set left it out).
        """
        try:
            rows = self.rows(batch.words.token_ids())
        except KeyError as error:
            raise RuntimeError(
                f"words_of of the data set names other words than its samples have: the one of "
                f"tokens {error} is missing; videos {', '.join(batch.ids[:4])} …"
            ) from None
        vectors = self.vectors[rows.to(self.vectors.device)]
        return replace(batch, words=replace(batch.words, vectors=vectors))


@torch.no_grad()
def encode_texts(
    texts: Iterable[TokenIds],
    encode: Encode,
    device: torch.device,
    must_stop: MustStop = lambda: False,
    name: str = "texts",
) -> TextTable | None:
    """Encode each distinct text once; several processes take their share of them and get all.

    Args:
        texts: in any order, any number of times.
        encode: the model's, on ``device`` and in evaluation.
        device: where the vectors are wanted.
        must_stop: asked before every chunk.
        name: for the progress bar.

    Returns:
        The table, or None where some process was told to stop.
    """
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    chunks, place = list(equally_long(distinct)), ranks()
    start, stop = (len(chunks) * rank // place.size for rank in (place.rank, place.rank + 1))
    vectors = [encode(_tokens([], device))]  # (0, D): the width, where this process has no chunk
    bar = {"desc": name, "unit": "chunk", "delay": _SHOWN_AFTER_S, "dynamic_ncols": True}
    for chunk in tqdm(chunks[start:stop], disable=not place.is_first, **bar):
        if must_stop():
            break
        vectors.append(encode(_tokens(chunk, device)))
    if agree(must_stop(), device):
        return None
    return TextTable(distinct, gather(torch.cat(vectors)))


def equally_long(texts: Iterable[TokenIds]) -> Iterator[list[TokenIds]]:
    """Cut texts in ascending order of length into chunks of one length, so that none is padded."""
    for length, group in groupby(texts, key=len):
        same, size = list(group), max(1, TOKENS_AT_ONCE // length)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _tokens(texts: Sequence[TokenIds], device: torch.device) -> Tokens:
    ids = torch.tensor(texts, dtype=torch.int64).view(len(texts), -1 if texts else 0).to(device)
    return Tokens(ids, torch.ones_like(ids))
