"""A model's similarity matrix and metrics on a loader: the same in train.py and test.py.

Shapes: Q captions, V videos, E width of the common space.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from base.base_data_loader import BaseDataLoader
from base.base_dataset import BaseTextVideoDataset
from base.base_model import RetrievalModel
from base.criterion import Criterion
from base.registry import METRICS
from evaluation.data_report import DataReport, SilentReport
from evaluation.embedding_cache import EmbeddingCache, MustStop, encode_texts
from evaluation.embedding_files import EmbeddingFiles
from evaluation.prefetch import move_to_device, prefetch_to_device
from evaluation.similarity_blocks import SimilarityBlocks
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
            videos have no captions. Computed in blocks, when it is read, where no matrix was
            wanted.
        video_of_query: (Q,) the column of each caption's video.
        ids: the annotation paths of the videos.
        text_embeds: (Q, E) float32; None where no matrix was wanted.
        video_embeds: (V, E) float32, averaged over a video's windows; likewise.
        metrics: metric name -> key -> value; empty without captions, and without a matrix.
        loss: mean loss of the batches, weighted by their size; None with sliding windows, and
            where a video has no caption.
        report: what of the data could not be used.
        annotation_file: where the videos and captions come from.
        shuffled: whether that file's pairs are shuffled, so that the metrics mean nothing.
    """

    similarity: NDArray | SimilarityBlocks
    video_of_query: NDArray
    ids: list[str]
    text_embeds: NDArray | None
    video_embeds: NDArray | None
    metrics: dict[str, dict[str, float]]
    loss: float | None
    report: DataReport
    annotation_file: Path
    shuffled: bool


class Captions:
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

    def to(self, device: torch.device) -> "Captions":
        """Return the same with its vectors on another device."""
        moved = copy(self)
        moved.vectors = self.vectors.to(device)
        return moved

    def get_first(self, video_index: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the first captions of videos, (B, E), and their ids, (B,), equal for equal texts.

        None where not every sample has a caption.
        """
        if not self._one_each:
            return None
        rows = self.rows[self._first[video_index]].to(self.vectors.device)
        return self.vectors[rows], rows


@dataclass
class EncodedBatch:
    """The videos of a batch, as they are encoded.

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


# Encodes the batches of a loader elsewhere, in their order: captions, words, first batch, and one
# more than the last -> some batches at a time, with what of their data could not be used.
EncodeElsewhere = Callable[
    [Captions, EmbeddingCache | None, int, int], Iterator[tuple[list[EncodedBatch], SilentReport]]
]


class _EncodedVideos:
    """The videos of batches of all processes.

    Args:
        batches: which together have all samples of the videos first … stop - 1, and maybe others.
    """

    def __init__(self, batches: Iterable[EncodedBatch]) -> None:
        self.batches = sorted(batches, key=lambda batch: batch.number)

    def videos(self, first: int, stop: int) -> Tensor:
        """(stop - first, E), in the annotation file's order: the mean over each video's windows."""
        video = torch.cat([batch.video for batch in self.batches])
        index = torch.cat([batch.video_index for batch in self.batches])
        wanted = (index >= first) & (index < stop)
        video, index, count = video[wanted], index[wanted] - first, stop - first
        windows = torch.zeros(count).index_add_(0, index, torch.ones(len(index)))
        if not bool((windows > 0).all()):
            raise RuntimeError("a video of the annotation file was not evaluated")
        summed = torch.zeros(count, video.shape[1]).index_add_(0, index, video)
        return summed / windows[:, None]

    def count_complete(self, dataset: BaseTextVideoDataset, is_last: bool) -> int:
        """Return how many videos of the data set, from its first on, have all of their samples."""
        if is_last:
            return len(dataset.entries)
        last = max(int(batch.video_index.max()) for batch in self.batches)
        return last + 1 if len(dataset) == len(dataset.entries) else last

    def from_video(self, first: int) -> "_EncodedVideos":
        """Return the batches that have samples of the videos from ``first`` on."""
        return _EncodedVideos(b for b in self.batches if int(b.video_index.max()) >= first)

    def loss_sum(self) -> float | None:
        """The loss, weighted by the videos; None where not every sample has a caption."""
        sums = [batch.loss_sum for batch in self.batches]
        return None if None in sums else sum(sums)


@dataclass(frozen=True)
class _Videos:
    """The embeddings of all videos.

    Attributes:
        parts: (n, E) float32 each, together (V, E); may be mapped from files.
        loss: the mean loss of a video; None where not every sample has a caption.
        report: what of the data could not be used.
    """

    parts: Sequence[NDArray]
    loss: float | None
    report: DataReport


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
        files: EmbeddingFiles | None = None,
        with_matrix: bool = True,
        only_main: bool = False,
        elsewhere: EncodeElsewhere | None = None,
    ) -> Evaluation | None:
        """Evaluate; deterministic, and the model's mode is left as it was.

        The distinct words and captions of the whole set are encoded first, then the videos. Several
        processes each take their share of all three, and all return the same.

        Args:
            must_stop: asked before every chunk of texts and every batch.
            words: those of the data set, where they are encoded already, in this precision.
            files: where embeddings are written as they are computed; those that are there are not
                computed again. The first process alone has them in the end.
            with_matrix: whether the whole similarity matrix is made.
            only_main: only the first process needs the evaluation; it alone makes a matrix.
            elsewhere: encodes the videos in the place of this process, which is the only one.

        Returns:
            None where some process was told to stop, and in all but the first process with
            ``only_main``.

        Raises:
            NonFiniteEmbeddingsError: the model's weights are spoilt.
            UserError: the architecture has no methods for texts and videos apart.
        """
        was_training = model.training
        model.eval()
        self.criterion.eval()
        try:
            model.read_vocabulary(loader.query_tokens, loader.word_tokens)
            is_done = files is not None and files.num_videos == len(loader.dataset.entries)
            if words is None and not is_done and loader.word_tokens is not None:
                texts = loader.word_tokens, model.encode_words, self.precision
                words = encode_texts(*texts, must_stop, "OCR words")
                if words is None:
                    return None
            # Exact, as search encodes a query: captions are a hundredth of the work, and half of
            # what rounding does to a similarity.
            exact = Precision("fp32", self.device) if self.precision.half else self.precision
            texts = loader.query_tokens, model.embed_queries, exact
            has_captions = bool(loader.query_tokens)
            queries = encode_texts(*texts, must_stop, "captions", files if has_captions else None)
            if queries is None:
                return None
            captions = Captions(loader, queries)
            if files is not None:
                ids = [entry.id for entry in loader.dataset.entries]
                files.write_order(ids, captions.rows.numpy(), captions.video_of_query.numpy())
            videos = self._encode_videos(
                model, loader, captions, words, must_stop, files, elsewhere
            )
        finally:
            model.train(was_training)
            self.criterion.train(was_training)
        if videos is None or only_main and not get_dist_info().is_main:
            return None
        return self._make_evaluation(captions, videos, loader, with_matrix)

    def _encode_videos(
        self,
        model: RetrievalModel,
        loader: BaseDataLoader,
        captions: Captions,
        words: EmbeddingCache | None,
        must_stop: MustStop,
        files: EmbeddingFiles | None,
        elsewhere: EncodeElsewhere | None,
    ) -> _Videos | None:
        """Encode the videos that are not in files yet; None where some process must stop."""
        info, report = get_dist_info(), DataReport()
        first, ends = _plan_rounds(loader, files)
        if elsewhere is None:
            batches = self._encode_batches(model, loader, captions, words, must_stop, first, report)
        else:
            batches = _receive_batches(elsewhere, captions, words, first, loader, report)
        collected, num_taken = _EncodedVideos(()), 0  # what is not complete yet
        for end in ends:
            num_own = len(range(first + info.rank, end, info.world_size))
            is_last = end == ends[-1]
            own = list(batches if is_last else islice(batches, num_own - num_taken))
            num_taken = num_own
            parts = gather_objects((own, report, must_stop()))
            if any(stopped for _, _, stopped in parts):
                return None
            for _, other, _ in parts:
                report.merge(other)
            new = _EncodedVideos(batch for part, _, _ in parts for batch in part)
            if files is None:
                num_videos = len(loader.dataset.entries)
                loss_sum = new.loss_sum()
                loss = None if loss_sum is None else loss_sum / num_videos
                return _Videos([new.videos(0, num_videos).numpy()], loss, report)
            collected = _EncodedVideos([*collected.batches, *new.batches])
            stop = collected.count_complete(loader.dataset, is_last)
            if stop > files.num_videos:
                embeds = collected.videos(files.num_videos, stop)
                if not bool(embeds.isfinite().all()):
                    self._raise_not_finite(loader)
                files.write_videos(embeds.numpy(), new.loss_sum(), report)
                collected = collected.from_video(stop)
        if not info.is_main:
            return _Videos([], None, report)
        return _Videos(files.map_videos(), *files.finish())

    def _encode_batches(
        self,
        model: RetrievalModel,
        loader: BaseDataLoader,
        captions: Captions,
        words: EmbeddingCache | None,
        must_stop: MustStop,
        first: int,
        report: DataReport,
        with_bar: bool = True,
    ) -> Iterator[EncodedBatch]:
        """Encode this process's batches from number ``first`` on, until it must stop."""
        info = get_dist_info()
        is_silent = not (info.is_main and with_bar)
        bar = tqdm(loader, desc=loader.name, unit="batch", dynamic_ncols=True, disable=is_silent)
        move = partial(move_to_device, loader=loader, words=words, device=self.device)
        for number, (read, batch) in enumerate(prefetch_to_device(bar, move, self.device)):
            if must_stop():
                break
            report.add(read)
            with self.precision.set_tf32(), self.precision.autocast():
                video = model.embed_videos(batch)[model.video_key]
            video = video.float()
            caption, loss_sum = captions.get_first(read.video_index), None
            if caption is not None:
                text, caption_ids = caption
                loss_sum = float(self.criterion(text, video, caption_ids)[0]) * len(batch)
            number = first + info.rank + number * info.world_size
            yield EncodedBatch(number, video.cpu(), read.video_index, loss_sum)

    @torch.no_grad()
    def encode_range(
        self,
        model: RetrievalModel,
        loader: BaseDataLoader,
        captions: Captions,
        words: EmbeddingCache | None,
        first: int,
        stop: int,
    ) -> tuple[list[EncodedBatch], SilentReport]:
        """Encode the batches ``first`` to ``stop`` - 1 of a loader, as a part of ``run`` elsewhere.

        Args:
            model: in evaluation mode.
            captions, words: of the whole data set, on the device of the model.
        """
        report = SilentReport()
        loader.set_epoch(0, stop, first)
        parts = model, loader, captions, words, lambda: False
        return list(self._encode_batches(*parts, first, report, with_bar=False)), report

    def _compare(self, text: Tensor, video: Tensor, device: torch.device | None = None) -> Tensor:
        """Return the similarities; computed on the CPU, unless the criterion learns them."""
        where = next(self.criterion.parameters(), text).device if device is None else device
        return self.criterion.compute_similarity(text.to(where), video.to(where)).cpu()

    def _make_evaluation(
        self,
        captions: Captions,
        videos: _Videos,
        loader: BaseDataLoader,
        with_matrix: bool,
    ) -> Evaluation:
        text, rows = captions.vectors.cpu(), captions.rows
        video_of_query = captions.video_of_query.numpy()
        text_embeds = video_embeds = None
        metrics: dict[str, dict[str, float]] = {}
        if with_matrix:
            video = torch.from_numpy(np.concatenate(videos.parts))
            # Of each distinct caption once: equal rows of a product may differ by rounding.
            similarity = self._compare(text, video)[rows].numpy()
            is_finite = np.isfinite(similarity).all() and bool(video.isfinite().all())
            text_embeds, video_embeds = text[rows].numpy(), video.numpy()
        else:
            compare = partial(self._compare, device=self.device)
            similarity = SimilarityBlocks(compare, text, rows.numpy(), videos.parts)
            is_finite = all(np.isfinite(part).all() for part in (text.numpy(), *videos.parts))
        if not is_finite:
            self._raise_not_finite(loader)
        if with_matrix and len(similarity):
            for name, metric in self.metrics.items():
                metrics[name] = metric(similarity, video_of_query)
        return Evaluation(
            similarity=similarity,
            video_of_query=video_of_query,
            ids=[entry.id for entry in loader.dataset.entries],
            text_embeds=text_embeds,
            video_embeds=video_embeds,
            metrics=metrics,
            loss=videos.loss,
            report=videos.report,
            annotation_file=loader.dataset.annotation_file,
            shuffled=loader.dataset.shuffled,
        )

    def _raise_not_finite(self, loader: BaseDataLoader) -> NoReturn:
        raise NonFiniteEmbeddingsError(
            f"{loader.name}: the model's embeddings are not finite, its weights are spoilt; "
            "use an earlier checkpoint, and lower optimizer.args.lr if it came from training"
            f"{self.precision.explain_overflow()}"
        )


def _receive_batches(
    elsewhere: EncodeElsewhere,
    captions: Captions,
    words: EmbeddingCache | None,
    first: int,
    loader: BaseDataLoader,
    report: DataReport,
) -> Iterator[EncodedBatch]:
    """Yield the batches that are encoded elsewhere, from number ``first`` on."""
    total = -(-len(loader.dataset) // loader.batch_size)
    with tqdm(total=total - first, desc=loader.name, unit="batch", dynamic_ncols=True) as bar:
        for batches, other in elsewhere(captions, words, first, total):
            report.take(other)
            for batch in batches:
                yield batch
                bar.update()


def _plan_rounds(loader: BaseDataLoader, files: EmbeddingFiles | None) -> tuple[int, list[int]]:
    """Return the first batch to encode, and the numbers at which what is encoded is collected.

    Without files that is once, in the end. The loader then yields the batches from the first on.
    """
    if files is None:
        return 0, [0]
    dataset, size, done = loader.dataset, loader.batch_size, files.num_videos
    if done == len(dataset.entries):
        return 0, []
    sample = done
    if len(dataset) > len(dataset.entries):  # windows of a video are samples side by side
        wanted = dataset.entries[done].id
        sample = next(n for n in range(done, len(dataset)) if dataset.get_entry(n).id == wanted)
    total, first, step = -(-len(dataset) // size), sample // size, -(-files.shard_size // size)
    loader.set_epoch(0, total, first)
    return first, [*range(first + step, total, step), total]
