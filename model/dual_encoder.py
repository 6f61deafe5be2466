"""DualEncoder: a pretrained image-text tower, fused with the text that can be read in a video.

Untrained it is the tower's own zero-shot retrieval: the mean of the frames' vectors beside the
query's. OCR words join it by TextVR's fusion layer (arXiv 2305.03347, section 4), whose output is
added through a gate that starts at zero, or replaces the frames' vector as in the paper. Temporal
head and recipe: CLIP4Clip (arXiv 2104.08860).

Shapes: B videos, F frames, Q queries, U distinct words, L words of the longest video, S tokens of
the fusion layer, E width of the tower's common space, R side of a frame.
"""

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from base.base_model import ModelInput, RetrievalModel
from base.batch import Batch, Tokens, Words
from base.config import ConfigModel
from base.registry import ARCHITECTURES, FUSIONS
from model.adapters import (
    LoraParams,
    add_adapters,
    freeze_parameters,
    has_adapters,
    merge_adapter_weights,
    merge_adapters,
    name_as_adapted,
)
from model.fusion import DEFAULT_FUSION
from model.initialization import load_initial_weights
from model.text_encoder import encode_words, get_text_encoder, load_text_model
from model.towers import OPEN_CLIP, Tower, describe_tower, load_text_side, load_tower
from utils.errors import UserError

Modality = Literal["vision", "ocr"]
DEFAULT_TOWER = "openai/clip-vit-base-patch32"
TOWER_ENCODER = "tower"  # as ocr.encoder: the tower's own text side
TRACK_SIZE = 12
NUM_TYPES = 3  # of tokens of the fusion layer: query token, video feature, word
HEAD_WIDTH = 64


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class TemporalParams(ConfigModel):
    """How the vectors of a clip's frames become one."""

    head: Literal["mean", "transformer"] = Field(
        "mean",
        description="mean: of the frames' unit vectors; transformer: CLIP4Clip's seqTransf, layers "
        "over the frames whose output is added to them before the mean, zero at the start.",
    )
    layers: int = Field(4, ge=1, description="transformer: number of layers.")
    max_frames: int = Field(64, ge=1, description="transformer: longest clip, in frames.")


class OcrBranch(ConfigModel):
    """How OCR words are encoded and fused; ``"caption"`` in its place sets ``input`` alone."""

    input: Literal["words", "caption"] = Field(
        "words",
        description="words: each distinct word of a batch is encoded once; caption: all words of a "
        "window are one text, by their scores, cut to what the encoder takes.",
    )
    encoder: str = Field(
        TOWER_ENCODER,
        description="tower: the tower's own text encoder, shared with queries; or the Hugging Face "
        "name or folder of a text model of the words' own, such as distilbert-base-uncased.",
    )
    pretrained: bool = Field(True, description="Load the weights of an encoder of its own.")
    residual: bool = Field(
        True,
        description="Add the fusion layer's output to the frames' vector through a gate that "
        "starts at zero, so that untrained it is the tower's own; false: the layer's output "
        "alone, as in TextVR, which needs training.",
    )

    @model_validator(mode="before")
    @classmethod
    def _input_alone(cls, value: Any) -> Any:
        return {"input": value} if isinstance(value, str) else value


@ARCHITECTURES.register("DualEncoder")
class DualEncoder(RetrievalModel):
    """Embeds queries, frames and OCR words by a pretrained image-text tower.

    Args:
        tower: Hugging Face name or folder (CLIP, SigLIP, SigLIP 2, MetaCLIP 2, VideoPrism), or
            open_clip:NAME[/TAG] or open_clip:FOLDER (PE-Core and others; needs open_clip_torch).
        pretrained: Load the tower's weights; false: freshly initialised from its configuration.
        modalities: What of a video is used.
        freeze: Weights of the tower that stay as they are: all, none, or patterns of their names.
        lora: Low-rank adapters of the tower, trained in place of the weights that they adapt.
        temporal: How frames become one vector; a tower that takes videos has its own way.
        frames_at_once: Frames that go through the tower at a time; null: all of a batch. Without
            gradients it saves memory; in training that takes trainer.activation_checkpointing.
        fusion: Fusion layer, by its registered name.
        fusion_heads: Heads of the fusion layer; null: one for 64 channels.
        ocr: Encoder and fusion of OCR words.
        prompt: What a query is put into, where {} stands; null: the tower's, which is {}.
        load_checkpoint: Checkpoint to start from; its weights must fit exactly, adapters excepted,
            which are merged or start fresh.

    Raises:
        UserError: the tower or its weights can't be had, or the parts do not fit together.
    """

    modalities_argument = "modalities"
    # The weights say which tower it was, and the transforms how its frames were prepared.
    training_only = frozenset({
        "tower", "pretrained", "freeze", "lora", "frames_at_once", "load_checkpoint",
        "ocr.encoder", "ocr.pretrained",
    })  # fmt: skip
    start_only = frozenset({"load_checkpoint", "pretrained", "ocr.pretrained"})
    branch_names: ClassVar[dict[str, str]] = {
        "temporal": "vision", "ocr_model": "ocr", "ocr_proj": "ocr", "ocr_pos_embeds": "ocr",
        "fusion_model": "fusion", "fusion_proj": "fusion", "gate": "fusion",
        "query_token": "fusion", "type_embedding": "fusion",
    }  # fmt: skip

    def __init__(
        self,
        tower: str = DEFAULT_TOWER,
        pretrained: bool = True,
        modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] = ("vision", "ocr"),
        freeze: Annotated[str | tuple[str, ...], BeforeValidator(_as_tuple)] = "none",
        lora: LoraParams | None = None,
        temporal: TemporalParams = TemporalParams(),
        frames_at_once: Annotated[int, Field(ge=1)] | None = None,
        fusion: str = DEFAULT_FUSION,
        fusion_heads: Annotated[int, Field(ge=1)] | None = None,
        ocr: OcrBranch = OcrBranch(),
        prompt: Annotated[str, Field(pattern=r"\{\}")] | None = None,
        load_checkpoint: str | None = "",
    ) -> None:
        super().__init__()
        if len(set(modalities)) < len(modalities):
            raise UserError(f"arch.args.modalities: {list(modalities)} names one twice")
        build_fusion = FUSIONS.get(fusion)
        self.uses_vision, self.uses_ocr = "vision" in modalities, "ocr" in modalities
        self.fuses_modalities = self.uses_vision and self.uses_ocr
        self.video_key = "fusion" if self.uses_ocr else "video"
        self.residual = ocr.residual
        self.frames_at_once = frames_at_once
        self.unimodal: tuple[str, ...] = ()  # modalities that are also embedded alone, in training

        self.tower = load_tower(tower, pretrained)
        if pretrained:
            self.initial_scale, self.initial_bias = (
                self.tower.initial_scale, self.tower.initial_bias,
            )  # fmt: skip
        if not self.uses_vision:
            self.tower.drop_vision()
        if freeze != "none":
            freeze_parameters(self.tower.model, freeze)
        if lora is not None:
            add_adapters(self.tower.model, lora)
        # A fusion layer's output alone is not where the frames are.
        has_frames = self.uses_vision and not self.tower.takes_videos
        self.embeds_frames = has_frames and (self.residual or not self.uses_ocr)
        width = self.tower.embed_dim
        if self.uses_vision and temporal.head == "transformer":
            if self.tower.takes_videos:
                raise UserError(
                    f'arch.args.temporal.head: {tower} encodes a clip as a whole; use "mean"'
                )
            self.temporal = TemporalTransformer(width, temporal.layers, temporal.max_frames)
        if self.uses_ocr:
            self._add_ocr_branch(ocr, build_fusion, fusion_heads or max(1, width // HEAD_WIDTH))
        self.frozen_word_encoder = self.uses_ocr and not any(
            weight.requires_grad for weight in self._list_word_parameters()
        )
        if load_checkpoint:
            load_initial_weights(self, load_checkpoint)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embeddings: ``text`` (Q, E) and ``video`` and/or ``fusion`` (B, E)."""
        return {"text": self.embed_queries(batch.query)} | self.embed_videos(batch)

    def embed_queries(self, queries: Tokens) -> Tensor:
        """Return the embeddings (Q, E)."""
        return encode_texts(self.tower, queries)

    def encode_words(self, words: Tokens) -> Tensor:
        """Return the vectors (U, E) that the fusion layer is given of OCR words, of length 1."""
        if not hasattr(self, "ocr_model"):
            return F.normalize(encode_texts(self.tower, words), dim=-1)
        encoder = get_text_encoder(self.ocr_model)
        if not len(words.input_ids):
            return self.ocr_proj.weight.new_zeros(0, len(self.ocr_proj.weight))
        vectors = encoder.pool(words.input_ids, words.attention_mask)
        return F.normalize(self.ocr_proj(vectors), dim=-1)

    def embed_videos(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``video`` and/or ``fusion`` embeddings (B, E); of the words alone without frames.

        In training also those that ``request_unimodal_embeds`` asked for.
        """
        feature = self._embed_clips(batch)
        embeds = {} if feature is None else {"video": feature}
        if self.uses_ocr:
            vectors = self._encode_distinct_words(batch.words)
            embeds["fusion"] = self._fuse(vectors, batch.words, feature)
            if self.training and feature is not None:
                parts = self._fuse_parts(vectors, batch.words, feature)
                embeds |= {f"only_{name}": parts[name] for name in self.unimodal}
        return embeds

    def embed_frames(self, batch: Batch) -> Tensor:
        """Return the embedding (B, F, E) of each frame, of length 1; raises ``UserError``."""
        if not self.embeds_frames:
            return super().embed_frames(batch)
        return self._encode_frames(batch)

    def embed_videos_apart(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embedding (B, E) that queries are compared with, and each side's where fused.

        ``vision`` and ``ocr`` are fused embeddings of the words alone, and of the frames alone.
        """
        if not self.fuses_modalities:
            return {"whole": self.embed_videos(batch)[self.video_key]}
        return self._fuse_apart(batch, *self._encode_sides(batch))

    def embed_videos_and_frames(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Return ``embed_videos_apart`` and ``embed_frames``, encoding the frames once."""
        frames = self.embed_frames(batch)
        feature = _pool_frames(frames, batch)
        if not self.fuses_modalities:
            return {"whole": feature}, frames
        vectors = self._encode_distinct_words(batch.words)
        return self._fuse_apart(batch, vectors, feature), frames

    def attend_to_words(self, batch: Batch) -> Tensor | None:
        """Return the shares (B, S) of the fusion layer's ``attention``; None where it has none."""
        if not (self.uses_ocr and hasattr(self.fusion_model, "attention")):
            return None
        return self._attend(batch, *self._encode_sides(batch))

    def examine_fusion(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return ``embed_videos_apart`` and ``attend_to_words``, encoding the batch once."""
        sides = self._encode_sides(batch)
        has_attention = hasattr(self.fusion_model, "attention")
        attention = self._attend(batch, *sides) if has_attention else None
        return self._fuse_apart(batch, *sides), attention

    def merge_adapters(self) -> None:
        """Add low-rank adapters to the weights that they adapt."""
        merge_adapters(self.tower)

    @classmethod
    def describe_input(
        cls,
        tower: str = DEFAULT_TOWER,
        modalities: tuple[Modality, ...] = ("vision", "ocr"),
        temporal: TemporalParams = TemporalParams(),
        ocr: OcrBranch = OcrBranch(),
        prompt: str | None = None,
        **others: Any,
    ) -> ModelInput:
        """Return what a model with these arguments takes; raises ``UserError``."""
        taken = describe_tower(tower)
        limit = temporal.max_frames if temporal.head == "transformer" else None  # else any number
        return ModelInput(
            modalities=modalities,
            tokenizer_name=tower,
            frame_size=taken.frame_size,
            max_frames=limit,
            mean=taken.mean,
            std=taken.std,
            resize=taken.resize,
            interpolation=taken.interpolation,
            lowercase=taken.lowercase,
            prompt=prompt or "{}",
            joins_words=ocr.input == "caption",
            word_tokenizer_name=None if ocr.encoder == TOWER_ENCODER else ocr.encoder,
            max_tokens=taken.max_tokens,
        )

    @classmethod
    def without_initial_weights(cls, **arguments: Any) -> dict[str, Any]:
        """Return the arguments with everything pretrained turned off."""
        off = {"pretrained": False, "load_checkpoint": ""}
        if "ocr" in arguments:
            off["ocr"] = arguments["ocr"].model_copy(update={"pretrained": False})
        return arguments | off

    @classmethod
    def is_usable_untrained(
        cls,
        pretrained: bool = True,
        modalities: tuple[Modality, ...] = ("vision", "ocr"),
        ocr: OcrBranch = OcrBranch(),
        **others: Any,
    ) -> bool:
        """Say whether the model is zero-shot retrieval: pretrained, its fusion a residual."""
        return pretrained and ("ocr" not in modalities or ocr.residual)

    @classmethod
    def build_query_encoder(
        cls, text_folder: Path | None = None, tower: str = DEFAULT_TOWER, **others: Any
    ) -> "QueryEncoder":
        """Return the module that embeds queries, of a model with these arguments."""
        return QueryEncoder(tower, text_folder)

    def adapt_weights(
        self, weights: dict[str, Tensor], source: str | Path = "the checkpoint"
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Merge adapters that this model does not have; give plain weights fresh adapters."""
        own = self.state_dict()
        if has_adapters(weights) and not has_adapters(own):
            return merge_adapter_weights(weights), ["its low-rank adapters were merged"]
        if has_adapters(own) and not has_adapters(weights):
            return name_as_adapted(weights, own), ["low-rank adapters start fresh"]
        return weights, []

    def list_branches(self) -> dict[str, list[nn.Parameter]]:
        """Return the trained parameters by branch, the tower's by its side."""
        branches = super().list_branches()
        texts = set(map(id, self.tower.list_text_parameters()))
        for weight in branches.pop("tower", []):
            branches.setdefault("text" if id(weight) in texts else "vision", []).append(weight)
        return branches

    def parameters_without_gradient(self) -> list[nn.Parameter]:
        """Return the unused parts of an OCR encoder of its own, and what stays as it is."""
        unused = [weight for weight in self.tower.parameters() if not weight.requires_grad]
        if hasattr(self, "ocr_model"):
            for part in get_text_encoder(self.ocr_model).find_unused_parts().values():
                unused += part.parameters()
        return unused

    def train(self, mode: bool = True) -> Self:
        """Choose training or evaluation; a tower that is not trained drops nothing out."""
        super().train(mode)
        if not any(weight.requires_grad for weight in self.tower.parameters()):
            self.tower.eval()
        return self

    def request_unimodal_embeds(self, modalities: Collection[str]) -> None:
        """Let ``forward`` return ``only_vision`` and ``only_ocr`` in training."""
        self.unimodal = tuple(modalities) if self.fuses_modalities else ()

    def list_blocks(self) -> list[nn.Module]:
        """Return the layers of the tower's sides that run once for a batch.

        Not those for which clips or frames go through the tower in several parts, and not those of
        the text side where it encodes OCR words, too, which it does one length after another.
        """
        blocks: list[nn.Module] = []
        if self.uses_vision and not self.tower.takes_videos and self.frames_at_once is None:
            blocks += self.tower.list_vision_blocks()
        if not self.uses_ocr or hasattr(self, "ocr_model"):
            blocks += self.tower.list_text_blocks()
        return blocks

    def recompute_activations(self) -> None:
        """Recompute the layers of the tower, and of an OCR encoder, in the backward pass."""
        self.tower.recompute_activations()
        if hasattr(self, "ocr_model"):
            get_text_encoder(self.ocr_model).recompute_activations()

    def compile_encoders(self, backend: str | Callable = "inductor") -> None:
        """Compile the tower's vision encoder; its weights' names stay as they are."""
        if self.uses_vision:
            self.tower.compile_vision(backend)

    def _add_ocr_branch(self, ocr: OcrBranch, build_fusion: Callable, heads: int) -> None:
        width = self.tower.embed_dim
        if ocr.encoder != TOWER_ENCODER:
            self.ocr_model = load_text_model(ocr.encoder, ocr.pretrained)
            self.ocr_proj = nn.Linear(get_text_encoder(self.ocr_model).width, width)
        self.fusion_model = build_fusion(width, heads)
        self.query_token = nn.Parameter(torch.zeros(1, width))
        self.type_embedding = nn.Parameter(0.02 * torch.randn(NUM_TYPES, width))
        self.ocr_pos_embeds = nn.Linear(TRACK_SIZE, width)
        if self.residual:
            self.gate = GatedResidual(width)
        else:
            self.fusion_proj = nn.Sequential(nn.ReLU(), nn.Linear(width, width))

    def _list_word_parameters(self) -> list[nn.Parameter]:
        if hasattr(self, "ocr_model"):
            return [*self.ocr_model.parameters(), *self.ocr_proj.parameters()]
        return self.tower.list_text_parameters()

    def _embed_clips(self, batch: Batch) -> Tensor | None:
        """Return the clips' vectors (B, E) of length 1; None without frames."""
        if not self.uses_vision or (self.fuses_modalities and batch.video is None):
            return None
        if self.tower.takes_videos:
            return F.normalize(self._encode_clips(batch), dim=-1)
        return _pool_frames(self._encode_frames(batch), batch)

    def _encode_clips(self, batch: Batch) -> Tensor:
        """Return the vectors (B, E) that a tower of videos gives, without padding."""
        lengths = _mask_frames(batch).sum(1).tolist()
        clips: dict[int, Tensor] = {}
        for length in sorted(set(lengths)):
            rows = [row for row, found in enumerate(lengths) if found == length]
            encoded = self.tower.encode_videos(batch.video[rows, :length])
            clips |= dict(zip(rows, encoded, strict=True))
        return torch.stack([clips[row] for row in range(len(lengths))])

    def _encode_frames(self, batch: Batch) -> Tensor:
        """Return the frames' vectors (B, F, E) of length 1, through the temporal head."""
        images = batch.video.flatten(0, 1)  # (B*F, 3, R, R)
        parts = images.split(self.frames_at_once or len(images))
        encoded = torch.cat([self.tower.encode_images(part) for part in parts])
        frames = F.normalize(encoded, dim=-1).unflatten(0, batch.video.shape[:2])
        if hasattr(self, "temporal"):
            frames = F.normalize(self.temporal(frames, _mask_frames(batch)), dim=-1)
        return frames

    def _encode_distinct_words(self, words: Words) -> Tensor:
        """Return the vectors (U, E) of length 1."""
        if words.vectors is not None:
            return words.vectors
        if hasattr(self, "ocr_model"):
            return F.normalize(self.ocr_proj(encode_words(self.ocr_model, words)), dim=-1)
        return F.normalize(self.tower.encode_words(words), dim=-1)

    def _encode_sides(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return self._encode_distinct_words(batch.words), self._embed_clips(batch)

    def _fuse(
        self, vectors: Tensor, words: Words, feature: Tensor | None, hides_words: bool = False
    ) -> Tensor:
        """Return the fused embeddings (B, E) of words' vectors (U, E) and clips' (B, E), if any."""
        tokens, mask = self._build_tokens(vectors, words, feature, hides_words)
        pooled = self.fusion_model(tokens, mask) + self.query_token
        if not self.residual:
            return self.fusion_proj(pooled)
        if feature is None:  # the mean of the words
            shown = F.embedding(words.index, vectors) * words.mask[..., None].to(vectors)
            feature = F.normalize(shown.sum(1), dim=-1)
        return self.gate(feature, pooled)

    def _fuse_parts(self, vectors: Tensor, words: Words, feature: Tensor) -> dict[str, Tensor]:
        """Return the fused embeddings (B, E) of each modality alone."""
        return {
            "vision": self._fuse(vectors, words, feature, hides_words=True),
            "ocr": self._fuse(vectors, words, None),
        }

    def _fuse_apart(self, batch: Batch, vectors: Tensor, feature: Tensor) -> dict[str, Tensor]:
        """Return the fused embeddings (B, E), ``whole`` and without each modality."""
        alone = self._fuse_parts(vectors, batch.words, feature)
        whole = self._fuse(vectors, batch.words, feature)
        return {"whole": whole, "vision": alone["ocr"], "ocr": alone["vision"]}

    def _attend(self, batch: Batch, vectors: Tensor, feature: Tensor | None) -> Tensor:
        return self.fusion_model.attention(*self._build_tokens(vectors, batch.words, feature))

    def _build_tokens(
        self, vectors: Tensor, words: Words, feature: Tensor | None, hides_words: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, S, E), query token, video feature if any, words; and their mask (B, S)."""
        # Channels of vectors of length 1 are small beside those of embeddings.
        scale = math.sqrt(vectors.shape[-1])
        query, video, word = self.type_embedding.unbind()
        shown = F.embedding(words.index, vectors) * scale  # (B, L, E)
        tokens = [
            (self.query_token + query).expand(len(shown), 1, -1),
            shown + self.ocr_pos_embeds(words.tracks) + word,
        ]
        if feature is not None:
            tokens.insert(1, (feature * scale + video)[:, None])
        always = words.mask.new_ones(len(words.mask), len(tokens) - 1)
        seen = words.mask & False if hides_words else words.mask
        return torch.cat(tokens, dim=1), torch.cat((always, seen), dim=1)


class GatedResidual(nn.Module):
    """Adds what the fusion layer found to a vector, as much as a gate lets through.

    The gate looks at both, so that a video whose text says nothing can keep its vector. The layer
    behind it starts at zero: untrained, the vector stays what it is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.open = nn.Linear(2 * width, 1)
        self.proj = nn.Linear(width, width)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, vector: Tensor, found: Tensor) -> Tensor:
        """(B, E) of length 1, (B, E) -> (B, E)."""
        scaled = vector * math.sqrt(vector.shape[-1])
        gate = self.open(torch.cat((scaled, found), dim=-1)).sigmoid()  # (B, 1)
        return vector + gate * self.proj(found)


class TemporalTransformer(nn.Module):
    """CLIP4Clip's seqTransf: layers over the frames, whose output is added to the frames.

    Positions and the last layer of each branch start at zero: untrained, the frames' directions
    stay as they are.
    """

    def __init__(self, width: int, layers: int, max_frames: int) -> None:
        super().__init__()
        heads = max(1, width // HEAD_WIDTH)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.positions = nn.Parameter(torch.zeros(max_frames, width))
        for part in self.layers.layers:
            for last in (part.self_attn.out_proj, part.linear2):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, F, E) of length 1, and (B, F), False on padding -> (B, F, E)."""
        tokens = frames * math.sqrt(frames.shape[-1])
        moved = self.layers(tokens + self.positions[: tokens.shape[1]], src_key_padding_mask=~mask)
        return tokens + moved


def encode_texts(tower: Tower, tokens: Tokens) -> Tensor:
    """Return one vector a text, (N, E); N may be 0."""
    if not len(tokens.input_ids):
        weight = next(tower.parameters())
        return weight.new_zeros(0, tower.embed_dim)
    return tower.encode_texts(tokens.input_ids, tokens.attention_mask)


def _pool_frames(frames: Tensor, batch: Batch) -> Tensor:
    """Return the clips' vectors (B, E) of length 1 by those of their frames (B, F, E)."""
    real = _mask_frames(batch)[..., None].to(frames)
    # A sum in place of the mean: the length is made 1 anyway.
    return F.normalize((frames * real).sum(1), dim=-1)


def _mask_frames(batch: Batch) -> Tensor:
    """Return which frames (B, F) of a batch are no padding; all where it does not say."""
    number, frames = batch.video.shape[:2]
    if batch.num_frames is None:
        return torch.ones(number, frames, dtype=torch.bool, device=batch.video.device)
    places = torch.arange(frames, device=batch.video.device)
    return places < batch.num_frames.to(batch.video.device)[:, None]


class QueryEncoder(nn.Module):
    """The side of a DualEncoder that embeds queries, under the same names of weights."""

    def __init__(self, tower: str, text_folder: Path | None = None) -> None:
        super().__init__()
        self.tower = load_text_side(_name_folder(tower, text_folder))

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the embeddings of queries, (Q, E)."""
        return encode_texts(self.tower, tokens)

    def save_text_config(self, folder: Path) -> None:
        """Write the tower's configuration, so that ``folder`` names it."""
        self.tower.save_text_config(folder)


def _name_folder(tower: str, folder: Path | None) -> str:
    """Return the name by which a tower whose files are in ``folder`` is loaded."""
    if folder is None:
        return tower
    return f"{OPEN_CLIP}{folder}" if tower.startswith(OPEN_CLIP) else str(folder)
