"""Which samples an epoch reads, in which order."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from base.batch import SampleKey


class EpochSampler(Sampler[SampleKey]):
    """Yields keys ``(epoch, index)``: in order, or shuffled by (seed, epoch).

    The epoch travels with each key, so that workers kept alive between epochs need no message.

    Args:
        size: number of samples.
        shuffle: whether to shuffle.
        seed: of the order.
    """

    def __init__(self, size: int, shuffle: bool, seed: int) -> None:
        self.size = size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.limit = size  # how many samples of the epoch's order are read

    def __len__(self) -> int:
        return min(self.size, self.limit)

    def __iter__(self) -> Iterator[SampleKey]:
        order = np.arange(self.size)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for index in order[: self.limit].tolist():
            yield SampleKey(self.epoch, index)
