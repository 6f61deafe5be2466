"""Checkpoints on a real disk: full, damaged, hostile, of another model."""

import errno
import os
import pickle
import resource
import subprocess
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from utils.checkpoint import files as checkpoint
from utils.checkpoint.files import (
    CheckpointError,
    copy_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from utils.checkpoint.weights import build_with_weights, get_weights, load_weights
from utils.files import write_json

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

STATE = {"epoch": 3, "state_dict": {"w": torch.arange(50_000.0)}, "best": {"value": None}}
BIG = {"state_dict": {"w": torch.zeros(300_000)}}  # 1.2 MB


def test_what_is_saved_is_read_again(tmp_path):
    save_checkpoint(tmp_path / "a.pth", STATE)
    read = load_checkpoint(tmp_path / "a.pth")
    assert read["epoch"] == 3 and read["best"] == {"value": None}
    assert torch.equal(read["state_dict"]["w"], STATE["state_dict"]["w"])
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.fixture
def small_files():
    """Let no file grow past 500 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def check_full(folder: Path) -> None:
    """Fail to write over, and beside, a checkpoint for want of room."""
    path = folder / "model_last.pth"
    save_checkpoint(path, STATE)
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(path, BIG)
    text = str(caught.value)
    assert text.startswith(f"{path}: the checkpoint can't be written (") and "\n" not in text
    assert "the one written before is kept" in text and "resume with -r" in text
    assert path.read_bytes() == before
    with pytest.raises(CheckpointError, match="there is none before it"):
        save_checkpoint(folder / "new.pth", BIG)
    assert os.listdir(folder) == ["model_last.pth"]  # no half of a file stays


def test_a_file_that_may_not_grow_costs_no_checkpoint(tmp_path, small_files):
    check_full(tmp_path)


def test_a_full_disk_costs_no_checkpoint(small_disk):
    check_full(small_disk)


def test_a_disk_that_is_full_at_the_last_moment_costs_no_checkpoint(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.pth"
    save_checkpoint(path, STATE)
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(path, {"epoch": 4})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.pth"]


def test_json_that_does_not_fit_leaves_the_old_file(tmp_path, small_files):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(OSError):
        write_json(tmp_path / "a.json", "x" * 600_000)
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.99])
def test_a_truncated_file_is_said_to_be_damaged(tmp_path, share, legacy):
    path = tmp_path / "a.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"^\S+a.pth: is damaged") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\x80", b"{}", b"\x80\x02", b"(lp0\n.", b"version https://git"]
)
def test_what_is_no_checkpoint_is_said(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a.pth: (is damaged|holds a)"):
        load_checkpoint(path)


def test_flipped_bytes_never_end_in_a_traceback(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"w": torch.ones(3)}, "epoch": 1}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip
    data = path.read_bytes()
    refused = 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            load_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 10


class Shell:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("write", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_something_is_refused_and_runs_nothing(tmp_path, write):
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    state = {"state_dict": {"w": torch.ones(1)}, "config": Shell(f"touch {trace}")}
    if write == "pickle":
        path.write_bytes(pickle.dumps(Shell(f"touch {trace}")))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=write == "zip")
    with pytest.raises(CheckpointError, match="never executed") as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Shell(f"touch {trace}")))
    assert trace.exists()  # it would have


def test_a_pickled_object_of_a_program_is_read_as_plain_values(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {}, "config": Path("x/y")}, path)  # as the published code did
    assert load_checkpoint(path) == {"state_dict": {}, "config": "x/y"}


def test_a_missing_file_and_another_kind_of_value(tmp_path):
    with pytest.raises(CheckpointError, match="gone.pth: no such checkpoint$"):
        load_checkpoint(tmp_path / "gone.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list, not a checkpoint"):
        load_checkpoint(tmp_path / "list.pth")


def test_weights_with_prefix_bare_or_with_buffers_of_old_versions(tmp_path):
    model = nn.Linear(3, 2)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    prefixed = OrderedDict((f"module.{name}", value + 1) for name, value in own.items())
    prefixed["module.text_model.embeddings.position_ids"] = torch.arange(5)
    torch.save({"state_dict": prefixed}, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
    assert torch.equal(model.weight, own["weight"] + 1)
    torch.save(own, tmp_path / "b.pth")  # a plain state dict
    load_weights(model, tmp_path / "b.pth")
    assert torch.equal(model.weight, own["weight"])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "holds no weights"),
        ({"state_dict": []}, "holds no weights"),
        ({"epoch": 1}, "not tensors"),
        ({"state_dict": {"w": 1.0}}, "not tensors"),
        ({1: torch.ones(1)}, "names that are not text"),
    ],
)
def test_a_file_without_weights(state, message):
    with pytest.raises(CheckpointError, match=f"^x.pth: .*{message}"):
        get_weights(state, "x.pth")


def test_every_weight_that_does_not_fit_is_listed_and_none_loaded(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.LayerNorm(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value + 1 for name, value in before.items()}
    del weights["2.bias"], weights["1.weight"]
    weights |= {"0.weight": torch.ones(2, 4), "head.a": torch.ones(1), "head.b": torch.ones(1)}
    save_checkpoint(tmp_path / "a.pth", {"state_dict": weights})
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tmp_path / "a.pth")
    first, *problems = str(caught.value).split("\n  ")
    assert first == f"{tmp_path}/a.pth: its weights do not fit the model of this configuration"
    assert problems == [
        "0.weight: (2, 4) in the file, (2, 3) in the model",
        "missing key: 1.weight",
        "missing key: 2.bias",
        "unexpected key: head.a",
        "unexpected key: head.b",
    ]
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_copy_is_a_second_name_and_survives_the_next_save(tmp_path):
    last, best = tmp_path / "last.pth", tmp_path / "best.pth"
    save_checkpoint(last, {"epoch": 1})
    save_checkpoint(best, {"epoch": 0})
    copy_checkpoint(last, best)
    assert last.stat().st_ino == best.stat().st_ino  # a link: no second 3 GB
    save_checkpoint(last, {"epoch": 2})
    assert load_checkpoint(best) == {"epoch": 1} and load_checkpoint(last) == {"epoch": 2}
    assert sorted(os.listdir(tmp_path)) == ["best.pth", "last.pth"]


def test_a_copy_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    save_checkpoint(tmp_path / "last.pth", {"epoch": 1})
    copy_checkpoint(tmp_path / "last.pth", tmp_path / "best.pth")
    assert load_checkpoint(tmp_path / "best.pth") == {"epoch": 1}


def test_a_copy_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    save_checkpoint(tmp_path / "last.pth", {"epoch": 1})
    save_checkpoint(tmp_path / "best.pth", {"epoch": 0})
    monkeypatch.setattr(checkpoint.os, "link", full)
    monkeypatch.setattr(checkpoint.shutil, "copyfile", full)
    with pytest.raises(CheckpointError, match="best.pth: can't be written .*last.pth is good"):
        copy_checkpoint(tmp_path / "last.pth", tmp_path / "best.pth")
    assert load_checkpoint(tmp_path / "best.pth") == {"epoch": 0}
    assert sorted(os.listdir(tmp_path)) == ["best.pth", "last.pth"]


class Positions(nn.Module):
    """A layer, and buffers that no file holds; ``drawn`` may begin without numbers."""

    def __init__(self, drawn):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("places", torch.arange(4), persistent=False)
        begun = torch.empty(2) if drawn else torch.zeros(2)
        self.register_buffer("begun", begun.fill_(7), persistent=False)


@pytest.mark.parametrize("drawn", [False, True])
def test_a_module_is_built_around_the_weights_of_a_file(drawn, tmp_path):
    weights = {"layer.weight": torch.rand(2, 3).half(), "layer.bias": torch.rand(2)}
    save_checkpoint(tmp_path / "a.pth", {"state_dict": weights})
    sizes = []

    def build():
        module = Positions(drawn)
        sizes.append(0 if module.layer.weight.is_meta else module.layer.weight.numel())
        return module

    module = build_with_weights(build, tmp_path / "a.pth")
    assert sizes == ([0, 6] if drawn else [0])  # without memory, where that is all it needs
    assert all(module.state_dict()[name].equal(weight) for name, weight in weights.items())
    assert module.layer.weight.dtype == torch.float16
    assert module.places.tolist() == [0, 1, 2, 3] and module.begun.tolist() == [7, 7]
    save_checkpoint(tmp_path / "b.pth", {"state_dict": {"layer.weight": torch.rand(2, 4)}})
    with pytest.raises(CheckpointError, match=r"layer\.weight: \(2, 4\) in the file, \(2, 3\)"):
        build_with_weights(build, tmp_path / "b.pth")
