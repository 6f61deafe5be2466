"""Two steps and two more equal four, bit for bit, wherever a run was stopped."""

import json
import logging
import signal
from pathlib import Path

import pytest

from base.config import resolve_config
from parse_config import config_from_dict
from tests.trainer.test_resume import differences, made
from trainer.tracking import TIMINGS
from utils.checkpoint.files import load_checkpoint
from utils.interrupt import Stopped

COSINE = 'lr_scheduler={"type": "cosine", "args": {"num_warmup_steps": 1}}'
BY_EPOCH = 'lr_scheduler={"type": "MultiStepLR", "args": {"milestones": [1]}}'
NONE = "lr_scheduler=null"


def metrics(folder: Path) -> list[dict]:
    """The lines of ``metrics.jsonl`` without the numbers of the clock and the machine."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def stop_at_step(trainer, step: int) -> None:
    """Send this process SIGTERM in the middle of a step."""
    train_step = trainer.train_step

    def stopping(batch):
        if trainer.progress.step + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return train_step(batch)

    trainer.train_step = stopping


def stop_in_validation(trainer, epoch: int, loader: int = 0) -> None:
    """Send this process SIGTERM at the first batch of an epoch's validation."""
    target = trainer.valid_loaders[loader]
    to_device = target.to_device

    def stopping(batch, device):
        progress = trainer.progress
        if progress.epoch + progress.has_begun == epoch:  # 0: before the first epoch
            signal.raise_signal(signal.SIGTERM)
        return to_device(batch, device)

    target.to_device = stopping


def stopped(trainer) -> str:
    """Let a run be stopped; returns what it says.

    No cycle may keep the trainer: the garbage collector waits for loading processes, seconds each.
    """
    try:
        trainer.fit()
    except Stopped as stop:
        assert stop.exit_code == 143
        vars(trainer).pop("train_step", None)
        return str(stop)
    pytest.fail("the run was not stopped")


def config_of(make_config, text_model: Path, *more: str, kind: str = "ocr"):
    return make_config(
        "trainer.epochs=2",
        "optimizer.args.lr=1e-3",
        f"arch.args.text_params.model={text_model}",
        "data_loader.args.batch_size=3",  # 3 + 3 + 2
        "trainer.early_stop=5",
        "trainer.init_val=true",
        *more,
        kind=kind,
    )


def check_equal(whole: Path, resumed: Path, steps: int) -> None:
    states = [load_checkpoint(folder / "model_last.pth") for folder in (whole, resumed)]
    assert differences(*states) == []
    assert (states[0]["epoch"], states[0]["step"]) == (2, steps)
    assert metrics(whole) == metrics(resumed)
    assert [line["epoch"] for line in metrics(resumed)] == [0, 1, 2]


def whole_run(config, folder: Path) -> Path:
    trainer = made(config, folder)
    assert trainer.model.text_model.config.dropout == 0.2
    trainer.fit()
    return folder


FUSION_OPTIONS = [
    'lr_scheduler={"type": "warmup_stable_decay", "args": {"num_decay_steps": 2}}',
    "trainer.ocr_warmup_steps=2",
    'trainer.unimodal_losses={"vision": 1.0, "ocr": 0.5}',
    "arch.args.ocr_encoder_init=query_encoder",
    "arch.args.type_embedding_std=0.02",
]


@pytest.mark.parametrize(
    ("more", "steps", "stops"),
    [
        ([COSINE], 6, (1, 3, 5)),  # 3 and 6 are the ends of the epochs
        ([COSINE, "trainer.chunk_size=1"], 6, (2,)),
        ([BY_EPOCH, "trainer.max_samples_per_epoch=7"], 4, (1, 2)),
        ([BY_EPOCH], 6, (2, 4)),
        ([COSINE, "arch.args.ocr_encoder_grad=false", "trainer.deterministic=true"], 6, (2,)),
        pytest.param(
            [NONE, "data_loader.args.num_workers=2"], 6, (2, 3, 6), marks=pytest.mark.slow
        ),
        pytest.param([COSINE, "trainer.precision=bf16"], 6, (2,), marks=pytest.mark.slow),
    ],
)
def test_stopped_at_steps(more, steps, stops, make_config, dropout_text_model, tmp_path):
    check_stops(config_of(make_config, dropout_text_model, *more), steps, stops, tmp_path)


def test_a_fusion_stopped_in_its_warm_up_and_at_an_epochs_end(
    make_config, dropout_text_model, tmp_path
):
    """Step 3 is the end of an epoch, on whose batch the modalities are measured."""
    config = config_of(make_config, dropout_text_model, *FUSION_OPTIONS, kind="fusion")
    check_stops(config, 6, (1, 2, 3, 5), tmp_path)
    assert "attention_ocr" in metrics(tmp_path / "parts")[1]


def check_stops(config, steps: int, stops: tuple[int, ...], tmp_path: Path) -> None:
    """Stop a run at each of some steps, and compare it in the end with one that never stopped."""
    whole, folder = whole_run(config, tmp_path / "whole"), tmp_path / "parts"
    for number, stop in enumerate([*stops, None]):
        trainer = made(config, folder)
        if number:
            trainer.resume(folder / "model_last.pth")
            assert trainer.progress.step == stops[number - 1]
        if stop is None:
            trainer.fit()
        else:
            stop_at_step(trainer, stop)
            text = stopped(trainer)
            assert text == (
                f"stopped and saved after step {stop}; go on with "
                f"python train.py -r {folder / 'model_last.pth'}"
            )
            assert load_checkpoint(folder / "model_last.pth")["step"] == stop
    check_equal(whole, folder, steps)


def run_in_two_parts(config, folder: Path) -> None:
    """Stop a run after two steps and go on with it."""
    trainer = made(config, folder)
    stop_at_step(trainer, 2)
    stopped(trainer)
    trainer = made(config, folder)
    trainer.resume(folder / "model_last.pth")
    trainer.fit()


def test_the_fusion_model_with_loading_processes(make_config, dropout_text_model, tmp_path):
    more = [COSINE, "data_loader.args.num_workers=2", "trainer.init_val=false"]
    config = config_of(make_config, dropout_text_model, *more, kind="fusion")
    whole_run(config, tmp_path / "whole")
    run_in_two_parts(config, tmp_path / "parts")
    states = [load_checkpoint(tmp_path / f / "model_last.pth") for f in ("whole", "parts")]
    assert differences(*states) == [] and states[0]["step"] == 6
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_stopped_in_validation(epoch, make_config, dropout_text_model, tmp_path):
    config = config_of(make_config, dropout_text_model, COSINE)
    whole, folder = whole_run(config, tmp_path / "whole"), tmp_path / "parts"
    trainer = made(config, folder)
    stop_in_validation(trainer, epoch)
    stopped(trainer)
    state = load_checkpoint(folder / "model_last.pth")
    assert (state["epoch"], state["step"]) == (max(epoch - 1, 0), 3 * epoch)
    trainer = made(config, folder)
    trainer.resume(folder / "model_last.pth")
    trainer.fit()
    check_equal(whole, folder, 6)


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_two_loaders_that_take_turns(stop, make_config, dropout_text_model, tmp_path):
    data = resolve_config(config_of(make_config, dropout_text_model, BY_EPOCH))
    loader = data["data_loader"]
    second = {**loader, "args": loader["args"] | {"batch_size": 2, "subsample": 0.5}}
    data["data_loader"] = [loader, second]
    config = config_from_dict(data, "two")
    whole, folder = whole_run(config, tmp_path / "whole"), tmp_path / "parts"
    trainer = made(config, folder)
    stop_at_step(trainer, stop)
    stopped(trainer)
    trainer = made(config, folder)
    trainer.resume(folder / "model_last.pth")
    seen, train_step = [], trainer.train_step
    trainer.train_step = lambda batch: seen.append(len(batch)) or train_step(batch)
    trainer.fit()
    assert seen == ([3, 2, 3, 2] * 2)[stop:]  # the first has one batch more, which has no round
    check_equal(whole, folder, 8)


def test_saved_within_an_epoch_and_resumed_as_after_a_power_cut(
    make_config, dropout_text_model, tmp_path
):
    config = config_of(make_config, dropout_text_model, COSINE, "trainer.save_every_steps=2")
    whole, folder = whole_run(config, tmp_path / "whole"), tmp_path / "parts"
    trainer = made(config, folder)
    train_step = trainer.train_step

    def cut(batch):
        if trainer.progress.step == 5:
            raise MemoryError  # nothing more is written
        return train_step(batch)

    trainer.train_step = cut
    with pytest.raises(MemoryError):
        trainer.fit()
    assert load_checkpoint(folder / "model_last.pth")["step"] == 4
    assert load_checkpoint(folder / "model_last-1.pth")["step"] == 3  # the end of epoch 1
    trainer = made(config, folder)
    trainer.resume(folder / "model_last-1.pth")
    trainer.fit()
    check_equal(whole, folder, 6)


def test_what_could_not_be_used_is_counted_on(make_config, demo, tmp_path, caplog):
    """A document that is missing in the first epoch counts in the second one's line, too."""
    caplog.set_level(logging.ERROR)
    empty = tmp_path / "no_ocr"
    empty.mkdir()
    change = [f"data_loader.args.ocr_dir={empty}", "trainer.max_samples_per_epoch=3"]
    config = make_config("trainer.epochs=2", "data_loader.args.batch_size=3", *change)
    made(config, tmp_path / "whole").fit()
    run_in_two_parts(config, tmp_path / "parts")
    lines = metrics(tmp_path / "parts")
    assert lines == metrics(tmp_path / "whole")
    assert lines[1]["missing_ocr_documents"] > lines[0]["missing_ocr_documents"] > 8
    reports = [(tmp_path / f / "data_report.json").read_text() for f in ("whole", "parts")]
    assert reports[0] == reports[1]
