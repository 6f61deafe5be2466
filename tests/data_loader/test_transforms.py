from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv
from transformers import CLIPImageProcessor, SiglipImageProcessor

from base.base_model import ModelInput
from data_loader.color_jitter import COLOR_SIZE, IDENTITY_COLOR, apply_color, make_color_vector
from data_loader.transforms import (
    ClipGeometry,
    ClipTransform,
    DeviceTransform,
    TransformParams,
    draw_color,
)
from utils.errors import UserError


def resolved(recipe="textvr", input_res=224, **params):
    return TransformParams(**params).resolve(recipe, input_res)


def clip(frames=2, height=60, width=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, height, width), generator=generator).to(torch.uint8)


def grid(height, width):
    """(1, 3, H, W): red tells the column, green the row."""
    image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    image[:, 0] = torch.arange(width)
    image[:, 1] = torch.arange(height)[:, None]
    return image


def torchvision_color(frames, color):
    """One clip (F, C, H, W) with torchvision's functions, in the clip's order."""
    functions = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for number in color[4:8].astype(int):
        frames = functions[number](frames, float(color[number]))
    return tv.rgb_to_grayscale(frames, num_output_channels=3) if color[8] else frames


# Parameters


def test_nulls_are_the_recipe():
    textvr, frozen = resolved(), resolved("frozen_in_time")
    assert (textvr.resize_train, textvr.center_crop, textvr.input_res) == (242, 256, 224)
    assert textvr.color_jitter == (0.5, 0.5, 0.5, 0.1) and textvr.grayscale_p == 0.3
    assert frozen.color_jitter == (0, 0, 0, 0) and frozen.grayscale_p == 0
    assert resolved(input_res=112).resize_train == 121
    own = TransformParams(recipe="textvr", color_jitter=[0.1, 0.2, 0.3])
    own = own.resolve("frozen_in_time", 224)
    assert own.recipe == "textvr" and own.color_jitter == (0.1, 0.2, 0.3, 0)
    assert TransformParams.model_validate_json('{"randcrop_scale": [0.2, 0.9]}').randcrop_scale


@pytest.mark.parametrize(
    "params",
    [
        {"recipe": "text"},
        {"input_res": 0},
        {"input_res": 64, "resize_train": 32},
        {"randcrop_scale": (0.9, 0.5)},
        {"randcrop_scale": (0.0, 1.0)},
        {"color_jitter": (0.1, 0.1, 0.1, 0.6)},
        {"color_jitter": (-0.1, 0.1, 0.1, 0.1)},
        {"color_jitter": (0.1, 0.1)},
        {"color_jitter_p": 1.5},
        {"norm_std": (0.0, 1.0, 1.0)},
        {"crop": 3},
    ],
)
def test_params_are_checked(params):
    with pytest.raises(ValidationError):
        TransformParams(**params)


def test_a_resize_below_the_input_is_an_error():
    with pytest.raises(ValueError, match="resize_train"):
        resolved(resize_train=200)


# Geometry


def test_textvr_test_is_a_square_resize():
    frames = clip()
    expected = tv.resize(frames, [32, 32], antialias=False)
    assert torch.equal(ClipGeometry(resolved(input_res=32), False)(frames, None), expected)
    smooth = ClipGeometry(resolved(input_res=32, antialias=True), False)(frames, None)
    assert not torch.equal(smooth, expected)


def test_the_mild_recipe_is_that_of_the_published_classes_without_ocr():
    mild = resolved("textvr_mild")
    assert (mild.resize_train, mild.resize_test, mild.input_res) == (238, 238, 224)
    assert (mild.color_jitter, mild.color_jitter_p) == ((0.4, 0.4, 0.4, 0.1), 0.8)
    assert mild.grayscale_p == 0.2 and not mild.hflip
    frames = clip(height=240, width=320)
    resized = tv.resize(frames, [238, 238], antialias=False)
    test = ClipGeometry(mild, False)(frames, None)
    assert torch.equal(test, tv.center_crop(resized, [224, 224])) and test.shape[-2:] == (224, 224)
    rng = np.random.default_rng(0)
    for _ in range(20):
        train = ClipGeometry(mild, True)(frames, rng)
        places = [(t, x) for t in range(15) for x in range(15)
                  if torch.equal(train[0, 0, 0], resized[0, 0, t, x : x + 224])]  # fmt: skip
        [(top, left)] = places
        assert torch.equal(train, resized[..., top : top + 224, left : left + 224])


def test_the_side_before_a_crop_in_test():
    frames = clip()
    expected = tv.center_crop(tv.resize(frames, [40, 40], antialias=False), [32, 32])
    geometry = ClipGeometry(resolved(input_res=32, resize_test=40), False)
    assert torch.equal(geometry(frames, None), expected)
    with pytest.raises(UserError, match="resize_test is 16, too small for a crop of 32 pixels"):
        resolved(input_res=32, resize_test=16)


@pytest.mark.parametrize("recipe", ["textvr", "textvr_mild", "frozen_in_time"])
@pytest.mark.parametrize("hflip", [None, True, False])
def test_half_of_the_clips_are_mirrored_where_the_recipe_or_the_key_says_so(recipe, hflip):
    params = resolved(recipe, 16, hflip=hflip)
    assert params.hflip == (recipe == "frozen_in_time" if hflip is None else hflip)
    frames, rng = grid(20, 40), np.random.default_rng(0)
    clips = [ClipGeometry(params, True)(frames, rng) for _ in range(200)]
    flipped = sum(out[0, 0, 0, 0].item() > out[0, 0, 0, -1].item() for out in clips)
    assert 70 < flipped < 130 if params.hflip else flipped == 0
    test = ClipGeometry(params, False)(frames, None)
    assert test[0, 0, 0, 0] < test[0, 0, 0, -1]  # never in test


def test_frozen_in_time_test_is_resize_crop_resize():
    frames = clip(height=70, width=111)
    square = tv.center_crop(tv.resize(frames, [64], antialias=False), [64, 64])
    expected = tv.resize(square, [56, 56], antialias=False)
    geometry = ClipGeometry(resolved("frozen_in_time", 56, center_crop=64), False)
    assert torch.equal(geometry(frames, None), expected)


def test_textvr_crops_every_place_evenly_and_all_frames_alike():
    frames = grid(10, 10).repeat(3, 1, 1, 1)
    geometry = ClipGeometry(resolved(input_res=8, resize_train=10), True)
    rng, corners = np.random.default_rng(0), Counter()
    for _ in range(900):
        out = geometry(frames, rng)
        assert out.shape == (3, 3, 8, 8) and out.dtype == torch.uint8
        assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])
        left, top = out[0, 0, 0, 0].item(), out[0, 1, 0, 0].item()
        assert torch.equal(out, frames[..., top : top + 8, left : left + 8])
        corners[top, left] += 1
    assert sorted(corners) == [(top, left) for top in range(3) for left in range(3)]
    assert all(abs(count - 100) < 50 for count in corners.values())


def test_frozen_in_time_crops_follow_scale_and_ratio_and_flip_half():
    geometry = ClipGeometry(resolved("frozen_in_time", 16), True)
    frames, rng = grid(100, 200), np.random.default_rng(0)
    boxes = np.array([geometry._draw_crop_box(frames, rng) for _ in range(2000)])
    top, left, height, width = boxes.T
    assert top.min() == 0 and left.min() == 0
    assert (top + height).max() == 100 and (left + width).max() == 200
    area, ratio = height * width / 20000, width / height
    assert 0.49 < area.min() < 0.52 and area.max() < 1.01
    assert 0.74 < ratio.min() and 1.28 < ratio.max() < 1.35
    flipped = 0
    for _ in range(300):
        out = geometry(frames, rng)
        assert out.shape == (1, 3, 16, 16)
        flipped += out[0, 0, 0, 0].item() > out[0, 0, 0, -1].item()
    assert 110 < flipped < 190


def test_a_very_long_frame_falls_back_to_the_middle():
    geometry = ClipGeometry(resolved("frozen_in_time", 16), True)
    box = geometry._draw_crop_box(grid(10, 200), np.random.default_rng(0))
    assert box == (0, 93, 10, 13)


@pytest.mark.parametrize("recipe", ["textvr", "textvr_mild", "frozen_in_time"])
def test_a_clip_depends_on_its_generator_only(recipe):
    transform = ClipTransform(resolved(recipe, 16), train=True)
    torch.manual_seed(0)
    first, color = transform(clip(), np.random.default_rng(7))
    torch.manual_seed(1)
    again, same_color = transform(clip(), np.random.default_rng(7))
    other, _ = transform(clip(), np.random.default_rng(8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    np.testing.assert_array_equal(color, same_color)


def test_nothing_is_drawn_without_training():
    rng = np.random.default_rng(0)
    frames, color = ClipTransform(resolved(input_res=16), train=False)(clip(), rng)
    np.testing.assert_array_equal(color, IDENTITY_COLOR)
    assert rng.random() == np.random.default_rng(0).random()
    assert ClipTransform(resolved(input_res=16), train=False)(clip(), None)[1] is None
    with pytest.raises(ValueError, match="tsfm_split"):
        ClipTransform(resolved(input_res=16), train=True)(clip(), None)


# Colour


def test_draws_follow_color_jitter():
    rng, params = np.random.default_rng(0), resolved()
    colors = np.stack([draw_color(params, rng) for _ in range(6000)])
    assert colors.shape == (6000, COLOR_SIZE) and colors.dtype == np.float32
    changed = colors[:, 3] != 0
    assert abs(changed.mean() - 0.8) < 0.03 and abs(colors[:, 8].mean() - 0.3) < 0.03
    assert (colors[~changed, :4] == IDENTITY_COLOR[:4]).all()
    factors, hue = colors[changed, :3], colors[changed, 3]
    assert 0.5 <= factors.min() < 0.51 and 1.49 < factors.max() <= 1.5
    assert np.abs(factors.mean(axis=0) - 1).max() < 0.02
    assert -0.1 <= hue.min() < -0.098 and 0.098 < hue.max() <= 0.1
    orders = Counter(map(tuple, colors[changed, 4:8].astype(int).tolist()))
    assert len(orders) == 24 and min(orders.values()) > 120 and max(orders.values()) < 290
    wide = np.stack([draw_color(resolved(color_jitter=(2, 0, 0, 0)), rng) for _ in range(500)])
    assert wide[:, 0].min() >= 0  # max(0, 1 - 2)
    assert wide[:, 0].max() > 2.9 and (wide[:, 1:4] == IDENTITY_COLOR[1:4]).all()


def test_frozen_in_time_draws_change_nothing():
    rng = np.random.default_rng(0)
    color = np.stack([draw_color(resolved("frozen_in_time"), rng) for _ in range(5)])
    frames = torch.rand(5, 2, 3, 8, 8)
    assert torch.equal(apply_color(frames, torch.from_numpy(color)), frames)


def test_a_batch_equals_torchvision_clip_by_clip():
    rng = np.random.default_rng(1)
    # Strong enough for values to be cut at 0 and 1; the whole circle of hues.
    params = resolved(color_jitter=(0.9, 0.9, 0.9, 0.5), color_jitter_p=0.9)
    color = np.stack([draw_color(params, rng) for _ in range(64)])
    frames = torch.rand(64, 2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    frames[0::4, :, :, :4] = frames[0::4, :, :1, :4]  # grays
    frames[1::4, :, :, :3], frames[1::4, :, :, 3:6] = 0, 1
    before = frames.clone()
    out = apply_color(frames, torch.from_numpy(color))
    expected = torch.stack([torchvision_color(f, c) for f, c in zip(frames, color, strict=True)])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert torch.equal(frames, before)
    assert (out - frames).abs().amax(dim=(1, 2, 3, 4)).gt(0.05).sum() > 40


@pytest.mark.parametrize("number", range(4))
def test_each_operation_alone_equals_torchvision(number):
    values = [1.0, 1.0, 1.0, 0.0]
    values[number] = 0.3
    color = make_color_vector(*values)
    frames = torch.rand(1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    out = apply_color(frames, torch.from_numpy(color)[None])[0]
    torch.testing.assert_close(out, torchvision_color(frames[0], color), rtol=0, atol=1e-5)
    assert not torch.allclose(out, frames[0], atol=1e-2)


# On the device


def test_normalisation_and_padding():
    video = torch.stack([clip(4, 8, 8, 0), clip(4, 8, 8, 1)])
    out = DeviceTransform(resolved())(video, None, torch.tensor([4, 2]))
    expected = tv.normalize(video / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[0], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(out[1, :2], expected[1, :2], rtol=0, atol=1e-5)
    assert (out[1, 2:] == 0).all()


def test_colour_comes_before_normalisation():
    video, color = clip(3, 8, 8)[None], make_color_vector(1.4, 0.6, 1.2, 0.1, (3, 1, 0, 2), True)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)
    params = resolved(norm_mean=mean, norm_std=std)
    out = DeviceTransform(params)(video, torch.from_numpy(color)[None], torch.tensor([3]))
    expected = tv.normalize(torchvision_color(video[0] / 255, color), mean, std)
    torch.testing.assert_close(out[0], expected, rtol=0, atol=1e-4)


# A model's own frames

RES = 32
HALF = (0.5, 0.5, 0.5)
SHAPES = [(60, 90), (90, 60), (64, 64), (20, 29), (29, 20), (33, 81), (RES, 47)]
FAMILIES = [
    (CLIPImageProcessor, "shorter_side", "bicubic"),
    (SiglipImageProcessor, "square", "bicubic"),
    (SiglipImageProcessor, "square", "bilinear"),
]


def tower(resize="square", interpolation="bicubic", mean=HALF, std=HALF):
    return ModelInput(
        ("vision",), "x", RES, resize=resize, interpolation=interpolation, mean=mean, std=std
    )


def of_tower(model=None, **params):
    return TransformParams(**params).resolve("textvr", 224, model or tower())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("family", "way", "interpolation"), FAMILIES)
def test_a_towers_frames_are_those_of_its_image_processor(family, way, interpolation, shape):
    size = {"shortest_edge": RES} if way == "shorter_side" else {"height": RES, "width": RES}
    resample = {"bilinear": 2, "bicubic": 3}[interpolation]
    processor = family(size=size, resample=resample, crop_size={"height": RES, "width": RES})
    params = of_tower(tower(way, interpolation, processor.image_mean, processor.image_std))
    # As a reader gives them: (F, H, W, 3), of which the channels are brought to the front.
    frames = clip(3, *shape).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    found = ClipGeometry(params, False)(frames, None)
    plain = processor(list(frames), do_rescale=False, do_normalize=False, return_tensors="pt")
    assert found.dtype == torch.uint8 and found.equal(plain["pixel_values"].to(torch.uint8))
    whole = processor(list(frames), return_tensors="pt")["pixel_values"]
    ours = DeviceTransform(params)(found[None], None, torch.tensor([3]))[0]
    assert (ours - whole).abs().max() <= 1e-6
    # Training has no augmentation unless it is asked for.
    rng = np.random.default_rng(0)
    train, color = ClipTransform(params, True)(frames, rng)
    assert train.equal(found)
    colored = DeviceTransform(params)(train[None], torch.from_numpy(color)[None], torch.tensor([3]))
    assert colored[0].equal(ours)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (20, 29)], ids=str)
def test_a_tower_is_augmented_where_the_configuration_asks(shape):
    params = of_tower(tower("shorter_side"), resize_train=40, hflip=True, grayscale_p=1.0)
    geometry, frames = ClipGeometry(params, True), grid(*shape)
    assert geometry.first_size == [40] and ClipGeometry(params, False).first_size == [RES]
    clips = [geometry(frames, np.random.default_rng(seed)) for seed in range(60)]
    assert {tuple(c.shape) for c in clips} == {(1, 3, RES, RES)}
    mirrored = {bool(c[0, 0, 0, 0] > c[0, 0, 0, -1]) for c in clips}
    assert mirrored == {True, False} and len({c.numpy().tobytes() for c in clips}) > 30
    # Of both directions there is something that no centre crop of this size shows.
    corners = torch.stack([c.amin(dim=(0, 2, 3)) for c in clips]).amin(0)[:2]
    wide = tv.resize(frames, [40], InterpolationMode.BICUBIC, antialias=True)
    assert corners.tolist() == wide.amin(dim=(0, 2, 3))[:2].tolist()
    assert draw_color(params, np.random.default_rng(0))[-1] == 1
    assert of_tower(tower("square"), resize_train=40).resize_train == 40
    with pytest.raises(UserError, match="too small"):
        of_tower(resize_train=20)


@pytest.mark.parametrize(
    ("params", "texts"),
    [
        ({"recipe": "textvr"}, ['recipe is "textvr"', "stretched to a square of 32 pixels"]),
        ({"input_res": 64}, ["input_res is 64", "32 pixels"]),
        ({"resize_test": 40}, ["resize_test is 40", "32 pixels"]),
        ({"norm_mean": (0.1, 0.5, 0.5)}, ["norm_mean is [0.1, 0.5, 0.5]", "[0.5, 0.5, 0.5]"]),
        ({"norm_std": (0.2, 0.2, 0.2)}, ["norm_std is [0.2, 0.2, 0.2]", "[0.5, 0.5, 0.5]"]),
    ],
)
def test_what_contradicts_a_tower_is_named_with_both_values(params, texts):
    with pytest.raises(UserError) as error:
        of_tower(**params)
    assert all(text in str(error.value) for text in texts)
    assert "\n" not in str(error.value)


def test_written_out_defaults_do_not_contradict_a_tower():
    plain = of_tower()
    assert (plain.recipe, plain.resize, plain.interpolation) == ("tower", "square", "bicubic")
    assert (plain.input_res, plain.antialias, plain.norm_mean) == (RES, True, HALF)
    for params in (TransformParams(), TransformParams(input_res=RES, resize_test=RES)):
        written_out = TransformParams(**params.model_dump())
        assert of_tower(**written_out.model_dump()) == plain.model_copy()
    assert not plain.hflip and of_tower(tower("shorter_side")).first_size == ([RES], [RES])
    # A model that only says its mean gets the transforms of the configuration.
    other = TransformParams().resolve("textvr", 64, ModelInput(("vision",), "x", mean=HALF))
    assert (other.recipe, other.input_res, other.norm_mean) == ("textvr", 64, HALF)
    assert (other.interpolation, other.antialias) == ("bilinear", False)
