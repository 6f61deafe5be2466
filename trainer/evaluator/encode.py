"""A model's similarity matrix and metrics on a loader: the same in train.py and test.py.

Shapes: Q captions, V videos, E width of the common space.
"""

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
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
from utils.distributed import gather_objects, ranks
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
    def set_epoch(self, epoch: int, num_batches: int, first: int = 0) -> None: ...  # noqa: D102
    def to_device(self, batch: Batch, device: torch.device) -> Batch: ...  # noqa: D102
    def texts(self, batch: Batch, row: int) -> tuple[list[str], list[str] | None]: ...  # noqa: D102


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


@dataclass
class _Encoded:
    """What a batch gave.

    Attributes:
        number: of the batch, over all processes.
        text: (queries, E) float32.
        tokens: of each query.
        video_of_query: (queries,) positions in the annotation file.
        video: (videos or windows, E) float32.
        video_index: (videos or windows,) positions in the annotation file.
        loss_sum: the loss, weighted by the videos; None where one of them has no query here.
    """

    number: int
    text: Tensor
    tokens: list[tuple[int, ...]]
    video_of_query: Tensor
    video: Tensor
    video_index: Tensor
    loss_sum: float | None


class _Collected:
    """The embeddings of all batches of all processes, in the annotation file's order."""

    def __init__(self, batches: Iterable[_Encoded]) -> None:
        self.batches = sorted(batches, key=lambda batch: batch.number)

    def texts(self) -> tuple[Tensor, list[int]]:
        """(Q, E) of the queries, and for each the first one of equal tokens.

        Equal queries come in batches of other widths, so that their embeddings differ by rounding;
        the first stands for all, or ties would be broken by chance.
        """
        first = first_equal([tokens for batch in self.batches for tokens in batch.tokens])
        return torch.cat([batch.text for batch in self.batches])[first], first

    def video_of_query(self) -> NDArray:
        """(Q,): the column of each query's video."""
        return torch.cat([batch.video_of_query for batch in self.batches]).numpy()

    def videos(self, num_videos: int) -> Tensor:
        """(V, E): the mean over the windows of each video."""
        video = torch.cat([batch.video for batch in self.batches])
        index = torch.cat([batch.video_index for batch in self.batches])
        windows = torch.zeros(num_videos).index_add_(0, index, torch.ones(len(index)))
        if not bool((windows > 0).all()):
            raise RuntimeError("a video of the annotation file was not evaluated")
        summed = torch.zeros(num_videos, video.shape[1]).index_add_(0, index, video)
        return summed / windows[:, None]

    def loss(self) -> float | None:
        """The mean loss of a video; None where a video of some batch has no query."""
        sums = [batch.loss_sum for batch in self.batches]
        if None in sums:
            return None
        return sum(sums) / sum(len(batch.video) for batch in self.batches)


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
    def run(
        self, model: RetrievalModel, loader: Loader, must_stop: Callable[[], bool] = lambda: False
    ) -> Evaluation | None:
        """Evaluate; deterministic, and the model's mode is left as it was.

        Several processes each take their batches of the loader, and all return the same.

        Args:
            model: the model, without anything around it.
            loader: of the whole data set.
            must_stop: asked before every batch.

        Returns:
            None where some process was told to stop.
        """
        was_training, place = model.training, ranks()
        model.eval()
        encoded, report = [], DataReport()
        bar = {"desc": loader.name, "unit": "batch", "dynamic_ncols": True}
        try:
            for number, batch in enumerate(tqdm(loader, disable=not place.is_first, **bar)):
                if must_stop():
                    break
                report.add(batch)
                batch = loader.to_device(batch, self.device)
                encoded.append(self._encoded(model, batch, place.rank + number * place.size))
        finally:
            model.train(was_training)
        parts = gather_objects((encoded, report, must_stop()))
        if any(stopped for _, _, stopped in parts):
            return None
        for _, other, _ in parts:
            report.merge(other)
        return self._evaluation(
            _Collected(batch for part, _, _ in parts for batch in part), loader, report
        )

    def _encoded(self, model: RetrievalModel, batch: Batch, number: int) -> _Encoded:
        embeds = model(batch)
        text, video = embeds["text"].float(), embeds[model.video_key].float()
        first, loss_sum = first_query(batch), None
        if first is not None:
            loss_sum = float(self.loss(cosine_similarity(text[first], video))) * len(batch)
        ids, mask = batch.query.input_ids.tolist(), batch.query.attention_mask.tolist()
        index = batch.video_index.cpu()
        return _Encoded(
            number=number,
            text=text.cpu(),
            tokens=[tuple(compress(*row)) for row in zip(ids, mask, strict=True)],
            video_of_query=index[batch.query_row.cpu()],
            video=video.cpu(),
            video_index=index,
            loss_sum=loss_sum,
        )

    def _evaluation(self, collected: _Collected, loader: Loader, report: DataReport) -> Evaluation:
        text, first = collected.texts()
        video = collected.videos(len(loader.dataset.entries))
        video_of_query = collected.video_of_query()
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
            loss=collected.loss(),
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
