"""Tokenisation and batching: stacked frames, query tokens, OCR words."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from base.batch import Batch, Sample, TokenIds, Tokens, Words
from data_loader.ocr.ocr_words import EMPTY_WORD, TRACK_SIZE
from utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_CACHED_WORDS = 100_000  # distinct words whose tokens a process keeps, about 30 MB
TOKENIZER_FILES = "tokenizer.json (or vocab.txt) and tokenizer_config.json"


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """Load a tokenizer by Hugging Face name or local folder; raises ``UserError``."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # of hub, JSON and tokenizers: the types share no base class
        detail = " ".join(str(error).split())[:300]
        remedy = f"the folder must hold {TOKENIZER_FILES}"
        if not Path(name).is_dir():
            remedy = (
                "is no local folder and could not be loaded from the Hugging Face hub; without "
                f"network put {TOKENIZER_FILES} of {name} into a folder and give that folder in "
                "its place in arch.args (FrozenInTime: arch.args.text_params.model)"
            )
        raise UserError(f'tokenizer "{name}": {remedy} ({detail})') from error
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise UserError(
            f'tokenizer "{name}": has no vocabulary; the folder must hold {TOKENIZER_FILES}'
        )
    return tokenizer


class Collate:
    """Turns samples into a batch; runs in the loader's workers.

    Args:
        tokenizer: of the text model; its limit of tokens always holds.
        with_words: whether the model reads OCR words.
        max_tokens: queries are cut to this many tokens; None: no further limit.
        repeat_words: whether a batch has an OCR word as often as it is shown, and not once.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        with_words: bool,
        max_tokens: int | None = None,
        repeat_words: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.with_words = with_words
        self.max_tokens = max_tokens
        self.repeat_words = repeat_words
        self._cached_tokens: dict[str, list[int]] = {}

    def __call__(self, samples: Sequence[Sample | UserError]) -> Batch | UserError:
        """Return the batch of the samples, or the first sample that is an error."""
        for sample in samples:
            if isinstance(sample, UserError):
                return sample
        captions = [caption for sample in samples for caption in sample.captions]
        rows = [row for row, sample in enumerate(samples) for _ in sample.captions]
        has_video = samples[0].frames is not None
        has_color = samples[0].color is not None
        return Batch(
            ids=[sample.id for sample in samples],
            video_index=torch.tensor([sample.video_index for sample in samples]),
            query=self.tokenize_queries(captions),
            query_row=torch.tensor(rows, dtype=torch.int64),
            video=torch.stack([sample.frames for sample in samples]) if has_video else None,
            num_frames=torch.tensor([sample.num_frames for sample in samples]),
            color=torch.from_numpy(np.stack([s.color for s in samples])) if has_color else None,
            words=self._collate_words(samples) if self.with_words else None,
            unreadable=[s.unreadable for s in samples if s.unreadable is not None],
            ocr_missing=[s.ocr_missing for s in samples if s.ocr_missing is not None],
            num_fillers=sum(sample.is_filler for sample in samples),
            ocr_skipped={s.id: s.ocr_skipped for s in samples if s.ocr_skipped},
        )

    def tokenize_captions(self, captions: Iterable[str]) -> list[TokenIds]:
        """Return the tokens that each caption has in a batch."""
        lowered = [caption.lower() for caption in captions]
        return [tuple(ids) for ids in self._tokenize(lowered, self.max_tokens)]

    def tokenize_distinct_words(self, videos: Iterable[Sequence[str]]) -> list[TokenIds]:
        """Return the tokens of each distinct OCR word of the videos."""
        words = dict.fromkeys(word for video in videos for word in video or [EMPTY_WORD])
        return [tuple(ids) for ids in self._tokenize(list(words))]

    def tokenize_queries(self, texts: Sequence[str]) -> Tokens:
        """Return the padded tokens of the lower-cased queries."""
        tokens = self._tokenize([text.lower() for text in texts], self.max_tokens)
        ids = pad_tokens(tokens, self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in tokens], dtype=torch.int64)
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        return Tokens(ids, mask.to(torch.int64))

    def get_texts(self, batch: Batch, row: int) -> tuple[list[str], list[str] | None]:
        """Return the queries and the OCR words, None where the model reads none, of a video.

        They are decoded from the model's tokens, so what the tokenizer does not know shows.
        """
        is_query = batch.query_row == row
        query = batch.query
        tokens = zip(query.input_ids[is_query], query.attention_mask[is_query], strict=True)
        queries = [self._decode(ids[mask.bool()]) for ids, mask in tokens]
        if batch.words is None:
            return queries, None
        shown = batch.words.index[row][batch.words.mask[row]]
        words = [self._decode(ids) for ids in batch.words.input_ids[shown]]
        return queries, [word for word in words if word]

    def _decode(self, ids: torch.Tensor) -> str:
        tokenizer = self.tokenizer
        names = tokenizer.convert_ids_to_tokens(ids.tolist())
        special = {tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token}
        return tokenizer.convert_tokens_to_string([n for n in names if n not in special])

    def _tokenize(self, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
        """Return unpadded token ids, cut to the limit and to the tokenizer's limit."""
        if not texts:
            return []
        max_length = self.tokenizer.model_max_length
        limit = max_length if limit is None else min(limit, max_length)
        return self.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]

    def _collate_words(self, samples: Sequence[Sample]) -> Words:
        texts = [sample.words or [EMPTY_WORD] for sample in samples]
        distinct = list(dict.fromkeys(word for words in texts for word in words))
        cached = self._cached_tokens  # words recur from batch to batch
        if len(cached) > MAX_CACHED_WORDS:
            cached.clear()
        new = [word for word in distinct if word not in cached]
        cached.update(zip(new, self._tokenize(new), strict=True))
        tokens = {word: cached[word] for word in distinct}
        tracks = [sample.tracks for sample in samples]
        laid_out = lay_out_words(tokens, texts, tracks, self.tokenizer.pad_token_id)
        return laid_out.repeat() if self.repeat_words else laid_out


def lay_out_words(
    tokens: dict[str, list[int]],
    texts: Sequence[Sequence[str]],
    tracks: Sequence[np.ndarray | None],
    pad_id: int,
) -> Words:
    """Lay out the words of a batch: the distinct ones, shortest first, and those of each video.

    Args:
        tokens: token ids of each distinct word.
        texts: the words of each video, at least one.
        tracks: (words, 12) of each video; None: zeros.
        pad_id: of the padding token.
    """
    order = sorted(tokens, key=lambda word: len(tokens[word]))  # stable
    position = {word: number for number, word in enumerate(order)}
    longest = max(len(words) for words in texts)
    index = torch.zeros(len(texts), longest, dtype=torch.int64)
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    track = torch.zeros(len(texts), longest, TRACK_SIZE)
    for row, words in enumerate(texts):
        index[row, : len(words)] = torch.tensor([position[word] for word in words])
        mask[row, : len(words)] = True
        vectors = tracks[row]
        if vectors is not None and len(vectors):
            track[row, : len(words)] = torch.as_tensor(vectors, dtype=torch.float32)
    groups = groupby(len(tokens[word]) for word in order)
    return Words(
        input_ids=pad_tokens([tokens[word] for word in order], pad_id),
        groups=tuple((length, len(list(same))) for length, same in groups),
        index=index,
        mask=mask,
        tracks=track,
    )


def pad_tokens(rows: Sequence[Sequence[int]], pad_id: int) -> torch.Tensor:
    """Pad rows of token ids to one (N, T) tensor."""
    width = max((len(row) for row in rows), default=0)
    padded = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded
