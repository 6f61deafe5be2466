"""A checkpoint written the way the published one was, every value of it."""

import gzip
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from model.frozen_in_time import FrozenInTime
from model.params import TextParams, VideoParams
from tools.checkpoint import convert_checkpoint
from utils.checkpoint.files import load_checkpoint
from utils.checkpoint.weights import fit_weights, get_weights, load_weights

DEFAULT = Path(__file__).parents[1] / "reference"
FOLDER = Path(os.environ.get("TEXTVR_REFERENCE_DIR", DEFAULT))


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("published") / "textvr.pth"
    with gzip.open(FOLDER / "published_style.pth.gz") as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return path


def reference_model() -> FrozenInTime:
    """The model of the file, by the rules of the reference's README."""
    return FrozenInTime(
        VideoParams(pretrained=False, input_res=32, depth=1),
        TextParams(model=str(FOLDER / "text_model"), pretrained=False),
    )


def numbered() -> dict[str, torch.Tensor]:
    """Its weights: parameter i is full of (i mod 17) / 100."""
    model = reference_model()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_((number % 17) / 100)
    return model.state_dict()


def check_weights(found: dict[str, torch.Tensor]) -> None:
    expected = numbered()
    assert len(expected) == 81 and found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], value), name


def check_config(config: dict) -> None:
    assert config["name"] == "TextVR_fusion" and config["n_gpu"] == 8
    assert config["arch"]["type"] == "FrozenInTime"
    assert config["arch"]["args"]["video_params"] == {
        "model": "SpaceTimeTransformer",
        "arch_config": "base_patch16_224",
        "num_frames": 4,
        "pretrained": True,
        "time_init": "zeros",
    }
    assert config["optimizer"] == {"type": "AdamW", "args": {"lr": 3e-05}}
    assert config["metrics"] == ["t2v_metrics", "v2t_metrics"]
    assert config["trainer"]["monitor"] == "min val_loss_0"
    assert config["trainer"]["init_val"] is False
    assert json.loads(json.dumps(config)) == config  # plain JSON, all of it


def test_every_value_of_it(published):
    state = load_checkpoint(published)
    assert state.keys() == {
        "arch", "epoch", "state_dict", "optimizer", "monitor_best", "config"
    }  # fmt: skip
    assert all(name.startswith("module.") for name in state["state_dict"])
    check_weights(get_weights(state, published))
    check_config(state["config"])
    assert (state["arch"], state["epoch"], state["monitor_best"]) == ("DataParallel", 57, 1.25)
    assert type(state["epoch"]) is int and type(state["monitor_best"]) is float
    (group,) = state["optimizer"]["param_groups"]
    assert group["lr"] == 3e-05 and group["params"] == list(range(81))


def test_it_fits_the_model_strictly(published):
    model = reference_model()
    load_weights(model, published)
    check_weights(model.state_dict())


def test_torchs_own_reader_refuses_it(published):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(published, weights_only=True)


def test_converted_there_and_back(published, tmp_path):
    first, second, third = (
        tmp_path / "a" / "model.pth",
        tmp_path / "b" / "model.safetensors",
        tmp_path / "c" / "model.pth",
    )
    for source, target in ((published, first), (first, second), (second, third)):
        target.parent.mkdir()
        convert_checkpoint(source, target)
        check_config(json.loads((target.parent / "config.json").read_text()))
        state = load_checkpoint(target)
        assert state.keys() == {"arch", "epoch", "monitor_best", "state_dict", "config"}
        check_weights(state["state_dict"])
        check_config(state["config"])
        assert (state["arch"], state["epoch"], state["monitor_best"]) == ("DataParallel", 57, 1.25)
        assert sorted(path.name for path in target.parent.iterdir()) == sorted(
            ["config.json", target.name]
        )
    torch.load(first, weights_only=True)  # torch's own reader takes it now
    model = reference_model()
    fit_weights(model, get_weights(load_checkpoint(third), third), third)
