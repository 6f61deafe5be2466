import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from model.pretrained import load_image_weights
from model.video_transformer import SpaceTimeTransformer

SIZES = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0}


def image_model():
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=8, num_classes=0, **SIZES).eval()
    with torch.no_grad():
        for weight in vit.parameters():  # far from zero, so that every part shows
            weight.add_(torch.randn_like(weight) * 0.2)
    return vit


def video_model(vit, num_frames=3, **options):
    model = SpaceTimeTransformer(8, num_frames=num_frames, **SIZES, **options)
    load_image_weights(model, vit.state_dict(), "the test's")
    return model.eval()


def test_untrained_it_equals_the_image_model_of_the_same_weights():
    vit = image_model()
    image = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = vit(image)
        for frames in (1, 2, 3):
            clip = image[:, None].expand(-1, frames, -1, -1, -1)
            # Every patch is there as often as any other, but CLS is a key once.
            found = video_model(vit)(clip)
            close = torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
            assert close if frames == 1 else not close
        random_time = video_model(vit, time_init="rand")(image[:, None])
    assert not torch.allclose(random_time, expected, atol=1e-3)


def test_patches_of_an_untrained_model_are_those_of_the_image_model_frame_by_frame():
    vit, clip = image_model(), torch.randn(2, 3, 3, 8, 8)
    model = video_model(vit, num_frames=3)
    seen = {}
    for name, block in (("video", model.blocks[0]), ("image", vit.blocks[0])):
        block.register_forward_hook(lambda *call, name=name: seen.update({name: call[2]}))
    with torch.no_grad():
        model(clip)
        vit(clip.flatten(0, 1))
    patches = seen["video"][:, 1:].unflatten(1, (3, 4)).flatten(0, 1)
    torch.testing.assert_close(patches, seen["image"][:, 1:], rtol=1e-4, atol=1e-5)


def test_time_init_zeros():
    for block in SpaceTimeTransformer(8, **SIZES, time_init="zeros").blocks:
        assert block.timeattn.qkv.weight.eq(0).all() and block.timeattn.qkv.bias.eq(0).all()
        assert block.timeattn.proj.weight.eq(1).all() and block.timeattn.proj.bias.eq(0).all()
        assert block.attn.qkv.weight.std() > 0.01
    model = SpaceTimeTransformer(8, **SIZES, time_init="rand")
    assert all(block.timeattn.qkv.weight.std() > 0.01 for block in model.blocks)
    assert model.temporal_embed.eq(0).all()


def shaken(num_frames):
    torch.manual_seed(3)
    model = SpaceTimeTransformer(8, num_frames=num_frames, **SIZES).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


def test_fewer_frames_use_the_first_temporal_embeddings():
    model, clip = shaken(4), torch.randn(2, 2, 3, 8, 8)
    short = SpaceTimeTransformer(8, num_frames=2, **SIZES).eval()
    weights = dict(model.state_dict())
    weights["temporal_embed"] = weights["temporal_embed"][:, :2]
    short.load_state_dict(weights)
    with torch.no_grad():
        expected = short(clip)
        assert torch.equal(model(clip), expected)
        model.temporal_embed[:, 2:] += torch.randn(24)
        assert torch.equal(model(clip), expected)
        model.temporal_embed[:, 1] += torch.randn(24)
        assert not torch.allclose(model(clip), expected, atol=1e-3)


def test_the_order_of_frames_counts_and_that_of_clips_does_not():
    model, clip = shaken(3), torch.randn(2, 3, 3, 8, 8)
    with torch.no_grad():
        found = model(clip)
        torch.testing.assert_close(model(clip.flip(0)), found.flip(0))
        assert not torch.allclose(model(clip.flip(1)), found, atol=1e-3)
    assert found.shape == (2, 24)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 4, 3, 8, 8), "clips of 4 frames, but the model takes 3"),
        ((1, 3, 3, 8, 12), "frames of 12x8, but the model takes 8 square"),
        ((1, 3, 3, 4, 4), "frames of 4x4"),
    ],
)
def test_clips_of_wrong_size_are_errors(shape, reason):
    with pytest.raises(ValueError, match=reason):
        SpaceTimeTransformer(8, num_frames=3, **SIZES)(torch.zeros(shape))


def test_the_patch_size_must_divide_the_frame():
    with pytest.raises(ValueError, match="input_res 10 is not a multiple of patch size 4"):
        SpaceTimeTransformer(10, **SIZES)
