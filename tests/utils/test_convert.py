"""python -m tools.checkpoint: what it writes, says and refuses."""

import json
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tools import checkpoint as command
from tools.checkpoint import Difference, compare_shapes, convert_checkpoint, describe_fit
from utils.checkpoint.files import CheckpointError, load_checkpoint
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
WIDE = torch.arange(20.0).view(4, 5)
STATE = {
    "arch": "Net",
    "epoch": 3,
    "optimizer": {"state": {}},
    "state_dict": OrderedDict({"module.a.w": WIDE.t(), "module.b.w": torch.ones(3)}),
}


@pytest.fixture
def source(tmp_path):
    torch.save(STATE, tmp_path / "in.pth")
    return tmp_path / "in.pth"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_written_and_said(source, tmp_path, suffix):
    target = tmp_path / f"out{suffix}"
    (tmp_path / "config.json").write_text('{"name": "mine"}')
    lines = convert_checkpoint(source, target)
    assert lines == [
        f"{target}: 2 tensors, 23 numbers",
        "arch: Net",
        "epoch: 3",
        "left out: optimizer; training can't be resumed from it",
        f"{tmp_path}/config.json: is there already and was left as it is",
    ]
    state = load_checkpoint(target)
    assert {key: state[key] for key in ("arch", "epoch", "config")} == {
        "arch": "Net", "epoch": 3, "config": {"name": "mine"}
    }  # fmt: skip
    assert list(state["state_dict"]) == ["a.w", "b.w"]
    assert torch.equal(state["state_dict"]["a.w"], WIDE.t())
    assert state["state_dict"]["a.w"].is_contiguous()
    assert oct(target.stat().st_mode) == oct(source.stat().st_mode)


def test_a_configuration_beside_is_written_beside(source, tmp_path):
    (tmp_path / "in.json").write_text('{"name": "beside"}')
    (tmp_path / "config.json").write_text('{"name": "of another"}')
    (tmp_path / "out").mkdir()
    convert_checkpoint(source, tmp_path / "out" / "m.safetensors")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"name": "beside"}
    assert json.loads((tmp_path / "config.json").read_text()) == {"name": "of another"}
    (tmp_path / "in.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="in.json: holds no JSON object"):
        convert_checkpoint(source, tmp_path / "out" / "n.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_tied_weights_and_parts_of_large_ones(tmp_path, suffix):
    big = torch.arange(100_000.0)
    layer = nn.Linear(4, 4)
    weights = {"one": layer.weight, "two": layer.weight, "part": big[:8], "none": torch.ones(0, 2)}
    torch.save(weights, tmp_path / "in.pth")  # a plain state dict
    target = tmp_path / f"out{suffix}"
    lines = convert_checkpoint(tmp_path / "in.pth", target)
    assert lines[1:] == ["no configuration is in it or beside it"]
    state = load_checkpoint(target)["state_dict"]
    assert state.keys() == weights.keys() and target.stat().st_size < 10_000
    for name, value in weights.items():
        assert torch.equal(state[name], value.detach()), name
    assert (state["one"].data_ptr() == state["two"].data_ptr()) == (suffix == ".pth")


def test_nothing_is_replaced_unless_forced(source, tmp_path):
    target = tmp_path / "out.pth"
    target.write_text("mine")
    with pytest.raises(UserError, match="out.pth: is there already; .*--force"):
        convert_checkpoint(source, target)
    assert target.read_text() == "mine"
    convert_checkpoint(source, target, force=True)
    assert load_checkpoint(target)["epoch"] == 3
    convert_checkpoint(target, target, force=True)
    assert load_checkpoint(target)["epoch"] == 3
    convert_checkpoint(source, tmp_path / "a" / "new" / "folder.pth")
    assert load_checkpoint(tmp_path / "a" / "new" / "folder.pth")["epoch"] == 3
    with pytest.raises(UserError, match="ends in .pth or .safetensors"):
        convert_checkpoint(source, tmp_path / "out.bin")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_write_that_fails_leaves_nothing(source, tmp_path, suffix):
    with pytest.raises(CheckpointError, match="can't be written"):
        convert_checkpoint(source, source / "no_folder" / f"out{suffix}")
    state = {"state_dict": {"w": torch.ones(2, dtype=torch.complex128)}}
    torch.save(state, source)
    if suffix == ".safetensors":  # the format has no such numbers
        with pytest.raises(CheckpointError, match="out.safetensors: can't be written"):
            convert_checkpoint(source, tmp_path / f"out{suffix}")
        assert os.listdir(tmp_path) == ["in.pth"]


def test_damaged_safetensors(tmp_path, source):
    convert_checkpoint(source, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    for size in range(0, len(data), 5):
        (tmp_path / "b.safetensors").write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="b.safetensors: is damaged or no checkpoint"):
            load_checkpoint(tmp_path / "b.safetensors")


def test_what_stands_beside_the_weights_must_be_readable(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a.w": torch.ones(3)}, path, {"epoch": "three"})
    with pytest.raises(CheckpointError, match="a.safetensors: its epoch is no number"):
        load_checkpoint(path)
    save_file({"a.w": torch.ones(3)}, path, {"epoch": "3"})
    assert load_checkpoint(path)["epoch"] == 3
    for content, reason in (("{", "can't be read"), ("[" * 10**5, "can't be read"), ("[]", "JSON")):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(CheckpointError, match=f"a.json: .*{reason}"):
            load_checkpoint(path)


def test_differences_and_the_nearest():
    model = {"a": (1,), "b": (2, 2), "c": ()}
    assert compare_shapes({"a": (1,), "b": (4,), "d": ()}, model) == Difference(1, 1, 1)
    models = {"large.json": model | {"d": (1,)}, "other.json": {"z": (1,)}}
    weights = {"a": (1,), "b": (2, 2)}
    assert describe_fit(weights, models, {}) == [
        "fits: none; nearest: large.json (2 missing keys, 0 unexpected keys, 0 of another shape)"
    ]
    models |= {"same.json": weights, "again.json": dict(weights)}
    assert describe_fit(weights, models, {"x.json": "no folder", "y.json": "no folder"}) == [
        "fits: same.json, again.json",
        "not tried: x.json, y.json (no folder)",
    ]


class Unknown:
    pass


def test_inspect_says_what_is_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        command, "build_configured_models", lambda: ({"c.json": {"a.w": (5, 4)}}, {})
    )
    state = STATE | {"extra": [Unknown(), {"x": Unknown()}], "config": {"name": "n", "k": [1]}}
    torch.save(state, tmp_path / "in.pth")
    assert command.main(["inspect", str(tmp_path / "in.pth"), "--config"]) == 0
    config = json.dumps(state["config"], indent=2)
    assert capsys.readouterr().out == (
        f"file: {tmp_path}/in.pth\nformat: torch (zip)\narch: Net\nepoch: 3\n"
        "weights: 2 tensors, 23 numbers, float32\n"
        "  a     1            20  5×4\n  b     1             3  3\n"
        f"optimizer: dict of 1: state\nextra: list of 2; inert: {__name__}.Unknown (2)\n"
        f"config:\n{config}\n"
        "fits: none; nearest: c.json (0 missing keys, 1 unexpected keys, 0 of another shape)\n"
    )
    torch.save({"a.w": WIDE.t()}, tmp_path / "bare.pth")
    command.main(["inspect", str(tmp_path / "bare.pth")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "weights: 1 tensors, 20 numbers, float32" and lines[-1] == "fits: c.json"
    torch.save({"epoch": 1}, tmp_path / "none.pth")
    command.main(["inspect", str(tmp_path / "none.pth")])
    assert "weights: none (its state_dict holds values that are not tensors)" in (
        capsys.readouterr().out
    )


def run(*arguments, module="tools.checkpoint"):
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_the_command_refuses_with_one_message(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    done = run("convert", tmp_path / "a.pth", tmp_path / "b.pth")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"{tmp_path}/a.pth: wants to call os.system; what a file asks for is never executed. Use "
        "one that holds tensors and plain values, such as the state_dict alone\n"
    )
    assert os.listdir(tmp_path) == ["a.pth"] and not (ROOT / "executed").exists()


def test_the_former_name_of_the_command_works_and_says_the_new_one(source, tmp_path):
    done = run("convert", source, tmp_path / "a.pth", module="utils.checkpoint")
    assert done.returncode == 0 and done.stdout.startswith(f"{tmp_path}/a.pth: 2 tensors")
    assert done.stderr == "python -m utils.checkpoint is now python -m tools.checkpoint\n"


def test_inspect_finds_the_configuration_that_fits(tmp_path):
    """A model of TextVR's full size on the meta device tells the names and shapes."""
    models, skipped = command.build_configured_models()
    name = "configs/TextVR_vision.json"
    assert {name, "configs/TextVR_fusion.json", "configs/TextVR_ocr.json"} <= models.keys()
    assert all("demo" in skip for skip in skipped)
    weights = {key: torch.zeros(1).expand(shape) for key, shape in models[name].items()}
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    lines = command.inspect_checkpoint(tmp_path / "a.pth", whole_config=False)
    assert any(line.startswith("fits: ") and name in line for line in lines)
    del weights[next(key for key in weights if key.startswith("txt_proj"))]
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    lines = command.inspect_checkpoint(tmp_path / "a.pth", whole_config=False)
    nearest = next(line for line in lines if line.startswith("fits: none; nearest: "))
    assert name in nearest and "(1 missing keys, 0 unexpected keys, 0 of another shape)" in nearest
