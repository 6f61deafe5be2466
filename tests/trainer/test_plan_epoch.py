"""Which loader gives which batch of an epoch."""

from types import SimpleNamespace

import pytest

from trainer.trainer import plan_epoch


def loaders(*sizes: tuple[int, int]) -> list:
    """Loaders of (samples, batch size)."""
    return [SimpleNamespace(dataset=range(n), batch_size=size) for n, size in sizes]


@pytest.mark.parametrize(
    ("sizes", "max_samples", "expected"),
    [
        ([(8, 4)], None, [(0, 4), (0, 4)]),
        ([(7, 4)], None, [(0, 4), (0, 3)]),  # the last batch is smaller
        ([(3, 4)], None, [(0, 3)]),
        ([(8, 4)], 4, [(0, 4)]),
        ([(8, 4)], 5, [(0, 4), (0, 4)]),  # a batch is never cut
        ([(8, 4)], 1, [(0, 4)]),
        ([(8, 4)], 100, [(0, 4), (0, 4)]),
        ([(4, 2), (4, 2)], None, [(0, 2), (1, 2), (0, 2), (1, 2)]),
        ([(9, 2), (3, 2)], None, [(0, 2), (1, 2), (0, 2), (1, 1), (0, 2)]),  # the shortest ends
        ([(3, 2), (9, 2)], None, [(0, 2), (1, 2), (0, 1), (1, 2)]),
        ([(9, 4), (9, 1), (9, 2)], 8, [(0, 4), (1, 1), (2, 2), (0, 4)]),
        ([(2, 1), (2, 1)], 3, [(0, 1), (1, 1), (0, 1)]),
    ],
)
def test_loaders_take_turns_until_one_ends_or_the_samples_are_reached(sizes, max_samples, expected):
    assert plan_epoch(loaders(*sizes), max_samples) == expected
