"""A training process that is killed at any moment loses no more than the last steps.

At moments drawn at random, and at each point at which it changes its folder: what lies between two
writes is hit by chance in one of ten thousand.
"""

import itertools
import random
import shutil
import signal
import time

import numpy as np
import pytest

import test
from tests.kill_points import KillPoint
from tests.processes import arguments, finish, start
from tests.run_folders import compare_folders, read_folder
from tests.trainer.test_resume import differences
from tests.trainer.test_resume_steps import metrics
from trainer.checkpoint_folder import (
    LAST,
    check_best,
    find_newest_checkpoint,
    get_best_epoch,
    read_epoch,
)
from utils.checkpoint.files import load_checkpoint, load_values
from utils.errors import UserError

CHANGES = [
    "trainer.epochs=12",
    "trainer.save_every_steps=1",
    "trainer.keep_last=3",
    "data_loader.args.batch_size=3",
    "optimizer.args.lr=1e-3",
    "trainer.save_period=4",
    'lr_scheduler={"type": "cosine"}',
]
POINTS = [
    "trainer.epochs=2",
    "trainer.save_every_steps=1",
    "trainer.save_period=2",
    "trainer.keep_last=3",
    "trainer.init_val=true",
    "trainer.log_every=1",
    "data_loader.args.batch_size=8",
    "optimizer.args.lr=1e-3",
    'lr_scheduler={"type": "cosine"}',
]


def half_written(folder) -> list:
    return list(folder.glob(".*.tmp"))


def kill_at_random(process, folder, draw: random.Random, span: float) -> None:
    process.join(draw.uniform(0, span))
    process.kill()
    process.join()


def kill_while_writing(process, folder, draw: random.Random, span: float) -> None:
    deadline = time.monotonic() + draw.uniform(0, span)
    while process.is_alive() and (time.monotonic() < deadline or not half_written(folder)):
        time.sleep(0.0002)
    process.kill()
    process.join()


@pytest.fixture(scope="module")
def undisturbed(demo, dropout_text_model, tmp_path_factory):
    """The folder of a run that was never touched, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    begin = time.monotonic()
    text = f"arch.args.text_params.model={dropout_text_model}"
    assert finish(arguments(demo, folder, *CHANGES, text), folder.parent / "stderr") == 0
    return folder, time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_at_random, kill_while_writing])
@pytest.mark.parametrize("seed", range(5))
def test_killed_twice_and_resumed(seed, kill, undisturbed, demo, dropout_text_model, tmp_path):
    whole, seconds = undisturbed
    folder, draw = tmp_path / "run", random.Random(seed)
    text = f"arch.args.text_params.model={dropout_text_model}"
    argv = arguments(demo, folder, *CHANGES, text)
    for _ in range(2):
        process = start(argv, tmp_path / "stderr")
        kill(process, folder, draw, 0.6 * seconds)
        newest = find_newest_checkpoint(folder) if folder.is_dir() else None
        if newest is not None:
            assert load_checkpoint(newest)["step"] > 0
    assert finish(argv, tmp_path / "stderr") == 0, (tmp_path / "stderr").read_text()
    states = [load_checkpoint(f / "model_last.pth") for f in (whole, folder)]
    assert differences(*states) == [] and states[0]["step"] == 36
    assert metrics(whole) == metrics(folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    assert "Traceback" not in (tmp_path / "stderr").read_text()


@pytest.fixture(scope="module")
def at_points(demo, dropout_text_model, tmp_path_factory):
    """The command line of a run of few writes, its folder, and what it holds undisturbed.

    Each of its two epochs is saved twice; the second one is the best.
    """
    folder = tmp_path_factory.mktemp("points") / "run"
    changes = [*POINTS, f"arch.args.text_params.model={dropout_text_model}"]
    argv = arguments(demo, folder, *changes)
    log = folder.parent / "log"
    assert finish(argv, folder.parent / "stderr", KillPoint(folder, log)) == 0
    whole = read_folder(folder)
    assert [whole[name]["epoch"] for name in ("model_last.pth", "model_best.pth")] == [2, 2]
    return argv, folder, whole, log.read_text().splitlines()


def kill(at_points, point: KillPoint) -> None:
    """Start the run anew and kill it at a point."""
    argv, folder, _, _ = at_points
    shutil.rmtree(folder)
    process = start(argv, folder.parent / "stderr", point)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def go_on(at_points, point: KillPoint | None = None) -> None:
    """Let the run go on, and compare its folder with that of the one that was never touched."""
    argv, folder, whole, _ = at_points
    stderr = folder.parent / "stderr"
    assert finish(argv, stderr, point) == 0, stderr.read_text()
    assert compare_folders(whole, folder) == []


@pytest.mark.parametrize(
    "at",
    [
        "link .model_best.pth.PID.tmp",  # the last one is written, the best one is not
        "replace checkpoint-epoch2.pth",
        "replace model_last-1.pth",
        "fsync .model_last.pth.PID.tmp",
        "half written metrics.jsonl",
    ],
)
def test_killed_at_a_write_and_gone_on_with(at, at_points, tmp_path):
    _, folder, _, points = at_points
    kill(at_points, KillPoint(folder, tmp_path / "log", at=at, nth=points.count(at)))
    go_on(at_points)


def test_the_best_one_is_not_tested_before_it_is_written(at_points, tmp_path, run_main):
    _, folder, whole, _ = at_points
    at = "link .model_best.pth.PID.tmp"
    kill(at_points, KillPoint(folder, tmp_path / "log", at=at, nth=2))
    best, last = folder / "model_best.pth", folder / "model_last.pth"
    command = ("-r", best, "--sim_path", tmp_path / "sim.npy")
    code, _, err = run_main(test, *command)
    assert code == 2 and f"{best}: holds epoch 1, but the run was killed before" in err
    assert not (tmp_path / "sim.npy").exists()
    assert run_main(test, "-r", last, "--sim_path", tmp_path / "last.npy")[0] == 0
    go_on(at_points)
    assert run_main(test, *command)[0] == 0
    matrices = [np.load(tmp_path / name) for name in ("sim.npy", "last.npy")]
    assert np.array_equal(*matrices)


@pytest.mark.slow
@pytest.mark.parametrize("without_links", [False, True])
def test_killed_at_every_point(without_links, at_points, tmp_path):
    """About 100 of them; a test of a best one that is not that of the run says so."""
    argv, folder, whole, _ = at_points
    wrong = []
    for number in itertools.count(1):
        shutil.rmtree(folder)
        point = KillPoint(folder, tmp_path / "log", number, without_links=without_links)
        if finish(argv, tmp_path / "stderr", point) == 0:
            break
        try:
            best = folder / "model_best.pth"
            if best.exists() and read_epoch(best) != get_best_epoch(load_values(folder / LAST)):
                with pytest.raises(UserError, match="the run was killed before"):
                    check_best(best)
            go_on(at_points)
        except (AssertionError, pytest.fail.Exception) as error:
            wrong.append((number, (tmp_path / "log").read_text().splitlines()[-1], str(error)))
    assert number > 60 and wrong == []


@pytest.mark.slow
def test_killed_at_every_point_while_it_makes_up_for_the_first(at_points, tmp_path):
    _, folder, _, _ = at_points
    first = KillPoint(folder, tmp_path / "log", at="link .model_best.pth.PID.tmp", nth=2)
    for number in itertools.count(1):
        kill(at_points, first)
        argv, folder, _, _ = at_points
        code = finish(argv, tmp_path / "stderr", KillPoint(folder, tmp_path / "log2", number))
        go_on(at_points)
        if code == 0:
            break
    assert number > 10
