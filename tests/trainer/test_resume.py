"""A resumed run equals one that never stopped, bit for bit; what can't be resumed is said."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from model.loss import NormSoftmaxLoss, SoftmaxLoss
from parse_config import load_run_config
from trainer.build import build_trainer
from trainer.checkpointing import load_criterion, open_run
from trainer.trainer import Trainer
from utils.checkpoint.files import CheckpointError, load_checkpoint, save_checkpoint
from utils.errors import UserError

CPU = torch.device("cpu")


def made(config, folder: Path) -> Trainer:
    folder.mkdir(exist_ok=True)
    return build_trainer(config, folder, CPU)


def differences(a, b, where="") -> list[str]:
    """Return where two nested values differ; tensors are compared bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, pair in pairs for d in differences(*pair, f"{where}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    return [] if type(a) is type(b) and a == b else [where]


def settings(text_model: Path, *more: str) -> list[str]:
    return [
        "trainer.epochs=2",
        "optimizer.args.lr=1e-3",
        f"arch.args.text_params.model={text_model}",
        "trainer.early_stop=5",
        "trainer.save_period=1",
        *more,
    ]


@pytest.mark.parametrize(
    ("kind", "workers", "more"),
    [
        ("fusion", 2, ["lr_scheduler=null", "trainer.init_val=true"]),
        ("fusion", 0, ['lr_scheduler={"type": "cosine", "args": {"num_warmup_steps": 1}}']),
        ("ocr", 0, ['lr_scheduler={"type": "MultiStepLR", "args": {"milestones": [1]}}']),
        (
            "ocr",
            0,
            [
                "optimizer.type=TransformersAdamW",
                'lr_scheduler={"type": "cosine"}',
                "arch.args.ocr_encoder_dropout=occurrence",
                "trainer.chunk_size=3",
            ],
        ),
        pytest.param(
            "vision",
            0,
            ['optimizer={"type": "SGD", "args": {"lr": 0.01, "momentum": 0.9}}'],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_one_and_one_epoch_equal_two(
    kind, workers, more, make_config, dropout_text_model, tmp_path
):
    more = settings(dropout_text_model, f"data_loader.args.num_workers={workers}", *more)
    config = make_config(*more, kind=kind)
    whole = made(config, tmp_path / "whole")
    assert whole.model.text_model.config.dropout == 0.2
    whole.fit()
    first = made(config, tmp_path / "first")
    first.epochs = 1  # stopped after it, as by a power cut
    first.fit()
    second = made(config, tmp_path / "second")
    torch.rand(7)  # another state than that of the first run
    second.resume(tmp_path / "first" / "model_last.pth")
    second.fit()

    states = [load_checkpoint(tmp_path / run / "model_last.pth") for run in ("whole", "second")]
    assert differences(*states) == []
    assert states[0]["epoch"] == 2 and states[0]["step"] == 4
    assert states[0]["best"]["value"] is not None
    # The comparison is able to fail: the first epoch's state is another one.
    early = load_checkpoint(tmp_path / "first" / "model_last.pth")
    differing = {place.split("/")[1] for place in differences(states[0], early)}
    assert {"epoch", "step", "state_dict", "optimizer"} <= differing
    if kind != "vision":  # whose text model alone drops out: it does, too
        assert "random_states" in differing


def test_the_number_of_workers_changes_nothing(make_config, dropout_text_model, tmp_path):
    for workers in (0, 1):
        change = f"data_loader.args.num_workers={workers}"
        config = make_config(*settings(dropout_text_model, change), kind="ocr")
        made(config, tmp_path / str(workers)).fit()
    states = [load_checkpoint(tmp_path / run / "model_last.pth") for run in "01"]
    [difference] = differences(*states)
    assert difference == "/config/data_loader/args/num_workers"


def test_dropout_is_on_and_the_random_state_matters(make_config, dropout_text_model, tmp_path):
    config = make_config(*settings(dropout_text_model), kind="ocr")
    made(config, tmp_path / "first").fit()
    state = load_checkpoint(tmp_path / "first" / "checkpoint-epoch1.pth")
    torch.manual_seed(99)
    state["random_states"][0]["torch"] = torch.get_rng_state()
    save_checkpoint(tmp_path / "other.pth", state)
    second = made(config, tmp_path / "second")
    second.resume(tmp_path / "other.pth")
    second.fit()
    states = [load_checkpoint(tmp_path / run / "model_last.pth") for run in ("first", "second")]
    assert any(place.startswith("/state_dict") for place in differences(*states))


@pytest.fixture(scope="module")
def finished(make_config, tmp_path_factory):
    """The checkpoint of an epoch of the mode ocr."""
    folder = tmp_path_factory.mktemp("run")
    made(make_config(kind="ocr"), folder).fit()
    return folder / "model_last.pth"


def refused(config, folder, checkpoint) -> str:
    trainer = made(config, folder)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        trainer.resume(checkpoint)
    assert differences(before, dict(trainer.model.state_dict())) == []
    assert trainer.epoch == trainer.progress.step == 0
    return str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(finished, make_config, tmp_path):
    text = refused(make_config(kind="fusion"), tmp_path / "run", finished)
    assert text.startswith(f"{finished}: its weights do not fit the model of this configuration")
    assert "\n  missing key: video_model.blocks.0." in text and "unexpected key" not in text


@pytest.mark.parametrize("lacking", ["optimizer", "random_states", "scheduler", "best"])
def test_a_checkpoint_that_lacks_a_part_is_refused(lacking, finished, make_config, tmp_path):
    state = load_checkpoint(finished)
    del state[lacking]
    save_checkpoint(tmp_path / "a.pth", state)
    text = refused(make_config(kind="ocr"), tmp_path / "run", tmp_path / "a.pth")
    assert f"can't be resumed, it has no {lacking};" in text and "load_checkpoint" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('lr_scheduler={"type": "StepLR", "args": {"step_size": 1}}', "has no lr_scheduler"),
        ('optimizer={"type": "SGD"}', "its optimizer is of another kind than optimizer.type"),
        # Those keep the same numbers, so that only the configuration tells them apart.
        ("optimizer.type=TransformersAdamW", "(AdamW in place of TransformersAdamW); resume with"),
    ],
)
def test_another_course_is_refused(change, message, finished, make_config, tmp_path):
    assert message in refused(make_config(change, kind="ocr"), tmp_path / "run", finished)


def test_a_checkpoint_of_the_time_of_one_adamw_goes_on_with_it(finished, make_config, tmp_path):
    """Its configuration says AdamW, whatever the shipped files say by now."""
    (tmp_path / "config.json").write_text(json.dumps(load_checkpoint(finished)["config"]))
    shutil.copy(finished, tmp_path / "model_last.pth")
    config = load_run_config(tmp_path / "model_last.pth", None, ["trainer.epochs=2"])
    trainer = made(config, tmp_path / "run")
    trainer.resume(tmp_path / "model_last.pth")
    assert type(trainer.optimizer) is torch.optim.AdamW
    trainer.fit()
    whole = made(make_config("trainer.epochs=2", kind="ocr"), tmp_path / "whole")
    whole.fit()
    states = [load_checkpoint(tmp_path / run / "model_last.pth") for run in ("run", "whole")]
    assert differences(*(state["state_dict"] for state in states)) == []


def test_another_schedule_is_refused(make_config, tmp_path):
    constant = 'lr_scheduler={"type": "constant_with_warmup"}'
    made(make_config(constant, kind="ocr"), tmp_path / "a").fit()
    step = 'lr_scheduler={"type": "StepLR", "args": {"step_size": 1}}'
    config = make_config(step, kind="ocr")
    text = refused(config, tmp_path / "run", tmp_path / "a" / "model_last.pth")
    assert "its lr_scheduler is another than the configuration's" in text


def test_a_changed_setting_is_not_dropped_silently(finished, make_config, tmp_path, caplog):
    config = make_config("optimizer.args.lr=0.5", "trainer.epochs=3", kind="ocr")
    trainer = made(config, tmp_path / "run")
    caplog.set_level(logging.WARNING)
    trainer.resume(finished)
    [record] = caplog.records
    assert "optimizer.args.lr is 0.5 in the configuration" in record.getMessage()
    assert "goes on with the checkpoint's 0.0005" in record.getMessage()
    assert trainer.optimizer.param_groups[0]["lr"] == 5e-4


def test_an_optimizer_of_other_parameters_is_refused(finished, make_config, tmp_path):
    state = load_checkpoint(finished)
    state["optimizer"]["param_groups"][0]["params"].pop()
    save_checkpoint(tmp_path / "a.pth", state)
    trainer = made(make_config(kind="ocr"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="a.pth: its optimizer does not fit"):
        trainer.resume(tmp_path / "a.pth")


def test_another_number_of_processes_is_said(finished, make_config, tmp_path, caplog):
    state = load_checkpoint(finished)
    state["random_states"] *= 2
    save_checkpoint(tmp_path / "a.pth", state)
    made(make_config(kind="ocr"), tmp_path / "run").resume(tmp_path / "a.pth")
    assert "was written by 2 processes, this run has 1" in caplog.text


def test_what_a_loss_has_learned_is_kept_or_refused(tmp_path, caplog):
    path, trained = tmp_path / "a.pth", SoftmaxLoss()
    with torch.no_grad():
        trained.log_scale.fill_(3.0)
    save_checkpoint(path, {"state_dict": {}, "criterion": trained.state_dict()})
    again = SoftmaxLoss()
    load_criterion(again, load_checkpoint(path), path)
    assert torch.equal(again.log_scale, trained.log_scale)
    with pytest.raises(CheckpointError, match=r"a.pth: its loss has the parameters .*log_scale"):
        load_criterion(NormSoftmaxLoss(), load_checkpoint(path), path)
    save_checkpoint(path, {"state_dict": {}, "criterion": {"log_scale": "3"}})
    with pytest.raises(CheckpointError, match="its criterion is no dictionary of tensors"):
        load_criterion(SoftmaxLoss(), load_checkpoint(path), path)
    save_checkpoint(path, {"state_dict": {}})
    load_criterion(again, load_checkpoint(path), path)
    assert "has no learned parameters of the loss" in caplog.text
    assert torch.equal(again.log_scale, trained.log_scale)


def test_what_a_run_goes_on_with(make_config, tmp_path, caplog):
    config = make_config(f"trainer.save_dir={tmp_path}", kind="ocr")
    with pytest.raises(UserError, match="nowhere.pth: no such checkpoint to resume"):
        open_run(config, str(tmp_path / "nowhere.pth"), None)
    caplog.set_level(logging.INFO)
    folder = tmp_path / "chosen"
    folder.mkdir()
    run = open_run(config, "auto", str(folder))
    assert run.folder == folder and run.checkpoint is None
    assert f"no checkpoint in {folder}: the run begins there" in caplog.text
