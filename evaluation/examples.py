"""Single queries of an evaluation: which to show, what they find, and which words a model reads.

Shapes: Q captions, V videos, B videos of a batch, S tokens of the fusion layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from base.base_dataset import BaseTextVideoDataset
from base.base_model import RetrievalModel
from base.batch import Batch, Sample, SampleKey
from evaluation.ground_truth import GroundTruth, normalize_caption
from utils.ranking import iterate_blocks

TOP = 5
BINS = 40
_BATCH = 8  # videos at once


@dataclass(frozen=True)
class WordAttention:
    """How the fusion layer's query token attends; all shares sum to 1.

    Attributes:
        query_token: share of the query token itself.
        video: share of the video feature; None where the model sees no frames.
        words: the OCR words in the order in which the model is given them; empty: none was read.
        shares: of the words, as many; one, that of the empty word, where there are none.
    """

    query_token: float
    video: float | None
    words: tuple[str, ...]
    shares: tuple[float, ...]


def compute_margins(similarity: NDArray, video_of_query: NDArray) -> NDArray:
    """Return (Q,): how far each caption's own video is above the best of the others.

    Args:
        similarity: (Q, V), finite; may be mapped from its file.
        video_of_query: (Q,) columns.
    """
    found = np.full(len(similarity), np.inf)
    for rows, block in iterate_blocks(similarity):
        own = video_of_query[rows]
        number = np.arange(len(block))
        mine = block[number, own]
        others = block.copy()
        others[number, own] = -np.inf
        found[rows] = mine - others.max(axis=1)
    return found


def choose_best_and_worst(
    ranks: NDArray, margin: NDArray, captions: Sequence[str], count: int
) -> tuple[list[int], list[int]]:
    """Return the rows of the best and of the worst queries, each the most telling first.

    Best is the lowest rank, then the largest margin. Of equal captions one is shown, and no query
    is both.
    """
    order = np.lexsort((-margin, ranks)).tolist()
    # A caption that is both among the best and the worst stands where its better half is.
    count = min(count, (len({normalize_caption(text) for text in captions}) + 1) // 2)
    best = _choose_distinct(order, captions, count, set())
    return best, _choose_distinct(
        order[::-1], captions, count, {normalize_caption(captions[row]) for row in best}
    )


def _choose_distinct(
    order: Sequence[int], captions: Sequence[str], count: int, seen: set[str]
) -> list[int]:
    rows = []
    for row in order:
        text = normalize_caption(captions[row])
        if len(rows) < count and text not in seen:
            seen.add(text)
            rows.append(row)
    return rows


def rank_top_videos(scores: NDArray, count: int = TOP) -> list[int]:
    """Return the columns of the highest scores (V,), the best first; equal ones in their order."""
    return np.argsort(-np.asarray(scores), kind="stable")[:count].tolist()


def count_similarities(
    similarity: NDArray, queries: GroundTruth, bins: int = BINS
) -> dict[str, Any]:
    """Count right and wrong pairs by similarity; right is every video with an equal caption.

    Returns:
        ``edges`` (bins + 1), ``right`` and ``wrong`` (bins).
    """
    low = min(float(block.min()) for _, block in iterate_blocks(similarity))
    high = max(float(block.max()) for _, block in iterate_blocks(similarity))
    edges = np.linspace(low, high if high > low else low + 1e-6, bins + 1)
    total = np.zeros(bins, np.int64)
    for _, block in iterate_blocks(similarity):
        total += np.histogram(block.astype(np.float64), edges)[0]
    rows, columns = queries.get_equal_caption_pairs()
    right = np.histogram(np.asarray(similarity[rows, columns], np.float64), edges)[0]
    return {"edges": edges.tolist(), "right": right.tolist(), "wrong": (total - right).tolist()}


@torch.no_grad()
def compute_word_attention(
    model: RetrievalModel,
    dataset: BaseTextVideoDataset,
    videos: Sequence[int],
    collate: Callable[[list[Sample]], Batch],
) -> dict[int, WordAttention]:
    """Return how the model attends in some videos; empty where it has no ``attend_to_words``.

    Args:
        model: with its weights, in any mode, which is left as it was.
        dataset: one clip a video.
        videos: positions in the annotation file.
        collate: samples -> their batch on the model's device, ready for it.
    """
    was_training, found = model.training, {}
    model.eval()
    try:
        for start in range(0, len(videos), _BATCH):
            some = videos[start : start + _BATCH]
            samples = [dataset[SampleKey(0, video)] for video in some]
            rows = model.attend_to_words(collate(samples))
            if rows is None:
                return {}
            for video, sample, row in zip(some, samples, rows, strict=True):
                found[video] = _split_shares(row, sample)
    finally:
        model.train(was_training)
    return found


def _split_shares(row: Tensor, sample: Sample) -> WordAttention:
    """The shares (S,) of one video by what they belong to: query token, video, words, padding."""
    shares = row.double().tolist()
    first = 1 if sample.frames is None else 2
    words = tuple(sample.words)
    return WordAttention(
        query_token=shares[0],
        video=None if first == 1 else shares[1],
        words=words,
        shares=tuple(shares[first : first + max(1, len(words))]),
    )
