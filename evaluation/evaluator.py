"""A model's similarity matrix and metrics on a loader: the same in train.py and test.py.

Shapes: Q captions, V videos, E width of the common space.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from base.base_data_loader import BaseDataLoader
from base.base_model import RetrievalModel
from base.criterion import Criterion
from base.registry import METRICS
from evaluation.data_report import DataReport
from evaluation.embedding_cache import EmbeddingCache, MustStop, encode_texts
from evaluation.prefetch import move_to_device, prefetch_to_device
from utils.distributed import gather_objects, get_dist_info
from utils.errors import UserError
from utils.precision import Precision
from utils.seed import preserve_random_state

logger = logging.getLogger(__name__)


class NonFiniteEmbeddingsError(UserError):
    """The model's embeddings are NaN or infinite; nothing can be said of their similarity."""


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


class _Captions:
    """The captions of a data set, each distinct one encoded once."""

    def __init__(self, loader: BaseDataLoader, cache: EmbeddingCache) -> None:
        entries = loader.dataset.entries
        counts = torch.tensor([len(entry.captions) for entry in entries], dtype=torch.int64)
        self.vectors = cache.vectors.float()  # (distinct captions, E)
        self.rows = cache.find_rows(loader.query_tokens)  # (Q,)
        self.video_of_query = torch.arange(len(counts)).repeat_interleave(counts)
        self._first = counts.cumsum(0) - counts  # (V,)
        # The further windows of a video are samples without a caption.
        self._one_each = len(loader.dataset) == len(entries) and bool((counts > 0).all())

    def get_first(self, video_index: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the first captions of videos, (B, E), and their ids, (B,), equal for equal texts.

        None where not every sample has a caption.
        """
        if not self._one_each:
            return None
        rows = self.rows[self._first[video_index]].to(self.vectors.device)
        return self.vectors[rows], rows


@dataclass
class _EncodedBatch:
    """The videos of a batch.

    Attributes:
        number: of the batch, over all processes.
        video: (videos or windows, E) float32.
        video_index: (videos or windows,) positions in the annotation file.
        loss_sum: the loss, weighted by the videos; None where not every sample has a caption.
    """

    number: int
    video: Tensor
    video_index: Tensor
    loss_sum: float | None


class _EncodedVideos:
    """The videos of all batches of all processes."""

    def __init__(self, batches: Iterable[_EncodedBatch]) -> None:
        self.batches = sorted(batches, key=lambda batch: batch.number)

    def videos(self, num_videos: int) -> Tensor:
        """(V, E), in the annotation file's order: the mean over the windows of each video."""
        video = torch.cat([batch.video for batch in self.batches])
        index = torch.cat([batch.video_index for batch in self.batches])
        windows = torch.zeros(num_videos).index_add_(0, index, torch.ones(len(index)))
        if not bool((windows > 0).all()):
            raise RuntimeError("a video of the annotation file was not evaluated")
        summed = torch.zeros(num_videos, video.shape[1]).index_add_(0, index, video)
        return summed / windows[:, None]

    def loss(self) -> float | None:
        """The mean loss of a video; None where not every sample has a caption."""
        sums = [batch.loss_sum for batch in self.batches]
        if None in sums:
            return None
        return sum(sums) / sum(len(batch.video) for batch in self.batches)


class Evaluator:
    """Encodes a loader's videos and captions and scores their similarities.

    Args:
        criterion: the run's own; its loss is computed batch by batch beside the metrics.
        precision: that the encoders compute in, on the device where the model is; embeddings,
            similarities and the loss are float32 in each.
    """

    def __init__(self, metrics: Sequence[str], criterion: Criterion, precision: Precision) -> None:
        self.metrics = {name: METRICS.get(name) for name in metrics}
        self.criterion = criterion
        self.precision = precision
        self.device = precision.device

    @torch.no_grad()
    @preserve_random_state()
    def run(
        self,
        model: RetrievalModel,
        loader: BaseDataLoader,
        must_stop: MustStop = lambda: False,
        words: EmbeddingCache | None = None,
    ) -> Evaluation | None:
        """Evaluate; deterministic, and the model's mode is left as it was.

        The distinct words and captions of the whole set are encoded first, then the videos. Several
        processes each take their share of all three, and all return the same.

        Args:
            must_stop: asked before every chunk of texts and every batch.
            words: those of the data set, where they are encoded already, in this precision.

        Returns:
            None where some process was told to stop.

        Raises:
            NonFiniteEmbeddingsError: the model's weights are spoilt.
            UserError: the architecture has no methods for texts and videos apart.
        """
        was_training = model.training
        model.eval()
        self.criterion.eval()
        try:
            model.read_vocabulary(loader.query_tokens, loader.word_tokens)
            if words is None and loader.word_tokens is not None:
                texts = loader.word_tokens, model.encode_words, self.precision
                words = encode_texts(*texts, must_stop, "OCR words")
                if words is None:
                    return None
            # Exact, as search encodes a query: captions are a hundredth of the work, and half of
            # what rounding does to a similarity.
            exact = Precision("fp32", self.device) if self.precision.half else self.precision
            texts = loader.query_tokens, model.embed_queries, exact
            queries = encode_texts(*texts, must_stop, "captions")
            if queries is None:
                return None
            captions = _Captions(loader, queries)
            encoded, report = self._encode_videos(model, loader, captions, words, must_stop)
        finally:
            model.train(was_training)
            self.criterion.train(was_training)
        parts = gather_objects((encoded, report, must_stop()))
        if any(stopped for _, _, stopped in parts):
            return None
        for _, other, _ in parts:
            report.merge(other)
        collected = _EncodedVideos(batch for part, _, _ in parts for batch in part)
        return self._make_evaluation(captions, collected, loader, report)

    def _encode_videos(
        self,
        model: RetrievalModel,
        loader: BaseDataLoader,
        captions: _Captions,
        words: EmbeddingCache | None,
        must_stop: MustStop,
    ) -> tuple[list[_EncodedBatch], DataReport]:
        """Encode this process's batches, until it must stop."""
        info, encoded, report = get_dist_info(), [], DataReport()
        bar = tqdm(
            loader, desc=loader.name, unit="batch", dynamic_ncols=True, disable=not info.is_main
        )
        move = partial(move_to_device, loader=loader, words=words, device=self.device)
        for number, (read, batch) in enumerate(prefetch_to_device(bar, move, self.device)):
            if must_stop():
                break
            report.add(read)
            with self.precision.set_tf32(), self.precision.autocast():
                video = model.embed_videos(batch)[model.video_key]
            video = video.float()
            first, loss_sum = captions.get_first(read.video_index), None
            if first is not None:
                text, caption_ids = first
                loss_sum = float(self.criterion(text, video, caption_ids)[0]) * len(batch)
            number = info.rank + number * info.world_size
            encoded.append(_EncodedBatch(number, video.cpu(), read.video_index, loss_sum))
        return encoded, report

    def _compare(self, text: Tensor, video: Tensor) -> Tensor:
        """Return the similarities; computed on the CPU, unless the criterion learns them."""
        where = next(self.criterion.parameters(), text).device
        return self.criterion.compute_similarity(text.to(where), video.to(where)).cpu()

    def _make_evaluation(
        self,
        captions: _Captions,
        collected: _EncodedVideos,
        loader: BaseDataLoader,
        report: DataReport,
    ) -> Evaluation:
        text, rows = captions.vectors.cpu(), captions.rows
        video = collected.videos(len(loader.dataset.entries))
        video_of_query = captions.video_of_query.numpy()
        # Of each distinct caption once: equal rows of a product may differ by rounding.
        similarity = self._compare(text, video)[rows].numpy()
        if not (np.isfinite(similarity).all() and bool(video.isfinite().all())):
            raise NonFiniteEmbeddingsError(
                f"{loader.name}: the model's embeddings are not finite, its weights are spoilt; "
                "use an earlier checkpoint, and lower optimizer.args.lr if it came from training"
                f"{self.precision.explain_overflow()}"
            )
        return Evaluation(
            similarity=similarity,
            video_of_query=video_of_query,
            ids=[entry.id for entry in loader.dataset.entries],
            text_embeds=text[rows].numpy(),
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
