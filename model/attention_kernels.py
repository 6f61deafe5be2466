"""Attention in Triton, read from and written to the layout of linear layers.

Divided space-time attention: what the plain formula copies into groups (model/grouped_attention.py)
is here read where it lies, queries, keys and values once, and the output is written once. And
attention within texts that lie end to end (model/packed_distilbert.py). Softmax and sums are in
float32; no atomic additions, so that results are equal to the bit from run to run.

Shapes: B clips, F frames, N patches a frame, S = 1 + F*N tokens, CLS first, then frame by frame;
H heads of C channels; M tokens of all texts. The tokens of a clip are cut into parts, one a
program, over which CLS's sums are put together: blocks of positions in attention over time, frames
in attention over space.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Of a tile: positions times frames a warp, all frames in the same warp; as measured, fewer rows or
# frames that are spread over warps take 3 to 8 times as long.
ROWS_OF_WARP = 16
# Of a tile: what the matrix units take at once; of float32 the registers hold less.
ROWS_OVER_SPACE = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 32}
ROWS_OF_TEXTS = 16  # of a tile, the fewest that the matrix units take: OCR words have 3 to 8 tokens
MAX_LENGTH = tl.constexpr(512)  # tokens of a text that draw for themselves what they drop


@triton.jit
def _locate(program, parts, NUM_HEADS: tl.constexpr):
    """Return clip, head and part of a program: neighbours read the same tokens' other heads."""
    head = program % NUM_HEADS
    rest = program // NUM_HEADS
    return (rest // parts).to(tl.int64), head, rest % parts


@triton.jit
def _attend_over_time(
    qkv, out, lse, part_out, part_lse, num_frames, num_patches, num_parts, scale,
    NUM_HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    FRAMES: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Attend from the patches at some positions to CLS and the same position in each frame."""
    clip, head, part = _locate(tl.program_id(0), num_parts, NUM_HEADS)
    num_tokens = 1 + num_frames * num_patches
    dim: tl.constexpr = NUM_HEADS * CHANNELS
    channels = tl.arange(0, WIDTH)[None, None, :]
    in_head = channels < CHANNELS
    positions = (part * POSITIONS + tl.arange(0, POSITIONS))[:, None]
    frames = tl.arange(0, FRAMES)[None, :]
    is_token = (positions < num_patches) & (frames < num_frames)
    tokens = 1 + frames * num_patches + positions
    shown = is_token[:, :, None] & in_head

    cls = qkv + clip * num_tokens * 3 * dim + head * CHANNELS + channels  # (1, 1, channels)
    cls_q = tl.load(cls, mask=in_head, other=0.0).to(tl.float32) * scale
    cls_k = tl.load(cls + dim, mask=in_head, other=0.0).to(tl.float32)
    cls_v = tl.load(cls + 2 * dim, mask=in_head, other=0.0).to(tl.float32)
    own = cls + tokens[:, :, None] * 3 * dim
    q = tl.load(own, mask=shown, other=0.0).to(tl.float32) * scale

    # CLS is every patch's first key; the frames follow one by one, the softmax is put right. Each
    # is loaded by all frames that see it: from the nearest cache, where an exchange costs more.
    most = tl.sum(q * cls_k, axis=2)  # (positions, frames)
    total = tl.full((POSITIONS, FRAMES), 1.0, tl.float32)
    mixed = tl.zeros((POSITIONS, FRAMES, WIDTH), tl.float32) + cls_v
    for frame in range(num_frames):
        key = cls + (1 + frame * num_patches + positions + 0 * frames)[:, :, None] * 3 * dim
        k = tl.load(key + dim, mask=shown, other=0.0).to(tl.float32)
        v = tl.load(key + 2 * dim, mask=shown, other=0.0).to(tl.float32)
        scores = tl.sum(q * k, axis=2)
        larger = tl.maximum(most, scores)
        shrink = tl.exp(most - larger)
        weights = tl.exp(scores - larger)
        total = total * shrink + weights
        mixed = mixed * shrink[:, :, None] + weights[:, :, None] * v
        most = larger
    mixed = mixed / total[:, :, None]
    row = clip * num_tokens * dim + head * CHANNELS + tokens[:, :, None] * dim + channels
    tl.store(out + row, mixed.to(out.dtype.element_ty), mask=shown)
    row = (clip * NUM_HEADS + head) * num_tokens + tokens
    tl.store(lse + row, most + tl.log(total), mask=is_token)

    # CLS as a query of the same patches
    k = tl.load(own + dim, mask=shown, other=0.0).to(tl.float32)
    v = tl.load(own + 2 * dim, mask=shown, other=0.0).to(tl.float32)
    scores = tl.where(is_token, tl.sum(k * cls_q, axis=2), float("-inf"))
    most = tl.max(tl.max(scores, axis=1), axis=0)
    weights = tl.exp(scores - most)
    total = tl.sum(tl.sum(weights, axis=1), axis=0)
    mixed = tl.sum(tl.sum(weights[:, :, None] * v, axis=1), axis=0) / total  # (channels,)
    row = (clip * NUM_HEADS + head) * num_parts + part
    channels = tl.arange(0, WIDTH)
    tl.store(part_out + row * CHANNELS + channels, mixed, mask=channels < CHANNELS)
    tl.store(part_lse + row, most + tl.log(total))


@triton.jit
def _attend_over_time_backward(
    qkv, out, lse, grad_out, grad_qkv, part_grads, num_frames, num_patches, num_parts, scale,
    NUM_HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    FRAMES: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Return the gradients of patches whole, and this part's share of CLS's."""
    clip, head, part = _locate(tl.program_id(0), num_parts, NUM_HEADS)
    num_tokens = 1 + num_frames * num_patches
    dim: tl.constexpr = NUM_HEADS * CHANNELS
    channels = tl.arange(0, WIDTH)[None, None, :]
    in_head = channels < CHANNELS
    positions = (part * POSITIONS + tl.arange(0, POSITIONS))[:, None]
    frames = tl.arange(0, FRAMES)[None, :]
    is_token = (positions < num_patches) & (frames < num_frames)
    tokens = 1 + frames * num_patches + positions
    shown = is_token[:, :, None] & in_head

    cls = qkv + clip * num_tokens * 3 * dim + head * CHANNELS + channels
    cls_q = tl.load(cls, mask=in_head, other=0.0).to(tl.float32) * scale
    cls_k = tl.load(cls + dim, mask=in_head, other=0.0).to(tl.float32)
    cls_v = tl.load(cls + 2 * dim, mask=in_head, other=0.0).to(tl.float32)
    cls_row = clip * num_tokens * dim + head * CHANNELS + channels
    cls_grad = tl.load(grad_out + cls_row, mask=in_head, other=0.0).to(tl.float32)
    cls_delta = cls_grad * tl.load(out + cls_row, mask=in_head, other=0.0).to(tl.float32)
    cls_delta = tl.sum(cls_delta, axis=2)  # (1, 1)
    first_lse = lse + (clip * NUM_HEADS + head) * num_tokens
    cls_lse = tl.load(first_lse)

    own = cls + tokens[:, :, None] * 3 * dim
    q = tl.load(own, mask=shown, other=0.0).to(tl.float32) * scale
    row = cls_row + tokens[:, :, None] * dim
    grad = tl.load(grad_out + row, mask=shown, other=0.0).to(tl.float32)
    delta = tl.sum(grad * tl.load(out + row, mask=shown, other=0.0).to(tl.float32), axis=2)
    norm = tl.load(first_lse + tokens, mask=is_token, other=float("inf"))

    # CLS as a key of the patches
    weights = tl.exp(tl.sum(q * cls_k, axis=2) - norm)  # 0 beyond the clip
    slopes = weights * (tl.sum(grad * cls_v, axis=2) - delta)
    grad_q = slopes[:, :, None] * cls_k
    share = part_grads + ((clip * NUM_HEADS + head) * num_parts + part) * 3 * CHANNELS
    share = share + tl.arange(0, WIDTH)
    is_channel = tl.arange(0, WIDTH) < CHANNELS
    sums = tl.sum(tl.sum(slopes[:, :, None] * q, axis=1), axis=0)
    tl.store(share + CHANNELS, sums, mask=is_channel)
    sums = tl.sum(tl.sum(weights[:, :, None] * grad, axis=1), axis=0)
    tl.store(share + 2 * CHANNELS, sums, mask=is_channel)

    # CLS as a query of them
    k = tl.load(own + dim, mask=shown, other=0.0).to(tl.float32)
    v = tl.load(own + 2 * dim, mask=shown, other=0.0).to(tl.float32)
    weights = tl.where(is_token, tl.exp(tl.sum(k * cls_q, axis=2) - cls_lse), 0.0)
    slopes = weights * (tl.sum(v * cls_grad, axis=2) - cls_delta)
    sums = tl.sum(tl.sum(slopes[:, :, None] * k, axis=1), axis=0) * scale
    tl.store(share, sums, mask=is_channel)

    first_grad = grad_qkv + clip * num_tokens * 3 * dim + head * CHANNELS
    line = tl.arange(0, POSITIONS)[:, None]  # (positions, channels) of the frame in turn
    columns = tl.arange(0, WIDTH)[None, :]
    written = (part * POSITIONS + line < num_patches) & (columns < CHANNELS)
    for frame in range(num_frames):
        key = cls + (1 + frame * num_patches + positions + 0 * frames)[:, :, None] * 3 * dim
        k = tl.load(key + dim, mask=shown, other=0.0).to(tl.float32)
        v = tl.load(key + 2 * dim, mask=shown, other=0.0).to(tl.float32)
        pair_weights = tl.exp(tl.sum(q * k, axis=2) - norm)
        pair_slopes = pair_weights * (tl.sum(grad * v, axis=2) - delta)
        grad_q += pair_slopes[:, :, None] * k
        # Frame by frame the sum over queries; where it is the frame's own turn, CLS's is added.
        turn = frames == frame
        grad_k = pair_slopes[:, :, None] * q + tl.where(turn, slopes, 0.0)[:, :, None] * cls_q
        grad_v = pair_weights[:, :, None] * grad
        grad_v += tl.where(turn, weights, 0.0)[:, :, None] * cls_grad
        place = 1 + frame * num_patches + part * POSITIONS + line
        place = first_grad + place * 3 * dim + columns
        grad_k = tl.sum(grad_k, axis=1).to(grad_qkv.dtype.element_ty)
        grad_v = tl.sum(grad_v, axis=1).to(grad_qkv.dtype.element_ty)
        tl.store(place + dim, grad_k, mask=written)
        tl.store(place + 2 * dim, grad_v, mask=written)

    grad_q = (grad_q * scale).to(grad_qkv.dtype.element_ty)
    tl.store(first_grad + tokens[:, :, None] * 3 * dim + channels, grad_q, mask=shown)


@triton.jit
def _attend_over_space(
    qkv, out, lse, part_out, part_lse, num_frames, num_patches, num_tiles, scale,
    NUM_HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend from a tile of a frame's rows, CLS and then its patches, to all of them.

    CLS's row gives the frame's part of its output. Its own key is left to ``_merge_cls``: the
    frames would count it once each.
    """
    clip, head, part = _locate(tl.program_id(0), num_frames * num_tiles, NUM_HEADS)
    frame = part // num_tiles
    num_tokens = 1 + num_frames * num_patches
    dim: tl.constexpr = NUM_HEADS * CHANNELS
    channels = tl.arange(0, WIDTH)
    in_head = channels < CHANNELS
    queries = (part % num_tiles) * ROWS + tl.arange(0, ROWS)
    tokens = tl.where(queries == 0, 0, frame * num_patches + queries)
    shown = (queries <= num_patches)[:, None] & in_head[None, :]
    first = qkv + clip * num_tokens * 3 * dim + head * CHANNELS
    q = tl.load(first + tokens[:, None] * 3 * dim + channels[None, :], mask=shown, other=0.0)

    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, num_patches + 1, ROWS):
        keys = start + tl.arange(0, ROWS)
        key = tl.where(keys == 0, 0, frame * num_patches + keys)[:, None] * 3 * dim
        key = first + dim + key + channels[None, :]
        read = (keys <= num_patches)[:, None] & in_head[None, :]
        k = tl.load(key, mask=read, other=0.0)
        v = tl.load(key + dim, mask=read, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        seen = (keys <= num_patches)[None, :] & (queries[:, None] + keys[None, :] > 0)
        scores = tl.where(seen, scores, float("-inf"))
        larger = tl.maximum(most, tl.max(scores, axis=1))
        shrink = tl.exp(most - larger)
        weights = tl.exp(scores - larger[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        mixed = mixed * shrink[:, None]
        mixed = tl.dot(weights.to(v.dtype), v, mixed, input_precision=PRECISION)
        most = larger

    mixed = mixed / total[:, None]
    norm = most + tl.log(total)
    of_patch = shown & (queries > 0)[:, None]
    row = clip * num_tokens * dim + head * CHANNELS + tokens[:, None] * dim + channels[None, :]
    tl.store(out + row, mixed.to(out.dtype.element_ty), mask=of_patch)
    row = (clip * NUM_HEADS + head) * num_tokens + tokens
    tl.store(lse + row, norm, mask=(queries > 0) & (queries <= num_patches))
    of_cls = (queries == 0)[:, None] & in_head[None, :]
    row = (clip * NUM_HEADS + head) * num_frames + frame + 0 * queries
    tl.store(part_out + row[:, None] * CHANNELS + channels[None, :], mixed, mask=of_cls)
    tl.store(part_lse + row, norm, mask=queries == 0)


@triton.jit
def _attend_over_space_backward(
    qkv, out, lse, grad_out, grad_qkv, part_grads, num_frames, num_patches, num_tiles, scale,
    NUM_HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the gradients of a tile of a frame's rows; CLS's are the frame's share of them."""
    clip, head, part = _locate(tl.program_id(0), num_frames * num_tiles, NUM_HEADS)
    frame = part // num_tiles
    num_tokens = 1 + num_frames * num_patches
    dim: tl.constexpr = NUM_HEADS * CHANNELS
    channels = tl.arange(0, WIDTH)
    in_head = channels < CHANNELS
    rows = (part % num_tiles) * ROWS + tl.arange(0, ROWS)
    tokens = tl.where(rows == 0, 0, frame * num_patches + rows)
    shown = (rows <= num_patches)[:, None] & in_head[None, :]
    first = qkv + clip * num_tokens * 3 * dim + head * CHANNELS
    first_out = clip * num_tokens * dim + head * CHANNELS
    first_lse = lse + (clip * NUM_HEADS + head) * num_tokens

    # The tile as keys, for the queries of the frame; transposed, (keys, queries)
    place = first + tokens[:, None] * 3 * dim + channels[None, :]
    k = tl.load(place + dim, mask=shown, other=0.0)
    v = tl.load(place + 2 * dim, mask=shown, other=0.0)
    grad_k = tl.zeros((ROWS, WIDTH), tl.float32)
    grad_v = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, num_patches + 1, ROWS):
        others = start + tl.arange(0, ROWS)
        other = tl.where(others == 0, 0, frame * num_patches + others)
        read = (others <= num_patches)[:, None] & in_head[None, :]
        at = first + other[:, None] * 3 * dim + channels[None, :]
        its_q = tl.load(at, mask=read, other=0.0)
        at = first_out + other[:, None] * dim + channels[None, :]
        its_grad = tl.load(grad_out + at, mask=read, other=0.0)
        its_out = tl.load(out + at, mask=read, other=0.0)
        its_delta = tl.sum(its_grad.to(tl.float32) * its_out.to(tl.float32), axis=1)
        its_lse = tl.load(first_lse + other, mask=others <= num_patches, other=float("inf"))
        scores = tl.dot(k, tl.trans(its_q), input_precision=PRECISION) * scale
        weights = tl.exp(scores - its_lse[None, :])
        weights = tl.where(rows[:, None] + others[None, :] > 0, weights, 0.0)
        grad_v = tl.dot(weights.to(k.dtype), its_grad, grad_v, input_precision=PRECISION)
        slopes = tl.dot(v, tl.trans(its_grad), input_precision=PRECISION)
        slopes = weights * (slopes - its_delta[None, :])
        grad_k = tl.dot(slopes.to(k.dtype), its_q, grad_k, input_precision=PRECISION)

    # The tile as queries, for the keys of the frame
    q = tl.load(place, mask=shown, other=0.0)
    at_own = first_out + tokens[:, None] * dim + channels[None, :]
    grad = tl.load(grad_out + at_own, mask=shown, other=0.0)
    mixed = tl.load(out + at_own, mask=shown, other=0.0)
    delta = tl.sum(grad.to(tl.float32) * mixed.to(tl.float32), axis=1)
    norm = tl.load(first_lse + tokens, mask=rows <= num_patches, other=float("inf"))
    grad_q = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, num_patches + 1, ROWS):
        others = start + tl.arange(0, ROWS)
        other = tl.where(others == 0, 0, frame * num_patches + others)
        read = (others <= num_patches)[:, None] & in_head[None, :]
        at = first + dim + other[:, None] * 3 * dim + channels[None, :]
        its_k = tl.load(at, mask=read, other=0.0)
        its_v = tl.load(at + dim, mask=read, other=0.0)
        scores = tl.dot(q, tl.trans(its_k), input_precision=PRECISION) * scale
        weights = tl.exp(scores - norm[:, None])
        weights = tl.where(rows[:, None] + others[None, :] > 0, weights, 0.0)
        slopes = tl.dot(grad, tl.trans(its_v), input_precision=PRECISION)
        slopes = weights * (slopes - delta[:, None])
        grad_q = tl.dot(slopes.to(k.dtype), its_k, grad_q, input_precision=PRECISION)

    grad_q = grad_q * scale
    grad_k = grad_k * scale
    of_patch = shown & (rows > 0)[:, None]
    place = grad_qkv + clip * num_tokens * 3 * dim + head * CHANNELS
    place = place + tokens[:, None] * 3 * dim + channels[None, :]
    tl.store(place, grad_q.to(grad_qkv.dtype.element_ty), mask=of_patch)
    tl.store(place + dim, grad_k.to(grad_qkv.dtype.element_ty), mask=of_patch)
    tl.store(place + 2 * dim, grad_v.to(grad_qkv.dtype.element_ty), mask=of_patch)
    of_cls = (rows == 0)[:, None] & in_head[None, :]
    share = ((clip * NUM_HEADS + head) * num_frames + frame) * 3 * CHANNELS
    share = part_grads + share + 0 * rows[:, None] + channels[None, :]
    tl.store(share, grad_q, mask=of_cls)
    tl.store(share + CHANNELS, grad_k, mask=of_cls)
    tl.store(share + 2 * CHANNELS, grad_v, mask=of_cls)


@triton.jit
def _merge_cls(
    qkv, out, lse, part_out, part_lse, num_tokens, num_parts, scale,
    NUM_HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Put CLS's output together from the parts, and from its own key and value."""
    clip, head, _ = _locate(tl.program_id(0), 1, NUM_HEADS)
    dim: tl.constexpr = NUM_HEADS * CHANNELS
    channels = tl.arange(0, WIDTH)
    in_head = channels < CHANNELS
    first = qkv + clip * num_tokens * 3 * dim + head * CHANNELS
    q = tl.load(first + channels, mask=in_head, other=0.0).to(tl.float32)
    k = tl.load(first + dim + channels, mask=in_head, other=0.0).to(tl.float32)
    v = tl.load(first + 2 * dim + channels, mask=in_head, other=0.0).to(tl.float32)
    own = tl.sum(q * k, axis=0) * scale
    parts = tl.arange(0, PARTS)
    row = (clip * NUM_HEADS + head) * num_parts + parts
    norms = tl.load(part_lse + row, mask=parts < num_parts, other=float("-inf"))
    read = (parts < num_parts)[:, None] & in_head[None, :]
    mixed = tl.load(part_out + row[:, None] * CHANNELS + channels[None, :], mask=read, other=0.0)
    most = tl.maximum(tl.max(norms, axis=0), own)
    shares = tl.exp(norms - most)
    own_share = tl.exp(own - most)
    total = tl.sum(shares, axis=0) + own_share
    mixed = (tl.sum(shares[:, None] * mixed, axis=0) + own_share * v) / total
    row = clip * num_tokens * dim + head * CHANNELS + channels
    tl.store(out + row, mixed.to(out.dtype.element_ty), mask=in_head)
    tl.store(lse + (clip * NUM_HEADS + head) * num_tokens, most + tl.log(total))


@triton.jit
def _merge_cls_backward(
    qkv, out, lse, grad_out, grad_qkv, part_grads, num_tokens, num_parts, scale,
    NUM_HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Add up the parts' shares of CLS's gradients, and that of its query and its own key."""
    clip, head, _ = _locate(tl.program_id(0), 1, NUM_HEADS)
    dim: tl.constexpr = NUM_HEADS * CHANNELS
    channels = tl.arange(0, WIDTH)
    in_head = channels < CHANNELS
    first = qkv + clip * num_tokens * 3 * dim + head * CHANNELS
    q = tl.load(first + channels, mask=in_head, other=0.0).to(tl.float32)
    k = tl.load(first + dim + channels, mask=in_head, other=0.0).to(tl.float32)
    v = tl.load(first + 2 * dim + channels, mask=in_head, other=0.0).to(tl.float32)
    row = clip * num_tokens * dim + head * CHANNELS + channels
    mixed = tl.load(out + row, mask=in_head, other=0.0).to(tl.float32)
    grad = tl.load(grad_out + row, mask=in_head, other=0.0).to(tl.float32)
    norm = tl.load(lse + (clip * NUM_HEADS + head) * num_tokens)
    weight = tl.exp(tl.sum(q * k, axis=0) * scale - norm)
    slope = weight * (tl.sum(grad * v, axis=0) - tl.sum(grad * mixed, axis=0)) * scale

    parts = tl.arange(0, PARTS)
    row = ((clip * NUM_HEADS + head) * num_parts + parts)[:, None] * 3 * CHANNELS
    row = part_grads + row + channels[None, :]
    read = (parts < num_parts)[:, None] & in_head[None, :]
    grad_q = tl.sum(tl.load(row, mask=read, other=0.0), axis=0) + slope * k
    grad_k = tl.sum(tl.load(row + CHANNELS, mask=read, other=0.0), axis=0) + slope * q
    grad_v = tl.sum(tl.load(row + 2 * CHANNELS, mask=read, other=0.0), axis=0) + weight * grad
    row = grad_qkv + clip * num_tokens * 3 * dim + head * CHANNELS + channels
    tl.store(row, grad_q.to(grad_qkv.dtype.element_ty), mask=in_head)
    tl.store(row + dim, grad_k.to(grad_qkv.dtype.element_ty), mask=in_head)
    tl.store(row + 2 * dim, grad_v.to(grad_qkv.dtype.element_ty), mask=in_head)


@triton.jit
def _attend_in_texts(
    q, k, v, out, lse, begins, ends, seed, num_tokens, dropout, scale,
    NUM_HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Attend from a tile of tokens to the tokens of their texts."""
    head = tl.program_id(0) % NUM_HEADS
    start = tl.program_id(0) // NUM_HEADS * ROWS
    dim: tl.constexpr = NUM_HEADS * CHANNELS
    channels = tl.arange(0, WIDTH)
    in_head = channels < CHANNELS
    rows = start + tl.arange(0, ROWS)
    is_token = rows < num_tokens
    begin = tl.load(begins + rows, mask=is_token, other=0)
    end = tl.load(ends + rows, mask=is_token, other=0)
    column = head * CHANNELS + channels[None, :]
    own = rows[:, None].to(tl.int64) * dim + column
    shown = is_token[:, None] & in_head[None, :]
    own_q = tl.load(q + own, mask=shown, other=0.0)
    if DROPS:
        drawn = tl.load(seed)

    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, WIDTH), tl.float32)
    last = tl.load(ends + tl.minimum(start + ROWS, num_tokens) - 1)
    for first in range(tl.load(begins + start), last, ROWS):
        keys = first + tl.arange(0, ROWS)
        read = (keys < last)[:, None] & in_head[None, :]
        at = keys[:, None].to(tl.int64) * dim + column
        its_k = tl.load(k + at, mask=read, other=0.0)
        its_v = tl.load(v + at, mask=read, other=0.0)
        scores = tl.dot(own_q, tl.trans(its_k), input_precision=PRECISION) * scale
        seen = (keys[None, :] >= begin[:, None]) & (keys[None, :] < end[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        larger = tl.maximum(most, tl.max(scores, axis=1))
        known = tl.where(larger == float("-inf"), 0.0, larger)  # a text that comes later
        shrink = tl.exp(most - known)
        weights = tl.exp(scores - known[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        if DROPS:
            draw = (head * num_tokens + rows)[:, None] * MAX_LENGTH + keys[None, :] - begin[:, None]
            weights = tl.where(tl.rand(drawn, draw) < dropout, 0.0, weights / (1 - dropout))
        mixed = mixed * shrink[:, None]
        mixed = tl.dot(weights.to(its_v.dtype), its_v, mixed, input_precision=PRECISION)
        most = larger

    mixed = mixed / total[:, None]
    tl.store(out + own, mixed.to(out.dtype.element_ty), mask=shown)
    tl.store(lse + head * num_tokens + rows, most + tl.log(total), mask=is_token)


@triton.jit
def _attend_in_texts_backward(
    q, k, v, out, lse, grad_out, grad_q, grad_k, grad_v, begins, ends, seed, num_tokens,
    dropout, scale,
    NUM_HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Return the gradients of a tile of tokens; what is dropped is drawn once more."""
    head = tl.program_id(0) % NUM_HEADS
    start = tl.program_id(0) // NUM_HEADS * ROWS
    dim: tl.constexpr = NUM_HEADS * CHANNELS
    channels = tl.arange(0, WIDTH)
    in_head = channels < CHANNELS
    rows = start + tl.arange(0, ROWS)
    is_token = rows < num_tokens
    begin = tl.load(begins + rows, mask=is_token, other=0)
    end = tl.load(ends + rows, mask=is_token, other=0)
    column = head * CHANNELS + channels[None, :]
    own = rows[:, None].to(tl.int64) * dim + column
    shown = is_token[:, None] & in_head[None, :]
    own_k = tl.load(k + own, mask=shown, other=0.0)
    own_v = tl.load(v + own, mask=shown, other=0.0)
    own_q = tl.load(q + own, mask=shown, other=0.0)
    own_grad = tl.load(grad_out + own, mask=shown, other=0.0)
    own_out = tl.load(out + own, mask=shown, other=0.0)
    delta = tl.sum(own_grad.to(tl.float32) * own_out.to(tl.float32), axis=1)
    norm = tl.load(lse + head * num_tokens + rows, mask=is_token, other=float("inf"))
    if DROPS:
        drawn = tl.load(seed)

    sum_q = tl.zeros((ROWS, WIDTH), tl.float32)
    sum_k = tl.zeros((ROWS, WIDTH), tl.float32)
    sum_v = tl.zeros((ROWS, WIDTH), tl.float32)
    last = tl.load(ends + tl.minimum(start + ROWS, num_tokens) - 1)
    for first in range(tl.load(begins + start), last, ROWS):
        others = first + tl.arange(0, ROWS)
        is_other = others < last
        read = is_other[:, None] & in_head[None, :]
        at = others[:, None].to(tl.int64) * dim + column
        its_q = tl.load(q + at, mask=read, other=0.0)
        its_k = tl.load(k + at, mask=read, other=0.0)
        its_v = tl.load(v + at, mask=read, other=0.0)
        its_grad = tl.load(grad_out + at, mask=read, other=0.0)
        its_out = tl.load(out + at, mask=read, other=0.0)
        its_delta = tl.sum(its_grad.to(tl.float32) * its_out.to(tl.float32), axis=1)
        its_norm = tl.load(lse + head * num_tokens + others, mask=is_other, other=float("inf"))
        its_begin = tl.load(begins + others, mask=is_other, other=0)
        same = (others[None, :] >= begin[:, None]) & (others[None, :] < end[:, None])

        # The tile as keys of the other tokens, which do not see padding; (keys, queries)
        seen = same & (rows < end)[:, None]
        scores = tl.dot(own_k, tl.trans(its_q), input_precision=PRECISION) * scale
        weights = tl.where(seen, tl.exp(scores - its_norm[None, :]), 0.0)
        slopes = tl.dot(own_v, tl.trans(its_grad), input_precision=PRECISION)
        kept = weights
        if DROPS:
            draw = (head * num_tokens + others)[None, :] * MAX_LENGTH
            draw = draw + rows[:, None] - its_begin[None, :]
            keep = tl.where(tl.rand(drawn, draw) < dropout, 0.0, 1 / (1 - dropout))
            kept = weights * keep
            slopes = slopes * keep
        slopes = weights * (slopes - its_delta[None, :])
        sum_v = tl.dot(kept.to(own_k.dtype), its_grad, sum_v, input_precision=PRECISION)
        sum_k = tl.dot(slopes.to(own_k.dtype), its_q, sum_k, input_precision=PRECISION)

        # The tile as queries of the other tokens; (queries, keys)
        scores = tl.dot(own_q, tl.trans(its_k), input_precision=PRECISION) * scale
        weights = tl.where(same, tl.exp(scores - norm[:, None]), 0.0)
        slopes = tl.dot(own_grad, tl.trans(its_v), input_precision=PRECISION)
        if DROPS:
            draw = (head * num_tokens + rows)[:, None] * MAX_LENGTH
            draw = draw + others[None, :] - begin[:, None]
            slopes = tl.where(tl.rand(drawn, draw) < dropout, 0.0, slopes / (1 - dropout))
        slopes = weights * (slopes - delta[:, None])
        sum_q = tl.dot(slopes.to(own_k.dtype), its_k, sum_q, input_precision=PRECISION)

    tl.store(grad_q + own, (sum_q * scale).to(grad_q.dtype.element_ty), mask=shown)
    tl.store(grad_k + own, (sum_k * scale).to(grad_k.dtype.element_ty), mask=shown)
    tl.store(grad_v + own, sum_v.to(grad_v.dtype.element_ty), mask=shown)


def attend(qkv: Tensor, num_frames: int, over_time: bool) -> tuple[Tensor, Tensor]:
    """Return the output (B, S, H, C), and the log of the sum of exponentials (B, H, S) float32.

    Args:
        qkv: (B, S, 3, H, C), contiguous.
        num_frames: F.
        over_time: a patch sees its position in all frames; else all positions of its frame.
    """
    batch, num_tokens, _, heads, channels = qkv.shape
    plan = _Plan(qkv, num_frames, over_time)
    out = qkv.new_empty(batch, num_tokens, heads, channels)
    lse = qkv.new_empty(batch, heads, num_tokens, dtype=torch.float32)
    part_out = lse.new_empty(batch, heads, plan.num_parts, channels)
    part_lse = lse.new_empty(batch, heads, plan.num_parts)
    buffers = (qkv, out, lse, part_out, part_lse)
    plan.launch(_attend_over_time if over_time else _attend_over_space, *buffers)
    plan.merge(_merge_cls, *buffers)
    return out, lse


def attend_backward(
    grad_out: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, num_frames: int, over_time: bool
) -> Tensor:
    """Return the gradient of ``qkv`` for that of the output, both contiguous."""
    batch, _, _, heads, channels = qkv.shape
    plan = _Plan(qkv, num_frames, over_time)
    grad_qkv = torch.empty_like(qkv)
    part_grads = lse.new_empty(batch, heads, plan.num_parts, 3, channels)
    buffers = (qkv, out, lse, grad_out, grad_qkv, part_grads)
    plan.launch(_attend_over_time_backward if over_time else _attend_over_space_backward, *buffers)
    plan.merge(_merge_cls_backward, *buffers)
    return grad_qkv


class _Plan:
    """How the kernels cut up their work."""

    def __init__(self, qkv: Tensor, num_frames: int, over_time: bool) -> None:
        batch, self.num_tokens, _, heads, channels = qkv.shape
        self.num_rows = batch * heads
        self.num_frames = num_frames
        self.num_patches = (self.num_tokens - 1) // num_frames
        self.scale = channels**-0.5
        self.head = _describe_heads(heads, channels)
        if over_time:
            frames = triton.next_power_of_2(num_frames)
            warps = 2 if frames <= 4 else 1
            positions = max(1, warps * ROWS_OF_WARP // frames)
            self.tile = {"FRAMES": frames, "POSITIONS": positions, "num_warps": warps}
            self.num_tiles = self.num_parts = triton.cdiv(self.num_patches, positions)
            self.num_programs = self.num_rows * self.num_parts
        else:
            rows = ROWS_OVER_SPACE[qkv.dtype]
            rows = min(rows, max(16, triton.next_power_of_2(self.num_patches + 1)))
            # Of one stage, for the registers of the backward pass
            self.tile = {"ROWS": rows, "PRECISION": _get_precision(), "num_stages": 1}
            self.num_tiles = triton.cdiv(self.num_patches + 1, rows)
            self.num_parts = num_frames
            self.num_programs = self.num_rows * num_frames * self.num_tiles

    def launch(self, kernel: Any, *buffers: Tensor) -> None:
        """Launch a kernel of all tiles."""
        sizes = self.num_frames, self.num_patches, self.num_tiles, self.scale
        kernel[(self.num_programs,)](*buffers, *sizes, **self.head, **self.tile)

    def merge(self, kernel: Any, *buffers: Tensor) -> None:
        """Launch a kernel that puts CLS's parts together."""
        sizes, parts = (self.num_tokens, self.num_parts, self.scale), self.num_parts
        parts = triton.next_power_of_2(parts)
        kernel[(self.num_rows,)](*buffers, *sizes, **self.head, PARTS=parts)


def attend_in_texts(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, dropout: float, seed: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the output (M, H, C), and the log of the sum of exponentials (H, M) float32.

    Args:
        q: (M, H, C) contiguous, the tokens of all texts.
        k: likewise.
        v: likewise.
        bounds: (2, M) int32, where each token's text begins, and its end.
        dropout: share of the weights that are set to zero.
        seed: (1,) int64, of what is dropped.
    """
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    buffers = (q, k, v, out, lse, *bounds, seed)
    _launch_in_texts(_attend_in_texts, buffers, dropout)
    return out, lse


def attend_in_texts_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    bounds: Tensor, dropout: float, seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of ``q``, ``k`` and ``v``."""
    grads = tuple(torch.empty_like(x) for x in (q, k, v))
    buffers = (q, k, v, out, lse, grad_out, *grads, *bounds, seed)
    _launch_in_texts(_attend_in_texts_backward, buffers, dropout)
    return grads


def _launch_in_texts(kernel: Any, buffers: tuple[Tensor, ...], dropout: float) -> None:
    num_tokens, heads, channels = buffers[0].shape
    kernel[(heads * triton.cdiv(num_tokens, ROWS_OF_TEXTS),)](
        *buffers, num_tokens, dropout, channels**-0.5, **_describe_heads(heads, channels),
        ROWS=ROWS_OF_TEXTS, PRECISION=_get_precision(), DROPS=dropout > 0,
    )  # fmt: skip


def _describe_heads(heads: int, channels: int) -> dict[str, int]:
    width = max(16, triton.next_power_of_2(channels))  # tl.dot takes no fewer
    return {"NUM_HEADS": heads, "CHANNELS": channels, "WIDTH": width}


def _get_precision() -> str:
    """Return how matrix products of float32 are computed."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
