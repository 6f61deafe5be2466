"""Several real processes (gloo, CPU) compute what one process computes of the joined batch."""

import pytest
import torch

from tests.trainer.distributed_steps import BATCHES


@pytest.mark.parametrize(
    ("count", "chunk_size"),
    [pytest.param(2, 0, marks=pytest.mark.slow), pytest.param(2, 2, marks=pytest.mark.slow), (3, 0),
     pytest.param(3, 2, marks=pytest.mark.slow)],
)  # fmt: skip
def test_several_processes_equal_one(steps, count, chunk_size):
    check_equal(steps(1), steps(count, chunk_size))


@pytest.mark.parametrize("chunk_size", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_fusions_warm_up_and_unimodal_losses_in_several_processes(steps, chunk_size):
    """The first of the three steps trains the words alone, outside of DistributedDataParallel."""
    settings = {"ocr_warmup_steps": 1, "unimodal_losses": {"vision": 1.0, "ocr": 0.5}}
    one = steps(1, **settings)
    assert len(one["gradients"][0]) < len(one["gradients"][1])
    check_equal(one, steps(3, chunk_size, **settings))


@pytest.mark.parametrize(
    ("loss", "positives", "count", "chunk_size"),
    [
        ("SigmoidLoss", "captions", 2, 2),
        pytest.param("SigmoidLoss", "captions", 3, 0, marks=pytest.mark.slow),
        pytest.param("SigmoidLoss", "captions", 3, 2, marks=pytest.mark.slow),
        pytest.param("SigmoidLoss", "diagonal", 3, 2, marks=pytest.mark.slow),
        pytest.param("SoftmaxLoss", "diagonal", 2, 2, marks=pytest.mark.slow),
        pytest.param("SoftmaxLoss", "diagonal", 3, 0, marks=pytest.mark.slow),
    ],
)
def test_learned_losses_in_several_processes_equal_one(steps, loss, positives, count, chunk_size):
    block = {"type": loss, "args": {"positives": positives}}
    one = steps(1, loss=block)
    learned = {"criterion.log_scale"} | ({"criterion.bias"} if loss == "SigmoidLoss" else set())
    for gradients in one["gradients"]:
        names = {name for name in gradients if name.startswith("criterion.")}
        assert names == learned and all(gradients[name].abs() > 1e-6 for name in names)
    check_equal(one, steps(count, chunk_size, loss=block))


@pytest.mark.parametrize(
    ("tower", "count", "chunk_size"),
    [
        ({}, 3, 2),
        pytest.param({}, 2, 0, marks=pytest.mark.slow),
        pytest.param({"lora": {"rank": 2}, "freeze": "all"}, 3, 2, marks=pytest.mark.slow),
    ],
)
def test_a_tower_in_several_processes_equals_one(steps, tower, count, chunk_size):
    one = steps(1, tower=tower)
    assert any(name.startswith("tower.") for name in one["gradients"][0])
    check_equal(one, steps(1, chunk_size=1, tower=tower), least=10)
    check_equal(one, steps(count, chunk_size, tower=tower), least=10)


def check_equal(one: dict, several: dict, least: int = 20, count: int = len(BATCHES)) -> None:
    assert len(one["losses"]) == count and len(set(one["losses"])) == count
    assert several["losses"] == pytest.approx(one["losses"], abs=1e-9)
    for expected, found in zip(one["gradients"], several["gradients"], strict=True):
        assert expected.keys() == found.keys() and len(expected) > least
        for name, grad in expected.items():
            torch.testing.assert_close(found[name], grad, atol=1e-9, rtol=1e-9, msg=name)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(several["weights"][name], weight, atol=1e-9, rtol=1e-9)


def test_texts_that_several_encode_are_those_of_one_to_the_bit(steps):
    one, several = steps(1)["vectors"], steps(3)["vectors"]
    assert [len(vectors) for vectors in one] == [405, 1]
    assert all(torch.equal(*pair) for pair in zip(one, several, strict=True))
