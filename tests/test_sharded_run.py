"""train.py with trainer.sharding in several processes: the run of one, also after a kill."""

import itertools
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

import test
import train
from tests.conftest import ROOT, tiny
from tests.kill_points import KillPoint
from tests.ranks import run_ranks, start_ranks, wait_for_ranks
from tests.run_folders import read_sharded_state
from tests.trainer.test_resume import differences
from trainer.checkpoint_folder import find_newest_checkpoint
from trainer.optimizer_shards import read_shards
from trainer.tracking import TIMINGS
from utils.checkpoint.files import CheckpointError, load_checkpoint
from utils.cli import run_cli

# By SGD: Adam makes steps of the rounding noise of gradients that are 0.
SGD = 'optimizer={"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9}}'
CHANGES = [
    "trainer.sharding=fsdp2",
    "trainer.epochs=2",
    "trainer.save_every_steps=1",
    "trainer.max_samples_per_epoch=null",
    "data_loader.args.batch_size=6",
    SGD,
]


def arguments(demo: Path, folder: Path, *changes: str) -> list[str]:
    """The command line of a tiny run of the mode fusion, begun or gone on with."""
    options = [part for text in (*tiny(demo), *CHANGES, *changes) for part in ("--set", text)]
    fusion = str(ROOT / "configs/demo/fusion.json")
    return ["-c", fusion, "--run_dir", str(folder), "-r", "auto", *options]


def be_training(argv: list[str], point: KillPoint | None = None) -> None:
    """Be one of the processes of train.py, the first of which is killed at a point."""
    sys.argv = ["train.py", *argv]
    if point is not None and os.environ["RANK"] == "0":
        point()
    try:
        run_cli(train.main)
    except SystemExit as end:
        if end.code:
            raise


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory):
    """The folders of the same training in one process and, sharded, in two."""
    folder = tmp_path_factory.mktemp("runs")
    more = [
        "trainer.init_val=true",
        "trainer.clip_grad_norm=1.0",
        "trainer.chunk_size=2",
        "trainer.activation_checkpointing=true",
        "arch.args.ocr_encoder_grad=false",
    ]
    for count in (1, 2):
        argv = arguments(demo, folder / str(count), *more)
        run_ranks(count, folder / f"stderr{count}", be_training, argv)
    return folder


def test_a_sharded_run_is_that_of_one_process(runs):
    lines = [(runs / n / "metrics.jsonl").read_text().splitlines() for n in "12"]
    assert len(lines[0]) == len(lines[1]) == 3
    for one, two in zip(*(map(json.loads, of) for of in lines), strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            if name not in TIMINGS:
                assert two[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    weights = [load_checkpoint(runs / n / "model_last.pth")["state_dict"] for n in "12"]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-5, rtol=1e-3, msg=name)
    assert "Traceback" not in (runs / "stderr2").read_text()


def test_only_what_a_checkpoint_names_is_kept_beside_it(runs):
    named = {read_shards(path)["folder"] for path in (runs / "2").glob("*.pth")}
    assert {path.name for path in (runs / "2").glob("optimizer-*")} == named and len(named) > 1
    assert not list((runs / "1").glob("optimizer-*"))
    assert not list((runs / "2").glob(".*"))


def test_the_best_one_is_tested_without_what_is_beside_it(runs, tmp_path, run_main):
    ignored = shutil.ignore_patterns("optimizer-*")
    folder = shutil.copytree(runs / "2", tmp_path / "run", ignore=ignored)
    command = "-r", folder / "model_best.pth", "--sim_path", tmp_path / "sim.npy"
    code, _, err = run_main(test, *command)
    assert code == 0, err


def test_what_is_damaged_beside_a_checkpoint_is_passed_over(runs, tmp_path, make_config, caplog):
    folder = shutil.copytree(runs / "2", tmp_path / "run")
    last = folder / "model_last.pth"
    shards = folder / read_shards(last)["folder"]
    file = shards / "shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    newest = find_newest_checkpoint(folder)
    assert newest.name == "model_last-1.pth"
    assert f"{file}: is damaged" in caplog.text
    shutil.rmtree(shards)
    caplog.clear()
    assert find_newest_checkpoint(folder) == newest
    assert f"{last}: can't be resumed, the optimizer's state beside it can't be read" in caplog.text


def test_the_names_of_files_lead_nowhere_else(runs, tmp_path):
    for changed in ({"folder": "../optimizer-00000001"}, {"files": {"../../x": [1, 1]}}):
        state = load_checkpoint(runs / "2" / "model_last.pth")
        state["optimizer"]["shards"] |= changed
        torch.save(state, tmp_path / "model_last.pth")
        with pytest.raises(CheckpointError, match="holds no checkpoint that is whole"):
            find_newest_checkpoint(tmp_path)


@pytest.fixture(scope="module")
def at_points(demo, tmp_path_factory):
    """The command line of a sharded run, its folder, its last state and its points."""
    folder = tmp_path_factory.mktemp("points") / "run"
    argv, log = arguments(demo, folder), folder.parent / "log"
    run_ranks(2, folder.parent / "stderr", be_training, argv, KillPoint(folder, log))
    return argv, folder, read_sharded_state(folder), log.read_text().splitlines()


def is_running(rank) -> bool:
    return rank.exitcode is None


def kill_and_go_on(at_points, point: KillPoint, fewest_steps: int) -> None:
    """Kill the first process at a point, let the run go on, and compare it with the untouched."""
    argv, folder, whole, _ = at_points
    stderr = folder.parent / "stderr"
    shutil.rmtree(folder)
    codes = wait_for_ranks(start_ranks(2, stderr, be_training, argv, point))
    assert codes[0] == -signal.SIGKILL
    newest = find_newest_checkpoint(folder)
    assert (load_checkpoint(newest)["step"] if newest else 0) >= fewest_steps
    run_ranks(2, stderr, be_training, argv)
    assert differences(whole, read_sharded_state(folder)) == []
    assert not list(folder.glob(".*"))
    named = {read_shards(path)["folder"] for path in folder.glob("*.pth")}
    assert {path.name for path in folder.glob("optimizer-*")} == named


@pytest.mark.parametrize(
    "at",
    [
        "replace model_last.pth",  # the optimizer's state is there, the checkpoint is not
        pytest.param("rename optimizer-00000002", marks=pytest.mark.slow),
    ],
)
def test_killed_while_it_saves_and_gone_on_with(at, at_points, tmp_path):
    _, folder, _, points = at_points
    nth = [line for line in points if line.startswith(("rename", "replace model_last.pth"))]
    assert at in nth
    number = 2 if at.startswith("replace") else 1
    kill_and_go_on(at_points, KillPoint(folder, tmp_path / "log", at=at, nth=number), 1)


@pytest.mark.slow
def test_stopped_and_gone_on_with(at_points):
    argv, folder, whole, _ = at_points
    stderr = folder.parent / "stderr"
    shutil.rmtree(folder)
    ranks = start_ranks(2, stderr, be_training, argv)
    while not (folder / "model_last.pth").exists() and all(map(is_running, ranks)):
        time.sleep(0.01)
    for rank in ranks:
        os.kill(rank.pid, signal.SIGTERM)
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [143, 143], stderr.read_text()[-3000:]
    assert load_checkpoint(folder / "model_last.pth")["step"] < whole["step"]
    run_ranks(2, stderr, be_training, argv)
    assert differences(whole, read_sharded_state(folder)) == []


@pytest.mark.slow
def test_a_profile_of_sharded_steps(demo, tmp_path):
    argv = [*arguments(demo, tmp_path / "run"), "--profile"]
    run_ranks(2, tmp_path / "stderr", be_training, argv)
    table = (tmp_path / "run" / "profile" / "steps.txt").read_text()
    assert "optimizer" in table and "backward" in table


@pytest.mark.slow
def test_killed_at_every_kind_of_point(at_points, tmp_path):
    _, folder, _, points = at_points
    kinds = {re.sub(r"\d+", "", line): line for line in points}
    wrong = []
    for number, at in enumerate(kinds.values()):
        point = KillPoint(folder, tmp_path / f"log{number}", at=at, nth=points.count(at))
        try:
            kill_and_go_on(at_points, point, 0)
        except (AssertionError, pytest.fail.Exception) as error:
            wrong.append((at, str(error)[-500:]))
    assert len(kinds) > 20 and wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("counts", itertools.permutations((2, 1, 3), 2))
def test_a_run_goes_on_in_another_number_of_processes(counts, demo, tmp_path):
    stderr = tmp_path / "stderr"
    run_ranks(counts[0], stderr, be_training, arguments(demo, tmp_path / "run", "trainer.epochs=1"))
    run_ranks(counts[1], stderr, be_training, arguments(demo, tmp_path / "run"))
    run_ranks(1, stderr, be_training, arguments(demo, tmp_path / "one"))
    states = [load_checkpoint(tmp_path / n / "model_last.pth") for n in ("one", "run")]
    assert states[1]["epoch"] == 2
    for name, weight in states[0]["state_dict"].items():
        torch.testing.assert_close(states[1]["state_dict"][name], weight, atol=1e-5, rtol=1e-3)
