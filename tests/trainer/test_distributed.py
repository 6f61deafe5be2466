"""Several real processes (gloo, CPU) compute what one process computes of the joined batch."""

import os
import sys
from pathlib import Path

import pytest
import torch

from tests.model.small_models import write_text_model
from tests.trainer.distributed_steps import BATCHES
from utils.launch import launch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/trainer/distributed_steps.py"


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Return a function: processes, chunk size (0: whole) -> what three steps gave."""
    folder = tmp_path_factory.mktemp("steps")
    text_model = write_text_model(folder / "text")
    done = {}

    def run(count: int, chunk_size: int = 0) -> dict:
        key = f"{count}_{chunk_size}"
        if key not in done:
            out = folder / f"{key}.pt"
            command = [sys.executable, str(SCRIPT), str(text_model), str(out), str(chunk_size)]
            before = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = str(ROOT)
            try:
                assert launch(command, count) == 0
            finally:
                os.environ.pop("PYTHONPATH") if before is None else None
            done[key] = torch.load(out, weights_only=True)
        return done[key]

    return run


@pytest.mark.parametrize(
    ("count", "chunk_size"),
    [pytest.param(2, 0, marks=pytest.mark.slow), pytest.param(2, 2, marks=pytest.mark.slow), (3, 0),
     pytest.param(3, 2, marks=pytest.mark.slow)],
)  # fmt: skip
def test_several_processes_equal_one(steps, count, chunk_size):
    one, several = steps(1), steps(count, chunk_size)
    assert len(one["losses"]) == len(BATCHES) and len(set(one["losses"])) == len(BATCHES)
    assert several["losses"] == pytest.approx(one["losses"], abs=1e-9)
    for expected, found in zip(one["gradients"], several["gradients"], strict=True):
        assert expected.keys() == found.keys() and len(expected) > 30
        for name, grad in expected.items():
            torch.testing.assert_close(found[name], grad, atol=1e-9, rtol=1e-9, msg=name)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(several["weights"][name], weight, atol=1e-9, rtol=1e-9)


def test_texts_that_several_encode_are_those_of_one_to_the_bit(steps):
    one, several = steps(1)["vectors"], steps(3)["vectors"]
    assert [len(vectors) for vectors in one] == [405, 1]
    assert all(torch.equal(*pair) for pair in zip(one, several, strict=True))
