"""FrozenInTime: the space-time ViT and the OCR branch, fused, beside a query encoder.

Paper: Wu et al., "A Large Cross-Modal Video Retrieval Dataset with Reading Comprehension",
arXiv 2305.03347, section 4; parameter names are those of its published weights.

Shapes: B videos, Q queries, U distinct words, L words of the longest video, S tokens of the fusion
layer, D width of the text models, E width of the common space (``projection_dim``).
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from base.base_model import ModelInput, RetrievalModel
from base.batch import Batch, Tokens, Words
from base.registry import ARCHITECTURES, FUSIONS, VIDEO_ENCODERS
from model.fusion import DEFAULT_FUSION
from model.initialization import (
    Part,
    TemporalFix,
    adapt_embeddings,
    load_initial_weights,
)
from model.params import TextParams, VideoParams
from model.space_time_vit import SpaceTimeTransformer
from model.text_encoder import encode_tokens, encode_words, get_text_encoder, load_text_model
from utils.errors import UserError

Modality = Literal["vision", "ocr"]
TRACK_SIZE = 12
NUM_TYPES = 3  # of tokens of the fusion layer: query token, video feature, word


for _name in ("FrozenInTime_v1", "FrozenInTime_v2"):
    ARCHITECTURES.refuse(
        _name, "its class is commented out in the published code; TextVR's model is "
        "FrozenInTime with arch.args.modalities"
    )  # fmt: skip


@ARCHITECTURES.register("FrozenInTime")
class FrozenInTime(RetrievalModel):
    """Embeds queries and videos in one space, by what a video shows, the text in it, or both.

    Args:
        video_params: Video encoder.
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
        fusion: Fusion layer, by its registered name.
        ocr_encoder_init: Weights that the OCR word encoder starts from: those that text_params
            names, which are drawn apart where nothing pretrained is loaded, or a copy of the query
            encoder's.
        type_embedding_std: Standard deviation of the start of the fusion layer's type embeddings;
            1 as published, 0.02 as in BERT.
        ocr_encoder_dropout: Training: draw the OCR word encoder's dropout once for each word of a
            batch, or for each occurrence of it, as published, which is encoded for itself.

    Raises:
        UserError: a model or its weights can't be had, or the parts do not fit together.
    """

    modalities_argument = "modalities"
    # The weights and the tokenizer say which text model it was.
    training_only = frozenset({
        "load_checkpoint", "load_parts", "ocr_encoder_grad", "ocr_encoder_dropout",
        "ocr_encoder_init", "type_embedding_std", "video_params.pretrained",
        "video_params.vit_init", "video_params.time_init", "video_params.attention_style",
        "video_params.loading", "text_params.pretrained", "text_params.model", "text_params.input",
    })  # fmt: skip
    start_only = frozenset({
        "load_checkpoint", "load_parts", "load_temporal_fix", "ocr_encoder_init",
        "type_embedding_std", "video_params.pretrained", "video_params.vit_init",
        "video_params.time_init", "text_params.pretrained",
    })  # fmt: skip

    branch_names: ClassVar[dict[str, str]] = {
        "text_model": "text", "txt_proj": "text",
        "video_model": "vision", "video_to_fusion": "vision", "vid_proj": "vision",
        "ocr_model": "ocr", "ocr_pos_embeds": "ocr",
        "fusion_model": "fusion", "fusion_proj": "fusion", "query_token": "fusion",
        "type_embedding": "fusion",
    }  # fmt: skip

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
        fusion: str = DEFAULT_FUSION,
        ocr_encoder_init: Literal["text_params", "query_encoder"] = "text_params",
        type_embedding_std: Annotated[float, Field(ge=0)] = 1.0,
        ocr_encoder_dropout: Literal["word", "occurrence"] = "word",
    ) -> None:
        for key, names in (("modalities", modalities), ("load_parts", load_parts or ())):
            if len(set(names)) < len(names):
                raise UserError(f"arch.args.{key}: {list(names)} names one twice")
        if load_parts and not load_checkpoint:
            raise UserError(
                "arch.args.load_parts: there is no checkpoint to take parts from; "
                "set arch.args.load_checkpoint, or leave load_parts out"
            )
        build_fusion, build_video = FUSIONS.get(fusion), VIDEO_ENCODERS.get(video_params.model)
        super().__init__()
        self.uses_vision, self.uses_ocr = "vision" in modalities, "ocr" in modalities
        self.fuses_modalities = self.uses_vision and self.uses_ocr
        self.video_key = "fusion" if self.uses_ocr else "video"
        self.temporal_fix = load_temporal_fix
        self.frozen_word_encoder = self.uses_ocr and not ocr_encoder_grad
        self.unimodal: tuple[str, ...] = ()  # modalities that are also embedded alone, in training
        # ocr_encoder_dropout is for the loader (describe_input), which lays out the words.

        self.text_model = load_text_model(text_params.model, text_params.pretrained)
        width = get_text_encoder(self.text_model).width
        if self.uses_ocr:
            self.ocr_model = load_text_model(text_params.model, text_params.pretrained)
            if ocr_encoder_init == "query_encoder":
                self.ocr_model.load_state_dict(self.text_model.state_dict())
            if self.frozen_word_encoder:
                self.ocr_model.eval()
            self.fusion_model = build_fusion(width, fusion_heads)
            self.query_token = nn.Parameter(torch.zeros(1, width))
            if self.uses_vision:
                self.type_embedding = nn.Embedding(NUM_TYPES, width)
                self.type_embedding.weight.data *= type_embedding_std
                self.ocr_pos_embeds = nn.Linear(TRACK_SIZE, width)
        if self.uses_vision:
            self.video_model = build_video(video_params)
            video_width = self.video_model.embed_dim
            same_width = video_width == width or not self.uses_ocr  # as in the published models
            self.video_to_fusion = nn.Identity() if same_width else nn.Linear(video_width, width)
        self._add_projections(projection, projection_dim, width)
        if load_checkpoint:
            load_initial_weights(self, load_checkpoint, load_parts)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embeddings: ``text`` (Q, E) and ``video`` and/or ``fusion`` (B, E)."""
        return {"text": self.embed_queries(batch.query)} | self.embed_videos(batch)

    def embed_queries(self, queries: Tokens) -> Tensor:
        """Return the embeddings (Q, E)."""
        return self.txt_proj(encode_tokens(self.text_model, queries))

    def encode_words(self, words: Tokens) -> Tensor:
        """Return the vectors (U, D) that the fusion layer is given of OCR words."""
        return encode_tokens(self.ocr_model, words)

    def embed_videos(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``video`` and/or ``fusion`` embeddings (B, E); of the words alone without frames.

        In training also those that ``request_unimodal_embeds`` asked for.
        """
        embeds, feature = {}, None
        if self.uses_vision and not (self.fuses_modalities and batch.video is None):
            feature = self.video_model(batch.video)  # (B, width of the video encoder)
            embeds["video"] = self.vid_proj(feature)
        if self.uses_ocr:
            tokens, mask = self._build_fusion_tokens(batch.words, feature)
            embeds["fusion"] = self._fuse_tokens(tokens, mask)
            if self.training and feature is not None:
                embeds |= {
                    f"only_{name}": self._fuse_tokens(tokens, _mask_all_but(name, mask))
                    for name in self.unimodal
                }
        return embeds

    def fuse(self, words: Words, feature: Tensor | None) -> Tensor:
        """Return the fused embeddings (B, E) of words and, where frames are used, clip features."""
        return self._fuse_tokens(*self._build_fusion_tokens(words, feature))

    def embed_videos_apart(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embedding (B, E) that queries are compared with, and each side's where fused.

        ``vision`` and ``ocr`` are fused embeddings where the fusion layer may not attend to the
        video feature, or to the words.
        """
        if not self.fuses_modalities:
            return {"whole": self.embed_videos(batch)[self.video_key]}
        return self._fuse_apart(*self._encode_fusion_tokens(batch))

    def attend_to_words(self, batch: Batch) -> Tensor | None:
        """Return the shares (B, S) of the fusion layer's ``attention``; None where it has none."""
        if not (self.uses_ocr and hasattr(self.fusion_model, "attention")):
            return None
        return self.fusion_model.attention(*self._encode_fusion_tokens(batch))

    def examine_fusion(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return ``embed_videos_apart`` and ``attend_to_words``, encoding the batch once."""
        tokens, mask = self._encode_fusion_tokens(batch)
        attention = getattr(self.fusion_model, "attention", None)
        return self._fuse_apart(tokens, mask), attention and attention(tokens, mask)

    @classmethod
    def describe_input(
        cls,
        video_params: VideoParams = VideoParams(),
        text_params: TextParams = TextParams(),
        modalities: tuple[Modality, ...] = ("vision", "ocr"),
        ocr_encoder_grad: bool = True,
        ocr_encoder_dropout: str = "word",
        **others: Any,
    ) -> ModelInput:
        """Return what a model with these arguments takes."""
        return ModelInput(
            modalities=modalities,
            tokenizer_name=text_params.model,
            frame_size=video_params.input_res,
            max_frames=video_params.num_frames,
            # A frozen word encoder drops nothing out.
            repeat_words=ocr_encoder_dropout == "occurrence" and ocr_encoder_grad,
        )

    @classmethod
    def inference_settings(cls, **arguments: Any) -> dict[str, Any]:
        """Return the settings that change the forward pass, where they differ from defaults."""
        settings = super().inference_settings(**arguments)
        video = arguments.get("video_params", VideoParams())
        if video.input_res == VideoParams(arch_config=video.arch_config).input_res:
            settings.pop("video_params.input_res", None)  # arch_config says it
        return settings

    @classmethod
    def build_query_encoder(
        cls,
        text_folder: Path | None = None,
        text_params: TextParams = TextParams(),
        projection: str = "minimal",
        projection_dim: int = 256,
        **others: Any,
    ) -> "QueryEncoder":
        """Return the module that embeds queries, of a model with these arguments."""
        name = text_params.model if text_folder is None else str(text_folder)
        return QueryEncoder(name, projection, projection_dim)

    def adapt_weights(
        self, weights: dict[str, Tensor], source: str | Path = "the checkpoint"
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Fit the ViT's embeddings of other numbers of frames and of patches."""
        if not isinstance(getattr(self, "video_model", None), SpaceTimeTransformer):
            return weights, []
        shapes = {name: value.shape for name, value in self.state_dict().items()}
        return adapt_embeddings(weights, shapes, self.temporal_fix, source)

    def parameters_without_gradient(self) -> list[nn.Parameter]:
        """Return the weights of ``video`` beside ``fusion``, of unused poolers and frozen words.

        With these frozen, DistributedDataParallel needs no ``find_unused_parameters``, which
        searches the graph in every step.
        """
        unused = [self.vid_proj] if self.fuses_modalities else []
        unused += [self.ocr_model] if self.frozen_word_encoder else []
        for text_model in self._text_models():
            unused += get_text_encoder(text_model).find_unused_parts().values()
        return [weight for part in unused for weight in part.parameters()]

    def train(self, mode: bool = True) -> Self:
        """Choose training or evaluation; a frozen word encoder drops nothing out."""
        super().train(mode)
        if self.frozen_word_encoder:
            self.ocr_model.eval()
        return self

    def list_blocks(self) -> list[nn.Module]:
        """Return the video encoder's, where it has ``list_blocks``."""
        has_blocks = self.uses_vision and hasattr(self.video_model, "list_blocks")
        return self.video_model.list_blocks() if has_blocks else []

    def recompute_activations(self) -> None:
        """Recompute the video encoder's blocks and the text models' layers in the backward pass."""
        if self.uses_vision:
            if not hasattr(self.video_model, "recompute_activations"):
                raise UserError(
                    "trainer.activation_checkpointing: the video encoder "
                    f"{type(self.video_model).__name__} has none; set it to false"
                )
            self.video_model.recompute_activations()
        for text_model in self._text_models():
            get_text_encoder(text_model).recompute_activations()

    def compile_encoders(self, backend: str | Callable = "inductor") -> None:
        """Compile the video encoder: block by block where it has ``compile_blocks``, else whole.

        The text models stay as they are: compiled, they were no faster.
        """
        if not self.uses_vision:
            return
        if hasattr(self.video_model, "compile_blocks"):
            self.video_model.compile_blocks(backend)
        else:
            self.video_model.compile(backend=backend)

    def request_unimodal_embeds(self, modalities: Collection[str]) -> None:
        """Let ``forward`` return ``only_vision`` and ``only_ocr`` in training.

        They are fused embeddings where the fusion layer may attend to one modality alone. A model
        of one modality has none beside its own.
        """
        self.unimodal = tuple(modalities) if self.fuses_modalities else ()

    def _encode_fusion_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        feature = self.video_model(batch.video) if self.uses_vision else None
        return self._build_fusion_tokens(batch.words, feature)

    def _fuse_apart(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return the fused embeddings (B, E), ``whole`` and without each modality."""
        without = {"vision": _mask_all_but("ocr", mask), "ocr": _mask_all_but("vision", mask)}
        masks = {"whole": mask} | without
        return {name: self._fuse_tokens(tokens, part) for name, part in masks.items()}

    def _fuse_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the embeddings (B, E) of what ``_build_fusion_tokens`` gives."""
        return self.fusion_proj(self.fusion_model(tokens, mask) + self.query_token)

    def _text_models(self) -> list[nn.Module]:
        return [self.text_model, self.ocr_model] if self.uses_ocr else [self.text_model]

    def _build_fusion_tokens(self, words: Words, feature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (B, S, D), query token, video feature if any, words; and their mask (B, S)."""
        vectors = words.vectors  # (U, D)
        if vectors is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_word_encoder):
                vectors = encode_words(self.ocr_model, words)
        word_tokens = F.embedding(words.index, vectors)  # (B, L, D)
        tokens = [self.query_token.expand(len(words.index), 1, -1), word_tokens]
        if self.uses_vision:
            tokens[1] = word_tokens + self.ocr_pos_embeds(words.tracks)
        if feature is not None:
            tokens.insert(1, self.video_to_fusion(feature)[:, None])
        always = words.mask.new_ones(len(words.mask), len(tokens) - 1)
        tokens, mask = torch.cat(tokens, dim=1), torch.cat((always, words.mask), dim=1)
        if self.uses_vision:
            # Without an index of types, which would be written number by number, each time waiting
            # until the GPU has encoded the clips.
            query, video, word = self.type_embedding.weight.split(1)
            first = (query,) if feature is None else (query, video)
            word = word.expand(tokens.shape[1] - len(first), -1)
            tokens = tokens + torch.cat((*first, word))
        return tokens, mask

    def _add_projections(self, projection: str, dim: int, width: int) -> None:
        video_width = self.video_model.embed_dim if self.uses_vision else width
        self.txt_proj = _build_query_projection(projection, width, dim)
        if projection == "minimal":
            if self.uses_vision:
                self.vid_proj: nn.Module = nn.Sequential(nn.Linear(video_width, dim))
            if self.uses_ocr:
                self.fusion_proj: nn.Module = nn.Sequential(nn.ReLU(), nn.Linear(width, dim))
            return
        if self.video_key == "video" and video_width != width:
            raise UserError(
                'arch.args.projection: "" needs video and text models of one width, '
                f'these have {video_width} and {width}; use "minimal"'
            )
        self.vid_proj = self.fusion_proj = nn.Identity()


def _mask_all_but(modality: str, mask: Tensor) -> Tensor:
    """Return a fusion's mask (B, S) that hides the words, or the video feature, too."""
    alone = mask.clone()
    alone[:, 2:] &= modality == "ocr"
    alone[:, 1] &= modality == "vision"
    return alone


def _build_query_projection(projection: str, width: int, dim: int) -> nn.Module:
    """The layers from the text model's width into the common space."""
    if projection == "minimal":
        return nn.Sequential(nn.ReLU(), nn.Linear(width, dim))
    return nn.Identity()


class QueryEncoder(nn.Module):
    """The side of a FrozenInTime that embeds queries, under the same names of weights."""

    def __init__(self, text_model: str, projection: str, projection_dim: int) -> None:
        super().__init__()
        self.text_model = load_text_model(text_model, pretrained=False)  # by its name or folder
        width = get_text_encoder(self.text_model).width
        self.txt_proj = _build_query_projection(projection, width, projection_dim)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the embeddings of queries, (Q, E)."""
        return self.txt_proj(encode_tokens(self.text_model, tokens))

    def save_text_config(self, folder: Path) -> None:
        """Write the text model's ``config.json``, so that ``folder`` names the text model."""
        self.text_model.config.save_pretrained(folder)
