"""Settings of the encoders: ``arch.args.video_params`` and ``arch.args.text_params``."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from base.config import NO_EFFECT, ConfigModel

# The published run's timm meant this tag by vit_base_patch16_224 (spec of the published system).
PUBLISHED_VIT_TAG = "augreg_in21k_ft_in1k"


class VideoParams(ConfigModel):
    """The video encoder: by default the space-time ViT."""

    model: str = Field("SpaceTimeTransformer", description="Video encoder, by its registered name.")
    arch_config: str = Field(
        "base_patch16_224",
        description="A timm ViT of plain layout (the prefix vit_ may be left out); gives the "
        "sizes that are not set below.",
    )
    num_frames: int = Field(4, ge=1, description="Longest clip, in frames.")
    pretrained: bool = Field(
        True, description="Start from image weights; false: freshly initialised."
    )
    vit_init: str = Field(
        PUBLISHED_VIT_TAG,
        description="Which image weights: a timm weight tag, or a local file or folder.",
    )
    time_init: Literal["zeros", "rand"] = Field(
        "zeros", description="zeros: the untrained model equals the image model."
    )
    input_res: int | None = Field(
        None, ge=1, description="Side of a frame, pixels; null: the number that ends arch_config."
    )
    patch_size: int | None = Field(None, ge=1, description="Side of a patch, pixels.")
    embed_dim: int | None = Field(None, ge=1, description="Width of a token.")
    depth: int | None = Field(None, ge=1, description="Blocks.")
    num_heads: int | None = Field(None, ge=1, description="Attention heads.")
    mlp_ratio: float | None = Field(None, gt=0, description="MLP width, in multiples of embed_dim.")
    attention_style: Annotated[str | None, NO_EFFECT] = Field(
        None, description="Published key; there is one style."
    )
    loading: Annotated[str | None, NO_EFFECT] = Field(
        None, description="Stands here in a published file; data_loader's video_params has it."
    )

    @model_validator(mode="before")
    @classmethod
    def _input_res_of_name(cls, values: Any) -> Any:
        """Take it from timm's name, so that the loader's ``input_res`` is compared with it."""
        if not isinstance(values, dict) or values.get("input_res") is not None:
            return values
        name = values.get("arch_config", cls.model_fields["arch_config"].default)
        end = re.search(r"_(\d+)$", name) if isinstance(name, str) else None
        return values | {"input_res": int(end[1])} if end else values

    @property
    def timm_name(self) -> str:
        """timm's name of the ViT; the published ``base_patch16_224`` means ``vit_…``."""
        name = self.arch_config
        return name if name.startswith("vit_") else f"vit_{name}"

    @property
    def vit_tag(self) -> str:
        """The timm weight tag; the published files' ``imagenet-21k`` means the default."""
        return PUBLISHED_VIT_TAG if self.vit_init == "imagenet-21k" else self.vit_init

    def sizes(self) -> dict[str, int | float]:
        """Return the sizes that are set here and so win over those of ``arch_config``."""
        names = {"input_res", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"}
        return self.model_dump(include=names, exclude_none=True)


class TextParams(ConfigModel):
    """The query encoder; the OCR word encoder is a second one of the same kind."""

    model: str = Field("distilbert-base-uncased", description="Hugging Face name or local folder.")
    pretrained: bool = Field(
        True, description="Load its weights; false: freshly initialised from its configuration."
    )
    input: Literal["text"] = Field("text", description="Published key; queries are texts.")
