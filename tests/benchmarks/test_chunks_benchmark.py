"""``python -m benchmarks.chunks``: what it measures and the table it writes."""

import json
import subprocess
import sys

import pytest

from benchmarks import chunks, one_step
from model.frozen_in_time import FrozenInTime
from tests.conftest import ROOT
from utils.errors import UserError


def test_the_table_has_medians_and_ranges():
    case = {"device": "cpu", "batch": 512, "chunk": 64}
    numbers = {"before": [100.0, 110.0, 90.0], "peak": [300.0, 330.0, 310.0], "seconds": [1, 2, 3]}
    head = {"date": "2001-02-03", "machine": "2 threads", "versions": "torch 2"}
    lines = chunks.make_table(head | {"cases": [case | numbers]}).splitlines()
    assert lines[0] == "2001-02-03; 2 threads; torch 2"
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells[:3] == ["cpu", "512", "64"]
    assert cells[3:5] == ["310 (300 … 330)", "100 (90 … 110)"]
    assert cells[5:] == ["220 (200 … 220)", "2.00 (1.00 … 3.00)"]
    assert len(lines[2].split("|")) == len(lines[-1].split("|"))


def test_a_process_that_fails_is_said(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho begin >&2\necho no memory >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(UserError, match="one_step.*--batch 4 .* ended with code 3: no memory"):
        chunks.measure_case("cpu", 4, None, runs=1, steps=2)


def test_the_measured_step_is_that_of_the_demo_model(tmp_path):
    asked = one_step.parse_arguments(["--batch", "5", "--chunk", "3", "--steps", "2"])
    config = one_step.make_config(tmp_path, asked)
    demo = json.loads(one_step.DEMO.with_name("fusion.json").read_text())["arch"]["args"][
        "video_params"
    ]
    params = config.arch.kwargs()["video_params"]
    assert demo == {name: getattr(params, name) for name in demo}
    sizes, shapes = [], set()
    real = FrozenInTime.forward

    def spy(self, chunk):
        sizes.append(len(chunk))
        shapes.add(chunk.video.shape[1:])
        assert chunk.words.mask.sum() == len(chunk) * asked.words
        return real(self, chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenInTime, "forward", spy)
        found = one_step.measure_steps(config, asked)
    assert shapes == {(2, 3, 64, 64)}
    assert sizes == [3, 2] * 4  # two steps of two passes
    assert found.keys() == {*chunks.NUMBERS, "state"}
    assert 0 < found["before"] <= found["peak"] and found["seconds"] > 0


def test_the_plain_path_takes_steps_too(tmp_path):
    options = ["--batch", "3", "--steps", "2", "--path", "plain", "--words", "2", "--frames", "1"]
    asked = one_step.parse_arguments([*options, "--set", "arch.args.video_params.embed_dim=128"])
    found = one_step.measure_steps(one_step.make_config(tmp_path, asked), asked)
    assert 0 < found["before"] <= found["peak"] and found["seconds"] > 0


@pytest.mark.parametrize(
    "options", [["--steps", "1"], ["--path", "plain", "--chunk", "1"], ["--words"]]
)
def test_options_that_do_not_go_together(options, capsys):
    with pytest.raises(SystemExit) as stop:
        one_step.parse_arguments(["--batch", "2", *options])
    assert stop.value.code == 2 and options[-2:][0] in capsys.readouterr().err


@pytest.mark.slow
def test_chunks_of_a_large_batch_need_the_memory_of_a_small_one():
    def extra(*options: str) -> float:
        command = [sys.executable, "-m", "benchmarks.one_step", "--steps", "2", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        return found["peak"] - found["before"]

    small, large = extra("--batch", "64"), extra("--batch", "512")
    assert large > 3 * small
    assert extra("--batch", "512", "--chunk", "64") < 1.5 * small
