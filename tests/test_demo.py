"""The demonstration: what its table says, and that it runs from end to end."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import demo
from data_loader.synthetic.demo import DemoOptions, make_demo
from retrieval import VideoIndex

ROOT = Path(demo.__file__).parent


def test_understanding_is_the_share_of_first_videos_with_the_right_label():
    similarity = np.array([[1, 2, 0, 0], [0, 3, 1, 0], [0, 0, 0, 1], [9, 0, 0, 1]], dtype=float)
    last_is_wrong = np.array([0, 0, 1, 1])
    assert demo.measure_understanding(similarity, last_is_wrong) == 75.0
    assert demo.measure_understanding(similarity, np.array([0, 1, 2, 3])) == 25.0
    assert demo.measure_understanding(np.eye(4), np.array([0, 1, 2, 3])) == 100.0


def test_labels_are_in_the_order_of_the_annotation_file(tmp_path):
    make_demo(tmp_path, DemoOptions(looks=3, words=4, clips_per_pair=1))
    labels, ceiling = demo.read_labels(tmp_path)
    entries = json.loads((tmp_path / "TextVR_test.json").read_text())
    named = [Path(entry["path"]).stem.split("_")[1:3] for entry in entries]
    pairs = zip(labels["look"].tolist(), labels["word"].tolist(), strict=True)
    assert [f"{look:02d} {word:02d}" for look, word in pairs] == [" ".join(n) for n in named]
    assert ceiling == 100 * 4 / 4  # one of the 3 residues is tested: 4 videos of 4 words


def test_table_shows_every_model_and_the_ceiling():
    metrics = {"R1": 12.5, "R5": 50.0, "R10": 75.0, "MedR": 5.5}
    row = {"t2v": metrics, "right_look": 60.25, "right_word": 3.0}
    text = demo.format_table({name: row for name in demo.MODELS} | {"ceiling_R1": 6.25})
    assert all(
        name in text
        for name in ("fusion", "vision", "ocr", "dual_encoder", "R@1", "R@10", "MedR", "6.25")
    )
    assert text.count("12.50") == text.count("60.2%") == 4


def test_the_next_commands_can_be_pasted():
    text = demo.format_search_commands(Path("my demo/my.index"))
    assert "python search.py 'my demo/my.index' \"a red" in text
    assert "python serve.py 'my demo/my.index'\n" in text


@pytest.mark.slow
def test_the_whole_demonstration_in_small(tmp_path):
    command = [sys.executable, "demo.py", "--data", tmp_path / "data", "--out", tmp_path / "out"]
    small = ["--make", "--looks 4 --words 4", "--set", "trainer.epochs=1"]
    done = subprocess.run([*command, *small], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results) == {*demo.MODELS, "ceiling_R1", "seed"}
    assert results["seed"] == 0 and "\nseed 0; another by --set seed=1" in done.stdout
    keys = {"t2v", "v2t", "right_look", "right_word"}
    assert all(set(results[model]) == keys for model in demo.MODELS)
    assert np.load(tmp_path / "out" / "sim_matrix.npy").shape == (8, 8)
    assert results["ceiling_R1"] == 50.0
    index = tmp_path / "out" / "my.index"
    assert done.stdout.endswith(demo.format_search_commands(index))
    with VideoIndex.open(index) as opened:
        assert len(opened) == 8 and len(opened.search("a red circle", 20)) == 8
        assert opened.search("casino", mode="words")[0].words[0].kind == "exact"
    wrong = [*command, *small, "--set", "trainer.epochs=0"]
    failed = subprocess.run(wrong, cwd=ROOT, capture_output=True)
    assert failed.returncode == 2 and b"trainer.epochs" in failed.stderr
