"""Plain reference path of the model: what is computed, the way the published system computes it.

Written from the papers (arXiv 2104.00650, 2305.03347): attention written out with softmax and
copies of the CLS keys, every block for every token, the OCR words of each video padded to its
longest and encoded video by video, everything in float32. It shares the weights of the model that
it stands beside, so that both can be asked for the same numbers; ``assert_equal`` does.

Shapes: B videos, F frames, N patches a frame, S = 1 + F*N tokens, D width, H heads, C channels a
head, L words of a video, T tokens of its longest word, Q queries, E width of the common space.
"""

import torch
from torch import Tensor, nn

from base.batch import Batch, Words
from model.frozen_in_time import FrozenInTime
from model.grouped_attention import GroupedAttention
from model.space_time_vit import SpaceTimeBlock, SpaceTimeTransformer

TOLERANCE = 1e-5
QUERY_TYPE, VIDEO_TYPE, WORD_TYPE = 0, 1, 2


class PlainFrozenInTime(nn.Module):
    """Computes what a ``FrozenInTime`` of both modalities computes, with its weights.

    Args:
        model: with DistilBERT as its text model.
    """

    def __init__(self, model: FrozenInTime) -> None:
        super().__init__()
        self.model = model
        self.text_model = build_plain_text_model(model.text_model)
        self.ocr_model = build_plain_text_model(model.ocr_model)

    def embed_queries(self, batch: Batch) -> Tensor:
        """Return the queries' embeddings (Q, E)."""
        ids, mask = batch.query.input_ids, batch.query.attention_mask
        output = self.text_model(input_ids=ids, attention_mask=mask)
        return self.model.txt_proj(output.last_hidden_state[:, 0])

    def encode_clips(self, batch: Batch) -> Tensor:
        """Return the features of the clips (B, D)."""
        return encode_clips(self.model.video_model, batch.video)

    def embed_videos(self, batch: Batch, features: Tensor) -> Tensor:
        """Return the fused embeddings (B, E) of the clips' features (B, D)."""
        fused = [self._fuse_video(batch.words, row, features[row]) for row in range(len(batch))]
        return self.model.fusion_proj(torch.cat(fused))

    def _fuse_video(self, words: Words, row: int, feature: Tensor) -> Tensor:
        """Encode the words of one video and fuse them with its feature, (1, D)."""
        model, shown = self.model, words.mask[row]
        which = words.index[row, shown]
        lengths = torch.tensor([t for t, count in words.groups for _ in range(count)])[which.cpu()]
        ids = words.input_ids[which, : lengths.max()]  # (L, T)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(ids.device)
        encoded = self.ocr_model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        encoded = encoded + model.ocr_pos_embeds(words.tracks[row, shown])  # (L, D)
        tokens = torch.cat((model.query_token, feature[None], encoded))  # (2 + L, D)
        types = torch.tensor([QUERY_TYPE, VIDEO_TYPE] + [WORD_TYPE] * len(ids), device=ids.device)
        tokens = (tokens + model.type_embedding(types))[None]
        fusion = model.fusion_model
        query, key, value = (
            project(tokens).unflatten(-1, (fusion.num_heads, -1)).transpose(1, 2)
            for project in (fusion.query, fusion.key, fusion.value)
        )  # each (1, H, 2 + L, C)
        out = attend(query, key, value).transpose(1, 2).flatten(2)  # (1, 2 + L, D)
        return out[:, 0] + model.query_token


def build_plain_text_model(model: nn.Module) -> nn.Module:
    """Return transformers' own DistilBERT, attention written out, with the weights of ``model``."""
    from transformers import AutoModel

    with torch.device("meta"):
        plain = AutoModel.from_config(model.config, attn_implementation="eager")
    plain.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    places = torch.arange(model.config.max_position_embeddings, device=model.device)
    plain.embeddings.position_ids = places[None]  # holds no weight: not among the state
    return plain.train(model.training)


def encode_clips(vit: SpaceTimeTransformer, video: Tensor) -> Tensor:
    """Return the clip features (B, D) of normalised frames (B, F, 3, H, W)."""
    batch, frames = video.shape[:2]
    patches = vit.patch_embed(video.flatten(0, 1)).reshape(batch, -1, vit.embed_dim)
    num_patches = patches.shape[1] // frames
    position = vit.pos_embed[:, 1:].repeat(1, frames, 1)
    time = vit.temporal_embed[:, :frames].repeat_interleave(num_patches, 1)
    cls = vit.cls_token.expand(batch, -1, -1) + vit.pos_embed[:, :1]
    x = torch.cat((cls, patches + position + time), dim=1)  # (B, S, D)
    for block in vit.blocks:
        x = apply_block(block, x, frames)
    return vit.norm(x)[:, 0]


def apply_block(block: SpaceTimeBlock, x: Tensor, frames: int) -> Tensor:
    """(B, S, D) -> the same."""
    time = attend_in_groups(block.timeattn, block.norm3(x), frames)
    y = x + attend_in_groups(block.attn, block.norm1(x + time), frames)
    return y + block.mlp(block.norm2(y))


def attend_in_groups(attention: GroupedAttention, x: Tensor, frames: int) -> Tensor:
    """CLS sees every token, a patch CLS and its own group: (B, S, D) -> the same."""
    batch, tokens, dim = x.shape
    heads = attention.num_heads
    q, k, v = (
        part.reshape(batch, tokens, heads, -1).transpose(1, 2).reshape(batch * heads, tokens, -1)
        for part in attention.qkv(x).chunk(3, dim=-1)
    )  # each (B*H, S, C)
    cls = attend(q[:, :1], k, v)
    groups = [split_groups(part[:, 1:], frames, attention.axis) for part in (q, k, v)]
    copies = groups[0].shape[0] // q.shape[0]
    with_cls = [
        torch.cat((part[:, :1].repeat_interleave(copies, 0), group), dim=1)
        for part, group in zip((k, v), groups[1:], strict=True)
    ]
    out = attend(groups[0], *with_cls)
    out = torch.cat((cls, join_groups(out, frames, batch * heads, attention.axis)), dim=1)
    out = out.reshape(batch, heads, tokens, -1).transpose(1, 2).reshape(batch, tokens, dim)
    return attention.proj(out)


def split_groups(x: Tensor, frames: int, axis: str) -> Tensor:
    """(B*H, F*N, C) -> (B*H*N, F, C) over time, (B*H*F, N, C) over space."""
    framed = x.unflatten(1, (frames, -1))
    return (framed.transpose(1, 2) if axis == "time" else framed).flatten(0, 1)


def join_groups(x: Tensor, frames: int, rows: int, axis: str) -> Tensor:
    """Undo ``split_groups``; ``rows`` is B*H."""
    if axis == "time":
        return x.unflatten(0, (rows, -1)).transpose(1, 2).flatten(1, 2)
    return x.unflatten(0, (rows, frames)).flatten(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) v, of (…, tokens, C)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v


def assert_equal(ours: Tensor, plain: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """Return the greatest difference, relative to the greatest value where that is above 1.

    Raises:
        AssertionError: it is not within the tolerance; then no time may be compared.
    """
    scale = max(1.0, float(plain.detach().abs().max()))
    difference = float((ours.detach() - plain.detach()).abs().max()) / scale
    assert difference <= tolerance, f"{what}: differs by {difference:.2g} from the plain path"
    return difference
