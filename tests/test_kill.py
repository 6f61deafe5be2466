"""A training process that is killed at any moment loses no more than the last steps."""

import random
import time

import pytest

from tests.processes import arguments, finish, start
from tests.trainer.test_resume import differences
from tests.trainer.test_resume_steps import metrics
from trainer.checkpointing import find_newest_checkpoint
from utils.checkpoint.files import load_checkpoint

CHANGES = [
    "trainer.epochs=12",
    "trainer.save_every_steps=1",
    "trainer.keep_last=3",
    "data_loader.args.batch_size=3",
    "optimizer.args.lr=1e-3",
    "trainer.save_period=4",
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
