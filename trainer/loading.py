"""What is asked of a data loader, and batches that arrive on the device while a step runs."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import torch

from base.base_dataset import BaseTextVideoDataset
from base.batch import Batch, TokenIds
from trainer.text_table import TextTable

T = TypeVar("T")


class Loader(Protocol):
    """What training and evaluation ask of a data loader.

    Attributes:
        name: for messages.
        dataset: whose samples the batches are made of.
        batch_size: videos of a batch, over all processes.
        query_tokens: of every caption of the data set's entries, in their order.
        word_tokens: of each distinct OCR word of all videos; None where the model reads none.
    """

    name: str
    dataset: BaseTextVideoDataset
    batch_size: int

    @property
    def query_tokens(self) -> list[TokenIds]: ...  # noqa: D102
    @property
    def word_tokens(self) -> list[TokenIds] | None: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __iter__(self): ...  # noqa: ANN204 - an iterator of Batch
    def set_epoch(self, epoch: int, num_batches: int, first: int = 0) -> None: ...  # noqa: D102
    def to_device(self, batch: Batch, device: torch.device) -> Batch: ...  # noqa: D102
    def texts(self, batch: Batch, row: int) -> tuple[list[str], list[str] | None]: ...  # noqa: D102


def on_device(batch: Batch, loader: Loader, words: TextTable | None, device: torch.device) -> Batch:
    """Return a batch of a loader as the model takes it.

    Args:
        batch: as it was read.
        loader: that read it.
        words: of its data set, where they are encoded already.
        device: of the model.
    """
    batch = batch if words is None else words.with_vectors(batch)
    return loader.to_device(batch, device)


def ahead(
    items: Iterable[T], moved: Callable[[T], Batch], device: torch.device
) -> Iterator[tuple[T, Batch]]:
    """Yield what was read, and beside it the batch on the device.

    On a GPU the next batch is read, and its copies and transforms are queued on a stream of their
    own, before a batch is handed out: they run beside the step. One batch more is held for it. On
    the CPU each batch is read and moved when it is asked for.

    Args:
        items: what is read, one batch after the other.
        moved: brings a batch to ``device``; on a GPU it only queues the work.
        device: of the model.
    """
    if device.type != "cuda":
        for item in items:
            yield item, moved(item)
        return
    side, coming = torch.cuda.Stream(device), None
    side.wait_stream(torch.cuda.current_stream(device))  # for what ``moved`` looks up
    for item in items:
        with torch.cuda.stream(side):
            following = item, moved(item), side.record_event()
        if coming is not None:
            yield _arrived(*coming)
        coming = following
    if coming is not None:
        yield _arrived(*coming)


def _arrived(item: T, batch: Batch, ready: torch.cuda.Event) -> tuple[T, Batch]:
    """Let the current stream wait for a batch, whose memory is then its own, too."""
    stream = torch.cuda.current_stream(batch.video_index.device)
    stream.wait_event(ready)
    batch.record_stream(stream)
    return item, batch
