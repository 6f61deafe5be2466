"""Transforms of clips for the model (TextVR, arXiv 2305.03347; Frozen in Time, 2104.00650).

The geometry (resize, crop, flip) runs per clip in the loader's worker, on uint8; the colour runs
for a batch on the device (``data_loader/color_jitter.py``). All frames of a clip share one draw.

A model that says how its frames are made (``ModelInput.resize``), as image-text towers do, gets
them so: the recipe is then ``tower``, and what the configuration says of them must not differ.

Shapes: B clips, F frames, C = 3 channels, H x W pixels, R = ``input_res``.
"""

import logging
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv
from typing_extensions import Self

from base.base_model import ModelInput
from base.config import ConfigModel
from data_loader.color_jitter import IDENTITY_COLOR, apply_color, make_color_vector
from utils.errors import UserError

logger = logging.getLogger(__name__)

Recipe = Literal["textvr", "textvr_mild", "frozen_in_time"]
TOWER = "tower"  # the recipe that a model's own frames have in place of the configuration's
_NO_JITTER = (0.0, 0.0, 0.0, 0.0)
_JITTER = {
    "textvr": (0.5, 0.5, 0.5, 0.1),
    "textvr_mild": (0.4, 0.4, 0.4, 0.1),
    "frozen_in_time": _NO_JITTER,
    TOWER: _NO_JITTER,
}
_GRAYSCALE = {"textvr": 0.3, "textvr_mild": 0.2, "frozen_in_time": 0.0, TOWER: 0.0}
# Sides before the crop, where the model's input has 224 pixels: in training, and in test.
_RESIZE = {
    "textvr": (242, 224),
    "textvr_mild": (238, 238),
    "frozen_in_time": (242, 224),
    TOWER: (224, 224),
}


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _as_jitter(value: object) -> object:
    """Published files give three numbers: brightness, contrast and saturation, no hue."""
    value = _as_tuple(value)
    return (*value, 0.0) if isinstance(value, tuple) and len(value) == 3 else value


Share = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]
Jitter = Annotated[
    tuple[Strength, Strength, Strength, Annotated[float, Field(ge=0, le=0.5)]],
    BeforeValidator(_as_jitter),
]
Rgb = Annotated[tuple[float, float, float], BeforeValidator(_as_tuple)]


class TransformParams(ConfigModel):
    """How frames are resized and augmented; null stands for the value of the recipe."""

    recipe: Recipe | None = Field(
        None,
        description="textvr: resize to a square and crop; textvr_mild: the same with a smaller "
        "margin, weaker colours, and a centre crop in test; frozen_in_time: random resized crop "
        "and flip in training, centre crop in test; null: the model's own, else the data set's",
    )
    input_res: int | None = Field(
        None, ge=1, description="side of the model's input, pixels; null: video_params.input_res"
    )
    resize_train: int | None = Field(
        None,
        ge=1,
        description="textvr, textvr_mild, a model's own frames: side before the random crop; null: "
        "input_res * 242/224, textvr_mild * 238/224, a model's own frames: input_res (no crop)",
    )
    resize_test: int | None = Field(
        None,
        ge=1,
        description="textvr, textvr_mild: side before the centre crop in test; null: input_res "
        "(no crop), textvr_mild * 238/224",
    )
    center_crop: int | None = Field(
        None, ge=1, description="frozen_in_time: side of the test's crop; null: input_res * 256/224"
    )
    randcrop_scale: Annotated[tuple[Share, Share], BeforeValidator(_as_tuple)] = Field(
        (0.5, 1.0), description="frozen_in_time: share of the frame's area that a crop keeps"
    )
    hflip: bool | None = Field(
        None,
        description="mirror every other training clip; null: frozen_in_time does. Refused where "
        "the model reads OCR words, whose letters and tracks are not mirrored",
    )
    color_jitter: Jitter | None = Field(
        None, description="strength of brightness, contrast, saturation, hue (three: no hue)"
    )
    color_jitter_p: Share = Field(0.8, description="probability of the colour jitter")
    grayscale_p: Share | None = Field(None, description="probability of a clip without colour")
    norm_mean: Rgb = Field((0.485, 0.456, 0.406), description="mean of R, G, B in [0, 1]")
    norm_std: Rgb = Field((0.229, 0.224, 0.225), description="standard deviation of R, G, B")
    antialias: bool = Field(False, description="smooth before shrinking; published weights: false")

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.randcrop_scale
        if not 0 < low <= high:
            raise ValueError(f"randcrop_scale is [{low}, {high}]; give 0 < smallest <= largest")
        if min(self.norm_std) <= 0:
            raise ValueError("norm_std divides the pixels; give three numbers above 0")
        for name in ("resize_train", "resize_test"):
            side = getattr(self, name)
            if self.input_res and side and side < self.input_res:
                raise ValueError(f"{name} is {side}, too small for a crop of {self.input_res}")
        return self

    def resolve(
        self, recipe: Recipe, input_res: int, model: ModelInput | None = None
    ) -> "ResolvedTransforms":
        """Return the parameters with every null replaced.

        Args:
            recipe: of the data set, used where ``self.recipe`` is null.
            input_res: of the video parameters, used where ``self.input_res`` is null.
            model: what it says of its frames takes the place of all of these; None: nothing.

        Raises:
            UserError: ``resize_train`` or ``resize_test`` is smaller than the input, or the
                configuration contradicts the model.
        """
        recipe, res = self.recipe or recipe, self.input_res or input_res
        values: dict[str, object] = {}
        if model is not None:
            for name, text in self.find_contradictions(model):
                raise UserError(f"data_loader.args.tsfm_params.{name} is {text}")
            if model.resize is not None:
                recipe, res = TOWER, model.frame_size or res
                values |= {"resize": model.resize, "antialias": True}
                values |= {"interpolation": model.interpolation or "bilinear"}
            for name, required in _get_statistics(model).items():
                values[name] = required
                if getattr(self, name) != required:
                    said = "frames are normalised with the model's %s, %s"
                    logger.info(said, name, list(required))
        values |= {"recipe": recipe, "input_res": res}
        for name, side in zip(("resize_train", "resize_test"), _RESIZE[recipe], strict=True):
            values[name] = getattr(self, name) or round(res * side / 224)
            if values[name] < res:
                raise UserError(
                    f"{name} is {values[name]}, too small for a crop of {res} pixels; "
                    f"give at least {res}, or null"
                )
        values["hflip"] = self.flips(recipe)
        values["center_crop"] = self.center_crop or round(res * 256 / 224)
        if self.color_jitter is None:
            values["color_jitter"] = _JITTER[recipe]
        if self.grayscale_p is None:
            values["grayscale_p"] = _GRAYSCALE[recipe]
        return ResolvedTransforms.model_construct(**self.model_dump() | values)

    def find_contradictions(self, model: ModelInput) -> list[tuple[str, str]]:
        """Return which keys a model's own frames contradict, each with both values and the remedy.

        A value that is a key's default is none: a resolved configuration has it written out.
        """
        found = []
        if model.resize is not None:
            own, res = describe_frames(model), model.frame_size
            if self.recipe is not None:
                text = f'"{self.recipe}", but the frames of the model are {own}; set it to null'
                found.append(("recipe", text))
            for name in ("input_res", "resize_test"):
                side = getattr(self, name)
                if None not in (side, res) and side != res:
                    text = f"{side}, but the frames of the model are {own}; set it to null"
                    found.append((name, text))
        for name, required in _get_statistics(model).items():
            given, default = getattr(self, name), TransformParams.model_fields[name].default
            if given not in (required, default):
                text = f"{list(given)}, but the model takes frames normalised with {list(required)}"
                found.append((name, f"{text}; leave {name} out"))
        return found

    def flips(self, recipe: str) -> bool:
        """Say whether training clips are mirrored; ``recipe`` is the data set's, or the model's."""
        recipe = recipe if recipe == TOWER else self.recipe or recipe
        return recipe == "frozen_in_time" if self.hflip is None else self.hflip


class ResolvedTransforms(TransformParams):
    """Parameters without nulls, with what only a model can say of its frames."""

    recipe: Recipe | Literal["tower"]
    resize: Literal["square", "shorter_side"] | None = None  # of the recipe tower; None: another
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def first_size(self) -> tuple[list[int], list[int]]:
        """The size of the first resizing, in training and in test.

        (height, width), or the shorter side alone. Frozen in Time's training crops before it
        resizes; for it this is the size of its test.
        """
        if self.recipe == "frozen_in_time":
            return [self.center_crop], [self.center_crop]
        count = 1 if self.resize == "shorter_side" else 2
        return [self.resize_train] * count, [self.resize_test] * count


def _get_statistics(model: ModelInput) -> dict[str, Rgb]:
    """Return the mean and standard deviation that a model needs, by the names of the keys."""
    own = {"norm_mean": model.mean, "norm_std": model.std}
    return {name: tuple(value) for name, value in own.items() if value is not None}


def describe_frames(model: ModelInput) -> str:
    """Say how the frames of a model that says so get their size."""
    size = "any size" if model.frame_size is None else f"{model.frame_size} pixels"
    way = "stretched to a square" if model.resize == "square" else "cut from the centre"
    return f"{way} of {size} ({model.interpolation or 'bilinear'}, antialiased)"


def resize(
    frames: Tensor, size: Sequence[int], antialias: bool, interpolation: str = "bilinear"
) -> Tensor:
    """Resize (F, C, H, W) uint8 to (height, width), or the shorter side to the one number given."""
    return tv.resize(
        frames, list(size), interpolation=InterpolationMode(interpolation), antialias=antialias
    )


def crop_centre(frames: Tensor, side: int) -> Tensor:
    """Cut the centre, (F, C, side, side), out of frames as image processors of towers do.

    Where it can't be exact it is nearer to the upper left; torchvision's is by turns.
    """
    top, left = ((length - side) // 2 for length in frames.shape[-2:])
    return tv.crop(frames, top, left, side, side)


class ClipGeometry:
    """Resizes and crops the frames of one clip; at random where ``train`` is true."""

    def __init__(self, params: ResolvedTransforms, train: bool) -> None:
        self.params = params
        self.train = train

    @property
    def first_size(self) -> list[int]:
        """The size of the first resizing; see ``ResolvedTransforms``."""
        train, test = self.params.first_size
        return train if self.train else test

    def __call__(self, frames: Tensor, rng: np.random.Generator | None) -> Tensor:
        """Return (F, C, R, R) of ``frames``, (F, C, H, W) uint8; test needs no ``rng``."""
        res, recipe = self.params.input_res, self.params.recipe
        if recipe == "frozen_in_time":
            return self._crop_and_resize(frames, rng)
        frames = self._resize(frames, self.first_size)
        if recipe == TOWER and not (self.train and self.params.resize_train > res):
            frames = crop_centre(frames, res)
            return self._flip(frames, rng) if self.train else frames
        if not self.train:
            return tv.center_crop(frames, [res, res])
        height, width = frames.shape[-2:]
        top, left = rng.integers(0, [height - res, width - res], endpoint=True).tolist()
        return self._flip(tv.crop(frames, top, left, res, res), rng)

    def _crop_and_resize(self, frames: Tensor, rng: np.random.Generator | None) -> Tensor:
        """Return Frozen in Time's frames."""
        res = self.params.input_res
        if self.train:
            top, left, height, width = self._draw_crop_box(frames, rng)
            frames = self._resize(tv.crop(frames, top, left, height, width), [res, res])
            return self._flip(frames, rng)
        frames = tv.center_crop(self._resize(frames, self.first_size), self.first_size * 2)
        return self._resize(frames, [res, res])

    def _flip(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """Mirror the clip at random; without flips nothing is drawn."""
        return tv.horizontal_flip(frames) if self.params.hflip and rng.random() < 0.5 else frames

    def _resize(self, frames: Tensor, size: list[int]) -> Tensor:
        return resize(frames, size, self.params.antialias, self.params.interpolation)

    def _draw_crop_box(self, frames: Tensor, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw (top, left, height, width) as torchvision's RandomResizedCrop does."""
        height, width = frames.shape[-2:]
        ratios = 3 / 4, 4 / 3
        for _ in range(10):
            area = height * width * rng.uniform(*self.params.randcrop_scale)
            ratio = math.exp(rng.uniform(math.log(ratios[0]), math.log(ratios[1])))
            crop_w, crop_h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_w <= width and 0 < crop_h <= height:
                top, left = rng.integers(0, [height - crop_h, width - crop_w], endpoint=True)
                return int(top), int(left), crop_h, crop_w
        # The frame is too narrow for any such crop: the largest one of an allowed ratio, centred.
        ratio = min(max(width / height, ratios[0]), ratios[1])
        crop_w, crop_h = min(width, round(height * ratio)), min(height, round(width / ratio))
        return (height - crop_h) // 2, (width - crop_w) // 2, crop_h, crop_w


def draw_color(params: TransformParams, rng: np.random.Generator) -> np.ndarray:
    """Draw a training clip's colour, (K,) float32, always with the same number of draws."""
    *strengths, hue = params.color_jitter
    factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
    shift = rng.uniform(-hue, hue)
    order = rng.permutation(4)
    jitter = rng.random() < params.color_jitter_p
    gray = rng.random() < params.grayscale_p
    if not jitter:
        factors, shift = [1.0, 1.0, 1.0], 0.0
    return make_color_vector(*factors, shift, order, gray)


class ClipTransform:
    """The worker's part: a clip's geometry, and the colour drawn for it if ``train`` is true."""

    def __init__(self, params: ResolvedTransforms, train: bool) -> None:
        self.params = params
        self.train = train
        self.geometry = ClipGeometry(params, train)

    def __call__(
        self, frames: Tensor, rng: np.random.Generator | None
    ) -> tuple[Tensor, np.ndarray | None]:
        """Return (F, C, R, R) uint8 and the clip's (K,) colour, None where ``rng`` is None.

        ``frames`` are (F, C, H, W) uint8; ``rng`` is None in validation and test. Raises
        ``UserError`` for ``train`` without ``rng``.
        """
        if rng is None:
            if self.train:
                raise UserError(
                    "the transforms of training are random, validation and test are not; leave "
                    "tsfm_split out of validation and test loaders"
                )
            return self.geometry(frames, None), None
        frames = self.geometry(frames, rng)
        return frames, draw_color(self.params, rng) if self.train else IDENTITY_COLOR.copy()


class DeviceTransform:
    """The device's part: colours, normalisation and padding of a whole batch."""

    def __init__(self, params: TransformParams) -> None:
        self.mean, self.std = params.norm_mean, params.norm_std

    def __call__(self, video: Tensor, color: Tensor | None, num_frames: Tensor) -> Tensor:
        """Return the model's input, (B, F, C, R, R) float32.

        Args:
            video: (B, F, C, R, R) uint8.
            color: (B, K) of ``draw_color``, or None; on the CPU, so that nothing waits for a GPU.
            num_frames: (B,) real frames of each clip, on the CPU; the padding behind them is zero
                after normalisation.
        """
        frames = video.float().div_(255)  # the only copy; the rest changes it in place
        if color is not None:
            apply_color(frames, color, inplace=True)
        for channel, mean, std in zip(frames.unbind(dim=2), self.mean, self.std, strict=True):
            channel.sub_(mean).div_(std)
        numbers = torch.arange(frames.shape[1])
        padding = (numbers >= num_frames.cpu()[:, None]).nonzero(as_tuple=True)  # clips, frames
        if len(padding[0]):
            frames[tuple(index.to(frames.device) for index in padding)] = 0
        return frames
