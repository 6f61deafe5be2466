"""Weights & Biases behind the same interface as TensorBoard, offline."""

import json
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from base.config import ConfigError
from trainer.build import build_trainer
from trainer.tracking import open_writer, read_metrics
from utils.errors import UserError

CONFIG = {"name": "tried", "seed": 7}
BLOCK, HEADER = 2**15, 7


def records(file: Path) -> list:
    """Read a ``.wandb`` file: protocol buffers in the log format of LevelDB."""
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, place, parts, found = file.read_bytes(), HEADER, [], []
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:  # padding
            place += left
            continue
        place += HEADER
        parts.append(data[place : place + length])
        place += length
        if kind in (1, 4):  # whole, or the last part
            record = internal.Record()
            record.ParseFromString(b"".join(parts))
            found.append(record)
            parts = []
    return found


def told(folder: Path, kind: str) -> list:
    """Return the records of a kind of the one offline run in a folder."""
    [file] = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30
    while True:  # the package's own process may still be writing
        found = [(record.WhichOneof("record_type"), record) for record in records(file)]
        if "exit" in dict(found):
            return [getattr(record, kind) for name, record in found if name == kind]
        assert time.monotonic() < deadline, "the run was never finished"
        time.sleep(0.05)


def history(folder: Path) -> list[dict]:
    """Return what was logged, in order."""
    return [
        {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in entry.item}
        for entry in told(folder, "history")
    ]


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_a_run_offline(offline, make_config, tmp_path):
    config = make_config("trainer.tracker=wandb", "trainer.epochs=2", "trainer.log_every=1")
    build_trainer(config, tmp_path, torch.device("cpu")).fit()
    logged, lines = history(tmp_path), read_metrics(tmp_path / "metrics.jsonl")
    steps = [line["step"] for line in logged if "step/loss" in line]
    assert steps == [1, 2, 3, 4]
    epochs = {line["epoch"]: line for line in logged if "val_loss_0" in line}
    assert [epochs[n]["loss_0"] for n in (1, 2)] == [line["loss_0"] for line in lines]
    names = set().union(*logged)
    assert {"step/gradient_norm", "step/similarity_positive", "step/waiting_share"} <= names
    for name in ("clips/0", "clips/0/text", "val_0_t2v_ranks"):
        assert any(f"{logged}.".startswith(f"{name}.") for logged in names), name
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/**/*.png"))
    assert not (tmp_path / "tensorboard").exists()


def test_both_axes_and_the_configuration_are_told(offline, tmp_path):
    writer = open_writer("wandb", tmp_path, CONFIG)
    writer.write("scalar", "step/loss", 1.5, "step", 3)
    writer.write("histogram", "ranks", np.array([1.0, 2.0, 2.0]), "epoch", 1)
    writer.close()
    run = told(tmp_path, "run")[0]
    assert run.project == "tried" and run.display_name == tmp_path.name
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["seed"] == 7
    axes = {m.name or m.glob_name: m.step_metric for m in told(tmp_path, "metric")}
    assert axes["step/*"] == "step" and axes["*"] == "epoch"
    assert {"step": 3, "step/loss": 1.5}.items() <= history(tmp_path)[0].items()


def test_a_resumed_run_keeps_its_id(offline, tmp_path):
    ids = []
    for _ in range(2):
        open_writer("wandb", tmp_path, CONFIG).close()
        ids.append((tmp_path / "wandb_id").read_text())
    assert ids[0] == ids[1] and len(ids[0]) == 16
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert {file.stem for file in files} == {f"run-{ids[0]}"}


def test_without_the_package_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb, or set trainer.tracker to tensorboard"):
        open_writer("wandb", tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())


def test_a_run_that_can_not_begin_is_one_message(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="No API key configured.*wandb login.*WANDB_MODE=offline"):
        open_writer("wandb", tmp_path, CONFIG)


def test_no_other_name_is_taken(make_config):
    with pytest.raises(ConfigError, match="trainer.tracker"):
        make_config("trainer.tracker=neptune")
