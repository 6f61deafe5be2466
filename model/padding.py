"""Texts in a few sizes, for compiled encoders: each new size may cost a compilation.

Shapes: N texts, T tokens of the longest, U distinct words.
"""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from base.batch import Tokens, Words

FEWEST_ROWS = 32
TOKEN_STEP = 8


def padded_rows(count: int) -> int:
    """Return the next power of two, at least 32."""
    return max(FEWEST_ROWS, 1 << max(count - 1, 0).bit_length())


def padded_length(length: int, most: int) -> int:
    """Return the next multiple of 8, no more than the ``most`` tokens that the model takes."""
    return max(length, min(-(-length // TOKEN_STEP) * TOKEN_STEP, most))


def pad_tokens(tokens: Tokens, most: int) -> Tokens:
    """Pad (N, T) with masked tokens, and with texts to be cut off again.

    A text of padding has its mask set: attention to nothing at all would not be a number.

    Args:
        tokens: the texts.
        most: tokens that the model takes.
    """
    rows, length = tokens.input_ids.shape
    right = padded_length(length, most) - length
    below = padded_rows(rows) - rows
    return Tokens(
        F.pad(tokens.input_ids, (0, right, 0, below)),
        F.pad(F.pad(tokens.attention_mask, (0, right)), (0, 0, 0, below), value=1),
    )


def similar_words(words: Words, most: int) -> Iterator[Tokens]:
    """Yield the distinct words in their order, those of one padded token count together.

    Args:
        words: of a batch.
        most: tokens that the model takes.
    """
    counts: dict[int, int] = {}  # padded token count -> words; ascending, as the groups are
    for length, count in words.groups:
        padded = padded_length(length, most)
        counts[padded] = counts.get(padded, 0) + count
    lengths = torch.tensor([length for length, count in words.groups for _ in range(count)])
    lengths = lengths.to(words.input_ids.device)
    start = 0
    for padded, count in counts.items():
        ids = words.input_ids[start : start + count, :padded]
        places = torch.arange(ids.shape[1], device=ids.device)
        mask = places[None] < lengths[start : start + count, None]
        yield Tokens(ids, mask.to(torch.int64))
        start += count
