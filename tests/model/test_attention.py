import pytest
import torch

from model.attention import GroupedAttention, first_token_attention, first_token_shares

DIM, HEADS, FRAMES, PATCHES = 12, 3, 3, 4
TOKENS = 1 + FRAMES * PATCHES


def attention(axis):
    torch.manual_seed(0)
    return GroupedAttention(DIM, HEADS, axis)


def sees(axis, one, other):
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
        seen = [other for other in range(TOKENS) if sees(axis, one, other)]
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            weights = (k[seen, part] @ q[one, part] / size**0.5).softmax(0)
            heads.append(weights @ v[seen, part])
        outputs.append(torch.cat(heads))
    return module.proj(torch.stack(outputs))


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
            assert moved == [sees(axis, one, other) for one in range(TOKENS)]


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
    for alone in (module.of_cls, lambda tokens: module(tokens, FRAMES)[:, 0]):
        out = alone(x)
        found.append((out, *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_first_token_does_not_see_padding():
    torch.manual_seed(0)
    layers = [(torch.randn(DIM, DIM), torch.randn(DIM)) for _ in range(3)]
    x, mask = torch.randn(2, 5, DIM), torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = False
    found = first_token_attention(x, *layers, HEADS, mask)
    alone = first_token_attention(x[:1, :3], *layers, HEADS)
    torch.testing.assert_close(found[:1], alone, rtol=1e-5, atol=1e-6)
    shares = first_token_shares(x, *layers[:2], HEADS, mask)
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
