"""What a best checkpoint was selected on: logged, kept, and said where it is tested on the same."""

import importlib.util
import json
import logging
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import train
from base.base_trainer import Monitor
from evaluation.results import Selection
from tests.conftest import ROOT, tiny
from trainer.build import build_monitor, build_trainer, open_split
from trainer.selection import find_selecting_set, find_selection
from utils.checkpoint.files import load_checkpoint

CPU = torch.device("cpu")
SHARE = "data_loader.args.val_share=0.4"


@pytest.fixture
def own_val(demo, tmp_path):
    """The demo with a validation set of two of its training videos."""
    folder = tmp_path / "own"
    folder.mkdir()
    for path in demo.iterdir():
        (folder / path.name).symlink_to(path)
    entries = json.loads((demo / "TextVR_train.json").read_text())
    (folder / "TextVR_val.json").write_text(json.dumps(entries[:2]))
    return folder


def select(state, config, name="model_best.pth", split="test", number=0):
    opened = partial(open_split, config)
    place = {"key": "data_loader", "number": number}
    return find_selection(state, Path("run") / name, config, place, split, opened)


def best_state(config, epoch=1, **changes):
    """What a checkpoint of the best epoch holds."""
    monitor = Monitor("min", "val_loss_0", None, 0.5, 0, 1)
    return {"epoch": epoch, "best": monitor.state_dict() | changes}


def test_what_a_run_selects_on_is_known_when_it_begins(make_config, own_val):
    cases = {
        "test": (make_config(kind="ocr"), "8 videos of .*TextVR_test.json, which is the test set"),
        "val": (make_config(f"data_loader.args.data_dir={own_val}"), "2 videos of .*TextVR_val"),
        "val_share": (make_config(SHARE), "videos held out of .*TextVR_train.json .*val_share"),
    }
    for kind, (config, text) in cases.items():
        monitor = build_monitor(config)
        assert monitor.selected_on == kind and re.search(text, monitor.videos)
    assert build_monitor(make_config("trainer.monitor=off")) is None


def test_a_run_says_so_once_and_held_out_videos_are_never_trained_on(make_config, tmp_path, caplog):
    config = make_config(SHARE, kind="ocr")
    trainer = build_trainer(config, tmp_path, CPU)
    seen = set()
    step = trainer.train_step
    trainer.train_step = lambda batch: seen.update(batch.ids) or step(batch)
    with caplog.at_level(logging.INFO):
        trainer.fit()
    [said] = [r.getMessage() for r in caplog.records if "is selected by" in r.getMessage()]
    assert re.match("the best epoch is selected by min val_loss_0 on . videos held out of", said)
    held_out = {entry.id for entry in trainer.valid_loaders[0].dataset.entries}
    assert held_out and seen and not seen & held_out and len(seen | held_out) == 8
    state = load_checkpoint(tmp_path / "model_best.pth")
    assert state["best"]["selected_on"] == "val_share"
    assert select(state, config) == Selection("val_share")
    assert "SELECTED ON THESE VIDEOS" in select(state, config, split="val").warning


def test_a_test_on_the_selecting_set_is_marked(make_config):
    config = make_config(kind="ocr")
    kept = best_state(config, selected_on="test")
    found = select(kept, config)
    assert found.selected_on == "test"
    assert found.warning.startswith("SELECTED ON THESE VIDEOS: model_best.pth is the epoch that ")
    assert "(min val_loss_0)" in found.warning and "val_share" in found.warning
    old = best_state(config)  # of a release that kept nothing of it: the configuration says it
    del old["best"]["selected_on"]
    assert select(old, config) == found
    published = {"epoch": 3, "monitor_best": 1.2, "config": {"data_loader": {"args": {}}}}
    assert select(published, config, "textvr.pth").selected_on == "test"
    assert select(best_state(config, selected_on="val"), config) == Selection("val")
    assert select(kept, config, split="train") == Selection("test")  # no result on unseen ones


def test_what_was_not_selected_is_not_marked(make_config):
    config = make_config(kind="ocr")
    kept = best_state(config, selected_on="test")
    for name in ("model_last.pth", "model_last-1.pth", "checkpoint-epoch1.pth"):
        assert select(kept, config, name) == Selection()
    assert select(best_state(config, epoch=2), config, "mine.pth") == Selection()
    assert select({"state_dict": {}}, config) == Selection()
    assert select({"epoch": 1, "best": None}, config) == Selection()


def test_another_data_set_than_the_one_it_was_selected_on(make_config):
    config = make_config(kind="ocr")
    state = best_state(config, selected_on="test")
    state["config"] = {"data_loader": [{"args": {"dataset_name": "MSRVTT", "cut": "jsfusion"}}]}
    assert select(state, config) == Selection("MSRVTT jsfusion test")
    state["config"] = {"data_loader": {"args": {"dataset_name": "TextVR"}}}
    assert select(state, config).warning
    other = make_config("data_loader.args.annotation_file=TextVR_train.json", kind="ocr")
    assert select(state, other) == Selection("TextVR test")


def test_no_test_set_yet(make_config, own_val):
    config = make_config(f"data_loader.args.data_dir={own_val}")
    (own_val / "TextVR_test.json").unlink()
    assert find_selecting_set(config, 0, partial(open_split, config)).kind == "val"


def test_a_resumed_run_that_selects_on_other_videos_starts_afresh():
    before = Monitor("min", "val_loss_0", None, 0.5, 2, 1, selected_on="test")
    for kind, value in (("test", 0.5), ("val_share", None)):
        monitor = Monitor("min", "val_loss_0", selected_on=kind)
        monitor.load_state_dict(before.state_dict())
        assert monitor.value == value
    old = before.state_dict()
    del old["selected_on"]
    monitor = Monitor("min", "val_loss_0", selected_on="val_share")
    monitor.load_state_dict(old)
    assert monitor.value == 0.5


def test_train_and_test_as_they_are_called(demo, tmp_path, monkeypatch, capsys):
    """The table and metrics.json of the best checkpoint say it, those of the last do not."""
    spec = importlib.util.spec_from_file_location("test_script", ROOT / "test.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    changes = [part for text in tiny(demo) for part in ("--set", text)]
    run = tmp_path / "run"
    command = ["train.py", "-c", str(ROOT / "configs/demo/ocr.json"), "--run_dir", str(run)]
    monkeypatch.setattr(sys, "argv", [*command, *changes])
    assert train.main() == 0
    for name, said in (("model_best", True), ("model_last", False)):
        sim = tmp_path / name / "m.npy"
        capsys.readouterr()
        command = ["test.py", "-r", str(run / f"{name}.pth"), "--sim_path", str(sim)]
        monkeypatch.setattr(sys, "argv", command)
        assert script.main() == 0
        metrics = json.loads((sim.parent / "metrics.json").read_text())
        assert metrics["selected_on"] == ("test" if said else None)
        assert ("SELECTED ON THESE VIDEOS" in capsys.readouterr().out) is said
