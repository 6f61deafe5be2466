"""Runs of one seed are equal bit for bit, stopped or not: on a GPU by ``trainer.deterministic``."""

import subprocess
import sys

import pytest

import trainer.build
from tests.conftest import ROOT, tiny
from tests.trainer.test_resume import CPU, differences, made
from tests.trainer.test_resume_steps import metrics
from utils.checkpoint.files import load_checkpoint

# train.py, which gets SIGTERM in the middle of the step of that number (0: never).
PROGRAM = """
import itertools, signal, sys
import train
from trainer.trainer import Trainer
from utils.cli import run_cli
stop, steps, train_step = int(sys.argv.pop(1)), itertools.count(1), Trainer.train_step
def stopping(trainer, batch):
    if next(steps) == stop:
        signal.raise_signal(signal.SIGTERM)
    return train_step(trainer, batch)
Trainer.train_step = stopping
run_cli(train.main)
"""
STOPPED = 143


def run(stop: int, *arguments: object) -> int:
    """Train in a process of its own, so that CUDA has not been used before; returns its code."""
    command = [sys.executable, "-c", PROGRAM, str(stop), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, STOPPED), done.stderr
    return done.returncode


def test_it_is_set_before_the_model_is_on_its_device(make_config, tmp_path, monkeypatch):
    called, build_model = [], trainer.build.build_model
    monkeypatch.setattr(trainer.build, "set_determinism", lambda *given: called.append(given))
    monkeypatch.setattr(
        trainer.build, "build_model", lambda *given: called.append("model") or build_model(*given)
    )
    for wanted in (True, False):
        change = f"trainer.deterministic={str(wanted).lower()}"
        made(make_config(change, kind="ocr"), tmp_path / change)
        assert called == [(wanted, CPU), "model"]
        called.clear()


@pytest.mark.parametrize(
    "n_gpu", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_and_a_stopped_one_are_equal(n_gpu, precision, demo, dropout_text_model, tmp_path):
    changes = [
        *tiny(demo),
        f"n_gpu={n_gpu}",
        f"arch.args.text_params.model={dropout_text_model}",
        f"trainer.precision={precision}",
        "trainer.deterministic=true",
        "trainer.epochs=2",
        "data_loader.args.batch_size=3",  # 3 + 3 + 2
        "trainer.verbosity=1",
    ]
    options = [part for text in changes for part in ("--set", text)]
    options = ["-c", ROOT / "configs/demo/fusion.json", *options, "-r", "auto", "--run_dir"]
    for name in ("first", "second"):
        assert run(0, *options, tmp_path / name) == 0
    assert run(2, *options, tmp_path / "stopped") == STOPPED
    last = tmp_path / "stopped" / "model_last.pth"
    assert load_checkpoint(last)["step"] == 2
    assert run(0, *options, tmp_path / "stopped") == 0

    first = load_checkpoint(tmp_path / "first" / "model_last.pth")
    assert first["step"] == 6
    for name in ("second", "stopped"):
        assert differences(first, load_checkpoint(tmp_path / name / "model_last.pth")) == []
        assert metrics(tmp_path / name) == metrics(tmp_path / "first")
    assert "differ in their last digits" not in (tmp_path / "first" / "train.log").read_text()


@pytest.mark.gpu
def test_without_it_the_log_says_so_once(demo, tmp_path):
    options = [part for text in [*tiny(demo), "n_gpu=1"] for part in ("--set", text)]
    options += ["--set", "trainer.verbosity=1", "--run_dir", tmp_path / "run"]
    assert run(0, "-c", ROOT / "configs/demo/ocr.json", *options) == 0
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("differ in their last digits") == 1
