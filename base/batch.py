"""Samples and batches, as they travel from the data loader to the model.

Shapes: B videos, F frames, Q queries, U distinct words, L words of the longest video, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

TokenIds = tuple[int, ...]  # of one text, without padding


@dataclass(frozen=True)
class SampleKey:
    """Which sample a loader asks for; the draws of a training sample depend on nothing else.

    Attributes:
        epoch: from 1.
        index: of the sample in the data set.
        is_filler: whether the sample only keeps a process busy for which none was left.
    """

    epoch: int
    index: int
    is_filler: bool = False


@dataclass(frozen=True)
class Unreadable:
    """A video that could not be read, and why."""

    path: str
    reason: str


@dataclass
class Sample:
    """One video with its captions and OCR words.

    Attributes:
        id: the annotation's ``path``.
        video_index: position of the video in the annotation file.
        frames: (F, 3, H, W) uint8, or None where the model sees no frames.
        num_frames: how many of the F frames are real; the others are padding.
        color: (K,) the colour augmentation drawn for this clip, or None.
        captions: the captions that this sample stands for (none for the further windows of a
            video that is read in several clips).
        words: the OCR words, best first; empty when nothing was read.
        tracks: (W, 12) normalised track vectors of the words.
        unreadable: set when a black clip stands in for the video (``loading: lax``).
        ocr_missing: the OCR document that should be there and is not.
        ocr_skipped: records of the OCR document that were left out, see ``OcrWords.num_skipped``.
        is_filler: as in ``SampleKey``.
    """

    id: str
    video_index: int
    captions: list[str]
    frames: Tensor | None = None
    num_frames: int = 0
    color: np.ndarray | None = None
    words: list[str] = field(default_factory=list)
    tracks: np.ndarray | None = None
    unreadable: Unreadable | None = None
    ocr_missing: str | None = None
    ocr_skipped: int = 0
    is_filler: bool = False


class _OnDevice:
    """Moves a dataclass of tensors, and of such dataclasses."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """Return a copy with every tensor on ``device``.

        Args:
            device: where to.
            non_blocking: let a GPU's current stream copy, where this lies in page-locked memory;
                otherwise it makes no difference. Not for the way back from a GPU.
        """
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory (called by ``DataLoader``)."""
        return self._map(lambda part: part.pin_memory())

    def share_memory_(self) -> Self:
        """Return it with every tensor moved to memory that other processes can read.

        Raises:
            RuntimeError: there is no room.
        """
        return self._map(lambda part: part.share_memory_())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of every tensor until the work is done that ``stream`` has by then."""
        for part in self._parts().values():
            part.record_stream(stream)

    def _parts(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {n: part for n, part in values.items() if isinstance(part, Tensor | _OnDevice)}

    def _map(self, change: Callable[[Any], Any]) -> Self:
        moved = {name: change(part) for name, part in self._parts().items()}
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass
class Tokens(_OnDevice):
    """Tokenised texts.

    Attributes:
        input_ids: (N, T) int64.
        attention_mask: (N, T) int64, 1 on tokens and 0 on padding.
    """

    input_ids: Tensor
    attention_mask: Tensor

    def hash_texts(self) -> Tensor:
        """Return a number a text, (N,) int64: equal for equal texts, however they are padded."""
        # A random odd weight a place (splitmix64's mixing); int64 wraps around, as a hash may.
        weights = torch.arange(1, self.input_ids.shape[1] + 1, device=self.input_ids.device)
        for multiplier in (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB):
            weights = weights * multiplier
            weights = weights ^ (weights >> 31)
        return (self.input_ids * self.attention_mask * (weights | 1)).sum(1)


@dataclass
class Words(_OnDevice):
    """The OCR words of a batch, each distinct word once, or as often as it is shown (``repeat``).

    Attributes:
        input_ids: (U, T) int64, the distinct words in ascending order of token count.
        groups: (token count, number of words) of each run of equally long words; sums to U.
        index: (B, L) int64, which distinct word stands at each position of each video.
        mask: (B, L) bool, True where there is a word.
        tracks: (B, L, 12) float32, normalised track vectors.
        vectors: (U, D), what the word encoder makes of the distinct words, where that is known
            already; None: the model encodes them.
    """

    input_ids: Tensor
    groups: tuple[tuple[int, int], ...]
    index: Tensor
    mask: Tensor
    tracks: Tensor
    vectors: Tensor | None = None

    @property
    def lengths(self) -> list[int]:
        """The token count of each distinct word."""
        return [length for length, count in self.groups for _ in range(count)]

    def token_ids(self) -> list[TokenIds]:
        """Return the tokens of each distinct word."""
        rows = zip(self.input_ids.tolist(), self.lengths, strict=True)
        return [tuple(ids[:length]) for ids, length in rows]

    def repeat(self) -> Self:
        """Return the same words, each as often as it is shown: U becomes the number of places.

        So the encoder draws dropout for each place anew. For batches on the CPU.
        """
        shown = self.index[self.mask]  # (places,)
        order = shown.argsort(stable=True)  # still in the order of token counts
        index = torch.zeros_like(self.index)
        index[self.mask] = order.argsort()
        counts = shown.bincount(minlength=len(self.input_ids))
        counts = counts.split([count for _, count in self.groups])
        lengths = (length for length, _ in self.groups)
        return replace(
            self,
            input_ids=self.input_ids[shown[order]],
            groups=tuple((n, int(part.sum())) for n, part in zip(lengths, counts, strict=True)),
            index=index,
            vectors=None if self.vectors is None else self.vectors[shown[order]],
        )

    def rows(self, start: int, stop: int) -> Self:
        """Return the words of the videos ``start`` … ``stop - 1``, again each as often."""
        mask = self.mask[start:stop]
        longest = int(mask.sum(1).max())
        mask, index = mask[:, :longest], self.index[start:stop, :longest]
        used = torch.unique(index[mask])  # ascending, so still in the order of token counts
        place = index.new_zeros(len(self.input_ids))
        place[used] = torch.arange(len(used), device=used.device)
        lengths = self.lengths
        kept = groupby(lengths[word] for word in used.tolist())
        return type(self)(
            input_ids=self.input_ids[used],
            groups=tuple((length, len(list(same))) for length, same in kept),
            index=place[index] * mask,
            mask=mask,
            tracks=self.tracks[start:stop, :longest],
            vectors=None if self.vectors is None else self.vectors[used],
        )


@dataclass
class Batch(_OnDevice):
    """A batch of videos and the queries that belong to them.

    Attributes:
        ids: the annotation paths of the videos.
        video_index: (B,) int64, positions in the annotation file.
        query: the queries, tokenised.
        query_row: (Q,) int64, the row of the batch that each query belongs to.
        video: (B, F, 3, H, W) uint8 from the loader, float32 once the device transform has run.
        num_frames: (B,) int64, how many frames are real.
        color: (B, K) float32 colour draws of the clips, or None.
        words: the OCR words, or None where the model reads none.
        unreadable: videos replaced by a black clip (``loading: lax``).
        ocr_missing: OCR documents that were not found.
        ocr_skipped: video id -> records of its OCR document that were left out.
        num_fillers: how many of the videos, the last ones, only keep a process busy.
    """

    ids: list[str]
    video_index: Tensor
    query: Tokens
    query_row: Tensor
    video: Tensor | None = None
    num_frames: Tensor | None = None
    color: Tensor | None = None
    words: Words | None = None
    unreadable: list[Unreadable] = field(default_factory=list)
    ocr_missing: list[str] = field(default_factory=list)
    ocr_skipped: dict[str, int] = field(default_factory=dict)

    num_fillers: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, start: int, stop: int) -> Self:
        """Return the videos ``start`` … ``stop - 1`` with their queries, as a batch.

        What could not be used of the data stays with the whole batch.
        """
        own = (self.query_row >= start) & (self.query_row < stop)
        queries = Tokens(self.query.input_ids[own], self.query.attention_mask[own])
        cut = slice(start, stop)
        return type(self)(
            ids=self.ids[cut],
            video_index=self.video_index[cut],
            query=queries,
            query_row=self.query_row[own] - start,
            video=None if self.video is None else self.video[cut],
            num_frames=None if self.num_frames is None else self.num_frames[cut],
            color=None if self.color is None else self.color[cut],
            words=None if self.words is None else self.words.rows(start, stop),
        )
