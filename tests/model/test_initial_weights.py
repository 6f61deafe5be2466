"""Checkpoints of other runs in a model: the parts taken, frames and frame sizes that differ."""

import importlib.util
import json
import logging
import sys

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from base.config import ConfigError, resolve_config
from model.frozen_in_time import FrozenInTime
from model.initialization import (
    POSITION,
    TIME,
    adapt_embeddings,
    list_parts,
    resize_temporal_embedding,
)
from model.params import TextParams, VideoParams
from parse_config import load_config
from tests.conftest import ROOT, tiny
from tests.model.small_models import SMALL_VIT, build, make_batch, write_text_model
from trainer.build import build_model
from utils.checkpoint.files import CheckpointError, save_checkpoint
from utils.checkpoint.weights import fit_weights, load_weights
from utils.cli import run_cli
from utils.errors import UserError
from utils.files import write_json

CPU = torch.device("cpu")
VISION_PARTS = ("text_model", "video_model", "txt_proj", "vid_proj")
FRESH = "query_token, ocr_model, fusion_model, type_embedding, ocr_pos_embeds, fusion_proj"
_spec = importlib.util.spec_from_file_location("test_script", ROOT / "test.py")
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def vision(text_model, tmp_path_factory):
    """A vision model, and its checkpoint as a run on several GPUs wrote it."""
    model = build(text_model, modalities=("vision",))
    return model, write(model, tmp_path_factory.mktemp("vision") / "model.pth")


def write(model, path, **changes):
    weights = {f"module.{name}": value for name, value in (model.state_dict() | changes).items()}
    weights["module.text_model.embeddings.position_ids"] = torch.arange(5)  # holds no weight
    save_checkpoint(path, {"state_dict": weights, "epoch": 3})
    return path


def start(text_model, path="", video=None, **options):
    """A model as a run makes it: seeded, and started from a checkpoint where one is given."""
    torch.manual_seed(5)
    text = TextParams(model=str(text_model), pretrained=False)
    return FrozenInTime(
        VideoParams(**(SMALL_VIT | (video or {}))),
        text,
        projection_dim=16,
        load_checkpoint=str(path),
        **options,
    ).eval()


def test_a_vision_model_starts_a_fusion_model(text_model, vision, caplog):
    caplog.set_level(logging.INFO, logger="model")
    source, path = vision
    model, fresh = start(text_model, path, load_parts=VISION_PARTS), start(text_model)
    given, untouched = source.state_dict(), fresh.state_dict()
    for name, value in model.state_dict().items():
        assert value.equal(given[name] if name.startswith(VISION_PARTS) else untouched[name]), name
    assert not given["vid_proj.0.weight"].equal(untouched["vid_proj.0.weight"])
    taken = "text_model (20 tensors), video_model (43 tensors), txt_proj (2 tensors), vid_proj (2"
    assert [record.message for record in caplog.records] == [
        f"weights of {path}: taken: {taken} tensors); start fresh: {FRESH}"
    ]
    batch = make_batch([["one", "long"], ["two"]])
    with torch.no_grad():
        after, before = model(batch), source(batch)
        assert after["video"].equal(before["video"]) and after["text"].equal(before["text"])
        assert after["fusion"].isfinite().all()


def test_what_of_the_file_is_not_used_is_reported(text_model, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="model")
    path = write(build(text_model), tmp_path / "fusion.pth")
    model = start(text_model, path, load_parts=("query_token", "video_model"))
    rest = "text_model, ocr_model, fusion_model, type_embedding, ocr_pos_embeds, txt_proj, "
    rest += "vid_proj, fusion_proj"
    taken = "query_token (1 tensor), video_model (43 tensors)"
    assert caplog.messages[-1] == (
        f"weights of {path}: taken: {taken}; start fresh: {rest}; not used: {rest}"
    )
    assert model.query_token.abs().max() > 0  # a fresh one is zero
    start(text_model, path)
    assert caplog.messages[-1].count("tensor") == len(list_parts(model.state_dict()))
    assert "fresh" not in caplog.messages[-1] and "not used" not in caplog.messages[-1]


def test_whole_parts_that_are_missing_or_unexpected_come_with_the_remedy(
    text_model, vision, tmp_path
):
    _, path = vision
    with pytest.raises(CheckpointError) as caught:
        start(text_model, path)
    text, remedy = str(caught.value).rsplit("\n", 1)
    own = start(text_model).state_dict()
    missing = [name for name in own if not name.startswith(VISION_PARTS)]
    listed = sorted(missing)[:20]
    assert len(missing) == 32 and "… and 12 more" in text
    assert all(f"\n  missing key: {name}" in text for name in listed)
    parts = json.dumps(VISION_PARTS)
    assert remedy == (
        f"The file has no {FRESH}: to start these fresh, set arch.args.load_parts to {parts}"
    )
    start(text_model, path, load_parts=json.loads(parts))  # the remedy helps
    fusion = write(build(text_model), tmp_path / "fusion.pth")
    with pytest.raises(CheckpointError, match="unexpected key: ocr_model") as caught:
        start(text_model, fusion, modalities=("vision",))
    remedy = str(caught.value).rsplit("\n", 1)[1]
    assert remedy.startswith(f"The model has no {FRESH}: look at arch.args.modalities, or name ")


@pytest.mark.parametrize(
    ("parts", "options", "kind", "said"),
    [
        (("vid_proj", "vid_proj"), {}, UserError, r"load_parts: \['vid_proj', 'vid_proj'\] names"),
        (("vid_proj",), {"path": ""}, UserError, "^arch.args.load_parts: .*set .*load_checkpoint"),
        (("video_modle",), {}, UserError, 'load_parts: .* no "video_modle"; .*"video_model"'),
        (("ocr_model",), {"modalities": ("vision",)}, UserError, 'no "ocr_model"; look at modal'),
        (("video_model", "ocr_model", "query_token"), {}, CheckpointError,
         r"model.pth: has no ocr_model, query_token, .*it has text_model, video_model, txt_proj"),
        (("video_model",), {"video": {"depth": 3}}, CheckpointError,
         "model.pth: .*\n  missing key: video_model.blocks.2.attn.proj.bias\n"),
        (("video_model",), {"video": {"depth": 1}}, CheckpointError,
         "\n  unexpected key: video_model.blocks.1.attn.proj.bias\n"),
        (("video_model",), {"video": {"patch_size": 2}}, CheckpointError,
         r"patch_embed.proj.weight: .*\n  video_model.pos_embed: \(1, 5, 32\) in the file, .*17"),
    ],
)  # fmt: skip
def test_errors_of_load_parts(parts, options, kind, said, text_model, vision):
    with pytest.raises(kind, match=f"(?s){said}") as caught:
        start(text_model, **{"path": vision[1], "load_parts": parts} | options)
    assert "missing key: ocr" not in str(caught.value)  # only the parts asked for are compared


FOUR, EIGHT = [1.0, 2, 3, 4], [1.0, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("fix", "given", "expected"),
    [
        ("zeros", FOUR, [1, 2, 3, 4, 0, 0, 0, 0]),
        ("interp", FOUR, [1, 1, 2, 2, 3, 3, 4, 4]),
        # Frame centres lie at 0.25, 0.75 … between those of the file; the ends are held.
        ("bilinear", FOUR, [1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]),
        ("zeros", [1.0, 2], [1, 2, 0]),
        ("interp", [1.0, 2], [1, 1, 2]),
        ("bilinear", [1.0, 2], [1, 1.5, 2]),
        ("zeros", EIGHT, [1, 2, 3, 4]),
        ("interp", EIGHT, [1, 2, 3, 4]),
        ("bilinear", EIGHT, [1, 2, 3, 4]),
    ],
)
def test_temporal_embeddings_of_more_or_fewer_frames(fix, given, expected):
    columns = torch.tensor([1.0, -10, 0])  # (D): a column never mixes with its neighbour
    embed = torch.tensor(given)[:, None] * columns
    for dtype in (torch.float32, torch.float16):
        found = resize_temporal_embedding(embed[None].to(dtype), len(expected), fix)
        assert found.dtype == dtype
        wanted = torch.tensor(expected, dtype=torch.float32)[:, None] * columns
        torch.testing.assert_close(found.float(), wanted[None], rtol=1e-6, atol=1e-6)


def test_a_longer_clip_starts_from_a_shorter_one(text_model, vision, caplog):
    caplog.set_level(logging.INFO, logger="model")
    source, path = vision
    model = start(text_model, path, {"num_frames": 5}, modalities=("vision",))
    said = "temporal embeddings: 3 frames in the file, 5 in the model: zeros"
    assert caplog.messages[1:] == [f"weights of {path}: {said}"]
    clips = make_batch([["one"]], frames=5)
    short = make_batch([["one"]])
    with torch.no_grad():
        assert model(clips)["video"].isfinite().all()
        assert model(short)["video"].equal(source(short)["video"])  # its first frames are the old
    fewer = start(text_model, path, {"num_frames": 2}, modalities=("vision",))
    assert fewer.video_model.temporal_embed.equal(source.video_model.temporal_embed[:, :2])
    assert caplog.messages[-1].endswith("3 frames in the file, 2 in the model: the first 2 kept")
    nearest = start(text_model, path, {"num_frames": 6}, modalities=("vision",),
                    load_temporal_fix="interp")  # fmt: skip
    twice = source.video_model.temporal_embed.repeat_interleave(2, dim=1)
    assert nearest.video_model.temporal_embed.equal(twice)


def test_larger_frames_start_from_smaller_ones(text_model, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="model")
    small = build(text_model, {"input_res": 32, "patch_size": 8}, modalities=("vision",))
    path = write(small, tmp_path / "small.pth")
    large = {"input_res": 64, "patch_size": 8, "num_frames": 1}
    model = start(text_model, path, large, load_parts=("video_model",))
    given, found = small.video_model.pos_embed, model.video_model.pos_embed
    assert found.shape == (1, 65, 32) and found[:, 0].equal(given[:, 0])
    torch.testing.assert_close(found, resample_abs_pos_embed(given, [8, 8]), rtol=0, atol=0)
    assert found[0, 1:].std() > 0.5 * given[0, 1:].std()
    said = "position embeddings: 4x4 patches in the file, 8x8 in the model: interpolated (bicubic)"
    assert caplog.messages[-1] == f"weights of {path}: {said}"
    with torch.no_grad():
        assert model.video_model(torch.randn(2, 1, 3, 64, 64)).isfinite().all()


def test_what_fits_is_left_as_it_is(vision):
    model, path = vision
    weights = model.state_dict()
    adapted, notes = model.adapt_weights(weights, path)
    assert notes == [] and all(adapted[name] is value for name, value in weights.items())
    # Neither another width nor another patch is a matter of frames or of their size.
    for name, shape in ((TIME, (1, 5, 8)), (POSITION, (1, 10, 8)), (TIME, (5, 32))):
        odd = weights | {name: torch.ones(shape)}
        assert model.adapt_weights(odd)[0][name] is odd[name]
    with pytest.raises(CheckpointError, match="^a.pth: .*pos_embed is of 7 patches.*no square"):
        model.adapt_weights(weights | {POSITION: torch.ones(1, 8, 32)}, "a.pth")
    text_only = {"text_model.a": torch.ones(2)}
    assert adapt_embeddings(text_only, {"text_model.a": (2,)}, "zeros", "a.pth") == (text_only, [])


def test_resuming_stays_exact(text_model, vision):
    model = start(text_model, video={"num_frames": 4}, modalities=("vision",))
    with pytest.raises(CheckpointError, match=r"temporal_embed: \(1, 3, 32\) in the file"):
        fit_weights(model, vision[0].state_dict(), "run.pth")
    load_weights(model, vision[1])  # what test.py does
    assert model.video_model.temporal_embed[:, 3].eq(0).all()


def read(tmp_path, demo, **arguments):
    """The demo's configuration as a JSON file that sets these arguments of the model."""
    data = {"extends": str(ROOT / "configs/demo/fusion.json"), "arch": {"args": arguments}}
    write_json(tmp_path / "c.json", data)
    return load_config(tmp_path / "c.json", tiny(demo))


def test_a_configuration_takes_parts_of_a_checkpoint(demo, tmp_path):
    source = build_model(read(tmp_path, demo, modalities=["vision"]), CPU)
    one_frame = torch.randn(1, 1, 32)
    path = write(source, tmp_path / "vision.pth", **{TIME: one_frame})
    arguments = {"load_checkpoint": str(path), "load_parts": list(VISION_PARTS)}
    config = read(tmp_path, demo, **arguments, load_temporal_fix="interp")
    model = build_model(config, CPU)
    assert model.video_model.temporal_embed.equal(one_frame.repeat(1, 2, 1))
    kept = resolve_config(config)["arch"]["args"]
    assert kept["load_parts"] == list(VISION_PARTS) and kept["load_temporal_fix"] == "interp"
    path.unlink()
    build_model(config, CPU, initial_weights=False)  # test.py needs neither file nor parts
    for key, value, said in (
        ("load_parts", ["video_modle"], r"load_parts.0: expected .*\"video_model\""),
        ("load_parts", [], "arch.args.load_parts: expected "),
        ("load_parts", "video_model", "arch.args.load_parts: expected "),
        ("load_temporal_fix", "nearest", '"zeros", "interp", "bilinear", got "nearest"'),
    ):
        with pytest.raises(ConfigError, match=said):
            read(tmp_path, demo, **arguments | {key: value})


def matrix_of(command, folder, monkeypatch, capsys):
    """Run ``test.py`` here; return its matrix and what it said."""
    sim = ["--sim_path", folder / "m.npy"]
    monkeypatch.setattr(sys, "argv", ["test.py", *map(str, [*command, *sim])])
    with pytest.raises(SystemExit) as caught:
        run_cli(script.main)
    said = capsys.readouterr().err
    assert caught.value.code == 0, said
    return np.load(folder / "m.npy"), said


def test_a_run_is_tested_on_more_frames(demo, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    run.mkdir()
    config = load_config(ROOT / "configs/demo/vision.json", tiny(demo))  # 2 frames
    model = build_model(config, CPU)
    torch.nn.init.normal_(model.video_model.temporal_embed)
    write_json(run / "config.json", resolve_config(config))
    write(model, run / "model.pth")
    longer = {"args": {"video_params": {"num_frames": 4}}}
    arch = {"args": longer["args"] | {"load_temporal_fix": "interp"}}
    write_json(tmp_path / "c.json", {"data_loader": longer, "arch": arch})
    options = ["-c", tmp_path / "c.json"]
    found, said = matrix_of(["-r", run / "model.pth", *options], tmp_path, monkeypatch, capsys)
    path = run / "model.pth"
    note = f"weights of {path}: temporal embeddings: 2 frames in the file, 4 in the model: interp"
    assert [line for line in said.splitlines() if note in line and " W " in line]
    # The same, with the embeddings stretched by hand in the file.
    by_hand = {TIME: model.video_model.temporal_embed[:, [0, 0, 1, 1]]}
    write(model, run / "long.pth", **by_hand)
    expected, said = matrix_of(["-r", run / "long.pth", *options], tmp_path, monkeypatch, capsys)
    assert "temporal" not in said and np.array_equal(found, expected)
    plain, _ = matrix_of(["-r", run / "model.pth"], tmp_path, monkeypatch, capsys)
    assert not np.allclose(found, plain, atol=1e-4)
