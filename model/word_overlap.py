"""Word overlap: a baseline without weights, which counts a caption's words that can be read.

Shapes: B videos, N texts, L words of the longest video, M parts of the longest word, K columns.
"""

import logging
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor

from base.base_model import ModelInput, RetrievalModel
from base.batch import Batch, TokenIds, Tokens
from base.registry import ARCHITECTURES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PADDING = 8  # columns; each takes the largest square that is left, so any int32 is gone after six
NO_COLUMN = -1


@ARCHITECTURES.register("WordOverlap")
class WordOverlap(RetrievalModel):
    """Compares a caption with a video by the distinct words that they share.

    The similarity is the number of distinct words that stand in the caption and among the OCR
    words that the loader gives of the video, times one constant of the data set. A word is a run of
    letters and digits with at least ``min_letters`` letters, lower-cased: by default the rule by
    which captions are said to need reading. No word counts more than another, and videos that share
    as many words have equal similarities, to the bit.

    The embeddings are exact: a column for each word that both captions and videos of the data set
    have, 1 where it occurs, and columns that fill the norm up to a power of two, those of captions
    and videos apart from each other. So the cosine of a caption and a video is the count.

    Args:
        tokenizer: Folder or name of the tokenizer, from whose tokens words are put together again.
        min_letters: Fewest letters of a word.
    """

    video_key = "video"
    has_weights = False

    def __init__(self, tokenizer: str, min_letters: Annotated[int, Field(ge=1)] = 4) -> None:
        super().__init__()
        self.tokenizer_name = tokenizer
        self.min_letters = min_letters
        self.column_of: dict[str, int] | None = None
        self.most_parts = 1
        self.norms = 1, 1  # of captions and videos
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @classmethod
    def describe_input(cls, tokenizer: str, min_letters: int) -> ModelInput:
        """Return what the model takes: OCR words, and no frames."""
        return ModelInput(modalities=("ocr",), tokenizer_name=tokenizer)

    def read_vocabulary(
        self, queries: Sequence[TokenIds], words: Sequence[TokenIds] | None
    ) -> None:
        """Give each word that is in a caption and in a video its column."""
        asked = [self.find_words(text) for text in queries]
        spotted = [self.find_words(text) for text in words or ()]
        shared = set().union(*asked) & set().union(*spotted)
        if not shared:
            logger.warning("no word of any caption can be read in any video: similarities are 0")
        self.column_of = {word: column for column, word in enumerate(sorted(shared))}
        self.most_parts = max((len(parts & shared) for parts in spotted), default=1) or 1
        longest = max((len(text & shared) for text in asked), default=0)
        self.norms = find_norm(longest), find_norm(len(shared))

    def find_words(self, text: TokenIds) -> set[str]:
        """Return the words of a text's tokens, lower-cased; special tokens have none."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_name)
        plain = self._tokenizer.decode(
            list(text), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        words = re.findall(r"\w+", plain.lower())
        return {word for word in words if sum(map(str.isalpha, word)) >= self.min_letters}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Embed the queries and the videos of a batch."""
        return {"text": self.embed_queries(batch.query), **self.embed_videos(batch)}

    def embed_queries(self, queries: Tokens) -> Tensor:
        """(N, T) -> (N, K)."""
        masks = queries.attention_mask.bool().tolist()
        texts = [
            tuple(token for token, real in zip(ids, mask, strict=True) if real)
            for ids, mask in zip(queries.input_ids.tolist(), masks, strict=True)
        ]
        found = [self._find_columns(text) for text in texts]
        columns = _pad(found, max(map(len, found), default=0), queries.input_ids.device)
        return self._make_embeddings(columns.long(), is_video=False)

    def encode_words(self, words: Tokens) -> Tensor:
        """Return the columns of each word's parts (N, M), -1 where there is none."""
        found = [self._find_columns(tuple(ids)) for ids in words.input_ids.tolist()]
        return _pad(found, self.most_parts, words.input_ids.device)

    def embed_videos(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``video`` (B, K)."""
        words = batch.words
        vectors = words.vectors
        if vectors is None:
            found = [self._find_columns(text) for text in words.token_ids()]
            vectors = _pad(found, self.most_parts, words.index.device)
        columns = vectors[words.index].masked_fill(~words.mask[..., None], NO_COLUMN)  # (B, L, M)
        return {"video": self._make_embeddings(columns.flatten(1).long(), is_video=True)}

    def _find_columns(self, text: TokenIds) -> list[int]:
        if self.column_of is None:
            raise RuntimeError("read_vocabulary comes before the first text")
        return sorted(self.column_of[w] for w in self.find_words(text) if w in self.column_of)

    def _make_embeddings(self, columns: Tensor, is_video: bool) -> Tensor:
        """Return 1 in the columns of each row (N, any), and what fills up its norm (N, K)."""
        assert self.column_of is not None  # ``_find_columns`` has asked
        count = len(self.column_of)
        found = torch.zeros(len(columns), count + 1, device=columns.device)
        found.scatter_(1, torch.where(columns < 0, count, columns), 1)
        found = found[:, :count]
        norm = self.norms[is_video]
        padding = torch.zeros(len(found), 2, PADDING, device=columns.device)
        rest = [norm * norm - int(shared) for shared in found.sum(1).tolist()]
        rows = [split_into_squares(value) for value in rest]
        padding[:, int(is_video)] = torch.tensor(rows, device=columns.device).view(-1, PADDING)
        return torch.cat([found, padding.flatten(1)], dim=1)


def find_norm(most: int) -> int:
    """Return a power of two whose square is at least ``most``."""
    return 1 << math.ceil(math.log2(max(1, most)) / 2)


def split_into_squares(number: int) -> list[float]:
    """Return ``PADDING`` whole numbers whose squares sum up to ``number``."""
    roots = []
    for _ in range(PADDING):
        roots.append(float(math.isqrt(number)))
        number -= math.isqrt(number) ** 2
    return roots


def _pad(rows: Iterable[Sequence[int]], width: int, device: torch.device) -> Tensor:
    """Return (N, width) float32; float32 holds whole numbers up to 2**24."""
    padded = [[*row, *[NO_COLUMN] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.float32, device=device).view(len(padded), width)
