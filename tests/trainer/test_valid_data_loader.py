"""Validating on another data set than the one trained on, from the file to the checkpoint."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import check_data
from base.config import ConfigError, resolve_config
from data_loader.synthetic.demo import DemoOptions, make_demo
from parse_config import config_from_dict, load_config
from tests.conftest import ROOT, tiny
from tests.test_test import script
from tests.trainer.test_resume import differences, settings
from tools import cache_frames
from trainer.build import build_loader, build_trainer, list_valid_loaders
from trainer.checkpointing import load_model
from utils.checkpoint.files import load_checkpoint
from utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another data set than the demo of all tests: 12 videos of a test split, 4 of MSVD's form."""
    out = tmp_path_factory.mktemp("data") / "other"
    make_demo(out, DemoOptions(looks=4, words=6, clips_per_pair=1, seed=5))
    entries = json.loads((out / "TextVR_test.json").read_text())[:4]
    (out / "MSVD_val.json").write_text(json.dumps(entries))
    return out


def block(folder: Path, **arguments) -> dict:
    args = {"dataset_name": "TextVR", "data_dir": str(folder), "batch_size": 3, "num_workers": 0}
    args["video_params"] = {"num_frames": 2, "input_res": 64}
    return {"type": "TextVideoDataLoader", "args": args | arguments}


def valid(*blocks: dict) -> str:
    return f"valid_data_loader={json.dumps(blocks[0] if len(blocks) == 1 else blocks)}"


def made(config, folder: Path):
    folder.mkdir(exist_ok=True)
    return build_trainer(config, folder, CPU)


def test_null_is_each_training_loaders_own(make_config):
    config = make_config()
    assert config.valid_data_loader is None
    assert list_valid_loaders(config) == [{"number": 0, "key": "data_loader", "split": "val"}]
    assert config == make_config("valid_data_loader=null")


def test_it_is_checked_resolved_and_changed_as_data_loader_is(make_config, other):
    config = make_config(valid(block(other)), "valid_data_loader.0.args.batch_size=7")
    resolved = resolve_config(config)
    assert resolved["valid_data_loader"]["args"]["batch_size"] == 7
    assert config_from_dict(resolved, "x.json") == config
    two = make_config(valid(block(other), block(other)), "valid_data_loader.1.args.batch_size=7")
    assert [b.args.batch_size for b in two.valid_data_loader] == [3, 7]
    assert config_from_dict(resolve_config(two), "x.json") == two


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["valid_data_loader=[]"], "valid_data_loader: expected a list of at least 1"),
        (["valid_data_loader=3"], "valid_data_loader: expected an object with "),
        ([{"dataset_name": "TextVRR"}], 'valid_data_loader.args.dataset_name: unknown data set "T'),
        ([{"batch": 3}], "valid_data_loader.args.batch: unknown key"),
        (
            [{"video_params": {"input_res": 32, "num_frames": 2}}],
            "valid_data_loader.args.video_params.input_res: 32, but the model of arch takes",
        ),
        ([{}, "trainer.monitor=min val_loss_1"], '"val_loss_1" is never logged; did you mean "val'),
    ],
)
def test_what_is_wrong_is_said_at_its_place(make_config, other, changes, problem):
    first, *more = changes
    first = first if isinstance(first, str) else valid(block(other, **first))
    with pytest.raises(ConfigError) as caught:
        make_config(first, *more)
    assert problem in str(caught.value)


@pytest.fixture(scope="module")
def run(make_config, other, dropout_text_model, tmp_path_factory):
    """Two epochs trained on the demo and validated on two other sets; the configuration, too."""
    folder = tmp_path_factory.mktemp("runs")
    loaders = valid(block(other, split="test"), block(other, dataset_name="MSVD", batch_size=4))
    more = [loaders, "trainer.monitor=min val_1_t2v_metrics_MeanR", "trainer.save_period=1"]
    config = make_config(*settings(dropout_text_model, *more), kind="ocr")
    made(config, folder / "whole").fit()
    return config, folder


def test_validation_sees_the_other_sets_alone(run, demo, other):
    config, folder = run
    lines = [json.loads(x) for x in (folder / "whole/metrics.jsonl").read_text().splitlines()]
    assert {"loss_0", "val_loss_0", "val_loss_1"} <= lines[0].keys() and "loss_1" not in lines[0]
    assert "val_loss_2" not in lines[0]
    trainer = made(config, folder / "looked_at")
    assert [len(loader.dataset) for loader in trainer.valid_loaders] == [12, 4]
    assert [loader.name for loader in trainer.valid_loaders] == ["TextVR test", "MSVD val"]
    seen = {entry.video for entry in trainer.valid_loaders[0].dataset.entries}
    assert all(video.is_relative_to(other) for video in seen)
    assert trainer.loaders[0].dataset.entries[0].video.is_relative_to(demo)
    # The numbers are those of the sets, each under its own number.
    load_model(trainer.model, trainer.criterion, folder / "whole/model_last.pth")
    for number, place in enumerate(list_valid_loaders(config)):
        loader = build_loader(config, training=False, **place)
        found = trainer.evaluator.run(trainer.model, loader)
        assert found.metrics["t2v_metrics"]["MeanR"] == lines[-1][f"val_{number}_t2v_metrics_MeanR"]
    best = load_checkpoint(folder / "whole/model_last.pth")["best"]
    assert best["name"] == "val_1_t2v_metrics_MeanR"
    assert best["value"] == min(line["val_1_t2v_metrics_MeanR"] for line in lines)


def test_a_resumed_run_equals_one_that_never_stopped(run):
    config, folder = run
    first = made(config, folder / "first")
    first.epochs = 1
    first.fit()
    second = made(config, folder / "second")
    second.resume(folder / "first/model_last.pth")
    second.fit()
    states = [load_checkpoint(folder / name / "model_last.pth") for name in ("whole", "second")]
    assert differences(*states) == []


def test_a_shuffled_set_chooses_no_checkpoint(make_config, other, tmp_path):
    entries = json.loads((other / "TextVR_test.json").read_text())
    moved = entries[1:] + entries[:1]
    shuffled = [a | {"captions_info": b["captions_info"]}
                for a, b in zip(entries, moved, strict=True)]  # fmt: skip
    file = tmp_path / "TextVR_test_rand.json"
    file.write_text(json.dumps(shuffled))
    config = make_config(valid(block(other, annotation_file=str(file))), kind="ocr")
    with pytest.raises(UserError, match=r"as valid_data_loader\.args\.annotation_file") as caught:
        build_trainer(config, tmp_path, CPU)
    assert str(file) in str(caught.value)
    assert build_trainer(config, tmp_path, CPU, allow_shuffled=True).valid_loaders


def test_the_test_is_of_the_training_set_unless_the_other_is_named(run, run_main, tmp_path):
    checkpoint = run[1] / "whole/model_last.pth"
    (checkpoint.parent / "config.json").write_text(json.dumps(resolve_config(run[0])))
    options = ("-r", checkpoint, "--sim_path", tmp_path / "m.npy")
    assert run_main(script, *options)[0] == 0 and np.load(tmp_path / "m.npy").shape == (8, 8)
    code, out, _ = run_main(script, *options, "--valid_loader", 0)
    assert code == 0 and "12 captions, 12 videos" in out
    code, _, err = run_main(script, *options, "--valid_loader", 2)
    assert code == 2 and "the configuration has loaders of valid_data_loader 0 … 1" in err
    none = ("--set", "valid_data_loader=null", "--set", "trainer.monitor=off")
    code, _, err = run_main(script, *options, "--valid_loader", 0, *none)
    assert code == 2 and "the configuration has no valid_data_loader" in err
    code, _, err = run_main(script, *options, "--valid_loader", 0, "--loader", 1)
    assert code == 2 and "not allowed with argument --valid_loader" in err


def test_check_data_looks_at_both_and_finds_what_is_in_training_too(
    demo, other, run_main, tmp_path
):
    out = tmp_path / "lists.json"

    def check(*blocks):
        changes = [*tiny(demo), f"trainer.save_dir={tmp_path}", valid(*blocks)]
        sets = [part for change in changes for part in ("--set", change)]
        config = ROOT / "configs/demo/fusion.json"
        code, text, _ = run_main(check_data, "-c", config, "--out", out, "--workers", 1, *sets)
        parts = [part.splitlines()[0] for part in text.split("\n\n")]
        return code, text, [part for part in parts if "loader " in part]

    code, text, parts = check(block(other), block(other, dataset_name="MSVD"))
    assert code == 0, text
    assert parts == [
        "loader 0, train", "loader 0, test", "validation loader 0, val", "validation loader 1, val"
    ]  # fmt: skip
    code, text, _ = check(block(demo, metadata_dir=str(tmp_path)))
    assert code == 1 and "validation loader 0, val" in text
    entries = (demo / "TextVR_train.json").read_text()
    (tmp_path / "TextVR_test.json").write_text(entries)
    code, text, _ = check(block(demo, metadata_dir=str(tmp_path)))
    assert code == 1 and "8 of 8 videos are in training too" in text


def test_its_frames_are_cached_in_its_own_folder(make_config, demo, other, tmp_path, run_main):
    folders = tmp_path / "own", tmp_path / "others"
    mine = valid(block(other, split="test", frame_cache=str(folders[1])), block(demo))
    changes = [*tiny(demo), f"data_loader.args.frame_cache={folders[0]}", mine]
    sets = [part for change in changes for part in ("--set", change)]
    options = ("-c", ROOT / "configs/demo/vision.json", "--workers", 1, *sets)
    code, out, err = run_main(cache_frames, *options)
    assert code == 0, err
    counts = [re.search(r"(\d+) of \1 videos", line)[1] for line in out.splitlines()]
    assert counts == ["8", "12"]  # the second of the two validation loaders decodes
    assert [path.name.split("-")[1] for path in folders[0].iterdir()] == ["train"]
    assert [path.name.split("-")[1] for path in folders[1].iterdir()] == ["test"]
    trainer = made(make_config(*changes[len(tiny(demo)) :], kind="vision"), tmp_path / "run")
    for cached, plain in zip(
        trainer.valid_loaders[0],
        made(
            make_config(valid(block(other, split="test")), kind="vision"), tmp_path / "plain"
        ).valid_loaders[0],
        strict=True,
    ):
        assert torch.equal(cached.video, plain.video)


def test_a_file_that_extends_another_adds_it(tmp_path, demo, other):
    parent = ROOT / "configs/demo/ocr.json"
    child = {"extends": str(parent), "valid_data_loader": block(other)}
    (tmp_path / "a.json").write_text(json.dumps(child))
    (tmp_path / "b.json").write_text(json.dumps({"extends": "a.json", "valid_data_loader": None}))
    configs = [load_config(tmp_path / name, tiny(demo)) for name in ("a.json", "b.json")]
    assert configs[0].valid_data_loader[0].args.data_dir == str(other)
    assert configs[1].valid_data_loader is None
