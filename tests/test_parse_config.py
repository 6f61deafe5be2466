"""The command and its functions, with the parts that are really registered."""

import json
import logging
import runpy
import sys
from pathlib import Path

import pytest

from parse_config import (
    ConfigError,
    config_from_dict,
    load_config,
    load_run_config,
    resolve_config,
)

ROOT = Path(__file__).parents[1]
CONFIGS = [path for path in sorted(ROOT.glob("configs/*.json")) if path.name != "schema.json"]
OLD_VIDEO = {"extraction_fps": 25, "extraction_res": 256, "stride": 1}


def published(**changes):
    """Return a configuration with every key that the published files have."""
    return {
        "name": "published",
        "n_gpu": 8,
        "arch": {
            "type": "FrozenInTime",
            "args": {
                "video_params": {
                    "model": "SpaceTimeTransformer",
                    "arch_config": "base_patch16_224",
                    "num_frames": 4,
                    "pretrained": True,
                    "time_init": "zeros",
                },
                "text_params": {
                    "model": "distilbert-base-uncased",
                    "pretrained": True,
                    "input": "text",
                },
                "projection": "minimal",
                "load_checkpoint": "",
            },
        },
        "data_loader": loader(),
        "optimizer": {"type": "AdamW", "args": {"lr": 3e-5}},
        "loss": {"type": "NormSoftmaxLoss", "args": {}},
        "metrics": ["t2v_metrics", "v2t_metrics"],
        "trainer": {
            "epochs": 300,
            "max_samples_per_epoch": 20000,
            "save_dir": "work_dirs",
            "save_period": 5,
            "verbosity": 2,
            "monitor": "min val_loss",
            "early_stop": 10,
            "neptune": False,
            "init_val": False,
        },
        "visualizer": {"type": "RetrievalVis", "args": {"num_samples": 20}},
    } | changes


def loader(type_name="TextVideoDataLoader", **video):
    return {
        "type": type_name,
        "args": {
            "dataset_name": "TextVR",
            "data_dir": "$TMPDIR/MSRVTT/",
            "shuffle": True,
            "num_workers": 16,
            "batch_size": 64,
            "split": "train",
            "cut": "jsfusion",
            "subsample": 1,
            "reader": "cv2",
            "text_params": {"input": "text", "caption_sample": "rand"},
            "video_params": {"input_res": 224, "num_frames": 4} | (video or OLD_VIDEO),
            "metadata_dir": None,
            "tsfm_params": None,
            "tsfm_split": None,
            "sliding_window_stride": -1,
        },
    }


def test_a_published_file(caplog):
    config = config_from_dict(published(), "x.json")
    args = config.data_loader[0].args
    assert args.data_dir == "$TMPDIR/MSRVTT/"  # expanded where it is used
    assert config.trainer.monitor == "min val_loss_0"
    assert config.optimizer.kwargs()["lr"] == 3e-5
    record, chosen = caplog.records
    assert record.levelno == logging.WARNING
    assert chosen.getMessage() == (
        "x.json: arch.args.modalities: vision and ocr, because TextVR (cut jsfusion) is in the "
        "form of TextVR, which names OCR documents"
    )
    said, keys = record.getMessage().split(": these keys have no effect any more: ")
    video = "data_loader.args.video_params."
    old = {"trainer.neptune", "visualizer", *(video + key for key in OLD_VIDEO)}
    assert said == "x.json" and old <= set(keys.split(", "))


def test_a_published_file_of_several_loaders_and_single_frames(caplog):
    frames = {"num_frames": 1, "loading": "lax"}
    loaders = [loader(**frames), loader("MultiDistTextVideoDataLoader", **frames)]
    config = config_from_dict(published(data_loader=loaders), "x.json")
    assert [block.args.video_params.num_frames for block in config.data_loader] == [1, 1]
    assert [block.args.video_params.loading for block in config.data_loader] == ["lax", "lax"]
    shorter = [r for r in caplog.records if "its later frames go unused" in r.getMessage()]
    assert len(shorter) == 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_file_of_ours(path, caplog):
    config = load_config(str(path))
    assert config.name
    assert [r for r in caplog.records if "no effect" in r.getMessage()] == []


def written(folder, name, data):
    path = folder / name
    path.write_text(json.dumps(data))
    return str(path)


def test_load_config_reads_extends_and_overrides(tmp_path):
    written(tmp_path, "base.json", published())
    path = written(tmp_path, "a.json", {"extends": "base.json", "optimizer": {"args": {"lr": 0.5}}})
    config = load_config(path, ["optimizer.args.betas=[0.5, 1]", "name=other"])
    assert (config.optimizer.args.lr, config.optimizer.args.betas) == (0.5, (0.5, 1.0))
    assert config.name == "other"


def test_a_monitor_of_an_earlier_run_that_kept_the_worst_epoch_is_only_warned_about(
    tmp_path, caplog
):
    data = published()
    data["trainer"]["monitor"] = "max val_loss_0"
    path = written(tmp_path, "config.json", data)
    with pytest.raises(ConfigError, match='"max val_loss_0" would keep .* write "min val_loss_0"'):
        load_config(path)
    (tmp_path / "model_best.pth").touch()
    config = load_run_config(tmp_path / "model_best.pth", None)
    assert config.trainer.monitor == "max val_loss_0"
    assert "model_best.pth of this run is its worst epoch" in caplog.records[-1].getMessage()
    assert load_config(path, is_kept=True) == config  # an index, which keeps such a file
    with pytest.raises(ConfigError, match='write "min val_loss_0"'):  # newly asked for
        load_run_config(tmp_path / "model_best.pth", None, ["trainer.monitor=max val_loss"])


def test_what_is_saved_is_read_again_whatever_it_is_called():
    saved = resolve_config(config_from_dict(published(), "x.json"))
    assert resolve_config(config_from_dict(saved | {"$schema": "s"}, "checkpoint.pth")) == saved
    with pytest.raises(ConfigError, match="^checkpoint.pth: 1 problem\n  seed: expected"):
        config_from_dict(saved, "checkpoint.pth", ["seed=x"])


def test_what_is_in_memory_extends_nothing():
    with pytest.raises(ConfigError, match="extends: unknown key; valid: "):
        config_from_dict(published(extends="b.json"), "x.json")


def test_problems_of_reading_and_of_values_come_together(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(published(seed=-1))[:-1] + ', "n_gpu": 1, "extends": "b.json"}')
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "extends",
        "n_gpu",
        "seed",
    ]


def ended(monkeypatch, capsys, *arguments):
    """Run the script; returns its exit code and what it wrote."""
    monkeypatch.setattr(sys, "argv", ["parse_config.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "parse_config.py"), run_name="__main__")
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_the_command_prints_the_resolved_configuration(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, "a.json", published())
    code, out, err = ended(
        monkeypatch, capsys, "-c", path, "--set", "seed=7", "--set", "optimizer.args.lr=1e-4"
    )
    assert code == 0, err
    assert json.loads(out) == resolve_config(
        load_config(path, ["seed=7", "optimizer.args.lr=1e-4"])
    )
    assert json.loads(out)["optimizer"]["args"]["lr"] == 1e-4


def test_the_command_ends_with_one_message_and_code_2(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, "a.json", published(seed=-1))
    code, out, err = ended(monkeypatch, capsys, "-c", path)
    assert (code, out) == (2, "")
    assert err == (
        f"{path}: 1 problem\n"
        "  seed: expected an integer of at least 0 and below 4294967296, got -1\n"
    )


def test_the_command_prints_the_schema(monkeypatch, capsys):
    code, out, err = ended(monkeypatch, capsys, "--schema")
    assert (code, err) == (0, "")
    types = json.loads(out)["$defs"]["optimizer_block"]["properties"]["type"]["enum"]
    assert {"AdamW", "SGD"} <= set(types)


@pytest.mark.parametrize("arguments", [(), ("-c", "a.json", "--schema")])
def test_the_command_wants_a_file_or_schema(monkeypatch, capsys, arguments):
    code, _, err = ended(monkeypatch, capsys, *arguments)
    assert code == 2 and "give either -c FILE or --schema" in err
