"""What a step's time is spent on, while training goes on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

GIB = 2**30


class StepClock:
    """Measures batches: samples a second, and the share of time spent waiting for data.

    What it says of an epoch covers the batches since the epoch's start, or since the run was
    resumed within it. Validation and checkpoints between epochs do not count.
    """

    def __init__(self) -> None:
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Start measuring anew."""
        self._seconds = self._waiting = 0.0
        self._samples = 0
        self._since = time.perf_counter()
        self._waiting_now = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a ``with`` block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waiting_now += time.perf_counter() - start

    def batch_done(self, num_samples: int) -> dict[str, float]:
        """Take in a batch of all processes; returns its numbers."""
        now = time.perf_counter()
        seconds, waiting = now - self._since, self._waiting_now
        self._since, self._waiting_now = now, 0.0
        self._seconds += seconds
        self._waiting += waiting
        self._samples += num_samples
        return _numbers(num_samples, seconds, waiting)

    def epoch(self) -> dict[str, float]:
        """Return the epoch's numbers; none where no batch was done."""
        return _numbers(self._samples, self._seconds, self._waiting) if self._samples else {}


def _numbers(num_samples: int, seconds: float, waiting: float) -> dict[str, float]:
    numbers = {
        "samples_per_second": num_samples / seconds,
        "waiting_share": waiting / seconds,
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        numbers["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / GIB  # most so far
    return numbers
