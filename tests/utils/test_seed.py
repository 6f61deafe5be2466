"""Random states go through a checkpoint and come back bit for bit; determinism on GPUs."""

import logging
import os
import random

import numpy as np
import pytest
import torch

from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.seed import (
    CUBLAS_CONFIG,
    get_random_states,
    restore_random_states,
    seed_everything,
    set_determinism,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def draws() -> list:
    """Return a draw of every kind of every generator."""
    return [
        random.random(),
        random.gauss(0, 1),  # keeps every second value for the next call
        np.random.rand(3).tolist(),
        np.random.randn(),  # likewise
        torch.rand(5).tolist(),
        torch.randn(3).tolist(),
        torch.nn.functional.dropout(torch.ones(50)).tolist(),
    ]


def test_the_seed_fixes_every_generator():
    seed_everything(5)
    first = draws()
    seed_everything(5)
    assert draws() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_the_largest_seed_of_a_configuration_is_taken():
    seed_everything(2**32 - 1)
    first = draws()
    seed_everything(2**32 - 1)
    assert draws() == first


def test_states_come_back_from_a_checkpoint_bit_for_bit(tmp_path):
    seed_everything(1)
    draws()  # leaves half a pair in both gauss generators
    save_checkpoint(tmp_path / "a.pth", {"random_states": get_random_states()})
    expected = [draws(), draws()]
    seed_everything(2)
    restore_random_states(load_checkpoint(tmp_path / "a.pth")["random_states"])
    assert [draws(), draws()] == expected


def test_reading_the_states_changes_none():
    seed_everything(3)
    expected = draws()
    seed_everything(3)
    get_random_states()
    assert draws() == expected


def read_settings() -> dict[str, object]:
    """What makes a GPU's numbers the same ones each time, as this process has it."""
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.deterministic,
        "cublas": os.environ.get(CUBLAS_CONFIG),
    }


@pytest.fixture
def fresh(monkeypatch, caplog):
    """The settings of a process that has just begun; they and the log are put back."""
    before = read_settings()
    monkeypatch.setenv(CUBLAS_CONFIG, "")
    monkeypatch.delenv(CUBLAS_CONFIG)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    caplog.set_level(logging.INFO)
    yield read_settings()
    torch.use_deterministic_algorithms(before["algorithms"])
    torch.utils.deterministic.fill_uninitialized_memory = before["fill"]
    torch.backends.cudnn.deterministic = before["cudnn"]


@pytest.mark.parametrize(
    ("given", "cublas"), [(None, ":4096:8"), (":16:8", ":16:8"), (":4096:2:16:8", ":4096:8")]
)
def test_determinism_on_a_gpu(given, cublas, fresh, monkeypatch, caplog):
    if given is not None:
        monkeypatch.setenv(CUBLAS_CONFIG, given)
    set_determinism(True, GPU)
    assert read_settings() == {
        "algorithms": True, "fill": False, "benchmark": False, "cudnn": True, "cublas": cublas,
    }  # fmt: skip
    assert not caplog.records


def test_what_is_not_reproducible_is_one_line_on_a_gpu(fresh, caplog):
    set_determinism(False, GPU)
    [record] = caplog.records
    assert record.getMessage().startswith(
        "on a GPU two runs of one seed differ in their last digit"
    )
    assert record.levelno == logging.INFO and "\n" not in record.getMessage()
    assert read_settings() == fresh


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_cpu_is_left_as_it_is(deterministic, fresh, caplog):
    set_determinism(deterministic, CPU)
    assert read_settings() == fresh and not caplog.records
