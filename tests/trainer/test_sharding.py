"""Sharded training (FSDP2 on gloo) computes what one process computes, and is resumed exactly."""

import pytest

from tests.trainer.test_distributed import check_equal, steps  # noqa: F401


@pytest.mark.parametrize(
    ("count", "chunk_size"),
    [(2, 0), (3, 2), (2, 2), (3, 0)],
)
def test_sharded_processes_equal_one(steps, count, chunk_size):  # noqa: F811
    check_equal(steps(1), steps(count, chunk_size, sharding="fsdp2"))
