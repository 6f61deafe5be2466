"""Tiny random towers of every family, made on the spot as folders of their libraries' own files."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn

WORDS = "a red blue circle square sign reads casino exit sale moves the on of".split()
SIZE, PATCH = 32, 16
HUGGING_FACE = ("clip", "metaclip_2", "siglip", "siglip2", "videoprism")
FAMILIES = (*HUGGING_FACE, "open_clip", "open_clip_siglip")
_SIDE = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2
}  # fmt: skip


def write_tower(folder: Path, family: str, seed: int = 0) -> str:
    """Save a tower with random weights that are far from zero; returns its name."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    if family.startswith("open_clip"):
        return _write_open_clip(folder, is_siglip=family.endswith("siglip"))
    write_tokenizer(folder, ends=family not in ("videoprism",), starts=family in CLIPS)
    config = _make_config(family)
    model = transformers.AutoModel.from_config(config)
    randomize(model)
    model.save_pretrained(folder)
    make_processor(family).save_pretrained(folder)
    return str(folder)


CLIPS = ("clip", "metaclip_2")


def write_clip(folder: Path, vocabulary: int, size: int, patch: int) -> None:
    """Save a tiny CLIP of other sizes."""
    folder.mkdir()
    write_tokenizer(folder, starts=True, ends=True)
    text = {**_SIDE, "vocab_size": vocabulary, "eos_token_id": 3, "bos_token_id": 2}
    config = transformers.CLIPConfig(
        text_config=text | {"projection_dim": 24, "pad_token_id": 3},
        vision_config={**_SIDE, "image_size": size, "patch_size": patch, "projection_dim": 24},
        projection_dim=24,
    )
    model = transformers.CLIPModel(config)
    randomize(model)
    model.save_pretrained(folder)


def randomize(model: nn.Module) -> None:
    """Move every weight away from zero, so that no part of a tower is silent."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim:
                weight.add_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.1))
            else:
                weight.copy_(torch.tensor(3.0 if "scale" in name else -4.0))


def write_tokenizer(folder: Path, starts: bool, ends: bool) -> None:
    """Save a tokenizer of ``WORDS``: CLIP's pads with its last token, SigLIP's with token 0."""
    special = ["<pad>", "<unk>", "<start>", "<end>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = [*(["<start>"] if starts else []), "$A", *(["<end>"] if ends else [])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(pieces),
        special_tokens=[(token, vocabulary[token]) for token in ("<start>", "<end>")],
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<end>" if starts else "<pad>", unk_token="<unk>",
        bos_token="<start>", eos_token="<end>", model_max_length=16,
    ).save_pretrained(folder)  # fmt: skip


def _make_config(family: str) -> Any:
    vocabulary = 4 + len(WORDS)
    text = {**_SIDE, "vocab_size": vocabulary, "max_position_embeddings": 16}
    vision = {**_SIDE, "image_size": SIZE, "patch_size": PATCH}
    if family in CLIPS:
        text |= {"projection_dim": 24, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 3}
        sides = {"text_config": text, "vision_config": vision | {"projection_dim": 24}}
        return transformers.AutoConfig.for_model(family, projection_dim=24, **sides)
    if family == "videoprism":
        vision = {
            "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
            "num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1,
            "image_size": SIZE, "tubelet_size": [1, PATCH, PATCH], "num_frames": 4,
        }  # fmt: skip
        return transformers.AutoConfig.for_model(family, text_config=text, vision_config=vision)
    if family == "siglip2":
        vision = {**_SIDE, "patch_size": PATCH, "num_patches": (SIZE // PATCH) ** 2}
    # Another padding token than the tokenizer's, as SigLIP 2 is published.
    text |= {"projection_size": 32, "pad_token_id": 1}
    return transformers.AutoConfig.for_model(family, text_config=text, vision_config=vision)


def make_processor(family: str) -> Any:
    """Return the family's image processor, or of videos."""
    square = {"height": SIZE, "width": SIZE}
    if family in CLIPS:
        return transformers.CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size=square, image_mean=[0.4, 0.5, 0.6]
        )
    if family == "videoprism":
        from transformers import LlavaOnevisionVideoProcessor

        return LlavaOnevisionVideoProcessor(size=square, do_normalize=False)
    if family == "siglip2":
        return transformers.Siglip2ImageProcessor(
            patch_size=PATCH, max_num_patches=(SIZE // PATCH) ** 2
        )
    return transformers.SiglipImageProcessor(size=square, resample=2)


def _write_open_clip(folder: Path, is_siglip: bool) -> str:
    import open_clip
    from safetensors.torch import save_file

    text: dict[str, Any] = {
        "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2
    }  # fmt: skip
    if is_siglip:
        text |= {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "pad_id": 1}
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": SIZE, "patch_size": PATCH, "width": 32, "layers": 2, "head_width": 8
        },
        "text_cfg": text,
        "custom_text": True,
    }  # fmt: skip
    prepared = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    settings = {"model_cfg": config, "preprocess_cfg": prepared | {"resize_mode": "squash"}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    model = open_clip.model.CustomTextCLIP(**arguments)
    randomize(model)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"open_clip:{folder}"
