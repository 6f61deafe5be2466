"""FrozenInTime: the space-time ViT and the OCR branch, fused, beside a query encoder.

Paper: Wu et al., "A Large Cross-Modal Video Retrieval Dataset with Reading Comprehension",
arXiv 2305.03347, section 4; parameter names are those of its published weights.

Shapes: B videos, Q queries, U distinct words, L words of the longest video, D width of the text
models, E width of the common space (``projection_dim``).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from base.base_model import RetrievalModel
from base.batch import Batch, Tokens, Words
from base.registry import ARCHITECTURES
from model.fusion import FusionAttention, fusion_tokens
from model.initial_weights import Part, TemporalFix, adapt, check_parts, load_initial_weights
from model.params import TextParams, VideoParams
from model.pretrained import build_video_model
from model.query_encoder import QueryEncoder, query_projection
from model.text_encoder import (
    encode_tokens,
    encode_words,
    load_text_model,
    recompute_layers,
    unread_parts,
)
from utils.errors import UserError

Modality = Literal["vision", "ocr"]
TRACK_SIZE = 12
QUERY_TYPE, VIDEO_TYPE, WORD_TYPE = 0, 1, 2


@ARCHITECTURES.register("FrozenInTime")
class FrozenInTime(RetrievalModel):
    """Embeds queries and videos in one space, by what a video shows, the text in it, or both.

    Args:
        video_params: Video encoder, the space-time ViT.
        text_params: Query encoder, and the OCR word encoder of the same kind.
        projection: Layers into the common space: minimal (one a branch), or none.
        projection_dim: Width of the common space.
        modalities: What of a video is used.
        load_checkpoint: Checkpoint to start from; its weights must fit exactly, but for the number
            of frames, the frames' size and what load_parts leaves out.
        load_parts: What of load_checkpoint is taken, each part in full, the rest starting fresh;
            null: everything.
        load_temporal_fix: Temporal embeddings of frames that a checkpoint does not know, in
            training and test: zeros, interp (those of the nearest frame) or bilinear.
        fusion_heads: Heads of the fusion layer; must divide the text model's width.
        ocr_encoder_grad: Train the OCR word encoder; false: it stays as it is, without dropout, and
            each distinct word of a data set is encoded once for the whole run.

    Raises:
        UserError: a model or its weights can't be had, or the parts do not fit together.
    """

    def __init__(
        self,
        video_params: VideoParams = VideoParams(),
        text_params: TextParams = TextParams(),
        projection: Literal["minimal", ""] = "minimal",
        projection_dim: Annotated[int, Field(ge=1)] = 256,
        modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] = ("vision", "ocr"),
        load_checkpoint: str | None = "",
        fusion_heads: Annotated[int, Field(ge=1)] = 8,
        load_parts: Annotated[tuple[Part, ...], Field(min_length=1)] | None = None,
        load_temporal_fix: TemporalFix = "zeros",
        ocr_encoder_grad: bool = True,
    ) -> None:
        if len(set(modalities)) < len(modalities):
            raise UserError(f"arch.args.modalities: {list(modalities)} names one twice")
        check_parts(load_parts, load_checkpoint)
        super().__init__()
        self.sees, self.reads = "vision" in modalities, "ocr" in modalities
        self.video_key = "fusion" if self.reads else "video"
        self.temporal_fix = load_temporal_fix
        self.words_are_fixed = self.reads and not ocr_encoder_grad
        self.padded = False  # whether the text encoders see only a few sizes

        self.text_model = load_text_model(text_params.model, text_params.pretrained)
        width = self.text_model.config.hidden_size
        if self.reads:
            self._add_ocr_branch(text_params, width, fusion_heads)
        if self.sees:
            self.video_model = build_video_model(video_params)
            self._bridge_widths(width)
        self._add_projections(projection, projection_dim, width)
        if load_checkpoint:
            load_initial_weights(self, load_checkpoint, load_parts)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embeddings: ``text`` (Q, E) and ``video`` and/or ``fusion`` (B, E)."""
        return {"text": self.embed_queries(batch.query)} | self.embed_videos(batch)

    def embed_queries(self, queries: Tokens) -> Tensor:
        """Return the embeddings (Q, E)."""
        return self.txt_proj(encode_tokens(self.text_model, queries, self.padded))

    def encode_words(self, words: Tokens) -> Tensor:
        """Return the vectors (U, D) that the fusion layer is given of OCR words."""
        return encode_tokens(self.ocr_model, words, self.padded)

    def embed_videos(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``video`` and/or ``fusion`` embeddings (B, E)."""
        embeds, feature = {}, None
        if self.sees:
            feature = self.video_model(batch.video)  # (B, width of the ViT)
            embeds["video"] = self.vid_proj(feature)
        if self.reads:
            embeds["fusion"] = self.fusion_proj(self._fuse(batch.words, feature))
        return embeds

    def embed_videos_apart(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embedding (B, E) that queries meet, and for a fusion what each side gives.

        ``vision`` and ``ocr`` are fused embeddings where the fusion layer may not attend to the
        video feature, or to the words.
        """
        if not (self.sees and self.reads):
            return {"whole": self.embed_videos(batch)[self.video_key]}
        tokens, mask = self._fusion_tokens(batch.words, self.video_model(batch.video))
        masks = {"whole": mask, "vision": mask.clone(), "ocr": mask.clone()}
        masks["vision"][:, 1] = False
        masks["ocr"][:, 2:] = False
        fused = {name: self.fusion_model(tokens, seen) for name, seen in masks.items()}
        return {name: self.fusion_proj(out + self.query_token) for name, out in fused.items()}

    @classmethod
    def query_encoder(cls, **arguments: Any) -> QueryEncoder:
        """Return the module that embeds queries, of a model with these arguments."""
        return QueryEncoder(**arguments)

    def adapted(
        self, weights: dict[str, Tensor], source: str | Path = "the checkpoint"
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Fit the embeddings of other numbers of frames and of patches; see ``adapt``."""
        shapes = {name: value.shape for name, value in self.state_dict().items()}
        return adapt(weights, shapes, self.temporal_fix, source)

    def without_gradient(self) -> list[nn.Parameter]:
        """Return the weights of ``video`` beside ``fusion``, of unread poolers and of fixed words.

        Frozen, they need no ``find_unused_parameters`` of DistributedDataParallel, which searches
        the graph in every step: they get no gradient in any step, so freezing changes nothing.
        """
        idle = [self.vid_proj] if self.sees and self.reads else []
        idle += [part for model in self._text_encoders() for part in unread_parts(model)]
        idle += [self.ocr_model] if self.words_are_fixed else []
        return [weight for part in idle for weight in part.parameters()]

    def train(self, mode: bool = True) -> Self:
        """Choose training or evaluation; a word encoder that stays as it is drops nothing out."""
        super().train(mode)
        if self.words_are_fixed:
            self.ocr_model.eval()
        return self

    def recompute_activations(self) -> None:
        """Recompute the blocks of the ViT and the layers of the text encoders when going back."""
        for model in self._text_encoders():
            recompute_layers(model)
        if self.sees:
            self.video_model.recomputes = True

    def compile_encoders(self, backend: str | Callable = "inductor") -> None:
        """Compile the ViT and the text encoders.

        Texts come in ever other sizes: they are padded to a few, and the text encoders compiled
        for whatever size. The ViT learns that the number of clips may vary when it first does.
        """
        self.padded = True
        for model in self._text_encoders():
            model.compile(dynamic=True, backend=backend)
        if self.sees:
            self.video_model.compile(backend=backend)

    def _text_encoders(self) -> list[nn.Module]:
        return [self.text_model, self.ocr_model] if self.reads else [self.text_model]

    def _fuse(self, words: Words, feature: Tensor | None) -> Tensor:
        """Words and, where frames are seen, the video feature -> (B, D)."""
        return self.fusion_model(*self._fusion_tokens(words, feature)) + self.query_token

    def _fusion_tokens(self, words: Words, feature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (B, S, D) of the fusion layer and their mask (B, S)."""
        word_tokens = F.embedding(words.index, self._vectors(words))  # (B, L, D)
        if feature is None:
            return fusion_tokens(self.query_token, word_tokens, words.mask, None)
        word_tokens = word_tokens + self.ocr_pos_embeds(words.tracks)
        feature = self.video_to_fusion(feature)
        tokens, mask = fusion_tokens(self.query_token, word_tokens, words.mask, feature)
        return tokens + self.type_embedding(self._types(tokens)), mask

    def _vectors(self, words: Words) -> Tensor:
        """The distinct words (U, D): as they are given, else encoded here."""
        if words.vectors is not None:
            return words.vectors
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.words_are_fixed):
            return encode_words(self.ocr_model, words, self.padded)

    @staticmethod
    def _types(tokens: Tensor) -> Tensor:
        """Token types (S,): the query token, the video feature, then words."""
        types = torch.full((tokens.shape[1],), WORD_TYPE, device=tokens.device)
        types[0], types[1] = QUERY_TYPE, VIDEO_TYPE
        return types

    def _add_ocr_branch(self, text_params: TextParams, width: int, heads: int) -> None:
        self.ocr_model = load_text_model(text_params.model, text_params.pretrained)
        if width % heads:
            raise UserError(
                f"arch.args.fusion_heads: {heads} does not divide the text model's width {width}"
            )
        if self.words_are_fixed:
            self.ocr_model.eval()
        self.fusion_model = FusionAttention(width, heads)
        self.query_token = nn.Parameter(torch.zeros(1, width))
        if self.sees:
            self.type_embedding = nn.Embedding(3, width)
            self.ocr_pos_embeds = nn.Linear(TRACK_SIZE, width)

    def _bridge_widths(self, width: int) -> None:
        """Bring the video feature to the words' width; the published models share one width."""
        same = self.video_model.embed_dim == width
        self.video_to_fusion: nn.Module = nn.Identity()
        if self.reads and not same:
            self.video_to_fusion = nn.Linear(self.video_model.embed_dim, width)

    def _add_projections(self, projection: str, dim: int, width: int) -> None:
        seen = self.video_model.embed_dim if self.sees else width
        self.txt_proj = query_projection(projection, width, dim)
        if projection == "minimal":
            if self.sees:
                self.vid_proj: nn.Module = nn.Sequential(nn.Linear(seen, dim))
            if self.reads:
                self.fusion_proj: nn.Module = nn.Sequential(nn.ReLU(), nn.Linear(width, dim))
            return
        if self.video_key == "video" and seen != width:
            raise UserError(
                'arch.args.projection: "" needs video and text models of one width, '
                f'these have {seen} and {width}; use "minimal"'
            )
        self.vid_proj = self.fusion_proj = nn.Identity()
