"""The training loop on a small real TextVR: what is learned, counted, refused and written."""

import json
import logging
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from base.config import resolve_config
from parse_config import config_from_dict
from trainer.build import build_model, build_trainer
from trainer.trainer import NonFiniteLossError
from utils.checkpoint.files import load_checkpoint

CPU = torch.device("cpu")
EPOCHS = 16
FIRST_CAPTION = "data_loader.args.text_params.caption_sample=first"


def made(config, folder):
    return build_trainer(config, folder, CPU)


def log_lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def copied(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def run(make_config, tmp_path_factory):
    """A finished run of 16 epochs of the mode ocr, and what it wrote."""
    folder = tmp_path_factory.mktemp("run")
    changes = [f"trainer.epochs={EPOCHS}", FIRST_CAPTION, "trainer.init_val=true"]
    changes += ["trainer.save_period=6", "data_loader.args.batch_size=5"]
    changes += ['lr_scheduler={"type": "linear"}', "trainer.log_every=1"]
    trainer = made(make_config(*changes, kind="ocr"), folder)
    losses = []
    step = trainer.train_step

    def noting(batch):
        numbers = step(batch)
        losses.append((len(batch), numbers[0].item()))
        return numbers

    trainer.train_step = noting
    trainer.fit()
    return trainer, folder, losses


def test_what_is_read_is_learned(run):
    chance = (5 * 2 * math.log(5) + 3 * 2 * math.log(3)) / 8
    losses = [line["loss_0"] for line in log_lines(run[1])[1:]]
    assert losses[0] > chance and max(losses[-3:]) < chance / 2


def test_what_is_seen_and_read_is_learned(make_config, tmp_path):
    change = ["trainer.epochs=15", "data_loader.args.batch_size=8", FIRST_CAPTION]
    trainer = made(make_config(*change, "trainer.monitor=off"), tmp_path)
    trainer.validate = lambda epoch: {}
    trainer.fit()
    losses = [line["loss_0"] for line in log_lines(tmp_path)]
    assert losses[-1] < 2 * math.log(8) / 2 < losses[0]  # half of what chance has


def test_an_epochs_loss_is_the_mean_over_samples(run):
    _, folder, losses = run
    assert [size for size, _ in losses] == [5, 3] * EPOCHS
    for line, ((n, a), (m, b)) in zip(
        log_lines(folder)[1:], zip(losses[::2], losses[1::2], strict=True), strict=True
    ):
        assert line["loss_0"] == pytest.approx((n * a + m * b) / (n + m), rel=1e-12)
        assert abs(line["loss_0"] - (a + b) / 2) > 1e-6  # not that over batches


def test_metrics_jsonl_has_a_line_an_epoch_and_every_number(run):
    lines = log_lines(run[1])
    assert [line["epoch"] for line in lines] == list(range(EPOCHS + 1))  # init_val is epoch 0
    assert "loss_0" not in lines[0] and "val_loss_0" in lines[0]
    for line in lines[1:]:
        assert {"loss_0", "val_loss_0", "val_0_t2v_metrics_R1", "val_0_v2t_metrics_MedR"} <= set(
            line
        )
        assert (line["unreadable_videos"], line["missing_ocr_documents"]) == (0, 0)
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_tensorboard_holds_the_same_scalars_and_every_step(run):
    _, folder, losses = run
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    lines = log_lines(folder)
    for name in ("loss_0", "val_loss_0", "val_0_t2v_metrics_R1"):
        events = [(event.step, event.value) for event in board.Scalars(name)]
        assert events == [
            (line["epoch"], pytest.approx(line[name])) for line in lines if name in line
        ]
    steps = board.Scalars("step/loss")
    assert [event.step for event in steps] == list(range(1, 2 * EPOCHS + 1))
    assert [event.value for event in steps] == pytest.approx([loss for _, loss in losses])
    rates = [event.value for event in board.Scalars("step/lr")]
    assert rates == pytest.approx([5e-4 * (1 - step / 32) for step in range(32)])


def test_checkpoints_are_the_last_the_best_and_every_sixth(run):
    trainer, folder, _ = run
    names = {path.name for path in folder.glob("*.pth")}
    assert names == {
        "model_last.pth", "model_last-1.pth", "model_best.pth",
        "checkpoint-epoch6.pth", "checkpoint-epoch12.pth",
    }  # fmt: skip
    last, best = (load_checkpoint(folder / f"model_{name}.pth") for name in ("last", "best"))
    assert last["epoch"] == EPOCHS and last["step"] == 2 * EPOCHS
    assert load_checkpoint(folder / "checkpoint-epoch6.pth")["epoch"] == 6
    values = [line["val_loss_0"] for line in log_lines(folder)[1:]]
    assert best["epoch"] == values.index(min(values)) + 1
    assert best["best"]["value"] == min(values)
    assert same(last["state_dict"], copied(trainer.model))
    assert config_from_dict(last["config"], "checkpoint").name == "demo_ocr"


def test_the_data_report_is_written(run):
    report = json.loads((run[1] / "data_report.json").read_text())
    assert report == {
        "unreadable_videos": {}, "missing_ocr_documents": [], "skipped_ocr_records": {}
    }  # fmt: skip


def spoil_losses(trainer, is_spoilt, value=math.nan):
    """Multiply the training losses of some calls, counted from 1, with a value."""
    compute_loss, calls = trainer.compute_loss, []

    def spoiling(embeds, batch):
        calls.append(1)
        loss, logits = compute_loss(embeds, batch)
        return loss * (value if is_spoilt(len(calls)) else 1.0), logits

    trainer.compute_loss = spoiling


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_step(value, make_config, tmp_path):
    trainer = made(make_config("trainer.log_every=1", kind="ocr"), tmp_path)
    spoil_losses(trainer, lambda call: call >= 2, value)
    batches, weights = [], []
    step = trainer.train_step

    def noting(batch):
        batches.append(batch)
        weights.append(copied(trainer.model))
        return step(batch)

    trainer.train_step = noting
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.fit()
    text = str(caught.value)
    assert text.startswith(f"the loss is {value} at step 2 (epoch 1); stopped before the")
    assert all(video in text for video in batches[1].ids) and "\n" not in text
    assert "resume" not in text  # there is nothing yet to resume
    assert len(batches) == 2 and trainer.progress.step == 1
    assert same(copied(trainer.model), weights[1]) and not same(weights[0], weights[1])
    assert not list(tmp_path.glob("*.pth"))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("step/loss")] == [1]  # kept for the search


def test_after_a_first_epoch_the_message_says_how_to_resume(make_config, tmp_path):
    trainer = made(make_config("trainer.epochs=2", kind="ocr"), tmp_path)
    spoil_losses(trainer, lambda call: call >= 3)
    with pytest.raises(NonFiniteLossError, match=r"at step 3 \(epoch 2\).* resume with -r \S+last"):
        trainer.fit()
    state = load_checkpoint(tmp_path / "model_last.pth")
    assert state["epoch"] == 1 and same(state["state_dict"], copied(trainer.model))


def test_the_gradients_norm_is_clipped(make_config, tmp_path):
    sgd = 'optimizer={"type": "SGD", "args": {"lr": 1.0}}'
    moved = {}
    for clip in ("null", "0.125"):
        folder = tmp_path / clip
        folder.mkdir()
        change = [sgd, f"trainer.clip_grad_norm={clip}", "trainer.max_samples_per_epoch=4"]
        trainer = made(make_config(*change, kind="ocr"), folder)
        before = copied(trainer.model)
        trainer.fit()
        change = [(value - before[n]).ravel() for n, value in trainer.model.state_dict().items()]
        assert trainer.progress.step == 1
        moved[clip] = float(torch.cat(change).norm())
    assert moved["null"] > 0.2  # there was something to clip
    assert moved["0.125"] == pytest.approx(0.125, rel=1e-3)


def test_two_loaders_take_turns_and_each_is_reported(make_config, tmp_path):
    data = resolve_config(make_config(kind="ocr"))
    loader = data["data_loader"]
    second = {**loader, "args": loader["args"] | {"batch_size": 2, "subsample": 0.5}}
    data["data_loader"] = [loader, second]
    data["trainer"] |= {"monitor": "max val_1_t2v_metrics_R5"}
    trainer = made(config_from_dict(data, "two"), tmp_path)
    sizes = []
    step = trainer.train_step
    trainer.train_step = lambda batch: sizes.append(len(batch)) or step(batch)
    trainer.fit()
    assert sizes == [4, 2, 4, 2]
    [line] = log_lines(tmp_path)
    for number in (0, 1):
        assert {f"loss_{number}", f"val_loss_{number}", f"val_{number}_v2t_metrics_R1"} <= set(line)
    assert line["val_loss_0"] != line["val_loss_1"]
    assert trainer.monitor.value == line["val_1_t2v_metrics_R5"]


def test_max_samples_draws_another_part_of_the_data_every_epoch(make_config, tmp_path):
    change = ["trainer.max_samples_per_epoch=4", "trainer.epochs=6"]
    trainer = made(make_config(*change, kind="ocr"), tmp_path)
    seen = []
    step = trainer.train_step
    trainer.train_step = lambda batch: seen.append(set(batch.ids)) or step(batch)
    trainer.fit()
    assert [len(ids) for ids in seen] == [4] * 6
    assert len(set().union(*seen)) == 8


def test_the_seed_makes_the_model_and_another_seed_another(make_config):
    a, b, c = (build_model(make_config(f"seed={s}", kind="ocr"), CPU) for s in (1, 1, 2))
    assert same(a.state_dict(), b.state_dict()) and not same(a.state_dict(), c.state_dict())


def test_windows_of_the_test_do_not_take_the_validation_loss_away(make_config, tmp_path):
    change = "data_loader.args.sliding_window_stride=1"
    made(make_config(change, kind="vision"), tmp_path).fit()
    assert math.isfinite(log_lines(tmp_path)[0]["val_loss_0"])


def test_the_run_is_logged(make_config, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    made(make_config(kind="ocr"), tmp_path).fit()
    assert "epoch 1: loss_0 " in caplog.text and "1 of 1 epochs are done" in caplog.text


def test_where_nobody_looks_the_weights_stay_those_before_the_first_bad_loss(make_config, tmp_path):
    """As on a GPU, where the loss of a step is read only every ``log_every`` steps."""
    change = ["trainer.log_every=3", "trainer.epochs=2", "data_loader.args.batch_size=2"]
    trainer = made(make_config(*change, kind="ocr"), tmp_path)
    trainer.looks_at_every_loss = False
    spoil_losses(trainer, lambda call: call == 2)
    weights, step = [], trainer.train_step

    def noting(batch):
        weights.append(copied(trainer.model))
        return step(batch)

    trainer.train_step = noting
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 2 "):
        trainer.fit()
    assert len(weights) == 3 and trainer.progress.step == 1
    assert same(copied(trainer.model), weights[1]) and not same(weights[0], weights[1])


def test_reading_the_numbers_later_changes_nothing(make_config, tmp_path):
    config = make_config("trainer.log_every=3", "data_loader.args.batch_size=2", kind="ocr")
    for name, looks in (("every", True), ("later", False)):
        folder = tmp_path / name
        folder.mkdir()
        trainer = made(config, folder)
        trainer.looks_at_every_loss = looks
        trainer.fit()
    states = [load_checkpoint(tmp_path / name / "model_last.pth") for name in ("every", "later")]
    assert same(states[0]["state_dict"], states[1]["state_dict"])
    lines = [log_lines(tmp_path / name)[0] for name in ("every", "later")]
    for line in lines:
        del line["seconds"], line["timing"]
    assert lines[0] == lines[1]
