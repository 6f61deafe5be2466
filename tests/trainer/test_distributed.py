"""Several real processes (gloo, CPU) compute what one process computes of the joined batch."""

import json
from typing import Any

import pytest
import torch

from tests.model.small_models import PATCH, RES, VOCABULARY, write_text_model
from tests.model.small_towers import write_clip
from tests.ranks import run_ranks
from tests.trainer.distributed_steps import BATCHES, take_steps


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Return a function: processes, chunk size (0: whole), settings -> what three steps gave."""
    folder = tmp_path_factory.mktemp("steps")
    text_model = write_text_model(folder / "text")
    write_clip(folder / "tower", VOCABULARY, RES, PATCH)
    config = json.loads((text_model / "config.json").read_text())
    config |= {"dropout": 0.0, "attention_dropout": 0.0}
    (text_model / "config.json").write_text(json.dumps(config))
    done = {}

    def run(count: int, chunk_size: int = 0, **settings: Any) -> dict:
        key = json.dumps([count, chunk_size, settings], default=str)
        if key not in done:
            out = folder / f"{len(done)}.pt"
            given = text_model, out, chunk_size, settings
            run_ranks(count, folder / "stderr", take_steps, *given)
            done[key] = torch.load(out, weights_only=True)
        return done[key]

    return run


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
