"""``train.py --profile``: a trace, a table, and nothing of the model."""

import gzip
import importlib.util
import json
import re
import shlex
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from tests.conftest import ROOT, tiny
from trainer.build import build_trainer
from trainer.profiling import NUM_TRACED, OTHER, Stopwatch, format_times, profile_run
from utils.cli import run_cli

CPU = torch.device("cpu")


def arguments(demo, run) -> list[str]:
    changes = [part for value in tiny(demo) for part in ("--set", value)]
    return ["-c", str(ROOT / "configs/demo/ocr.json"), "--run_dir", str(run), *changes]


def made(config, folder):
    folder.mkdir(exist_ok=True)
    return build_trainer(config, folder, CPU)


def rows_of(text: str) -> dict[str, tuple[float, float]]:
    found = re.findall(r"^(.+?) {2,}([\d.]+) +([\d.]+)%$", text, re.MULTILINE)
    return {name: (float(ms), float(share)) for name, ms, share in found}


@pytest.fixture(scope="module")
def profiled(make_config, tmp_path_factory):
    """The folder of a profiled run of the mode fusion, and what it says."""
    folder = tmp_path_factory.mktemp("profiled") / "run"
    return folder, profile_run(made(make_config(), folder), folder)


def test_the_table_says_where_a_step_goes(profiled):
    folder, text = profiled
    rows = rows_of(text)
    assert {
        "waiting for data", "to device, transforms", "similarity and loss", "backward",
        "optimizer", "other", "a step",
    } <= rows.keys()  # fmt: skip
    assert {"forward: video_model", "forward: ocr_model", "forward: text_model"} <= rows.keys()
    total = rows.pop("a step")
    assert total[1] == 100.0 and total[0] == pytest.approx(sum(ms for ms, _ in rows.values()), 0.02)
    assert all(rows[name][0] > 0 for name in ("backward", "optimizer", "waiting for data"))
    assert text.startswith((folder / "profile" / "steps.txt").read_text())
    assert "no checkpoint was written" in text


def test_the_trace_holds_the_parts_of_the_traced_steps(profiled):
    folder, text = profiled
    [path] = (folder / "profile").glob("*.pt.trace.json.gz")
    assert str(path) in text
    events = json.loads(gzip.open(path).read())["traceEvents"]
    counts = {}
    for event in events:
        if event.get("cat") == "user_annotation":
            counts[event["name"]] = counts.get(event["name"], 0) + 1
    for name in ("backward", "optimizer", "forward: video_model", "waiting for data"):
        assert counts[name] == NUM_TRACED, name
    assert any(event.get("cat") == "cpu_op" for event in events)


def test_nothing_of_the_model_is_written_and_nothing_is_left_behind(make_config, tmp_path):
    trainer = made(make_config("trainer.chunk_size=2", kind="ocr"), tmp_path)
    before = torch.autograd.backward, dict(vars(trainer)), dict(vars(trainer.precision))
    text = profile_run(trainer, tmp_path)
    assert rows_of(text)["backward"][0] > 0  # chunks have two ways to go backward
    assert not list(tmp_path.glob("*.pth")) and not (tmp_path / "metrics.jsonl").exists()
    after = torch.autograd.backward, dict(vars(trainer)), dict(vars(trainer.precision))
    assert after[0] is before[0]
    assert [part.keys() for part in after[1:]] == [part.keys() for part in before[1:]]
    assert not any(module._forward_hooks for module in trainer.model.modules())


def test_a_part_within_another_counts_for_itself_alone():
    watch = Stopwatch(CPU)
    with watch.part("warm"):
        pass
    watch.is_measuring = True
    with watch.part("outer"):
        time.sleep(0.02)
        with watch.part("inner"):
            time.sleep(0.1)
        time.sleep(0.02)
    assert watch.seconds.keys() == {"outer", "inner"}
    assert 0.04 <= watch.seconds["outer"] < 0.1 <= watch.seconds["inner"]


def test_small_parts_of_the_forward_pass_stand_together():
    seconds = {OTHER: 1.0, "forward: a": 1.0, "forward: b": 0.004, "forward: c": 0.006}
    rows = rows_of(format_times(seconds, num_steps=2))
    assert rows["forward: the rest"][0] == 5.0 and rows["forward: a"][0] == 500.0
    assert "forward: b" not in rows and rows["a step"][0] == 1005.0


def script(name: str):
    """Import a script of the repository; Python has a package of the name ``test``, too."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def printed(monkeypatch, capsys):
    """Return a function that runs a command in this process; it gives stdout."""

    def run(main, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        with pytest.raises(SystemExit) as caught:
            run_cli(main)
        out, err = capsys.readouterr()
        assert caught.value.code == 0, err
        return out

    return run


def test_profile_ends_the_command_after_its_steps(demo, tmp_path, printed):
    out = printed(train.main, *arguments(demo, tmp_path / "run"), "--profile")
    assert "a step" in rows_of(out) and "epochs done" not in out
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "environment.json", "train.log", "tensorboard", "profile"}


def test_a_run_ends_with_its_summary_and_the_next_command_works(demo, tmp_path, printed):
    run = tmp_path / "run"
    out = printed(train.main, *arguments(demo, run))
    assert out.startswith("epochs done: 1\nbest epoch: 1 (min val_loss_0 = ")
    python, command, *options = shlex.split(out.splitlines()[-1])
    assert (python, command) == ("python", "test.py")
    assert options[:2] == ["-r", str(run / "model_best.pth")]
    assert "R1" in printed(script("test").main, *options)
    assert Path(options[-1]).is_file()
