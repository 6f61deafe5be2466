"""The plain reference path: what is to be computed, the way the published system computes it.

Written from the papers (arXiv 2104.00650, 2305.03347): attention written out with softmax and
copies of the CLS keys, every block for every token, the OCR words of each video padded to its
longest and encoded video by video, everything in float32. It shares the weights of the model that
it stands beside, so that both can be asked for the same numbers; ``assert_equal`` does.

Shapes: B videos, F frames, N patches a frame, S = 1 + F*N tokens, D width, H heads, C channels a
head, L words of a video, T tokens of its longest word, E width of the common space.
"""

import torch
from model.attention import GroupedAttention
from model.video_transformer import SpaceTimeBlock, SpaceTimeTransformer
from torch import Tensor, nn

from base.batch import Batch, Words
from model.frozen_in_time import QUERY_TYPE, VIDEO_TYPE, WORD_TYPE, FrozenInTime

TOLERANCE = 1e-5
MASKED = -10_000.0


class PlainFrozenInTime(nn.Module):
    """Computes what a ``FrozenInTime`` of both modalities computes, with its weights.

    Args:
        model: with DistilBERT as its text model.
    """

    def __init__(self, model: FrozenInTime) -> None:
        super().__init__()
        self.model = model
        self.text_model = plain_text_model(model.text_model)
        self.ocr_model = plain_text_model(model.ocr_model)

    def features(self, batch: Batch) -> Tensor:
        """Return the features of the clips (B, D)."""
        return plain_video(self.model.video_model, batch.video)

    def queries(self, batch: Batch) -> Tensor:
        """Return the queries' embeddings (Q, E)."""
        ids, mask = batch.query.input_ids, batch.query.attention_mask
        output = self.text_model(input_ids=ids, attention_mask=mask)
        return self.model.txt_proj(output.last_hidden_state[:, 0])

    def videos(self, batch: Batch, features: Tensor) -> Tensor:
        """Return the fused embeddings (B, E) of the clips' features (B, D)."""
        fused = [self._video(batch.words, row, features[row]) for row in range(len(batch))]
        return self.model.fusion_proj(torch.cat(fused))

    def _video(self, words: Words, row: int, feature: Tensor) -> Tensor:
        """Encode and fuse the words of one video, (1, D)."""
        model, shown = self.model, words.mask[row]
        which = words.index[row, shown]
        lengths = torch.tensor([t for t, count in words.groups for _ in range(count)])[which.cpu()]
        ids = words.input_ids[which, : lengths.max()]  # (L, T)
        places = torch.arange(ids.shape[1])
        mask = (places < lengths[:, None]).long().to(ids.device)
        encoded = self.ocr_model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        encoded = encoded + model.ocr_pos_embeds(words.tracks[row, shown])  # (L, D)
        tokens = torch.cat((model.query_token, feature[None], encoded))  # (2 + L, D)
        types = torch.tensor([QUERY_TYPE, VIDEO_TYPE] + [WORD_TYPE] * len(ids), device=ids.device)
        tokens = (tokens + model.type_embedding(types))[None]
        layer, heads = model.fusion_model, model.fusion_model.num_heads
        query, key, value = (
            split_heads(part(tokens), heads) for part in (layer.query, layer.key, layer.value)
        )
        out = written_attention(query, key, value).transpose(1, 2).flatten(2)  # (1, 2 + L, D)
        return out[:, 0] + model.query_token


def plain_text_model(model: nn.Module) -> nn.Module:
    """Return transformers' own DistilBERT, attention written out, with the weights of ``model``."""
    from transformers import AutoModel

    with torch.device("meta"):
        plain = AutoModel.from_config(model.config, attn_implementation="eager")
    plain.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    places = torch.arange(model.config.max_position_embeddings, device=model.device)
    plain.embeddings.position_ids = places[None]  # holds no weight: not among the state
    return plain.train(model.training)


def plain_video(vit: SpaceTimeTransformer, video: Tensor) -> Tensor:
    """Return the clip features (B, D) of normalised frames (B, F, 3, H, W)."""
    batch, frames = video.shape[:2]
    patches = vit.patch_embed(video.flatten(0, 1)).reshape(batch, -1, vit.embed_dim)
    num_patches = patches.shape[1] // frames
    position = vit.pos_embed[:, 1:].repeat(1, frames, 1)
    time = vit.temporal_embed[:, :frames].repeat_interleave(num_patches, 1)
    cls = vit.cls_token.expand(batch, -1, -1) + vit.pos_embed[:, :1]
    x = torch.cat((cls, patches + position + time), dim=1)  # (B, S, D)
    for block in vit.blocks:
        x = plain_block(block, x, frames)
    return vit.norm(x)[:, 0]


def plain_block(block: SpaceTimeBlock, x: Tensor, frames: int) -> Tensor:
    """(B, S, D) -> the same."""
    time = plain_attention(block.timeattn, block.norm3(x), frames)
    y = x + plain_attention(block.attn, block.norm1(x + time), frames)
    return y + block.mlp(block.norm2(y))


def plain_attention(attention: GroupedAttention, x: Tensor, frames: int) -> Tensor:
    """(B, S, D) -> the same."""
    batch, tokens, dim = x.shape
    heads = attention.num_heads
    q, k, v = (
        part.reshape(batch, tokens, heads, -1).transpose(1, 2).reshape(batch * heads, tokens, -1)
        for part in attention.qkv(x).chunk(3, dim=-1)
    )  # each (B*H, S, C)
    cls = written_attention(q[:, :1], k, v)
    groups = [grouped(part[:, 1:], frames, attention.axis) for part in (q, k, v)]
    copies = groups[0].shape[0] // q.shape[0]
    with_cls = [
        torch.cat((part[:, :1].repeat_interleave(copies, 0), group), dim=1)
        for part, group in zip((k, v), groups[1:], strict=True)
    ]
    out = written_attention(groups[0], *with_cls)
    out = torch.cat((cls, ungrouped(out, frames, batch * heads, attention.axis)), dim=1)
    out = out.reshape(batch, heads, tokens, -1).transpose(1, 2).reshape(batch, tokens, dim)
    return attention.proj(out)


def grouped(x: Tensor, frames: int, axis: str) -> Tensor:
    """(B*H, F*N, C) -> (B*H*N, F, C) over time, (B*H*F, N, C) over space."""
    framed = x.unflatten(1, (frames, -1))
    return (framed.transpose(1, 2) if axis == "time" else framed).flatten(0, 1)


def ungrouped(x: Tensor, frames: int, rows: int, axis: str) -> Tensor:
    """Undo ``grouped``; ``rows`` is B*H."""
    if axis == "time":
        return x.unflatten(0, (rows, -1)).transpose(1, 2).flatten(1, 2)
    return x.unflatten(0, (rows, frames)).flatten(1, 2)


def written_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) v, of (…, tokens, C)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, S, D) -> (B, H, S, C)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def assert_equal(ours: Tensor, plain: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """Return the greatest difference, relative to the greatest value where that is above 1.

    Raises:
        AssertionError: it is not within the tolerance; then no time may be compared.
    """
    scale = max(1.0, float(plain.detach().abs().max()))
    difference = float((ours.detach() - plain.detach()).abs().max()) / scale
    assert difference <= tolerance, f"{what}: differs by {difference:.2g} from the plain path"
    return difference

