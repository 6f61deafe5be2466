"""What a run keeps, and that a disk which fails costs no more than what it can't take."""

import json
import logging
import os
import shutil

import pytest

from tests.trainer.test_resume import differences, made
from tests.trainer.test_resume_steps import metrics
from tests.trainer.test_trainer import spoil_losses
from trainer.checkpointing import find_newest_checkpoint
from trainer.trainer import NonFiniteLossError
from utils.checkpoint.files import CheckpointError, load_checkpoint

# TensorBoard's own thread ends with a traceback; the run is told by the next call.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

SMALL = ["data_loader.args.batch_size=2", "trainer.epochs=2", "trainer.save_period=9"]


def steps_of(folder) -> dict[str, int]:
    return {path.name: load_checkpoint(path)["step"] for path in folder.glob("*.pth")}


def at_step(trainer, step: int, act) -> None:
    """Do something before a step."""
    train_step = trainer.train_step

    def acting(batch):
        if trainer.progress.step + 1 == step:
            act()
        return train_step(batch)

    trainer.train_step = acting


@pytest.mark.parametrize(
    ("keep", "kept"),  # step 8 is saved once more at the epoch's end
    [
        (1, {"model_last.pth": 8}),
        (3, {"model_last.pth": 8, "model_last-1.pth": 8, "model_last-2.pth": 7}),
    ],
)
def test_the_last_are_kept(keep, kept, make_config, tmp_path):
    change = [*SMALL, "trainer.save_every_steps=1", "trainer.monitor=off"]
    folder = tmp_path / "run"
    made(make_config(*change, f"trainer.keep_last={keep}", kind="ocr"), folder).fit()
    assert steps_of(folder) == kept


def test_fewer_are_kept_from_now_on(make_config, tmp_path):
    change = [*SMALL, "trainer.save_every_steps=1"]
    made(make_config(*change, "trainer.keep_last=4", kind="ocr"), tmp_path / "run").fit()
    assert len(list((tmp_path / "run").glob("model_last*"))) == 4
    config = make_config(*change, "trainer.keep_last=2", "trainer.epochs=3", kind="ocr")
    trainer = made(config, tmp_path / "run")
    trainer.resume(tmp_path / "run" / "model_last.pth")
    trainer.fit()
    names = {path.name for path in (tmp_path / "run").glob("*.pth")}
    assert names == {"model_last.pth", "model_last-1.pth", "model_best.pth"}


def test_a_damaged_one_is_passed_over(make_config, tmp_path, caplog):
    folder = tmp_path / "run"
    made(make_config(*SMALL, "trainer.save_every_steps=1", kind="ocr"), folder).fit()
    last = folder / "model_last.pth"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.unlink()
    last.write_bytes(data)
    assert find_newest_checkpoint(folder) == folder / "model_last-1.pth"
    assert f"{last}: is damaged (the checksum of" in caplog.text
    assert "the one before it is tried" in caplog.text
    for path in folder.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="holds no checkpoint that is whole"):
        find_newest_checkpoint(folder)


def test_a_folder_that_goes_is_made_anew(make_config, tmp_path, caplog):
    folder = tmp_path / "run"
    trainer = made(make_config(*SMALL, "trainer.save_every_steps=2", kind="ocr"), folder)
    at_step(trainer, 4, lambda: shutil.rmtree(folder))
    trainer.fit()
    assert f"{folder}: the run's folder is gone; it is made anew" in caplog.text
    assert load_checkpoint(folder / "model_last.pth")["step"] == 8


def test_a_folder_that_can_not_be_written_ends_the_run_at_its_end(make_config, tmp_path, caplog):
    """A file takes the place of the folder: also root may not write there."""
    folder = tmp_path / "run"
    config = make_config(*SMALL, "trainer.save_every_steps=2", kind="ocr")
    made(config, tmp_path / "whole").fit()
    trainer = made(config, folder)

    def replace() -> None:
        folder.rename(tmp_path / "moved")
        folder.write_text("")

    at_step(trainer, 4, replace)
    with pytest.raises(CheckpointError):
        trainer.fit()
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert sum(text.startswith("NOT SAVED: ") for text in errors) >= 3
    assert "The run goes on and will try again" in errors[-1]
    assert trainer.progress.step == 8
    state = load_checkpoint(tmp_path / "whole" / "model_last.pth")["state_dict"]
    assert differences(state, dict(trainer.model.state_dict())) == []
    assert load_checkpoint(tmp_path / "moved" / "model_last.pth")["step"] == 2


def test_what_is_written_again_after_a_fault_is_no_fault(make_config, tmp_path, caplog):
    folder = tmp_path / "run"
    trainer = made(make_config(*SMALL, "trainer.save_every_steps=2", kind="ocr"), folder)
    at_step(trainer, 4, lambda: (folder.rename(tmp_path / "moved"), folder.write_text("")))
    # Back in time for the next save.
    at_step(trainer, 5, lambda: (folder.unlink(), os.rename(tmp_path / "moved", folder)))
    trainer.fit()
    assert "NOT SAVED" in caplog.text
    assert load_checkpoint(folder / "model_last.pth")["step"] == 8


def spoilt(config, folder, calls):
    trainer = made(config, folder)
    spoil_losses(trainer, lambda call: call in calls)
    return trainer


def at_batch(trainer, done: int) -> None:
    """Let a run end without a word when so many batches of an epoch are done."""
    train_step = trainer.train_step

    def ending(batch):
        if trainer.progress.batches == done:
            raise MemoryError
        return train_step(batch)

    trainer.train_step = ending


def test_a_batch_is_skipped_and_the_run_resumed(make_config, dropout_text_model, tmp_path):
    text = f"arch.args.text_params.model={dropout_text_model}"
    change = [*SMALL, text, "trainer.on_nan=skip", "trainer.save_every_steps=1"]
    config = make_config(*change, 'lr_scheduler={"type": "linear"}', kind="ocr")
    spoilt(config, tmp_path / "whole", {2, 3, 6}).fit()
    lines = (tmp_path / "whole" / "not_finite.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(line["epoch"], line["after_step"]) for line in found] == [(1, 1), (1, 1), (2, 3)]
    assert all(len(line["videos"]) == 2 and line["loss"] == "nan" for line in found)

    trainer = spoilt(config, tmp_path / "parts", {2, 3})
    at_batch(trainer, 3)
    with pytest.raises(MemoryError):
        trainer.fit()
    trainer = spoilt(config, tmp_path / "parts", {3})
    trainer.resume(find_newest_checkpoint(tmp_path / "parts"))
    progress = trainer.progress
    assert (progress.step, progress.batches, progress.skipped) == (1, 3, 2)
    trainer.fit()
    states = [load_checkpoint(tmp_path / f / "model_last.pth") for f in ("whole", "parts")]
    assert states[0]["step"] == states[1]["step"] == 5
    assert differences(*states) == []
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_ten_in_a_row_are_skipped_and_no_more(make_config, tmp_path):
    change = [*SMALL, "trainer.epochs=5", "trainer.on_nan=skip"]
    trainer = spoilt(make_config(*change, kind="ocr"), tmp_path / "run", range(2, 99))
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 2 "):
        trainer.fit()
    lines = (tmp_path / "run" / "not_finite.jsonl").read_text().splitlines()
    assert len(lines) == 11 and trainer.progress.skipped == 11 and trainer.progress.step == 1
