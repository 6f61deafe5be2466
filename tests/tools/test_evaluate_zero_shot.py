"""Zero-shot evaluation: the table's rows, and late fusion."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, CLIPConfig

import test as test_command
from tests.conftest import ROOT
from tools import evaluate_zero_shot


@pytest.fixture(scope="module")
def tower(demo, tmp_path_factory) -> Path:
    """The demo's tower with random weights."""
    folder = tmp_path_factory.mktemp("tower") / "tower"
    shutil.copytree(demo / "tower", folder)
    torch.manual_seed(3)
    model = AutoModel.from_config(CLIPConfig.from_pretrained(folder))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(folder)
    return folder


def test_late_fusion_weighs_both_alike():
    seen = np.array([[0.30, 0.31, 0.30], [0.2, 0.2, 0.5]])
    read = np.array([[0.1, 0.9, 0.8], [0.4, 0.4, 0.4]])
    fused = evaluate_zero_shot.fuse_similarities(seen, read)
    for row in range(2):
        expected = np.zeros(3)
        for matrix in (seen, read):
            centred = matrix[row] - matrix[row].mean()
            expected += centred / max(np.sqrt((centred**2).mean()), 1e-8) / 2
        np.testing.assert_allclose(fused[row], expected, atol=1e-5)
    scaled = evaluate_zero_shot.fuse_similarities(5 * seen - 3, read)
    np.testing.assert_allclose(scaled, fused, atol=1e-5)


@pytest.mark.parametrize("config", ["demo/dual_encoder", "demo/fusion"])
def test_the_table_of_a_tower(run_main, demo, tower, tmp_path, config):
    """Whatever the configuration's own model, the row seen is what test.py gives of the tower."""
    out = tmp_path / "out"
    code, text, err = run_main(
        evaluate_zero_shot, "-c", ROOT / f"configs/{config}.json", "--tower", tower, "--out", out,
        "--num_frames", 2, "--set", f"data_loader.args.data_dir={demo}",
        "--set", "data_loader.args.num_workers=0",
    )  # fmt: skip
    assert code == 0, err
    [(name, rows)] = json.loads((out / "results.json").read_text()).items()
    assert name == str(tower) and list(rows) == ["seen", "read", "both"]
    lines = text.strip().splitlines()[-3:]
    assert [line.split()[1] for line in lines] == ["seen", "read", "both"]
    assert f"{rows['both']['t2v_metrics']['R1']:.2f}" in lines[2]
    [folder] = [path for path in out.iterdir() if path.is_dir()]
    matrices = {row: np.load(folder / row / "sim_matrix.npy") for row in rows}
    fused = evaluate_zero_shot.fuse_similarities(matrices["seen"], matrices["read"])
    np.testing.assert_allclose(matrices["both"], fused, atol=1e-6)
    assert (folder / "both" / "ranks.csv").is_file()
    changes = [
        f"arch.args.tower={tower}", "arch.args.pretrained=true", 'arch.args.modalities=["vision"]',
        f"data_loader.args.data_dir={demo}", "data_loader.args.num_workers=0",
        "data_loader.args.tsfm_params=null",
    ]  # fmt: skip
    options = [word for change in changes for word in ("--set", change)]
    tested = tmp_path / "sim_matrix.npy"
    code, _, err = run_main(
        test_command, "-c", ROOT / "configs/demo/dual_encoder.json", "--sim_path", tested, *options
    )
    assert code == 0, err
    np.testing.assert_allclose(matrices["seen"], np.load(tested), atol=1e-6)
    # Videos of the same words are alike to a model that reads.
    assert np.unique(matrices["read"].round(5), axis=1).shape[1] <= matrices["read"].shape[1]
    assert matrices["read"].std() > 1e-4


def test_without_words_there_is_one_row(run_main, demo, tower, tmp_path):
    code, text, err = run_main(
        evaluate_zero_shot, "-c", ROOT / "configs/demo/dual_encoder.json", "--tower", tower,
        "--out", tmp_path, "--num_frames", 1, "--no_ocr",
        "--set", f"data_loader.args.data_dir={demo}", "--set", "data_loader.args.num_workers=0",
    )  # fmt: skip
    assert code == 0, err
    assert "read" not in text and list(tmp_path.rglob("sim_matrix.npy"))


def test_a_tower_that_is_not_there_ends_with_its_name(run_main, tmp_path):
    code, _, err = run_main(
        evaluate_zero_shot, "-c", ROOT / "configs/demo/dual_encoder.json",
        "--tower", tmp_path / "gone",
    )  # fmt: skip
    assert code == 2 and str(tmp_path / "gone") in err and "Traceback" not in err
