"""The space-time ViT: its attention, its blocks, and the whole model beside an image ViT."""

import gc
import weakref

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from model import grouped_attention
from model.grouped_attention import GroupedAttention, attend_from_cls, compute_cls_attention
from model.initialization import load_image_weights
from model.space_time_vit import SpaceTimeBlock, SpaceTimeTransformer, recompute_in_backward
from tests.model.small_models import SavedBytes

DIM, HEADS, FRAMES, PATCHES = 12, 3, 3, 4
TOKENS = 1 + FRAMES * PATCHES
SIZES = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0}


def attention(axis):
    torch.manual_seed(0)
    return GroupedAttention(DIM, HEADS, axis)


def is_seen(axis, one, other):
    """Whether token ``one`` attends to ``other``; 0 is CLS, then frame by frame."""
    if one == 0 or other == 0:
        return True
    (frame, place), (its_frame, its_place) = divmod(one - 1, PATCHES), divmod(other - 1, PATCHES)
    return frame == its_frame if axis == "space" else place == its_place


def naive(module, x, axis):
    """One clip (S, D), token by token and head by head, with an explicit mask."""
    size, outputs = DIM // HEADS, []
    q, k, v = (module.qkv(x)[:, n * DIM : (n + 1) * DIM] for n in range(3))
    for one in range(TOKENS):
        seen = [other for other in range(TOKENS) if is_seen(axis, one, other)]
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            weights = (k[seen, part] @ q[one, part] / size**0.5).softmax(0)
            heads.append(weights @ v[seen, part])
        outputs.append(torch.cat(heads))
    return module.proj(torch.stack(outputs))


@pytest.mark.parametrize("start", ["zeros", "rand"])
def test_half_precision_keeps_what_a_projection_over_time_has_learned(start):
    """Beside its first value of one, which is larger than that by hundreds."""
    torch.manual_seed(0)
    vit = SpaceTimeTransformer(8, **SIZES, num_frames=FRAMES, time_init=start)
    module = vit.blocks[0].timeattn
    with torch.no_grad():
        module.qkv.weight.normal_(std=0.2)
        module.proj.weight += 0.004 * torch.randn(24, 24)
    x, target = torch.randn(8, TOKENS, 24), torch.randn(8, TOKENS, 24)

    def compute(half):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = module(x, FRAMES)
        y = y.float() - y.float().mean(-1, keepdim=True)  # as the norm behind it does
        (y * target).mean().backward()
        return y.detach(), module.proj.weight.grad, module.qkv.weight.grad

    for full, half in zip(compute(False), compute(True), strict=True):
        assert half.dtype == torch.float32
        assert 1e-5 < (half - full).norm() / full.norm() < 0.02


@pytest.mark.parametrize("axis", ["time", "space"])
def test_naive_attention_with_an_explicit_mask(axis):
    module = attention(axis)
    x = torch.randn(2, TOKENS, DIM)
    with torch.no_grad():
        expected = torch.stack([naive(module, clip, axis) for clip in x])
        torch.testing.assert_close(module(x, FRAMES), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", ["time", "space"])
def test_a_token_depends_on_what_it_sees_and_on_nothing_else(axis):
    module = attention(axis)
    x = torch.randn(1, TOKENS, DIM)
    with torch.no_grad():
        before = module(x, FRAMES)
        for other in range(TOKENS):
            changed = x.clone()
            changed[0, other] += 1
            moved = (module(changed, FRAMES) != before)[0].any(dim=-1).tolist()
            assert moved == [is_seen(axis, one, other) for one in range(TOKENS)]


def test_one_frame_over_space_is_plain_attention():
    module = attention("space")
    x = torch.randn(2, 1 + PATCHES, DIM)
    plain = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    weights = {"in_proj_weight": module.qkv.weight, "in_proj_bias": module.qkv.bias}
    weights |= {f"out_proj.{name}": value for name, value in module.proj.state_dict().items()}
    plain.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(module(x, 1), plain(x, x, x)[0], rtol=1e-5, atol=1e-6)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="12 is not a multiple of 5"):
        GroupedAttention(DIM, 5, "time")


@pytest.mark.parametrize("axis", ["time", "space"])
def test_cls_alone_is_that_of_all_tokens_with_its_gradients(axis):
    module = attention(axis).double()
    x = torch.randn(2, TOKENS, DIM, dtype=torch.float64, requires_grad=True)
    found = []
    for alone in (module.forward_cls, lambda tokens: module(tokens, FRAMES)[:, 0]):
        out = alone(x)
        found.append((out, *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_first_token_does_not_see_padding():
    torch.manual_seed(0)
    layers = [(torch.randn(DIM, DIM), torch.randn(DIM)) for _ in range(3)]
    x, mask = torch.randn(2, 5, DIM), torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = False
    found = attend_from_cls(x, *layers, HEADS, mask)
    alone = attend_from_cls(x[:1, :3], *layers, HEADS)
    torch.testing.assert_close(found[:1], alone, rtol=1e-5, atol=1e-6)
    shares = compute_cls_attention(x, *layers[:2], HEADS, mask)
    assert shares[0, :, 3:].eq(0).all() and shares[1].gt(0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, HEADS))


@pytest.mark.parametrize("patches", [4, 40])  # few keys a group, and many
def test_groups_of_any_size_equal_attention_with_a_mask(patches):
    torch.manual_seed(0)
    module, tokens = GroupedAttention(DIM, HEADS, "space"), 1 + 2 * patches
    x = torch.randn(2, tokens, DIM)
    frame = torch.tensor([-1, *([0] * patches), *([1] * patches)])
    mask = (frame[:, None] == frame) | (frame[:, None] < 0) | (frame < 0)
    plain = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    weights = {"in_proj_weight": module.qkv.weight, "in_proj_bias": module.qkv.bias}
    weights |= {f"out_proj.{name}": value for name, value in module.proj.state_dict().items()}
    plain.load_state_dict(weights)
    with torch.no_grad():
        expected = plain(x, x, x, attn_mask=~mask)[0]
        torch.testing.assert_close(module(x, 2), expected, rtol=1e-5, atol=1e-6)


def test_fused_attention_is_given_no_more_sequences_than_it_takes(monkeypatch):
    """Beyond 65,535 its kernels on a GPU stop with an error."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2 * 65_535 + 3, 2, 2).unbind()
    k, v = (torch.cat((part, part[:, :1] + 1), dim=1) for part in (k, v))
    counts, fused = [], grouped_attention.scaled_dot_product_attention

    def count_sequences(*parts):
        counts.append(len(parts[0]))
        return fused(*parts)

    monkeypatch.setattr(grouped_attention, "FEW_KEYS", 0)
    monkeypatch.setattr(grouped_attention, "scaled_dot_product_attention", count_sequences)
    found = grouped_attention._attend(q, k, v)
    assert counts == [65_535, 65_535, 3]
    assert torch.equal(found, fused(q[:, None], k[:, None], v[:, None])[:, 0])


def block(cls_only: bool = False) -> SpaceTimeBlock:
    torch.manual_seed(0)
    made = SpaceTimeBlock(DIM, HEADS, 2.0, cls_only)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made


def tokens() -> torch.Tensor:
    shape = 2, TOKENS, DIM
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.mark.parametrize("cls_only", [False, True])
def test_a_block_that_recomputes_has_the_same_gradients_to_the_bit(cls_only):
    found = []
    for recompute in (False, True):
        made, x = block(cls_only), tokens()
        out = made(x, FRAMES, recompute=recompute)
        out.square().sum().backward()
        found.append([out, x.grad, *(weight.grad for weight in made.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_block_that_recomputes_keeps_a_fifth_less(monkeypatch):
    sizes = {}
    for recompute in (False, True):
        made, x = block(), tokens()
        with monkeypatch.context() as patch, SavedBytes(made, patch) as saved:
            made(x, FRAMES, recompute=recompute)
        sizes[recompute] = saved.bytes
    assert sizes[True] < 0.8 * sizes[False], sizes


@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize("backward", [True, False])
def test_a_block_leaves_nothing_to_the_garbage_collector(backward, cls_only):
    """Activations in a reference cycle would pile up over the steps, on a GPU until it is full.

    Without a backward pass, as when memory runs out or a batch is skipped, even for good.
    """
    gc.collect()
    gc.disable()
    try:
        made, x = block(cls_only), tokens()
        between = x * 1
        alive = weakref.ref(between)
        out = made(between, FRAMES, recompute=True).sum()
        if backward:
            out.backward()
        del between, out
        assert alive() is None
    finally:
        gc.enable()


def test_a_value_is_computed_once_for_all_of_its_uses_and_again_in_a_second_pass():
    x, runs = torch.randn(3, 4, requires_grad=True), []

    def compute() -> torch.Tensor:
        runs.append(torch.is_grad_enabled())
        return F.gelu(x)

    value = F.gelu(x)
    with recompute_in_backward(value, compute):
        out = (value @ value.T).sum() + (value[1:] * value[:-1]).sum()
    (first,) = torch.autograd.grad(out, x, retain_graph=True)
    assert runs == [False]
    (second,) = torch.autograd.grad(out, x)
    plain = F.gelu(x)
    expected = (plain @ plain.T).sum() + (plain[1:] * plain[:-1]).sum()
    assert torch.equal(first, second) and torch.equal(first, torch.autograd.grad(expected, x)[0])
    assert runs == [False, False]


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


def test_rand_is_the_published_start_of_a_model_of_one_frame():
    """There its linear layers are drawn anew, whatever ``time_init`` says; here if it is rand."""
    vit, sizes = image_model(), SIZES | {"embed_dim": 96, "depth": 1}
    [block] = SpaceTimeTransformer(8, num_frames=1, **sizes, time_init="rand").blocks
    for layer in (block.timeattn.qkv, block.timeattn.proj):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.bias.eq(0).all()
    assert block.norm3.weight.eq(1).all() and block.norm3.bias.eq(0).all()
    image = torch.randn(2, 1, 3, 8, 8)
    with torch.no_grad():
        expected = vit(image[:, 0])
        torch.testing.assert_close(
            video_model(vit, 1, time_init="zeros")(image), expected, rtol=1e-4, atol=1e-5
        )
        assert not torch.allclose(video_model(vit, 1, time_init="rand")(image), expected, atol=1e-3)


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
