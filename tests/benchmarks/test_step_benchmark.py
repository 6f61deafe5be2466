import json
import sys

import pytest

from benchmarks import evaluate, measuring, step
from benchmarks.baseline import assert_equal
from benchmarks.inputs import NUM_PIECES
from data_loader.synthetic.text_model import write_text_model

VIDEO = {"input_res": 32, "patch_size": 16, "embed_dim": 128, "depth": 2, "num_heads": 4}
PARTS = {"query", "video", "ocr", "loss", "backward", "optimizer"}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[str]:
    """Options that make the benchmarks' model small."""
    folder = tmp_path_factory.mktemp("text")
    write_text_model(folder, [f"w{number}" for number in range(NUM_PIECES)])
    changes = [f"arch.args.text_params.model={folder}"]
    changes += [f"arch.args.video_params.{name}={value}" for name, value in VIDEO.items()]
    changes.append("data_loader.args.video_params.input_res=32")
    return [word for change in changes for word in ("--set", change)]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a benchmark's command in this process; gives what its JSON says."""
    monkeypatch.setattr(measuring, "MATMUL_SIDE", {"cpu": 64, "cuda": 64})

    def call(module, *options):
        monkeypatch.setattr(sys, "argv", [module.__name__, "--json", *options])
        module.main()
        return json.loads(capsys.readouterr().out)

    return call


def test_steps_of_both_paths(small, run):
    options = ["--batch", "3", "--frames", "2", "--words", "0", "5", "--runs", "2", *small]
    found = run(step, *options)
    assert [case["words"] for case in found["cases"]] == [0, 5]
    for case in found["cases"]:
        assert set(case["forward"]) == {"video", "query", "ocr"}
        for runs in case["steps"].values():
            assert len(runs) == 2 and all(set(run) == PARTS for run in runs)
        assert 0 < case["flops"]["ours"] < case["flops"]["plain"]
        assert 0 < max(case["differences"].values()) < 1e-5
        assert case["products_alone"] > 0
    table = step.make_table(found)
    assert table.count("**step**") == 2 and "5 words a video" in table


def test_paths_that_differ_are_not_compared():
    import torch

    ours = torch.tensor([1.0, 2.0])
    assert assert_equal(ours, ours + 1e-6, "here") == pytest.approx(5e-7, rel=0.2)
    with pytest.raises(AssertionError, match="here: differs by"):
        assert_equal(ours, ours + 1e-3, "here")


def test_evaluations_of_both_paths(small, run):
    options = ["--videos", "5", "--whole", "40", "--batch", "2", "--words", "9", "--runs", "1"]
    found = run(evaluate, *options, *small)
    (case,) = found["cases"]
    assert 9 <= case["distinct_words"] < case["all_words"] == 360
    assert 0 < case["difference"] < 1e-5
    for seconds in (*case["seconds"].values(), case["own_texts"], case["whole_texts"]):
        assert len(seconds) == 1 and seconds[0] > 0
    ours, plain = evaluate.estimate_whole(case, found)
    assert plain == pytest.approx(40 / 5 * case["seconds"]["plain"][0])
    videos = case["seconds"]["ours"][0] - case["own_texts"][0]
    assert ours == pytest.approx(40 / 5 * videos + case["whole_texts"][0])
    assert "5 videos, batch 2" in evaluate.make_table(found)
