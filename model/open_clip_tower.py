"""Towers of open_clip's catalogue (PE-Core and others): ``open_clip:NAME[/TAG]``, or a folder.

open_clip is an optional package (pip install open_clip_torch), imported here only. A folder holds
``open_clip_config.json`` and weights, as its ``push_to_hf_hub`` writes them. Shapes are those of
``model/towers.py``.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from base.registry import TOWERS, nearest
from model.text_encoder import pad_texts
from model.towers import OPEN_CLIP, Tower, TowerInput
from utils.errors import UserError

_CONFIG = "open_clip_config.json"
_RESIZE = {"shortest": "shorter_side", "squash": "square"}


@TOWERS.register("open_clip")
class OpenClipTower(Tower):
    """A model of open_clip, always in the form that has its text side apart.

    Attributes:
        settings: what ``open_clip_config.json`` says of it.
    """

    vision_parts = ("visual",)
    text_parts = ("text",)

    def __init__(self, model: nn.Module, settings: dict[str, Any]) -> None:
        super().__init__(model)
        self.settings = settings
        self._embed_dim = settings["model_cfg"]["embed_dim"]
        self.context_length = settings["model_cfg"]["text_cfg"].get("context_length", 77)
        text = model.text
        # A causal text that is pooled at its end needs no padding. Others were trained with it.
        causal = getattr(text, "attn_mask", None) is not None and text.cls_emb is None
        self.pads_texts = not (causal and text.pool_type in ("argmax", "eos"))

    @property
    def embed_dim(self) -> int:
        """E."""
        return self._embed_dim

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the vectors (N, E) of prepared images (N, 3, R, R)."""
        return self.model.encode_image(images)

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the vectors (N, E) of texts (N, T); padding does not change them."""
        pad = self.settings["pad_token_id"]
        if not self.pads_texts:
            return self._encode_unpadded(input_ids.masked_fill(attention_mask == 0, pad))
        length = self.context_length
        return self.model.encode_text(pad_texts(input_ids, attention_mask, length, pad, "right"))

    def _encode_unpadded(self, ids: Tensor) -> Tensor:
        """Return what the library gives of the padded texts; it takes no shorter ones.

        What follows a token doesn't change it, so a word of 4 tokens is encoded as 4, not as 77.
        """
        text, length = self.model.text, ids.shape[1]
        tokens = text.token_embedding(ids) + text.positional_embedding[:length]
        tokens = text.transformer(tokens, attn_mask=text.attn_mask[:length, :length])
        if text.pool_type == "argmax":  # the end-of-text token has the greatest number
            end = ids.argmax(1)
        else:
            end = (ids == text.eos_id).int().argmax(1)
        pooled = text.ln_final(tokens)[torch.arange(len(ids), device=ids.device), end]
        projection = text.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection

    def save_text_config(self, folder: Path) -> None:
        """Write what ``load_open_clip`` wants to find."""
        text = json.dumps(self.settings, indent=2)
        (folder / _CONFIG).write_text(text, encoding="utf-8")

    def recompute_activations(self) -> None:
        """Let the backward pass compute each layer again."""
        self.model.set_grad_checkpointing(True)

    def drop_vision(self) -> None:
        """Delete what only images need; ``visual`` stays as a name, which the library looks for."""
        self.model.visual = nn.Identity()

    @classmethod
    def read_config(cls, name: str) -> dict[str, Any]:
        """Return what ``open_clip_config.json`` says, or would say, of a tower.

        Raises:
            UserError: there is no such folder, model or weights' tag.
        """
        open_clip = import_open_clip()
        folder, architecture, tag = split_open_clip(name)
        if folder is not None:
            try:
                found = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
                found["model_cfg"]["embed_dim"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"arch.args.tower: {folder / _CONFIG}: is no configuration of open_clip: "
                    f"{error}"
                ) from error
            return found
        model_cfg = open_clip.get_model_config(architecture)
        if model_cfg is None:
            raise UserError(
                f'arch.args.tower: open_clip has no model "{architecture}"'
                + nearest(architecture, open_clip.list_models())
            )
        weights = open_clip.get_pretrained_cfg(
            architecture, tag or _choose_tag(open_clip, architecture)
        )
        if tag and not weights:
            raise UserError(
                f'arch.args.tower: open_clip has no weights "{tag}" of {architecture}'
                + nearest(tag, open_clip.list_pretrained_tags_by_model(architecture))
            )
        keys = ("mean", "std", "interpolation", "resize_mode")
        prepared = {key: weights[key] for key in keys if weights.get(key) is not None}
        if weights.get("quick_gelu"):
            model_cfg["quick_gelu"] = True
        return {"model_cfg": model_cfg, "preprocess_cfg": prepared}

    @classmethod
    def describe(cls, name: str, config: dict[str, Any]) -> TowerInput:
        """Return what a tower of open_clip takes; raises ``UserError``."""
        model, defaults = config["model_cfg"], vars(import_open_clip().transform.PreprocessCfg())
        prepared = defaults | config.get("preprocess_cfg", {})
        size = model["vision_cfg"].get("image_size", 224)
        sides = set(size) if isinstance(size, (list, tuple)) else {size}
        if len(sides) > 1 or prepared["resize_mode"] not in _RESIZE:
            raise UserError(
                f"arch.args.tower: {name} takes images of {size}, resized by "
                f'"{prepared["resize_mode"]}"; known are squares, resized by {", ".join(_RESIZE)}'
            )
        return TowerInput(
            frame_size=sides.pop(),
            resize=_RESIZE[prepared["resize_mode"]],
            interpolation=prepared["interpolation"],
            mean=tuple(prepared["mean"]),
            std=tuple(prepared["std"]),
            max_tokens=model["text_cfg"].get("context_length", 77),
        )

    @classmethod
    def build_text_side(cls, name: str, config: dict[str, Any]) -> Self:
        """Return the tower of these files without its vision side; no weights are loaded."""
        tower = cls.load(name, config, pretrained=False)
        tower.drop_vision()
        return tower

    @classmethod
    def load(cls, name: str, config: Any, pretrained: bool) -> Self:
        """Build by ``open_clip:NAME[/TAG]``; ``config`` is what its file says."""
        open_clip = import_open_clip()
        if "pad_token_id" not in config:  # a folder of ours has it
            config = config | {"pad_token_id": _read_pad_token(open_clip, name)}
        model_cfg = config["model_cfg"]
        if not pretrained:
            sides = {
                "vision_cfg": model_cfg["vision_cfg"] | {"timm_model_pretrained": False},
                "text_cfg": model_cfg["text_cfg"] | {"hf_model_pretrained": False},
            }
            arguments = {key: model_cfg[key] for key in model_cfg if key != "custom_text"}
            return cls(open_clip.model.CustomTextCLIP(**arguments | sides), config)
        folder, architecture, tag = split_open_clip(name)
        options = {"force_custom_text": True, "require_pretrained": True}
        if folder is None:
            options["pretrained"] = tag or _choose_tag(open_clip, architecture)
            options["force_quick_gelu"] = bool(model_cfg.get("quick_gelu"))
        source = f"local-dir:{folder}" if folder is not None else architecture
        return cls(open_clip.create_model(source, **options).float(), config)


def import_open_clip() -> Any:
    """Import open_clip; raises ``UserError`` with the way to get it."""
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            f"arch.args.tower: {OPEN_CLIP}… needs the package open_clip: "
            f"pip install open_clip_torch ({error})"
        ) from error
    return open_clip


def split_open_clip(name: str) -> tuple[Path | None, str, str]:
    """Split ``open_clip:NAME[/TAG]`` into folder, name and tag (which may be "")."""
    rest = name.removeprefix(OPEN_CLIP)
    if os.path.isdir(rest):
        return Path(rest), "", ""
    architecture, _, tag = rest.partition("/")
    return None, architecture, tag


def _read_pad_token(open_clip: Any, name: str) -> int:
    """Return what the tokenizer pads with; a model's own ``pad_id`` is not always that."""
    folder, architecture, _ = split_open_clip(name)
    source = architecture if folder is None else f"local-dir:{folder}"
    tokenizer = getattr(open_clip.get_tokenizer(source), "tokenizer", None)
    return getattr(tokenizer, "pad_token_id", None) or 0  # open_clip's own pads with 0


def _choose_tag(open_clip: Any, architecture: str) -> str:
    """Return the tag of the weights where there is but one; raises ``UserError``."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if len(tags) != 1:
        raise UserError(
            f"arch.args.tower: {architecture} has the weights {', '.join(tags) or 'none'}; name "
            f"one: {OPEN_CLIP}{architecture}/TAG"
        )
    return tags[0]
