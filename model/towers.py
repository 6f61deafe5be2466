"""Towers: pretrained image-text models (CLIP, SigLIP, …) as the encoders of a ``DualEncoder``.

A tower is the library's own model, so that its weights have their published names. What its family
does apart from the others (pooling, padding, the size and colours of images) is a class of
``TOWERS``, registered under the ``model_type`` of ``config.json``. A family that isn't known is
refused: a text pooled at the wrong token gives vectors that look right and rank at random.

Shapes: N images or texts, T tokens of the longest, U distinct words, F frames, E width of the
common space, R side of an image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from base.batch import Words
from base.registry import TOWERS
from model.text_encoder import encode_unpadded, pad_texts, read_padding
from utils.errors import UserError
from utils.token_limit import find_token_limit

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OPEN_CLIP = "open_clip:"
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HALVES = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class TowerInput:
    """What a tower takes, known from its files before it is built.

    Attributes:
        frame_size: R, pixels.
        resize: how an image gets its size, see ``base.base_model.ModelInput``.
        interpolation: of that resizing, which is antialiased.
        mean: of each colour channel in [0, 1], subtracted.
        std: of each colour channel, divided by.
        max_tokens: most tokens of a text; None: any number.
        lowercase: whether texts were lower-cased in the tower's training.
    """

    frame_size: int
    resize: Literal["square", "shorter_side"]
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_tokens: int | None
    lowercase: bool = True


class Tower(nn.Module):
    """An image-text model of Hugging Face transformers; a family is a subclass.

    Attributes:
        model: the library's.
    """

    takes_videos: ClassVar[bool] = False
    # Whether a text is padded to the most tokens, and padding is attended to, as in training.
    pads_texts: ClassVar[bool] = False
    lowercase: ClassVar[bool] = True
    vision_parts: ClassVar[tuple[str, ...]] = ("vision_model", "visual_projection")
    text_parts: ClassVar[tuple[str, ...]] = ("text_model", "text_projection")

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Those of the logits are the loss's.
        self.initial_scale, self.initial_bias = read_logit_scale(model)
        for name in ("logit_scale", "logit_bias"):
            if hasattr(model, name):
                delattr(model, name)
        self.model = model

    @classmethod
    def load(cls, name: str, config: PreTrainedConfig, pretrained: bool) -> Self:
        """Build the tower, with its weights or freshly initialised."""
        from transformers import AutoModel

        if not pretrained:
            return cls(AutoModel.from_config(config, dtype=torch.float32))
        model, report = AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32,
            # Without these two transformers only warns of weights that do not fit.
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
        _check_weights(report, name)
        known = KNOWN_TOWERS.get(name)
        if known is not None and known.input != cls.describe(
            name, config
        ):  # its files are here now
            raise UserError(
                f"arch.args.tower: the image processor of {name} is not what this release knows it "
                "to be; run the command again, its files are in the cache now and are read first"
            )
        return cls(model)

    @classmethod
    def describe(cls, name: str, config: PreTrainedConfig) -> TowerInput:
        """Return what the tower of these files takes."""
        known = KNOWN_TOWERS.get(name)
        if known is not None and not is_local(name):
            return known.input
        from transformers import AutoImageProcessor

        return cls.read_processor(AutoImageProcessor.from_pretrained(name), config)

    @classmethod
    def read_processor(cls, processor: Any, config: PreTrainedConfig) -> TowerInput:
        """Return what transformers' image processor says; raises ``UserError``."""
        size, resize = _read_size(processor)
        normalizes = processor.do_normalize
        return TowerInput(
            frame_size=size,
            resize=resize,
            interpolation=_read_interpolation(processor.resample),
            mean=tuple(processor.image_mean) if normalizes else (0.0, 0.0, 0.0),
            std=tuple(processor.image_std) if normalizes else (1.0, 1.0, 1.0),
            max_tokens=find_token_limit(config),
            lowercase=cls.lowercase,
        )

    @classmethod
    def build_text_side(cls, name: str, config: PreTrainedConfig) -> Self:
        """Return the tower of these files without its vision side; no weights are loaded."""
        vision = config.vision_config
        # Built small, then dropped: how a family builds its text side alone differs by release.
        side = getattr(vision, "patch_size", 16) or 16
        small = {
            "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1,
            "num_hidden_layers": 1, "image_size": side, "num_spatial_layers": 1,
            "num_temporal_layers": 1, "num_auxiliary_layers": 1, "num_patches": 1,
        }  # fmt: skip
        kept = {key: getattr(vision, key) for key in small if hasattr(vision, key)}
        for key in kept:
            setattr(vision, key, small[key])
        tower = cls.load(name, config, pretrained=False)
        for key, value in kept.items():  # the configuration is saved beside the weights
            setattr(config.vision_config, key, value)
        tower.drop_vision()
        return tower

    @property
    def embed_dim(self) -> int:
        """E."""
        return self.model.config.projection_dim

    @property
    def text_config(self) -> Any:
        """The configuration of the text side."""
        return self.model.config.get_text_config()

    @property
    def vision(self) -> nn.Module:
        """The vision encoder."""
        return getattr(self.model, self.vision_parts[0])

    def drop_vision(self) -> None:
        """Delete what only images need."""
        for name in self.vision_parts:
            if hasattr(self.model, name):
                delattr(self.model, name)

    def list_vision_blocks(self) -> list[nn.Module]:
        """Return the layers of the vision encoder that run once for a batch of images."""
        return find_blocks(self.vision)

    def list_text_blocks(self) -> list[nn.Module]:
        """Return the layers of the text encoder that run once for a batch of texts."""
        return find_blocks(getattr(self.model, self.text_parts[0]))

    def list_text_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that texts need."""
        parts = [getattr(self.model, name, None) for name in self.text_parts]
        found = [weight for part in parts if part is not None for weight in _parameters(part)]
        return found

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the vectors (N, E) of prepared images (N, 3, R, R)."""
        return get_vector(self.model.get_image_features(pixel_values=images))

    def encode_videos(self, videos: Tensor) -> Tensor:
        """Return the vectors (B, E) of prepared clips (B, F, 3, R, R), of a tower that takes them.

        Raises:
            TypeError: it takes images.
        """
        raise TypeError(f"{type(self).__name__} takes images")

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the vectors (N, E) of texts (N, T), N at least 1; padding does not change them."""
        if not self.pads_texts:
            return self.run_text(input_ids, attention_mask)
        config = self.text_config
        ids = pad_texts(
            input_ids, attention_mask, config.max_position_embeddings, config.pad_token_id,
            config.padding_side,
        )  # fmt: skip
        return self.run_text(ids, None)

    def run_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the library's vectors (N, E) of tokens as they stand."""
        features = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return get_vector(features)

    def encode_words(self, words: Words) -> Tensor:
        """Return a vector for each distinct word, (U, E); without padding where that is exact."""
        if self.pads_texts:
            lengths = torch.cat([
                torch.full((count,), length) for length, count in words.groups
            ]).to(words.input_ids.device)  # fmt: skip
            places = torch.arange(words.input_ids.shape[1], device=lengths.device)
            return self.encode_texts(words.input_ids, (places < lengths[:, None]).long())
        return encode_unpadded(words, self.encode_texts)

    def save_text_config(self, folder: Path) -> None:
        """Write what ``build_text_side`` wants to find."""
        self.model.config.save_pretrained(folder)

    def recompute_activations(self) -> None:
        """Let the backward pass compute each layer again."""
        if not getattr(self.model, "supports_gradient_checkpointing", False):
            raise UserError(
                f"trainer.activation_checkpointing: {type(self.model).__name__} has none; set it "
                "to false"
            )
        older = self.model.gradient_checkpointing_enable  # the name before transformers 5.2x
        enable = getattr(self.model, "activation_checkpointing_enable", older)
        enable({"use_reentrant": False, "preserve_rng_state": True})

    def compile_vision(self, backend: str | Callable) -> None:
        """Compile the vision encoder where it stands."""
        self.vision.compile(backend=backend)


@TOWERS.register("clip")
class ClipTower(Tower):
    """CLIP (arXiv 2103.00020): causal texts, pooled at the end-of-text token."""


@TOWERS.register("metaclip_2")
class MetaClip2Tower(Tower):
    """MetaCLIP 2 (arXiv 2507.22062): CLIP in 300 languages, whose texts keep their case."""

    lowercase = False


@TOWERS.register("siglip")
class SiglipTower(Tower):
    """SigLIP (arXiv 2303.15343) and SigLIP 2 (2502.14786) of fixed resolution.

    A text is pooled at its last position, also where that is padding, as in training: each is
    padded to the most tokens, so that the words of a batch cost as much as sentences.
    """

    pads_texts = True
    vision_parts = ("vision_model",)
    text_parts = ("text_model",)

    @property
    def embed_dim(self) -> int:
        """E: width of the text side's head, which is that of the vision encoder."""
        return self.text_config.projection_size


@TOWERS.register("siglip2")
class Siglip2Tower(SiglipTower):
    """SigLIP 2 of variable resolution (NaFlex), given square frames of its most patches.

    Its own processor keeps the shape of each image; the frames of a batch have one shape here, as
    every square one has there.
    """

    @classmethod
    def read_processor(cls, processor: Any, config: PreTrainedConfig) -> TowerInput:
        """Return the largest square that the processor gives."""
        side = int(processor.max_num_patches**0.5) * processor.patch_size
        return TowerInput(
            side, "square", _read_interpolation(processor.resample), tuple(processor.image_mean),
            tuple(processor.image_std), find_token_limit(config),
        )  # fmt: skip

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the vectors (N, E) of prepared images (N, 3, R, R)."""
        number, _, height, width = images.shape
        size = self.model.config.vision_config.patch_size
        rows, columns = height // size, width // size
        # (N, 3, rows, p, columns, p) -> (N, rows * columns, p * p * 3)
        patches = images.reshape(number, 3, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
        patches = patches.reshape(number, rows * columns, -1)
        shapes = torch.tensor([[rows, columns]], device=images.device).expand(number, 2)
        mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=images.device)
        features = self.model.get_image_features(
            pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes
        )
        return get_vector(features)


@TOWERS.register("videoprism")
class VideoPrismTower(Tower):
    """VideoPrism with its text side (arXiv 2402.13217), which encodes a clip as a whole."""

    takes_videos = True
    vision_parts = ("video_model",)
    text_parts = ("text_model",)

    @classmethod
    def describe(cls, name: str, config: PreTrainedConfig) -> TowerInput:
        """Return what its video processor says; without normalisation, as in its training."""
        from transformers import AutoVideoProcessor

        processor = AutoVideoProcessor.from_pretrained(name)
        size, resize = _read_size(processor)
        normalizes = processor.do_normalize
        return TowerInput(
            size, resize, _read_interpolation(processor.resample),
            tuple(processor.image_mean) if normalizes else (0.0, 0.0, 0.0),
            tuple(processor.image_std) if normalizes else (1.0, 1.0, 1.0),
            find_token_limit(config),
        )  # fmt: skip

    @property
    def embed_dim(self) -> int:
        """E."""
        return self.text_config.hidden_size

    def encode_images(self, images: Tensor) -> Tensor:
        """Refuse; see ``encode_videos``."""
        raise TypeError("VideoPrism takes videos")

    def encode_videos(self, videos: Tensor) -> Tensor:
        """Return the vectors (B, E) of prepared clips (B, F, 3, R, R)."""
        trained = self.model.config.vision_config.num_frames
        features = self.model.get_video_features(
            pixel_values_videos=videos, interpolate_pos_encoding=videos.shape[1] != trained
        )
        pooled = get_vector(features)
        return pooled.flatten(1)  # (B, 1, E) -> (B, E)


@dataclass(frozen=True)
class KnownTower:
    """A published tower: enough to build and describe it where its files are not to be had."""

    config: dict[str, Any]
    input: TowerInput
    padding: tuple[int, Literal["left", "right"]] | None = None


_CLIP_INPUT = TowerInput(224, "shorter_side", "bicubic", _CLIP_MEAN, _CLIP_STD, 77)
# What differs from the defaults of transformers' classes, as on the models' pages.
KNOWN_TOWERS = {
    "openai/clip-vit-base-patch32": KnownTower({"model_type": "clip"}, _CLIP_INPUT),
    "openai/clip-vit-base-patch16": KnownTower(
        {"model_type": "clip", "vision_config": {"patch_size": 16}}, _CLIP_INPUT
    ),
    "google/siglip2-base-patch16-224": KnownTower(
        {"model_type": "siglip", "text_config": {"vocab_size": 256000}},
        TowerInput(224, "square", "bilinear", _HALVES, _HALVES, 64),
        (0, "right"),
    ),
}


def describe_tower(name: str) -> TowerInput:
    """Return what a tower takes, from its files; raises ``UserError``."""
    with explain_errors(name, "config.json and preprocessor_config.json"):
        family, config = read_tower_config(name)
        return family.describe(name, config)


def load_tower(name: str, pretrained: bool) -> Tower:
    """Build a tower by its Hugging Face name, folder, or ``open_clip:NAME[/TAG]``.

    Raises:
        UserError: its family isn't known, its files are not there, or the weights do not fit.
    """
    with explain_errors(name, "config.json and model.safetensors" if pretrained else "config.json"):
        family, config = read_tower_config(name)
        return family.load(name, config, pretrained)


def load_text_side(name: str) -> Tower:
    """Build the side of a tower that encodes texts, without weights; raises ``UserError``."""
    with explain_errors(name, "config.json"):
        family, config = read_tower_config(name)
        return family.build_text_side(name, config)


def read_tower_config(name: str) -> tuple[type[Tower], Any]:
    """Return the family of a tower, and what its library says of it."""
    if name.startswith(OPEN_CLIP):
        family = TOWERS.get("open_clip")
        return family, family.read_config(name)
    config = load_tower_config(name)
    return TOWERS.get(config.model_type), config


def load_tower_config(name: str) -> PreTrainedConfig:
    """Return transformers' configuration of a tower, which also says how its tokenizer pads.

    A tower that attends to padding has to know: the text configuration's ``pad_token_id`` and
    ``padding_side`` are the tokenizer's.
    """
    from transformers import AutoConfig

    known = KNOWN_TOWERS.get(name)
    if known is not None and not is_local(name):
        kind, *_ = known.config.values()
        values = {key: value for key, value in known.config.items() if key != "model_type"}
        config, padding = AutoConfig.for_model(kind, **values), known.padding
    else:
        config = AutoConfig.from_pretrained(name)
        _check_family(name, config)
        padding = None
    if TOWERS.get(config.model_type).pads_texts:
        text = config.get_text_config()
        text.pad_token_id, text.padding_side = padding or read_padding(name)
    return config


def is_local(name: str) -> bool:
    """Whether a tower's files are in a folder of that name, or in the cache of the hub."""
    from huggingface_hub import try_to_load_from_cache

    if os.path.isdir(name):
        return True
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # no name that the hub could have
        return False


def read_logit_scale(model: nn.Module) -> tuple[float | None, float | None]:
    """Return the factor and the summand that a model's pretraining ended with for its cosines."""
    scale, bias = (getattr(model, name, None) for name in ("logit_scale", "logit_bias"))
    if scale is None or scale.is_meta:
        return None, None
    return scale.detach().exp().item(), None if bias is None else bias.detach().item()


def get_vector(features: Any) -> Tensor:
    """Return the vectors among what a ``get_…_features`` returns: an object since transformers 5.

    Raises:
        TypeError: there are none.
    """
    found = features if isinstance(features, Tensor) else features.pooler_output
    if not isinstance(found, Tensor):
        raise TypeError(f"{type(features).__name__} has no pooled vector")
    return found


def find_blocks(encoder: nn.Module) -> list[nn.Module]:
    """Return the modules of an encoder's longest list, its layers; [] where it has none."""
    lists = [list(part) for part in encoder.modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _parameters(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return [part] if isinstance(part, nn.Parameter) else list(part.parameters())


def _check_family(name: str, config: PreTrainedConfig) -> None:
    if config.model_type not in TOWERS.names():
        raise UserError(
            f'arch.args.tower: "{name}" is a "{config.model_type}" model, and how one turns images '
            f"and texts into vectors is not known; known are {', '.join(TOWERS.names())}, and "
            f"{OPEN_CLIP}NAME. CONTRIBUTING.md shows how to register another (TOWERS)"
        )


def _check_weights(report: dict[str, Any], name: str) -> None:
    problems = [f"missing {key}" for key in sorted(report["missing_keys"])]
    unexpected = sorted(report["unexpected_keys"])
    problems += [f"unexpected {key}" for key in unexpected if not key.endswith(".position_ids")]
    problems += [
        f"{key} is {tuple(given)}, the model's {tuple(wanted)}"
        for key, given, wanted in sorted(report["mismatched_keys"])
    ]
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(
            f'arch.args.tower: the weights of "{name}" do not fit its config.json: '
            + "; ".join(problems[:20])
            + more
        )


@contextmanager
def explain_errors(name: str, files: str) -> Iterator[None]:
    """Turn whatever goes wrong in the libraries into a ``UserError`` that says what is needed."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of hub, JSON, safetensors, pickle: the types share no base class
        detail = " ".join(str(error).split())[:300]
        folder = name.removeprefix(OPEN_CLIP)
        if folder != name:
            files = "open_clip_config.json and the weights"
        where = (
            f'the folder "{folder}" must hold {files} and the tokenizer, which fit each other'
            if os.path.isdir(folder)
            else f'"{name}" is no local folder and could not be had from the Hugging Face hub; '
            f"without network put {files} and the tokenizer of it into a folder, and give that "
            "folder"
        )
        raise UserError(f"arch.args.tower: {where} ({type(error).__name__}: {detail})") from error


def _read_size(processor: Any) -> tuple[int, Literal["square", "shorter_side"]]:
    """Return the side of the images that a processor gives, and how they get it."""
    size, crop = processor.size, getattr(processor, "crop_size", None)
    crops = bool(getattr(processor, "do_center_crop", False)) and crop is not None
    if size.get("shortest_edge") and crops:
        side = size["shortest_edge"]
        if (crop["height"], crop["width"]) == (side, side):
            return side, "shorter_side"
    if size.get("height") and size["height"] == size.get("width") and not crops:
        return size["height"], "square"
    described = {"size": dict(size), "crop_size": crop and dict(crop), "do_center_crop": crops}
    raise UserError(
        f"arch.args.tower: its processor gives images of {json.dumps(described)}; known are a "
        "square, and a shorter side of which as much is cut out"
    )


def _read_interpolation(resample: int) -> Literal["bilinear", "bicubic"]:
    """Return the name of PIL's number."""
    names = {2: "bilinear", 3: "bicubic"}
    if int(resample) not in names:
        raise UserError(
            f"arch.args.tower: its processor resizes by PIL's method {int(resample)}; known are "
            "2 (bilinear) and 3 (bicubic)"
        )
    return names[int(resample)]
