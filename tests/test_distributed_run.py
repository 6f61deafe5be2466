"""train.py and test.py in several processes, started by torchrun: the same run as in one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.embedding_files import load_embeddings
from tests.conftest import ROOT, tiny
from trainer.tracking import TIMINGS
from utils.checkpoint.files import load_checkpoint

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def command(script: str, count: int, *arguments: object) -> list[str]:
    start = [sys.executable] if count == 1 else [*TORCHRUN, str(count)]
    return [*start, str(ROOT / script), *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(script: str, count: int, *arguments: object) -> subprocess.CompletedProcess:
    """Run a command to its end; it may take no more than two minutes."""
    return subprocess.run(
        command(script, count, *arguments),
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def training(demo: Path, folder: Path, *changes: str) -> list[str]:
    texts = [*tiny(demo), "trainer.max_samples_per_epoch=null", *changes]
    options = [part for text in texts for part in ("--set", text)]
    return ["-c", str(ROOT / "configs/demo/fusion.json"), "--run_dir", str(folder), *options]


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory):
    """The folders of the same training in one process and in two; batches of 6, so 6 and 2.

    By SGD: Adam makes steps of the rounding noise of gradients that are 0.
    """
    folder = tmp_path_factory.mktemp("runs")
    sgd = 'optimizer={"type": "SGD", "args": {"lr": 0.05}}'
    for count in (1, 2):
        done = run("train.py", count, *training(
            demo, folder / str(count), sgd, "data_loader.args.batch_size=6"))  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_a_run_of_two_processes_is_that_of_one(runs):
    lines = [json.loads((runs / n / "metrics.jsonl").read_text()) for n in "12"]
    assert lines[0].keys() == lines[1].keys()
    for name, value in lines[0].items():
        if name not in TIMINGS:
            assert lines[1][name] == pytest.approx(value, rel=1e-4), name
    states = [load_checkpoint(runs / n / "model_last.pth") for n in "12"]
    for name, weight in states[0]["state_dict"].items():
        torch.testing.assert_close(states[1]["state_dict"][name], weight, atol=1e-5, rtol=1e-4)
    assert [len(state["random_states"]) for state in states] == [1, 2]


def test_only_the_first_process_writes(runs):
    files = [sorted(p.name for p in (runs / n).iterdir()) for n in "12"]
    assert files[0] == files[1] and "train.log" in files[0]
    assert (runs / "2" / "train.log").read_text() == ""  # there is nothing to warn of
    events = [len(list((runs / n / "tensorboard").iterdir())) for n in "12"]
    assert events == [1, 1]


@pytest.mark.slow
def test_the_matrix_of_two_processes_is_that_of_one(runs, demo, tmp_path):
    for count in (1, 2):
        done = run("test.py", count, "-r", runs / "1" / "model_last.pth", "--batch_size", 3,
                   "--sim_path", tmp_path / str(count) / "m.npy")  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (np.load(tmp_path / n / "m.npy") for n in "12")
    assert one.shape == (8, 8) and (one == two).all()
    metrics = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in "12"]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_embeddings_of_two_processes_are_those_of_one(runs, tmp_path):
    for count in (1, 2):
        done = run("test.py", count, "-r", runs / "1" / "model_last.pth", "--batch_size", 1,
                   "--sim_path", tmp_path / str(count) / "m.npy", "--no_matrix",
                   "--save_feats", tmp_path / str(count), "--shard_size", 3)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (load_embeddings(tmp_path / n) for n in "12")
    assert (one.video_embeds == two.video_embeds).all() and one.ids == two.ids
    assert (one.text_embeds == two.text_embeds).all() and len(one.text_embeds) == 8
    shards = [sorted(p.name for p in (tmp_path / n).glob("*.videos-*")) for n in "12"]
    assert shards[0] == shards[1] and len(shards[0]) == 3
    metrics = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in "12"]
    assert metrics[0] == metrics[1] and not (tmp_path / "2" / "m.npy").exists()


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_one_message(demo, tmp_path):
    done = run("train.py", 2, *training(demo, tmp_path, "data_loader.args.batch_size=5"))
    assert done.returncode != 0
    assert done.stderr.count("batch_size: 5 is the batch of all GPUs and does not divide by 2") == 1
    assert "take 6" in done.stderr


@pytest.mark.slow
def test_a_process_that_dies_takes_the_other_with_it(demo, tmp_path):
    changes = ["trainer.epochs=100000", "trainer.save_period=100000"]
    process = subprocess.Popen(
        command("train.py", 2, *training(demo, tmp_path / "run", *changes)),
        cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            time.sleep(0.2)
            assert process.poll() is None
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "train.py"], capture_output=True, text=True
        ).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0 and "SIGKILL" in stderr
