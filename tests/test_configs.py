"""Every shipped configuration: read, and its model built at its full size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from base.config import ConfigError, resolve_config
from base.registry import ARCHITECTURES, DATASETS
from parse_config import load_config
from parsing.schema import make_file_schema

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
FILES = [path for path in sorted(CONFIGS.rglob("*.json")) if path.name != "schema.json"]
REGENERATE = "python parse_config.py --schema > configs/schema.json"

TEXT, OCR_ONLY = 66_362_880, 768  # DistilBERT; the query token
PROJECTION = 768 * 256 + 256
FUSION_LAYER = 3 * (768 * 768 + 768)  # query, key, value
VIT = 85_798_656  # base, patch 16, 224 pixels, without head
TIME = 4 * 768 + 12 * (2 * 768 + 4 * 768 * 768 + 4 * 768)  # embedding; norm3, qkv, proj a block
PARAMETERS = {
    ("vision",): TEXT + VIT + TIME + 2 * PROJECTION,
    ("ocr",): 2 * TEXT + OCR_ONLY + FUSION_LAYER + 2 * PROJECTION,
    ("vision", "ocr"): 2 * TEXT + OCR_ONLY + FUSION_LAYER + VIT + TIME + 3 * PROJECTION
    + 3 * 768 + 12 * 768 + 768,  # type embedding, track vectors
}  # fmt: skip
# Of each data set but TextVR: file -> registered names of its loaders
DATA_SETS = {
    "CC3M_WebVid": ["ConceptualCaptions3M", "WebVid"],
    "DiDeMo": ["DiDeMo"],
    "ImageDirectory": ["ImageDirectory"],
    "LSMDC": ["LSMDC"],
    "MSRVTT_jsfusion": ["MSRVTT"],
    "MSRVTT_ocr": ["MSRVTT"],
    "MSVD": ["MSVD"],
    "VideoDirectory": ["VideoDirectory"],
    "WebVid": ["WebVid"],
    "WebVid_ocr": ["WebVid"],
    "YouCook2_ocr": ["YouCook2"],
}
RECIPE = "published_recipe"  # the demonstration's fusion, trained as TextVR was
BASELINES = ("TextVR_word_overlap",)
# Of towers: file -> weights of the tower, of its text side, and width of its common space.
CLIP_B32 = (151_277_312, 63_428_096, 512)  # as its authors say, but for the scale of the logits
SIGLIP2_B16 = (375_187_968, 282_303_744, 768)
PE_B16 = (447_660_544, 353_986_560, 1024)
TOWERS = {
    **{f"TextVR_clip{end}": CLIP_B32 for end in ("", "_vision", "_ocr")},
    **{f"TextVR_siglip2{end}": SIGLIP2_B16 for end in ("", "_vision", "_ocr")},
    **{f"TextVR_pe{end}": PE_B16 for end in ("", "_vision", "_ocr")},
    "MSRVTT_clip4clip": CLIP_B32,
    "zero_shot": SIGLIP2_B16,
}
OTHERS = (*DATA_SETS, *BASELINES, *TOWERS, RECIPE, "dual_encoder")
ABLATIONS = [path for path in FILES if path.stem not in OTHERS]


def list_demo_changes(path: Path, demo: Path) -> list[str]:
    """The demonstration's text models are made with its data set."""
    if path.parent.name != "demo":
        return []
    if path.stem == "dual_encoder":
        return [f"arch.args.tower={demo}/tower"]
    return [f"arch.args.text_params.model={demo}/text_model"]


def count_fusion(width: int) -> int:
    """Weights of a DualEncoder beside its tower: fusion layer, gate, tokens, track vectors."""
    linear = width * width + width
    return 3 * linear + (2 * width + 1 + linear) + 4 * width + 13 * width


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def built_on_meta(config):
    arguments = ARCHITECTURES.get(config.arch.type).without_initial_weights(**config.arch.kwargs())
    with torch.device("meta"):
        return ARCHITECTURES.get(config.arch.type)(**arguments)


def test_the_shipped_files_are_all_here():
    names = {
        "TextVR_fusion",
        "TextVR_ocr",
        "TextVR_vision",
        "demo/fusion",
        "demo/ocr",
        "demo/vision",
        *DATA_SETS,
        "demo/dual_encoder",
        *BASELINES,
        *TOWERS,
    }
    assert {name_of(path).removesuffix(".json") for path in FILES} >= names


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_shipped_file_is_read_and_its_model_built(path, demo):
    config = load_config(path, list_demo_changes(path, demo))
    assert resolve_config(config)["name"] == path.stem or path.parent.name == "demo"
    model = built_on_meta(config)
    count = sum(weight.numel() for weight in model.parameters())
    if path.stem in BASELINES:
        assert count == 0 and not model.has_weights
        return
    if path.parent.name == "demo":
        assert 0.3e6 < count < 4e6
    elif path.stem in TOWERS:
        whole, text, width = TOWERS[path.stem]
        modalities = config.arch.kwargs()["modalities"]
        tower = whole if "vision" in modalities else text
        assert count == tower + ("ocr" in modalities) * count_fusion(width)
    else:
        assert count == PARAMETERS[config.arch.kwargs()["modalities"]]
    arguments = config.arch.kwargs()
    assert model.video_key == ("fusion" if "ocr" in arguments["modalities"] else "video")


def test_the_base_sizes_are_those_of_the_paper():
    assert round(PARAMETERS["vision", "ocr"] / 1e6) == 249


def test_the_published_values():
    config = load_config(CONFIGS / "TextVR_fusion.json")
    group = config.optimizer.kwargs()
    assert config.optimizer.type == "TransformersAdamW"
    assert (group["lr"], group["betas"]) == (3e-5, (0.9, 0.999))
    assert (group["eps"], group["weight_decay"]) == (1e-6, 0.0)
    assert config.lr_scheduler is None and config.loss.kwargs() == {"temperature": 0.05}
    loader = config.data_loader[0].args
    assert loader.batch_size == 64 and loader.ocr_params.max_words == 200
    course = config.trainer
    assert (course.epochs, course.max_samples_per_epoch, course.early_stop) == (300, 20000, 200)
    assert course.monitor == "min val_loss_0"


@pytest.mark.parametrize("path", ABLATIONS, ids=name_of)
def test_an_ablation_is_a_diff_of_ten_lines_named_for_what_it_changes(path):
    data = json.loads(path.read_text())
    if path.stem.endswith("fusion"):
        assert "extends" not in data  # the complete one
        return
    assert len(path.read_text().splitlines()) <= 10
    assert data["extends"] == path.name.replace(path.stem.split("_")[-1], "fusion")
    assert data["arch"]["args"]["modalities"] == [path.stem.split("_")[-1]]


def test_the_published_recipe_has_none_of_what_helps_against_collapse():
    configs = [CONFIGS / "TextVR_fusion.json", CONFIGS / f"demo/{RECIPE}.json"]
    for config in map(load_config, configs):
        arch = config.arch.kwargs()
        assert (arch["ocr_encoder_init"], arch["type_embedding_std"]) == ("text_params", 1.0)
        assert config.trainer.ocr_warmup_steps == 0 and not config.trainer.unimodal_losses.weights()
    mended = load_config(CONFIGS / "demo/fusion.json")
    assert mended.trainer.ocr_warmup_steps and mended.trainer.unimodal_losses.weights()


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_is_a_diff_of_twenty_lines(name):
    path = CONFIGS / f"{name}.json"
    assert len(path.read_text().splitlines()) <= 20
    assert json.loads(path.read_text())["extends"] == "TextVR_fusion.json"
    config = load_config(path)
    loaders = [block.args for block in config.data_loader]
    assert [args.dataset_name for args in loaders] == DATA_SETS[name]
    reads = config.arch.kwargs()["modalities"] == ("vision", "ocr")
    assert reads == name.endswith("_ocr")
    for args in loaders:
        # The transforms are those of the published class of the data set.
        recipe = args.tsfm_params and args.tsfm_params.recipe
        of_textvr = DATASETS.get(args.dataset_name).get_form(args.cut).recipe == "textvr"
        wanted = "textvr_mild" if name == "DiDeMo" else "textvr" if of_textvr else "frozen_in_time"
        assert (recipe or "frozen_in_time") == wanted
        assert args.split == ("test" if "Directory" in name else "train")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_follows_a_published_recipe_has_its_optimizer(path, demo):
    """All published files name the AdamW of transformers; the demonstration has torch's."""
    is_ours = path.parent.name == "demo" or path.stem in TOWERS
    config = load_config(path, list_demo_changes(path, demo))
    assert config.optimizer.type == ("AdamW" if is_ours else "TransformersAdamW")


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_is_trained_by_the_recipe_of_clip4clip(name):
    """arXiv 2104.08860 and the code beside it; zero_shot.json is for test.py."""
    path = CONFIGS / f"{name}.json"
    config = load_config(path)
    if name == "zero_shot":
        assert config.arch.kwargs()["pretrained"]
        return
    if name != "TextVR_clip":
        assert len(path.read_text().splitlines()) <= 12
    group, course = config.optimizer.kwargs(), config.trainer
    assert (group["lr"], group["betas"], group["eps"]) == (1e-4, (0.9, 0.98), 1e-6)
    assert group["weight_decay"] == 0.2 and not group["decay_norms_and_biases"]
    # The scale of the logits is one of CLIP's own parameters there.
    assert [(part.match, part.lr_scale) for part in group["groups"]] == [
        ("tower.*", 1e-3), ("criterion.*", 1e-3),
    ]  # fmt: skip
    assert config.lr_scheduler.kwargs()["warmup_ratio"] == 0.1 and course.clip_grad_norm == 1.0
    loader = config.data_loader[0].args
    assert (loader.batch_size, loader.video_params.num_frames) == (128, 12)
    # An epoch shows each video with one caption: 5 epochs of TextVR's 5, and of MSR-VTT's 20.
    assert course.epochs == (100 if name == "MSRVTT_clip4clip" else 25)
    expected = "SigmoidLoss" if "siglip" in name else "SoftmaxLoss"
    assert config.loss.type == expected


def test_every_data_set_has_a_configuration():
    assert {name for names in DATA_SETS.values() for name in names} | {"TextVR"} == set(
        DATASETS.names()
    )


def test_the_joint_pre_training_is_the_published_one():
    config = load_config(CONFIGS / "CC3M_WebVid.json")
    images, videos = (block.args for block in config.data_loader)
    assert (videos.cut, images.video_params.num_frames, videos.video_params.num_frames) == (
        "2M", 1, 1
    )  # fmt: skip
    assert images.video_params.loading == videos.video_params.loading == "lax"
    assert config.arch.kwargs()["video_params"].num_frames == 4
    course = config.trainer
    assert (course.max_samples_per_epoch, course.early_stop, course.init_val) == (10**6, 10, True)


def test_the_demo_differs_in_modalities_and_name_only():
    files = {name: resolve_config(load_config(CONFIGS / "demo" / f"{name}.json"))
             for name in ("fusion", "vision", "ocr")}  # fmt: skip
    for data in files.values():
        del data["name"], data["arch"]["args"]["modalities"]
    assert files["fusion"] == files["vision"] == files["ocr"]


def test_the_schema_is_what_the_command_prints_now():
    kept = (CONFIGS / "schema.json").read_text(encoding="utf-8")
    now = json.dumps(make_file_schema(), indent=2, ensure_ascii=False) + "\n"
    assert kept == now, f"configs/schema.json is not that of the code: {REGENERATE}"


@pytest.mark.slow
def test_the_command_that_makes_the_schema():
    command = [sys.executable, *REGENERATE.split(" > ")[0].split()[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (CONFIGS / "schema.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_shipped_file_names_its_schema(path):
    assert (
        path.parent / json.loads(path.read_text())["$schema"]
    ).resolve() == CONFIGS / "schema.json"


def test_without_initial_weights_nothing_pretrained_is_left():
    arguments = load_config(CONFIGS / "TextVR_fusion.json").arch.kwargs()
    assert arguments["text_params"].pretrained and arguments["video_params"].pretrained
    arguments |= {"load_checkpoint": "x.pth"}
    off = ARCHITECTURES.get("FrozenInTime").without_initial_weights(**arguments)
    assert not off["text_params"].pretrained and not off["video_params"].pretrained
    assert off["load_checkpoint"] == "" and off["projection_dim"] == 256


def test_the_size_that_a_vits_name_says_is_compared_with_the_loaders():
    change = "data_loader.args.video_params.input_res=112"
    with pytest.raises(ConfigError, match="112, but the model of arch takes frames of 224"):
        load_config(ROOT / "configs/TextVR_fusion.json", [change])
    both = [change, "arch.args.video_params.input_res=112"]
    assert load_config(ROOT / "configs/TextVR_fusion.json", both).name == "TextVR_fusion"
