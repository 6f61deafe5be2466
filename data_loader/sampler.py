"""Which samples an epoch reads, in which order, in which batches, and by which process."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from base.batch import SampleKey


class EpochBatches(Sampler[list[SampleKey]]):
    """Yields the batches of an epoch as lists of keys ``(epoch, index)``.

    The order is that of the file, or shuffled by (seed, epoch). The epoch travels with each key, so
    that workers kept alive between epochs need no message.

    Args:
        size: number of samples.
        batch_size: samples of a batch, over all processes.
        shuffle: whether to shuffle.
        seed: of the order.
        rank: which process this is.
        num_ranks: how many share the work.
        share: ``batch``: each process takes a part of every batch, in the batch's order, which
            together are the batch of a single process. ``epoch``: each takes whole batches by
            turns, so that no batch differs from a single process's.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        share: str = "batch",
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.share = share
        self.epoch = 0
        self.first = 0  # batches of the epoch that are left out, because they were read before
        self.limit: int | None = None  # batches of the epoch, those left out included; None: all

    def __len__(self) -> int:
        return len(self._numbers())

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = np.arange(self.size)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for number in self._numbers():
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield self._own(batch)

    def _numbers(self) -> range:
        """The batches of the epoch that this process takes part in."""
        total = -(-self.size // self.batch_size)
        stop = total if self.limit is None else min(total, self.limit)
        if self.share == "epoch":
            return range(self.first + self.rank, stop, self.num_ranks)
        return range(self.first, stop)

    def _own(self, batch: np.ndarray) -> list[SampleKey]:
        if self.share == "epoch":
            return [SampleKey(self.epoch, index) for index in batch.tolist()]
        own = np.array_split(batch, self.num_ranks)[self.rank].tolist()
        if own:
            return [SampleKey(self.epoch, index) for index in own]
        # Fewer samples than processes: this one computes along, and its result is left out, since
        # gradients are summed over processes that all take part.
        return [SampleKey(self.epoch, int(batch[0]), is_filler=True)]
