"""Tokenisation and batching: stacked frames, query tokens, OCR words."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from base.base_model import ModelInput
from base.batch import Batch, Sample, TokenIds, Tokens, Words
from data_loader.ocr.ocr_words import EMPTY_WORD, TRACK_SIZE
from data_loader.tokenizers import LimitedTokenizer, load_tokenizer
from utils.errors import UserError

if TYPE_CHECKING:
    from data_loader.tokenizers import Tokenizer

MAX_CACHED_WORDS = 100_000  # distinct words whose tokens a process keeps, about 30 MB
QUERY_PLACE = "{}"  # in a prompt
# Arguments of ``Collate`` that change a query's tokens; an index keeps them.
QUERY_SETTINGS = ("max_tokens", "lowercase", "prompt", "token_limit")


class Collate:
    """Turns samples into a batch; runs in the loader's workers.

    Args:
        tokenizer: of the text model; its limit of tokens always holds.
        with_words: whether the model reads OCR words.
        max_tokens: queries are cut to this many tokens; None: no further limit.
        repeat_words: whether a batch has an OCR word as often as it is shown, and not once.
        lowercase: whether queries are lower-cased; what is made of OCR words is not asked here.
        prompt: what a query, but no OCR word, is put into, in place of ``{}``.
        joins_words: whether the words of a video are one text, in their order, without a track.
        token_limit: most tokens of a text of ``tokenizer``, where its own limit is not the model's;
            None: it is.
        word_tokenizer: of OCR words, with its own limit; None: ``tokenizer``.

    Raises:
        UserError: there is no place for the query in the prompt.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        with_words: bool,
        max_tokens: int | None = None,
        repeat_words: bool = False,
        lowercase: bool = True,
        prompt: str = QUERY_PLACE,
        joins_words: bool = False,
        token_limit: int | None = None,
        word_tokenizer: "Tokenizer | None" = None,
    ) -> None:
        if QUERY_PLACE not in prompt:
            raise UserError(
                f'the prompt "{prompt}" has no {QUERY_PLACE}, where the query would stand; add it'
            )
        self.tokenizer = tokenizer
        self.with_words = with_words
        self.max_tokens = max_tokens
        self.repeat_words = repeat_words
        self.lowercase = lowercase
        self.prompt = prompt
        self.joins_words = joins_words
        self.token_limit = token_limit
        self._of_queries = self._of_words = LimitedTokenizer(tokenizer, token_limit)
        if word_tokenizer is not None:
            self._of_words = LimitedTokenizer(word_tokenizer)
        self._cached_tokens: dict[str, list[int]] = {}

    @classmethod
    def for_model(
        cls, wanted: ModelInput, max_tokens: int | None = None, training: bool = False
    ) -> "Collate":
        """Return what makes the batches of a model; its tokenizer is loaded.

        Args:
            wanted: what the model takes.
            max_tokens: of a query, from the configuration.
            training: whether it is trained on them.

        Raises:
            UserError: the tokenizer can't be had.
        """
        words = wanted.word_tokenizer_name if wanted.uses_ocr else None
        return cls(
            load_tokenizer(wanted.tokenizer_name),
            with_words=wanted.uses_ocr,
            max_tokens=max_tokens,
            repeat_words=wanted.repeat_words and training,
            lowercase=wanted.lowercase,
            prompt=wanted.prompt,
            joins_words=wanted.joins_words,
            token_limit=wanted.max_tokens,
            word_tokenizer=None if words is None else load_tokenizer(words),
        )

    @property
    def query_settings(self) -> dict[str, Any]:
        """What beside the tokenizer decides on the tokens of a query, as JSON values."""
        return {name: getattr(self, name) for name in QUERY_SETTINGS}

    @classmethod
    def for_queries(cls, tokenizer: "Tokenizer", settings: Mapping[str, Any]) -> "Collate":
        """Return what tokenizes queries alone.

        Args:
            tokenizer: of the text model.
            settings: some of ``query_settings``, of which former releases had ``max_tokens`` alone.
        """
        known = {name: settings[name] for name in QUERY_SETTINGS if name in settings}
        return cls(tokenizer, with_words=False, **known)

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
        return [tuple(ids) for ids in self._tokenize_queries(captions)]

    def tokenize_distinct_words(self, videos: Iterable[Sequence[str]]) -> list[TokenIds]:
        """Return the tokens of each distinct OCR word of the videos, of joined words likewise."""
        words = dict.fromkeys(word for video in videos for word in self._choose_words(video))
        return [tuple(ids) for ids in self._of_words.tokenize(list(words))]

    def tokenize_queries(self, texts: Sequence[str]) -> Tokens:
        """Return the padded tokens of the queries, as the model takes them."""
        tokens = self._tokenize_queries(texts)
        ids = pad_tokens(tokens, self._of_queries.pad_id)
        lengths = torch.tensor([len(row) for row in tokens], dtype=torch.int64)
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        return Tokens(ids, mask.to(torch.int64))

    def _tokenize_queries(self, texts: Iterable[str]) -> list[list[int]]:
        queries = (text.lower() if self.lowercase else text for text in texts)
        asked = [self.prompt.replace(QUERY_PLACE, query) for query in queries]
        return self._of_queries.tokenize(asked, self.max_tokens)

    def get_texts(self, batch: Batch, row: int) -> tuple[list[str], list[str] | None]:
        """Return the queries and the OCR words, None where the model reads none, of a video.

        They are decoded from the model's tokens, so what the tokenizer does not know shows.
        """
        is_query = batch.query_row == row
        query = batch.query
        tokens = zip(query.input_ids[is_query], query.attention_mask[is_query], strict=True)
        queries = [self._of_queries.decode(ids[mask.bool()].tolist()) for ids, mask in tokens]
        if batch.words is None:
            return queries, None
        shown, distinct = batch.words.index[row][batch.words.mask[row]], batch.words.token_ids()
        words = [self._of_words.decode(distinct[number]) for number in shown.tolist()]
        return queries, [word for word in words if word]

    def _choose_words(self, words: Sequence[str]) -> list[str]:
        """Return the texts that the model is given of a video's words, one at least."""
        if self.joins_words and words:
            return [" ".join(words)]
        return list(words) or [EMPTY_WORD]

    def _collate_words(self, samples: Sequence[Sample]) -> Words:
        texts = [self._choose_words(sample.words) for sample in samples]
        distinct = list(dict.fromkeys(word for words in texts for word in words))
        # Words recur from batch to batch; what a whole video says is long, and may not.
        cached = {} if self.joins_words else self._cached_tokens
        if len(cached) > MAX_CACHED_WORDS:
            cached.clear()
        new = [word for word in distinct if word not in cached]
        cached.update(zip(new, self._of_words.tokenize(new), strict=True))
        tokens = {word: cached[word] for word in distinct}
        tracks = [None if self.joins_words else sample.tracks for sample in samples]
        laid_out = lay_out_words(tokens, texts, tracks, self._of_words.pad_id)
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
