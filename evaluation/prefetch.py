"""Batches that arrive on the device while a step runs."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from base.base_data_loader import BaseDataLoader
from base.batch import Batch
from evaluation.embedding_cache import EmbeddingCache

T = TypeVar("T")


def move_to_device(
    batch: Batch, loader: BaseDataLoader, words: EmbeddingCache | None, device: torch.device
) -> Batch:
    """Return a batch of a loader as the model takes it."""
    batch = batch if words is None else words.add_word_vectors(batch)
    return loader.to_device(batch, device)


def prefetch_to_device(
    items: Iterable[T], move: Callable[[T], Batch], device: torch.device
) -> Iterator[tuple[T, Batch]]:
    """Yield what was read, and beside it the batch on the device.

    On a GPU the next batch is read, and its copies and transforms are queued on a stream of their
    own, before a batch is handed out: they run beside the step. One batch more is held for it. On
    the CPU each batch is read and moved when it is asked for.

    Args:
        move: brings a batch to ``device``; on a GPU it only queues the work.
    """
    if device.type != "cuda":
        for item in items:
            yield item, move(item)
        return
    side, pending = torch.cuda.Stream(device), None
    side.wait_stream(torch.cuda.current_stream(device))  # for what ``move`` looks up
    for item in items:
        with torch.cuda.stream(side):
            following = item, move(item), side.record_event()
        if pending is not None:
            yield _wait_for_copy(*pending)
        pending = following
    if pending is not None:
        yield _wait_for_copy(*pending)


def _wait_for_copy(item: T, batch: Batch, ready: torch.cuda.Event) -> tuple[T, Batch]:
    """Let the current stream wait for a batch, whose memory is then its own, too."""
    stream = torch.cuda.current_stream(batch.video_index.device)
    stream.wait_event(ready)
    batch.record_stream(stream)
    return item, batch
