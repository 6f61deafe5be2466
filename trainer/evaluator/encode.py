"""A model's similarity matrix and metrics on a loader: the same in train.py and test.py.

Shapes: Q captions, V videos, E width of the common space.
"""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from base.base_dataset import BaseTextVideoDataset
from base.base_model import RetrievalModel
from base.batch import Batch
from base.registry import METRICS
from trainer.data_report import DataReport
from utils.errors import UserError
from utils.seed import unchanged_random_state
from utils.similarity import cosine_similarity

logger = logging.getLogger(__name__)


class NonFiniteEmbeddingsError(UserError):
    """The model's embeddings are NaN or infinite; nothing can be said of their similarity."""


class Loader(Protocol):
    """What training and evaluation ask of a data loader."""

    name: str
    dataset: BaseTextVideoDataset
    batch_size: int

    def __len__(self) -> int: ...
    def __iter__(self): ...  # noqa: ANN204 - an iterator of Batch
    def set_epoch(self, epoch: int, num_batches: int) -> None: ...  # noqa: D102
    def to_device(self, batch: Batch, device: torch.device) -> Batch: ...  # noqa: D102


@dataclass
class Evaluation:
    """What an evaluation yields.

    Attributes:
        similarity: (Q, V) float32; row x is the x-th caption, column y the y-th video, both in
            the annotation file's order. Queries of equal tokens have equal rows. (0, V) where the
            videos have no captions.
        video_of_query: (Q,) the column of each caption's video.
        ids: the annotation paths of the videos.
        text_embeds: (Q, E) float32.
        video_embeds: (V, E) float32, averaged over a video's windows.
        metrics: metric name -> key -> value; empty without captions.
        loss: mean loss of the batches, weighted by their size; None with sliding windows, and
            where a video has no caption.
        report: what of the data could not be used.
        annotation_file: where the videos and captions come from.
        shuffled: whether that file's pairs are shuffled, so that the metrics mean nothing.
    """

    similarity: NDArray
    video_of_query: NDArray
    ids: list[str]
    text_embeds: NDArray
    video_embeds: NDArray
    metrics: dict[str, dict[str, float]]
    loss: float | None
    report: DataReport
    annotation_file: Path
    shuffled: bool


class _Collected:
    """The embeddings of all batches so far, by position in the annotation file."""

    def __init__(self, num_videos: int) -> None:
        self.text: list[Tensor] = []
        self.tokens: list[tuple[int, ...]] = []
        self.video_of_query: list[Tensor] = []
        self.video_sum: Tensor | None = None
        self.windows = torch.zeros(num_videos, 1)
        self.loss_sum = 0.0
        self.whole = True  # every batch so far holds a query of each of its videos

    def add(self, batch: Batch, text: Tensor, video: Tensor) -> None:
        text, video = text.float().cpu(), video.float().cpu()
        index = batch.video_index.cpu()
        self.text.append(text)
        ids, mask = batch.query.input_ids.tolist(), batch.query.attention_mask.tolist()
        self.tokens += [tuple(compress(*row)) for row in zip(ids, mask, strict=True)]
        self.video_of_query.append(index[batch.query_row.cpu()])
        if self.video_sum is None:
            self.video_sum = torch.zeros(len(self.windows), video.shape[1])
        self.video_sum.index_add_(0, index, video)
        self.windows.index_add_(0, index, torch.ones(len(index), 1))

    def texts(self) -> tuple[Tensor, list[int]]:
        """(Q, E) of the queries, and for each the first one of equal tokens.

        Equal queries come in batches of other widths, so that their embeddings differ by rounding;
        the first stands for all, or ties would be broken by chance.
        """
        first = first_equal(self.tokens)
        return torch.cat(self.text)[first], first

    @property
    def loss(self) -> float | None:
        return self.loss_sum / float(self.windows.sum()) if self.whole else None

    def videos(self) -> Tensor:
        """(V, E): the mean over the windows of each video."""
        if self.video_sum is None or not bool((self.windows > 0).all()):
            raise RuntimeError("a video of the annotation file was not evaluated")
        return self.video_sum / self.windows


class Evaluator:
    """Encodes a loader's videos and captions and scores their similarities.

    Args:
        metrics: registered names.
        loss: computed batch by batch beside the metrics.
        device: where the model is.
    """

    def __init__(self, metrics: Sequence[str], loss: nn.Module, device: torch.device) -> None:
        self.metrics = {name: METRICS.get(name) for name in metrics}
        self.loss = loss
        self.device = device

    @torch.no_grad()
    @unchanged_random_state()
    def run(self, model: RetrievalModel, loader: Loader) -> Evaluation:
        """Evaluate; deterministic, and the model's mode is left as it was."""
        was_training = model.training
        model.eval()
        collected, report = _Collected(len(loader.dataset.entries)), DataReport()
        try:
            for batch in tqdm(loader, desc=loader.name, unit="batch", dynamic_ncols=True):
                report.add(batch)
                self._add(model, loader.to_device(batch, self.device), collected)
        finally:
            model.train(was_training)
        return self._evaluation(collected, loader, report)

    def _add(self, model: RetrievalModel, batch: Batch, collected: _Collected) -> None:
        embeds = model(batch)
        text, video = embeds["text"], embeds[model.video_key]
        collected.add(batch, text, video)
        first = first_query(batch)
        if first is None:
            collected.whole = False
        else:
            loss = self.loss(cosine_similarity(text[first].float(), video.float()))
            collected.loss_sum += float(loss) * len(batch)

    def _evaluation(self, collected: _Collected, loader: Loader, report: DataReport) -> Evaluation:
        (text, first), video = collected.texts(), collected.videos()
        video_of_query = torch.cat(collected.video_of_query).numpy()
        # Rows of one product differ by rounding too, with their place in it.
        similarity = cosine_similarity(text, video)[first].numpy()
        if not (np.isfinite(similarity).all() and bool(video.isfinite().all())):
            raise NonFiniteEmbeddingsError(
                f"{loader.name}: the model's embeddings are not finite, its weights are spoilt; "
                "use an earlier checkpoint, and lower optimizer.args.lr if it came from training"
            )
        return Evaluation(
            similarity=similarity,
            video_of_query=video_of_query,
            ids=[entry.id for entry in loader.dataset.entries],
            text_embeds=text.numpy(),
            video_embeds=video.numpy(),
            metrics={
                name: metric(similarity, video_of_query)
                for name, metric in self.metrics.items()
                if len(similarity)
            },
            loss=collected.loss,
            report=report,
            annotation_file=loader.dataset.annotation_file,
            shuffled=loader.dataset.shuffled,
        )


def first_equal(keys: Sequence[Hashable]) -> list[int]:
    """Return for each key the position of the first one that equals it."""
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(key, position) for position, key in enumerate(keys)]


def first_query(batch: Batch) -> Tensor | None:
    """Return the row of each video's first query (B,), or None where a video has none here."""
    rows = batch.query_row.tolist()
    first = {row: query for query, row in reversed(list(enumerate(rows)))}
    if len(first) < len(batch):
        return None
    return torch.tensor([first[row] for row in range(len(batch))], device=batch.query_row.device)
