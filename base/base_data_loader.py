"""The contract of a data loader: what training and evaluation ask of it."""

from collections.abc import Iterator
from typing import Protocol

import torch

from base.base_dataset import BaseTextVideoDataset
from base.batch import Batch, TokenIds


class BaseDataLoader(Protocol):
    """Yields the batches of one epoch on the CPU.

    Attributes:
        name: for messages.
        dataset: whose samples the batches are made of.
        batch_size: videos of a batch, over all processes.
    """

    name: str
    dataset: BaseTextVideoDataset
    batch_size: int

    @property
    def query_tokens(self) -> list[TokenIds]:
        """The tokens of every caption of the data set's entries, in their order."""

    @property
    def word_tokens(self) -> list[TokenIds] | None:
        """The tokens of each distinct OCR word of all videos; None where the model reads none."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""

    def set_epoch(self, epoch: int, num_batches: int, first: int = 0) -> None:
        """Choose the epoch that is read next, how many batches it has, and the first to read."""

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """Return a batch on ``device``, its frames augmented and normalised."""

    def get_texts(self, batch: Batch, row: int) -> tuple[list[str], list[str] | None]:
        """Return the queries and the OCR words of one of a batch's videos."""
