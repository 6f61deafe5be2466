"""Sampler of an epoch: which samples it reads, in which order and batches, by which process."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from base.batch import SampleKey


@dataclass(eq=False)
class EpochBatches(Sampler[list[SampleKey]]):
    """Yields the batches of an epoch as lists of keys ``(epoch, index)``.

    The order is that of the file, or shuffled by (seed, epoch). The epoch travels with each key, so
    that workers kept alive between epochs need no message.

    Attributes:
        size: number of samples.
        batch_size: samples of a batch, over all processes.
        shuffle: whether to shuffle.
        seed: of the order.
        rank: which process this is.
        num_ranks: how many share the work.
        share: ``batch``: each process takes a part of every batch, in the batch's order, which
            together are the batch of a single process. ``epoch``: each takes whole batches by
            turns, so that no batch differs from a single process's.
        epoch: the one that is read next.
        first: batches of the epoch that are left out, because they were read before.
        limit: batches of the epoch, those left out included; None: all.
    """

    size: int
    batch_size: int
    shuffle: bool
    seed: int
    rank: int = 0
    num_ranks: int = 1
    share: str = "batch"
    epoch: int = 0
    first: int = 0
    limit: int | None = None

    def __len__(self) -> int:
        return len(self._list_batches())

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = np.arange(self.size)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for number in self._list_batches():
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            whole = self.share == "epoch"
            own = batch if whole else np.array_split(batch, self.num_ranks)[self.rank]
            if len(own):
                yield [SampleKey(self.epoch, index) for index in own.tolist()]
            else:
                # Fewer samples than processes: this one computes along, and its result is left
                # out, since gradients are summed over processes that all take part.
                yield [SampleKey(self.epoch, int(batch[0]), is_filler=True)]

    def _list_batches(self) -> range:
        """The batches of the epoch that this process takes part in."""
        total = -(-self.size // self.batch_size)
        stop = total if self.limit is None else min(total, self.limit)
        if self.share == "epoch":
            return range(self.first + self.rank, stop, self.num_ranks)
        return range(self.first, stop)
