"""Runs of a DualEncoder: trained, stopped and resumed, tested, converted, started from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import test as test_command
import train as train_command
from base.criterion import cosine_similarity
from evaluation.embedding_files import load_embeddings
from parse_config import load_config
from tests.conftest import ROOT
from tests.model.small_towers import write_tower
from tests.trainer.test_resume import differences, made
from tools import checkpoint as checkpoint_command
from utils.checkpoint.files import load_checkpoint
from utils.interrupt import Stopped

CONFIG = ROOT / "configs/demo/dual_encoder.json"


def settings(demo: Path, *more: str) -> list[str]:
    return [
        f"arch.args.tower={demo}/tower",
        f"data_loader.args.data_dir={demo}",
        "data_loader.args.batch_size=4",
        "data_loader.args.num_workers=0",
        "lr_scheduler=null",
        "trainer.epochs=2",
        "trainer.validation_period=1",
        "trainer.monitor=min val_loss_0",
        "trainer.verbosity=0",
        *more,
    ]


@pytest.fixture
def pretrained(demo, tmp_path) -> Path:
    """The demo's tower with random weights saved in its folder."""
    import shutil

    from transformers import AutoModel, CLIPConfig

    folder = tmp_path / "pretrained"
    shutil.copytree(demo / "tower", folder)
    torch.manual_seed(3)
    AutoModel.from_config(CLIPConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def as_options(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


LORA = 'arch.args.lora={"rank": 2}'


@pytest.mark.parametrize(
    "more",
    [
        [],
        [LORA, "arch.args.freeze=all", "trainer.chunk_size=3"],
        ["arch.args.ocr=caption", 'arch.args.temporal={"head": "transformer", "layers": 1}'],
        ['arch.args.ocr={"residual": false}', "trainer.activation_checkpointing=true"],
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(more, demo, tmp_path):
    import signal

    config = load_config(CONFIG, settings(demo, *more))
    whole = made(config, tmp_path / "whole")
    whole.fit()
    stopped = made(config, tmp_path / "stopped")
    train_step = stopped.train_step

    def stopping(batch):
        if stopped.progress.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return train_step(batch)

    stopped.train_step = stopping
    with pytest.raises(Stopped):
        stopped.fit()
    again = made(config, tmp_path / "stopped")
    again.resume(tmp_path / "stopped" / "model_last.pth")
    again.fit()
    states = [load_checkpoint(tmp_path / run / "model_last.pth") for run in ("whole", "stopped")]
    assert not differences(*(state["state_dict"] for state in states))
    assert not differences(*(state["optimizer"] for state in states))


def test_trained_tested_and_merged(run_main, demo, pretrained, tmp_path):
    run, more = tmp_path / "run", [f"arch.args.tower={pretrained}", "arch.args.pretrained=true"]
    changes = settings(demo, *more, LORA, "arch.args.freeze=all", "trainer.epochs=1")
    assert run_main(train_command, "-c", CONFIG, "--run_dir", run, *as_options(changes))[0] == 0
    matrices = {}
    model = run / "model_last.pth"
    for target in ("merged/model.safetensors", "merged_too/model.pth"):
        code, out, err = run_main(checkpoint_command, "convert", model, tmp_path / target)
        assert code in (0, None) and "adapters were merged" in out, err
    for path in (model, tmp_path / "merged/model.safetensors", tmp_path / "merged_too/model.pth"):
        matrix = path.parent / "sim_matrix.npy"
        code, _, err = run_main(test_command, "-r", path, "--sim_path", matrix)
        assert code == 0, err
        matrices[path.parent.name] = np.load(matrix)
    assert np.abs(matrices["merged"] - matrices["run"]).max() < 1e-6
    assert np.abs(matrices["merged_too"] - matrices["run"]).max() < 1e-6
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["arch"]["args"]["lora"] is None
    assert not any("parametrizations" in name for name in load_checkpoint(
        tmp_path / "merged_too/model.pth"
    )["state_dict"])  # fmt: skip


def test_without_a_checkpoint_it_is_zero_shot(run_main, demo, pretrained, tmp_path):
    """The matrix of test.py is that of transformers, read frame by frame."""
    changes = settings(demo, f"arch.args.tower={pretrained}", "arch.args.pretrained=true")
    for kind, modalities in (("fused", '["vision", "ocr"]'), ("seen", '["vision"]')):
        code, _, err = run_main(
            test_command, "-c", CONFIG, "--sim_path", tmp_path / f"{kind}.npy",
            "--save_feats", tmp_path / kind,
            *as_options([*changes, f"arch.args.modalities={modalities}"]),
        )  # fmt: skip
        assert code == 0, err
    seen, fused = (np.load(tmp_path / f"{kind}.npy") for kind in ("seen", "fused"))
    np.testing.assert_allclose(fused, seen, atol=1e-6)
    assert seen.std() > 1e-4
    kept = load_embeddings(tmp_path / "seen")
    products = cosine_similarity(*map(torch.from_numpy, (kept.text_embeds, kept.video_embeds)))
    np.testing.assert_allclose(products.numpy(), seen, atol=1e-6)
    unpretrained = settings(demo)
    code, _, err = run_main(test_command, "-c", CONFIG, *as_options(unpretrained))
    assert code == 2 and "no trained weights to test" in err


def test_a_checkpoint_of_another_tower_is_refused(run_main, demo, tmp_path):
    changes = settings(demo, "trainer.epochs=1")
    run = tmp_path / "run"
    assert run_main(train_command, "-c", CONFIG, "--run_dir", run, *as_options(changes))[0] == 0
    other = write_tower(tmp_path / "siglip", "siglip")
    code, _, err = run_main(
        test_command, "-r", run / "model_last.pth", "--set", f"arch.args.tower={other}",
        "--set", "data_loader.args.video_params.input_res=32",
    )  # fmt: skip
    assert code == 2 and "its weights do not fit the model of this configuration" in err


def test_a_run_with_nothing_to_train_is_refused(run_main, demo, pretrained, tmp_path):
    changes = settings(demo, "arch.args.freeze=all", 'arch.args.modalities=["vision"]')
    code, _, err = run_main(
        train_command, "-c", CONFIG, "--run_dir", tmp_path / "run", *as_options(changes)
    )
    assert code == 2 and "nothing to train" in err
