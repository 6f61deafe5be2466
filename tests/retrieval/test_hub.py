"""Where a pretrained model's files come from, and when a hub is asked for them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.index.hub import choose_files, locate_model
from tests.conftest import ROOT
from tests.retrieval.small_hub import SmallHub, refusing_hub, serving_hub, silent_hub
from utils.errors import UserError

NAME = "somebody/small-tower"
FILES = {
    "config.json": "{}", "tokenizer.json": "{}", "preprocessor_config.json": "{}",
    "model.safetensors": "w" * 1_500_000, "README.md": "no", "pytorch_model.bin": "no",
    "onnx/model.onnx": "no", "onnx/config.json": "no",
}  # fmt: skip
NEEDED = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"]
CODE = """
import sys
from retrieval.index.hub import locate_model
from utils.errors import UserError
try:
    print(locate_model(sys.argv[1], float(sys.argv[2])))
except UserError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "published"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def locate(hub: SmallHub, cache: Path, name: str = NAME, limit_s: float = 10.0, **more: str):
    """Locate a model in a process of its own; returns what it prints, and what it says."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, name, str(limit_s)], cwd=ROOT, capture_output=True, text=True,
        env=hub.environment(cache, **more), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_what_is_needed_is_downloaded_once(model, tmp_path):
    with serving_hub({NAME: model}) as hub:
        found, said = locate(hub, tmp_path / "cache")
        assert said.count(f"downloading {NAME}, 2 MB, from {hub.address} into ") == 1
        assert sorted(path.name for path in Path(found).iterdir()) == NEEDED
        assert Path(found).is_relative_to(tmp_path / "cache")
        assert (Path(found) / "model.safetensors").read_text() == FILES["model.safetensors"]
        assert not any("README" in call or "onnx" in call or ".bin" in call for call in hub.calls)
        hub.calls.clear()
        assert locate(hub, tmp_path / "cache") == (found, "")
        assert hub.calls == []  # the cache has it
        (Path(found) / "tokenizer.json").unlink()  # as after a download that was stopped
        assert locate(hub, tmp_path / "cache")[0] == found
        assert hub.calls and (Path(found) / "tokenizer.json").exists()


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_nothing_is_asked_where_that_is_forbidden(model, tmp_path, variable):
    with serving_hub({NAME: model}) as hub:
        found, _ = locate(hub, tmp_path / "cache", **{variable: "1"})
        assert found.startswith(f"HubError {NAME}: is not in the local cache") and not hub.calls
        there, _ = locate(hub, tmp_path / "cache")
        hub.calls.clear()
        assert locate(hub, tmp_path / "cache", **{variable: "1"}) == (there, "")
        assert hub.calls == []


def test_a_hub_that_can_not_be_had(model, tmp_path):
    found, _ = locate(refusing_hub(), tmp_path / "cache")
    assert found.startswith(f"HubError {NAME}: could not be had from http://127.0.0.1:")
    with silent_hub() as hub:
        found, _ = locate(hub, tmp_path / "cache", limit_s=0.5)
    assert found == f"HubError {NAME}: {hub.address} did not answer within 0.5 s"
    with serving_hub({}) as hub:
        found, _ = locate(hub, tmp_path / "cache")
    assert found == f"HubError {NAME}: no such folder, and {hub.address} has no such model"
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").unlink()
    with serving_hub({NAME: model}) as hub:
        found, _ = locate(hub, tmp_path / "cache")
    assert found == f"HubError {NAME}: the hub has no weights of it that can be read"


def test_a_model_without_a_tokenizer_is_named(model, tmp_path):
    (model / "tokenizer.json").unlink()
    with serving_hub({NAME: model}) as hub:
        found, _ = locate(hub, tmp_path / "cache")
    assert found.startswith(f"HubError {NAME}: the hub has no tokenizer.json or ")


def test_weights_in_parts_count_when_all_are_there(model, tmp_path):
    (model / "model.safetensors").unlink()
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for part in parts.values():
        (model / part).write_text(part)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with serving_hub({NAME: model}) as hub:
        found, _ = locate(hub, tmp_path / "cache")
        assert {path.name for path in Path(found).iterdir()} > set(parts.values())
        (Path(found) / parts["b"]).unlink()
        offline, _ = locate(hub, tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert "is not in the local cache" in offline


def test_folders_and_names(tmp_path, monkeypatch):
    assert locate_model(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path.parent)
    assert locate_model(tmp_path.name) == tmp_path
    for name in ("no/such/folder", "./nowhere", "/nowhere"):
        with pytest.raises(UserError, match="no such folder, and no name that"):
            locate_model(name)


def test_which_files_are_read():
    texts = ["config.json", "vocab.txt", "spiece.model"]
    both = [*texts, "model.safetensors", "pytorch_model.bin", "tf_model.h5", "a/model.safetensors"]
    assert choose_files(both) == ("config.json", "spiece.model", "vocab.txt", "model.safetensors")
    assert choose_files([*texts, "pytorch_model.bin"])[-1] == "pytorch_model.bin"
    assert choose_files([*texts, "tf_model.h5", "x/model.safetensors"]) == ()
