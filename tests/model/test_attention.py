import pytest
import torch

from model.attention import GroupedAttention

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
