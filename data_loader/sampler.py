"""Sampler of an epoch: the order of its samples, their batches, and each process's share."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from base.batch import SampleKey


@dataclass(eq=False)
class EpochBatches(Sampler[list[SampleKey]]):
    """Yields the batches of an epoch as lists of keys ``(epoch, index)``.

    The order is that of the file, or shuffled by (seed, epoch). Each key holds the epoch, so that
    workers kept alive between epochs need no message.

    ``share`` tells how processes divide the work. ``batch``: each takes a part of every batch, in
    its order; together they are the batch of a single process. ``epoch``: they take complete
    batches in turn, so that no batch differs from a single process's.
    """

    size: int  # number of samples
    batch_size: int  # over all processes
    shuffle: bool
    seed: int
    rank: int = 0
    num_ranks: int = 1
    share: str = "batch"
    epoch: int = 0  # the one that is read next
    first: int = 0  # batches that are skipped, because they were read before
    limit: int | None = None  # batches of the epoch, the skipped ones included; None: all

    def __len__(self) -> int:
        return len(self._list_batches())

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = np.arange(self.size)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for number in self._list_batches():
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            if self.share == "batch":
                part = np.array_split(batch, self.num_ranks)[self.rank]
            else:
                part = batch
            if len(part):
                yield [SampleKey(self.epoch, index) for index in part.tolist()]
            else:
                # Fewer samples than processes: gradients are summed over all processes, so this
                # one computes too, and its result is dropped.
                yield [SampleKey(self.epoch, int(batch[0]), is_filler=True)]

    def _list_batches(self) -> range:
        """Return the numbers of the batches that this process takes part in."""
        total = -(-self.size // self.batch_size)
        stop = total if self.limit is None else min(total, self.limit)
        if self.share == "epoch":
            return range(self.first + self.rank, stop, self.num_ranks)
        return range(self.first, stop)
