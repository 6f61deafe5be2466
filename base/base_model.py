"""The contract of a model: what training, evaluation, search and the data loader ask of it."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel
from torch import Tensor, nn

from base.batch import Batch, TokenIds, Tokens
from base.config import Block
from base.registry import ARCHITECTURES
from utils.errors import UserError

_MISSING = (
    "{} can't be evaluated: it has no {}, by which evaluation encodes each text of a data set once "
    "(base/base_model.py); give the architecture this method beside forward"
)


@dataclass(frozen=True)
class ModelInput:
    """What a model takes, known from its arguments before it is built.

    Attributes:
        modalities: what of a video is used: ``vision``, ``ocr`` or both.
        tokenizer_name: Hugging Face name or folder of the tokenizer of queries and words.
        frame_size: side of a frame, pixels; None: any.
        max_frames: frames of the longest clip; None: any.
        mean: of each colour channel of frames in [0, 1], where the model needs its own; None: the
            data set's.
        std: likewise.
        resize: how the model's frames get their size: ``square`` (both sides are stretched to
            ``frame_size``) or ``shorter_side`` (the shorter side is, then the centre is cut out);
            None: as the configuration's transforms do.
        interpolation: of that resizing, which is then antialiased; None: as the transforms do.
        lowercase: whether queries are lower-cased, as in the published system.
        prompt: what a query is put into, where ``{}`` stands; OCR words are not.
        joins_words: whether the words of a video, by their scores, are one text for the model.
        word_tokenizer_name: of the tokenizer of OCR words, where it is another one.
        max_tokens: most tokens of a text, where the tokenizer's own limit is not the model's.
        repeat_words: whether training encodes an OCR word as often as a batch shows it, so that
            dropout is drawn for each place, and not once for a batch.
    """

    modalities: tuple[str, ...]
    tokenizer_name: str
    frame_size: int | None = None
    max_frames: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: Literal["square", "shorter_side"] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    lowercase: bool = True
    prompt: str = "{}"
    joins_words: bool = False
    word_tokenizer_name: str | None = None
    max_tokens: int | None = None
    repeat_words: bool = False

    @property
    def uses_vision(self) -> bool:
        """Whether the model is given frames."""
        return "vision" in self.modalities

    @property
    def uses_ocr(self) -> bool:
        """Whether the model is given OCR words."""
        return "ocr" in self.modalities


class RetrievalModel(nn.Module, ABC):
    """A model that embeds queries and videos in one space.

    ``forward`` returns a dict of embeddings: ``"text"`` (Q, D) for the queries and, of the same
    width, ``"video"`` and/or ``"fusion"`` (B, D). ``video_key`` names the one that queries are
    compared with. Training needs ``forward``; evaluation, which encodes each text of a data set
    once, needs its parts: ``embed_queries``, ``embed_videos`` and, where it reads OCR words,
    ``encode_words``.

    Nothing outside the model's module knows the names of its arguments: what others want to know is
    asked by the class methods here, which take the arguments of the configuration.

    Attributes:
        video_key: see above.
        fuses_modalities: whether ``video_key``'s embeddings are made of frames and words; then
            ``embed_videos_apart`` has both, and a training batch may come without frames.
        has_weights: whether there is anything to train, and so a checkpoint to test.
        frozen_word_encoder: whether training leaves the word encoder as it is, so that a word's
            vector holds for the whole run.
        modalities_argument: the argument that says what of a video is used, where there is one; a
            configuration without it means what its data sets are published for.
        training_only: arguments that don't change the forward pass of a model with given weights;
            those of nested objects with a dot.
        start_only: arguments that say no more than what a new run's weights start from; those of
            nested objects with a dot.
        branch_names: module of the model -> name of the branch that it belongs to.
        embeds_frames: whether ``embed_frames`` has a vector for each frame of a clip.
        initial_scale: factor of cosines that the model's pretraining ended with, from which a loss
            with a learned temperature may start; None: not known.
        initial_bias: likewise, what is added to the scaled cosines.
    """

    video_key: str
    fuses_modalities: bool = False
    has_weights: ClassVar[bool] = True
    frozen_word_encoder: bool = False
    modalities_argument: ClassVar[str | None] = None
    training_only: ClassVar[frozenset[str]] = frozenset()
    start_only: ClassVar[frozenset[str]] = frozenset({"load_checkpoint", "load_parts"})
    branch_names: ClassVar[dict[str, str]] = {}
    embeds_frames: bool = False
    initial_scale: float | None = None
    initial_bias: float | None = None

    @classmethod
    @abstractmethod
    def describe_input(cls, **arguments: Any) -> ModelInput:
        """Return what a model with these arguments takes.

        Raises:
            UserError: the arguments do not fit together.
        """

    @classmethod
    def inference_settings(cls, **arguments: Any) -> dict[str, Any]:
        """Return the settings that change the forward pass, where they differ from their defaults.

        Embeddings depend on these and on the weights; what only training uses is left out
        (``training_only``). A new argument with a default changes nothing of what is returned.

        Returns:
            Argument, or ``argument.member`` of a nested object -> JSON value.
        """
        defaults = inspect.signature(cls).parameters
        found: dict[str, Any] = {}
        for name, value in arguments.items():
            if isinstance(value, BaseModel):
                members = value.model_dump(mode="json", exclude_defaults=True)
                found |= {f"{name}.{key}": member for key, member in members.items()}
            elif name not in defaults or value != defaults[name].default:
                found[name] = list(value) if isinstance(value, tuple) else value
        return {name: value for name, value in found.items() if name not in cls.training_only}

    @classmethod
    def without_initial_weights(cls, **arguments: Any) -> dict[str, Any]:
        """Return the arguments with everything pretrained turned off.

        For a model whose weights come from a checkpoint anyway, so that those of its start need not
        be there. An architecture whose arguments have other names overrides this.
        """
        off = {
            name: value.model_copy(update={"pretrained": False})
            for name, value in arguments.items()
            if hasattr(value, "pretrained")
        }
        checkpoint = {"load_checkpoint": "", "load_parts": None}
        return arguments | off | {key: v for key, v in checkpoint.items() if key in arguments}

    @classmethod
    def get_initial_checkpoint(cls, **arguments: Any) -> Path | None:
        """Return the checkpoint that all weights start from; None: they start otherwise.

        An architecture whose arguments have other names overrides this.

        Raises:
            UserError: the checkpoint gives a part of the weights only.
        """
        path = arguments.get("load_checkpoint")
        if path and arguments.get("load_parts"):
            raise UserError(
                f"arch.args.load_parts: of {path} only {', '.join(arguments['load_parts'])} would "
                "be taken, but a test needs all weights; leave it out, or give a checkpoint (-r)"
            )
        return Path(path) if path else None

    @classmethod
    def is_usable_untrained(cls, **arguments: Any) -> bool:
        """Say whether a model that starts from these arguments can be used as it is (zero-shot)."""
        return False

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Embed the queries and the videos of a batch."""

    def read_vocabulary(
        self, queries: Sequence[TokenIds], words: Sequence[TokenIds] | None
    ) -> None:
        """Take in the texts of the data set that is evaluated next; most models need none of it.

        Args:
            queries: the tokens of every caption.
            words: those of each distinct OCR word of all videos; None: the model reads none.
        """

    def embed_queries(self, queries: Tokens) -> Tensor:
        """Return what ``forward`` gives as ``text`` (N, D), N may be 0."""
        raise UserError(_MISSING.format(type(self).__name__, "embed_queries(tokens) -> (N, D)"))

    def embed_videos(self, batch: Batch) -> dict[str, Tensor]:
        """Return what ``forward`` gives but for ``text``, with ``words.vectors`` where given."""
        raise UserError(_MISSING.format(type(self).__name__, "embed_videos(batch) -> dict"))

    def encode_words(self, words: Tokens) -> Tensor:
        """Return a vector for each OCR word (N, any width), N may be 0: ``words.vectors``."""
        raise UserError(_MISSING.format(type(self).__name__, "encode_words(tokens) -> (N, width)"))

    def embed_videos_apart(self, batch: Batch) -> dict[str, Tensor]:
        """Embed the videos of a batch for a search index.

        Returns:
            ``whole``: the embeddings (B, D) that queries are compared with; and, where the model
            fuses both, ``vision`` and ``ocr``: those it gives when it may not use the one or the
            other.

        Raises:
            UserError: this architecture can't embed videos without queries.
        """
        raise UserError(f"{type(self).__name__} has no embed_videos_apart, which an index needs")

    def embed_frames(self, batch: Batch) -> Tensor:
        """Return the embedding (B, F, D) of each frame of a batch, in the space of the queries.

        Raises:
            UserError: this architecture has none.
        """
        raise UserError(f"{type(self).__name__} embeds clips as a whole, not their frames")

    def embed_videos_and_frames(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Return what ``embed_videos_apart`` and ``embed_frames`` give of a batch."""
        return self.embed_videos_apart(batch), self.embed_frames(batch)

    def merge_adapters(self) -> None:
        """Add low-rank adapters to the weights that they adapt; names are then as without them."""

    def attend_to_words(self, batch: Batch) -> Tensor | None:
        """Return how each video's embedding attends to its tokens, for reports; None: not known.

        Returns:
            (B, S), rows sum to 1: the query token, the video feature where the model is given
            frames, then the OCR words (the empty word where there are none); 0 on padding.
        """
        return None

    def examine_fusion(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return what ``embed_videos_apart`` and ``attend_to_words`` give of a batch."""
        return self.embed_videos_apart(batch), self.attend_to_words(batch)

    @classmethod
    def build_query_encoder(cls, text_folder: Path | None = None, **arguments: Any) -> nn.Module:
        """Build a module that embeds queries alone: ``Tokens`` -> (Q, E).

        Its weights have the names that they have in the whole model; it has a method
        ``save_text_config(folder)``, which writes what ``text_folder`` wants to find.

        Args:
            text_folder: where the text model's configuration is; None: where the arguments say.
            arguments: those of the whole model; no weights are loaded.

        Raises:
            UserError: this architecture has none.
        """
        raise UserError(f"{cls.__name__} has no build_query_encoder, which an index needs")

    def adapt_weights(
        self, weights: dict[str, Tensor], source: str | Path = "the checkpoint"
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Return a checkpoint's weights in the sizes that this model takes.

        A model that can take weights of other sizes (more frames, larger frames) overrides this;
        names are never its concern.

        Args:
            weights: those of the file; left as they are.
            source: the file's name, for messages.

        Returns:
            The weights, and one note for each that was changed.
        """
        return weights, []

    def list_branches(self) -> dict[str, list[nn.Parameter]]:
        """Return the trained parameters by branch; training logs each branch's gradient norm.

        A branch is what ``branch_names`` calls the module that they belong to, and else that
        module's own name.
        """
        branches: dict[str, list[nn.Parameter]] = {}
        for name, weight in self.named_parameters():
            if weight.requires_grad:
                module = name.partition(".")[0]
                branches.setdefault(self.branch_names.get(module, module), []).append(weight)
        return branches

    def list_blocks(self) -> list[nn.Module]:
        """Return the encoders' blocks whose weights sharding may gather one at a time.

        Each is a module that a training step calls once for a batch, with whatever videos, queries
        and words. All other weights are gathered for the whole of a step.
        """
        return []

    def parameters_without_gradient(self) -> list[nn.Parameter]:
        """Return the weights that no training loss reaches, for they do not enter ``video_key``."""
        return []

    def request_unimodal_embeds(self, modalities: Collection[str]) -> None:
        """Let ``forward`` also return, in training, what it gives of one modality alone.

        Under ``only_vision`` and ``only_ocr``, (B, D); not of a batch without frames.

        Args:
            modalities: ``vision``, ``ocr``, or both.

        Raises:
            UserError: this architecture can't.
        """
        raise UserError(f"trainer.unimodal_losses: {type(self).__name__} has none; set them to 0")

    def recompute_activations(self) -> None:
        """Let the backward pass compute the encoders' activations once more, not keep them.

        Gradients stay the same, dropout included.

        Raises:
            UserError: this architecture, or a part of it, can't.
        """
        raise UserError(
            f"trainer.activation_checkpointing: {type(self).__name__} has none; set it to false"
        )

    def compile_encoders(self, backend: str | Callable = "inductor") -> None:
        """Compile the encoders where they stand; the names in ``state_dict`` stay as they are.

        Args:
            backend: of ``torch.compile``.

        Raises:
            UserError: this architecture can't be compiled.
        """
        raise UserError(
            f"trainer.compile: {type(self).__name__} can't be compiled; set it to false"
        )

    def num_parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def describe_model_input(arch: Block) -> ModelInput:
    """Return what the model of a configuration's ``arch`` block takes.

    Raises:
        UserError: the arguments do not fit together, or the architecture does not say.
    """
    describe = getattr(ARCHITECTURES.get(arch.type), "describe_input", None)
    found = describe(**arch.kwargs()) if describe is not None else None
    if found is None:
        raise UserError(
            f"{arch.type} does not say what it takes: give the architecture a class method "
            "describe_input(**arguments) -> ModelInput (base/base_model.py)"
        )
    return found
