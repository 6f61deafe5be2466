"""What a run says at its end."""

import json
import logging

import pytest

from base.base_trainer import Monitor
from trainer.tracking import name_next_command, summarize_run


def write_lines(folder, values):
    lines = [
        {"epoch": n, "seconds": 1.0, "loss_0": v, "val_loss_0": v, "timing": {"waiting_share": 0.5}}
        for n, v in enumerate(values, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def best_of(values, mode="min"):
    best = Monitor(mode, "val_loss_0")
    for epoch, value in enumerate(values, start=1):
        best.update({"val_loss_0": value}, epoch)
    return best


@pytest.mark.parametrize(("mode", "epoch", "value"), [("min", 2, "1.25"), ("max", 3, "4")])
def test_the_best_epoch_and_its_own_numbers(mode, epoch, value, tmp_path, caplog):
    values = [3.0, 1.25, 4.0, 2.0]
    write_lines(tmp_path, values)
    (tmp_path / "model_best.pth").touch()
    with caplog.at_level(logging.INFO):
        lines = summarize_run(tmp_path, 4, best_of(values, mode)).splitlines()
    assert lines[:3] == [
        "epochs done: 4", f"best epoch: {epoch} ({mode} val_loss_0 = {value})", f"epoch {epoch}:"
    ]  # fmt: skip
    assert [line.split() for line in lines[3:5]] == [["loss_0", value], ["val_loss_0", value]]
    assert lines[5] == "files:" and "timing" not in "\n".join(lines)
    assert lines[-1] == f"  {name_next_command(tmp_path)}"
    assert f"best epoch: {epoch}" in caplog.text and "python test.py -r" in caplog.text


def test_only_files_that_are_there_are_named(tmp_path):
    write_lines(tmp_path, [1.0])
    text = summarize_run(tmp_path, 1, None)
    assert str(tmp_path / "metrics.jsonl") in text and "tensorboard" not in text
    assert "best epoch: none, trainer.monitor is off" in text and "\nepoch 1:\n" in text
    (tmp_path / "tensorboard").mkdir()
    assert f"tensorboard --logdir {tmp_path}" in summarize_run(tmp_path, 1, None)


def test_the_next_command_tests_the_best_or_else_the_last(tmp_path):
    assert f"test.py -r {tmp_path}/model_last.pth --sim_path {tmp_path}/" in name_next_command(
        tmp_path
    )
    (tmp_path / "model_best.pth").touch()
    assert f"test.py -r {tmp_path}/model_best.pth --sim_path " in name_next_command(tmp_path)


def test_a_best_that_never_was_and_one_of_old_checkpoints(tmp_path):
    write_lines(tmp_path, [1.0])
    assert "none, val_loss_0 was never finite" in summarize_run(
        tmp_path, 1, best_of([float("nan")])
    )
    old = best_of([2.0]).state_dict()
    del old["epoch"]
    best = Monitor("min", "val_loss_0")
    best.load_state_dict(old)
    assert "best epoch: unknown" in summarize_run(tmp_path, 1, best)
    (tmp_path / "metrics.jsonl").unlink()
    assert "  not in metrics.jsonl" in summarize_run(tmp_path, 1, best)


def test_the_epoch_of_the_best_goes_through_a_checkpoint():
    kept = best_of([3.0, 1.0, 2.0]).state_dict()
    best = Monitor("min", "val_loss_0")
    best.load_state_dict(kept)
    assert best.epoch == 2
    best.update({"val_loss_0": 0.5}, 4)
    assert best.epoch == 4
    other = Monitor("max", "val_loss_0")
    other.load_state_dict(kept)
    assert other.epoch is None
