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
        ([(8, 4)], 7, [(0, 4)]),  # a batch is never cut, nor goes past the number
        ([(8, 4)], 8, [(0, 4), (0, 4)]),
        ([(7, 4)], 7, [(0, 4)]),  # the last, smaller batch counts as a full one
        ([(8, 4)], 1, [(0, 4)]),  # one there is in any case
        ([(8, 4)], 100, [(0, 4), (0, 4)]),
        ([(4, 2), (4, 2)], None, [(0, 2), (1, 2), (0, 2), (1, 2)]),
        ([(9, 2), (3, 2)], None, [(0, 2), (1, 2), (0, 2), (1, 1)]),  # the shortest ends
        ([(3, 2), (9, 2)], None, [(0, 2), (1, 2), (0, 1), (1, 2)]),
        ([(9, 4), (9, 1), (9, 2)], 8, [(0, 4), (1, 1), (2, 2)]),
        ([(9, 4), (9, 1), (9, 2)], 14, [(0, 4), (1, 1), (2, 2)] * 2),
        ([(9, 4), (9, 1), (9, 2)], 3, [(0, 4), (1, 1), (2, 2)]),
        ([(2, 1), (2, 1)], 3, [(0, 1), (1, 1)]),
    ],
)
def test_loaders_take_turns_until_one_ends_or_the_samples_are_reached(sizes, max_samples, expected):
    assert plan_epoch(loaders(*sizes), max_samples) == expected


def run_published_epoch(sizes, max_samples) -> list[tuple[int, int]]:
    """The published loop, written out: batches as they are drawn from all loaders at once."""
    batches = [
        [(turn, min(size, count - start)) for start in range(0, count, size)]
        for turn, (count, size) in enumerate(sizes)
    ]
    trained, joint = [], sum(size for _, size in sizes)
    for number, drawn in enumerate(zip(*batches, strict=False)):
        if (number + 1) * joint > max_samples:
            break
        trained += drawn
    return trained


@pytest.mark.parametrize("sizes", [[(7_800, 64)], [(42, 64)], [(42, 8), (30, 4)], [(30, 4)] * 3])
def test_epochs_are_those_of_the_published_loop(sizes):
    joint = sum(size for _, size in sizes)
    for max_samples in [*range(joint, 7 * joint), 20_000]:
        expected = run_published_epoch(sizes, max_samples)
        assert plan_epoch(loaders(*sizes), max_samples) == expected


def test_an_epoch_of_the_published_run():
    """A million samples of WebVid-2M in batches of 448: 2,232 steps."""
    assert len(plan_epoch(loaders((2_490_000, 448)), 10**6)) == 2232
