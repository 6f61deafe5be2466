"""Samples -> a batch: frames stacked, queries tokenised, each distinct OCR word once."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from base.batch import Batch, Sample, TokenIds, Tokens, Words
from utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands for a video in which nothing was read, with a zero track vector (published behaviour).
NO_WORDS = " "
TRACK_SIZE = 12
# Distinct words whose tokens a process keeps, some 30 MB.
MOST_KEPT_WORDS = 100_000


class Collate:
    """Turns samples into a batch; runs in the loader's workers.

    Args:
        tokenizer: of the text model.
        with_words: whether the model reads OCR words.
        max_tokens: queries are cut to this many tokens; None: the tokenizer's own limit,
            which also holds for words.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        with_words: bool,
        max_tokens: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.with_words = with_words
        self.max_tokens = max_tokens
        self._word_tokens: dict[str, list[int]] = {}

    def __call__(self, samples: Sequence[Sample | UserError]) -> Batch | UserError:
        """Return the batch of the samples in their order, or the first sample that is an error."""
        errors = [sample for sample in samples if isinstance(sample, UserError)]
        return errors[0] if errors else self._batch(samples)

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        queries = [caption for sample in samples for caption in sample.captions]
        rows = [row for row, sample in enumerate(samples) for _ in sample.captions]
        has_video = samples[0].frames is not None
        has_color = samples[0].color is not None
        return Batch(
            ids=[sample.id for sample in samples],
            video_index=torch.tensor([sample.video_index for sample in samples]),
            query=self.queries(queries),
            query_row=torch.tensor(rows, dtype=torch.int64),
            video=torch.stack([sample.frames for sample in samples]) if has_video else None,
            num_frames=torch.tensor([sample.num_frames for sample in samples]),
            color=torch.from_numpy(np.stack([s.color for s in samples])) if has_color else None,
            words=self._words(samples) if self.with_words else None,
            unreadable=[s.unreadable for s in samples if s.unreadable is not None],
            ocr_missing=[s.ocr_missing for s in samples if s.ocr_missing is not None],
            num_fillers=sum(sample.is_filler for sample in samples),
            ocr_skipped={s.id: s.ocr_skipped for s in samples if s.ocr_skipped},
        )

    def query_tokens(self, captions: Iterable[str]) -> list[TokenIds]:
        """Return the tokens that each caption has in a batch."""
        lowered = [caption.lower() for caption in captions]
        return [tuple(ids) for ids in self._tokens(lowered, self.max_tokens)]

    def word_tokens(self, videos: Iterable[Sequence[str]]) -> list[TokenIds]:
        """Return the tokens of each distinct word of some videos' words."""
        words = dict.fromkeys(word for video in videos for word in video or [NO_WORDS])
        return [tuple(ids) for ids in self._tokens(list(words))]

    def queries(self, texts: Sequence[str]) -> Tokens:
        """Return queries as the model is given them: lower-cased, as tokens."""
        tokens = self._tokens([text.lower() for text in texts], self.max_tokens)
        ids = pad(tokens, self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in tokens], dtype=torch.int64)
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        return Tokens(ids, mask.to(torch.int64))

    def texts(self, batch: Batch, row: int) -> tuple[list[str], list[str] | None]:
        """Return the queries and the OCR words of a video as the model is given them.

        They are put together from tokens, so what the tokenizer does not know shows as such; None
        where the model reads no words.
        """
        own = batch.query_row == row
        tokens = zip(batch.query.input_ids[own], batch.query.attention_mask[own], strict=True)
        queries = [self._text(ids[mask.bool()]) for ids, mask in tokens]
        if batch.words is None:
            return queries, None
        shown = batch.words.index[row][batch.words.mask[row]]
        words = [self._text(ids) for ids in batch.words.input_ids[shown]]
        return queries, [word for word in words if word]

    def _text(self, ids: torch.Tensor) -> str:
        names = self.tokenizer.convert_ids_to_tokens(ids.tolist())
        frame = {self.tokenizer.cls_token, self.tokenizer.sep_token, self.tokenizer.pad_token}
        kept = [name for name in names if name not in frame]
        return self.tokenizer.convert_tokens_to_string(kept)

    def _tokens(self, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
        """Unpadded token ids of each text, cut to the limit and to the tokenizer's own."""
        if not texts:
            return []
        most = self.tokenizer.model_max_length
        limit = most if limit is None else min(limit, most)
        return self.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]

    def _words(self, samples: Sequence[Sample]) -> Words:
        texts = [sample.words or [NO_WORDS] for sample in samples]
        distinct = list(dict.fromkeys(word for words in texts for word in words))
        return distinct_words(
            self._tokens_of_words(distinct),
            texts,
            [sample.tracks for sample in samples],
            self.tokenizer.pad_token_id,
        )

    def _tokens_of_words(self, distinct: Sequence[str]) -> dict[str, list[int]]:
        """Token ids of each word; the same words come again, so each is tokenised once."""
        known = self._word_tokens
        if len(known) > MOST_KEPT_WORDS:
            known.clear()
        new = [word for word in distinct if word not in known]
        known.update(zip(new, self._tokens(new), strict=True))
        return {word: known[word] for word in distinct}


def distinct_words(
    tokens: dict[str, list[int]],
    texts: Sequence[Sequence[str]],
    tracks: Sequence[np.ndarray | None],
    pad_id: int,
) -> Words:
    """Lay out the words of a batch: shortest first, and for each video which ones it shows.

    Args:
        tokens: token ids of each distinct word.
        texts: the words of each video, at least one.
        tracks: (words, 12) of each video; None: zeros.
        pad_id: the padding token.
    """
    order = sorted(tokens, key=lambda word: len(tokens[word]))  # stable: first come, first laid
    place = {word: position for position, word in enumerate(order)}
    longest = max(len(words) for words in texts)
    index = torch.zeros(len(texts), longest, dtype=torch.int64)
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    track = torch.zeros(len(texts), longest, TRACK_SIZE)
    for row, words in enumerate(texts):
        index[row, : len(words)] = torch.tensor([place[word] for word in words])
        mask[row, : len(words)] = True
        vectors = tracks[row]
        if vectors is not None and len(vectors):
            track[row, : len(words)] = torch.as_tensor(vectors, dtype=torch.float32)
    groups = groupby(len(tokens[word]) for word in order)
    return Words(
        input_ids=pad([tokens[word] for word in order], pad_id),
        groups=tuple((length, len(list(same))) for length, same in groups),
        index=index,
        mask=mask,
        tracks=track,
    )


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> torch.Tensor:
    """Pad rows of token ids to one (N, T) tensor."""
    width = max((len(row) for row in rows), default=0)
    padded = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded
