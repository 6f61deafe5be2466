"""Videos of a test that the workers of a Ray cluster encode; the first process does the rest."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import Self

from base.base_data_loader import BaseDataLoader
from base.base_model import RetrievalModel
from base.config import Config
from evaluation.data_report import SilentReport
from evaluation.embedding_cache import EmbeddingCache
from evaluation.evaluator import Captions, EncodedBatch, EncodeElsewhere, Evaluator
from trainer.build import build_criterion, build_loader, build_model
from trainer.checkpointing import load_model
from utils.checkpoint.weights import hash_weights
from utils.errors import UserError
from utils.launch import choose_devices
from utils.precision import Precision
from utils.processes import TaskFailed, TaskProgress, Work, run_in_order
from utils.ray_pool import RayPool, check_shared

_AT_ONCE = 8  # batches that a worker encodes at a time, at most
_SHARES = 4  # of a worker, at least, so that all end at about the same time
_AHEAD = 4  # times the workers: results that wait for an earlier one

Encoded = tuple[list[EncodedBatch], SilentReport]


@dataclass(frozen=True)
class TestedModel:
    """What is tested, as a worker builds it.

    Attributes:
        load_config: gives the configuration of the test; of a module that registers what the
            configuration may name.
        checkpoint: None: the weights are those that the model starts from, or there are none.
        loader: arguments of ``build_loader``.
        checksum: of the weights that the first process has.
        shared: files that this machine has, and a worker's has to have.
    """

    load_config: Callable[[], Config]
    checkpoint: Path | None
    loader: Mapping[str, Any]
    checksum: str
    shared: tuple[Path, ...]

    @classmethod
    def of(
        cls,
        load_config: Callable[[], Config],
        checkpoint: Path | None,
        arguments: Mapping[str, Any],
        model: RetrievalModel,
        loader: BaseDataLoader,
    ) -> Self:
        """Describe a model with its weights, and the loader that was built with ``arguments``."""
        files = [checkpoint, *(entry.video for entry in loader.dataset.entries[:1])]
        shared = tuple(file for file in files if file is not None and file.exists())
        return cls(load_config, checkpoint, arguments, hash_weights(model.state_dict()), shared)

    def build(
        self, on_gpu: bool, num_workers: int
    ) -> tuple[RetrievalModel, BaseDataLoader, Evaluator]:
        """Build it on this machine; raises ``UserError``."""
        config, device = self.load_config(), choose_devices(int(on_gpu))[0]
        loader = build_loader(config, training=False, num_workers=num_workers, **self.loader)
        model = build_model(config, device, initial_weights=self.checkpoint is None)
        criterion = build_criterion(config, device, model)
        if self.checkpoint is not None:
            load_model(model, criterion, self.checkpoint)
        if hash_weights(model.state_dict()) != self.checksum:
            raise UserError(
                f"{config.name}: the model has other weights there than where the command was "
                "given; every machine of the cluster needs the same files"
            )
        model.eval()
        criterion.eval()
        if type(model).read_vocabulary is not RetrievalModel.read_vocabulary:
            model.read_vocabulary(loader.query_tokens, loader.word_tokens)
        precision = Precision(config.evaluation_precision, device)
        return model, loader, Evaluator(config.metrics, criterion, precision)


@dataclass(frozen=True)
class _EncodingWork:
    """What a worker does with a range of batches."""

    tested: TestedModel
    captions: Captions
    words: EmbeddingCache | None
    on_gpu: bool
    num_workers: int

    def __call__(self) -> Work:
        """Load what is needed; raises ``UserError``."""
        check_shared(self.tested.shared)
        model, loader, evaluator = self.tested.build(self.on_gpu, self.num_workers)
        captions = self.captions.to(evaluator.device)
        words = None if self.words is None else self.words.to(evaluator.device)

        def encode(batches: range, report: Callable[[float], None]) -> Encoded:
            parts = model, loader, captions, words, batches.start, batches.stop
            return evaluator.encode_range(*parts)

        return encode


def encode_by_workers(pool: RayPool, tested: TestedModel) -> EncodeElsewhere:
    """Return what encodes the videos of a test by the workers of a pool."""
    return partial(_encode, pool, tested)


def _encode(
    pool: RayPool,
    tested: TestedModel,
    captions: Captions,
    words: EmbeddingCache | None,
    first: int,
    stop: int,
) -> Iterator[Encoded]:
    cpu, workers = choose_devices(0)[0], pool.count_workers()
    size = max(1, min(_AT_ONCE, (stop - first) // (workers * _SHARES)))
    ranges = [range(start, min(start + size, stop)) for start in range(first, stop, size)]
    resources = pool.resources
    work = _EncodingWork(
        tested,
        captions.to(cpu),
        None if words is None else words.to(cpu),
        on_gpu=resources.gpus > 0,
        num_workers=resources.cpus - 1,  # beside the worker itself
    )
    for event in run_in_order(pool.run_tasks(work, ranges, _AHEAD * workers)):
        if isinstance(event, TaskFailed):
            batches = ranges[event.number]
            raise UserError(
                f"batches {batches.start} to {batches.stop - 1} can't be encoded: {event.reason}"
            )
        if not isinstance(event, TaskProgress):
            yield event.result
