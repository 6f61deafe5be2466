"""What the trainer and the evaluator ask of a model."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from base.batch import Batch, Tokens
from utils.errors import UserError

_MISSING = (
    "{} can't be evaluated: it has no {}, by which evaluation encodes each text of a data set once "
    "(base/base_model.py); give the architecture this method beside forward"
)


class RetrievalModel(nn.Module, ABC):
    """A model that embeds queries and videos in one space.

    ``forward`` returns a dict of embeddings: ``"text"`` (Q, D) for the queries and, of the same
    width, ``"video"`` and/or ``"fusion"`` (B, D). ``video_key`` names the one that queries are
    compared with. Training needs ``forward``; evaluation, which encodes each text of a data set
    once, needs its parts: ``embed_queries``, ``embed_videos`` and, where ``modalities`` has
    ``ocr``, ``encode_words``.

    Attributes:
        video_key: see above.
        words_are_fixed: whether training leaves the word encoder as it is, so that a word's vector
            holds for the whole run.
    """

    video_key: str
    words_are_fixed: bool = False

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Embed the queries and the videos of a batch."""

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

    @classmethod
    def query_encoder(cls, **arguments: Any) -> nn.Module:
        """Return a module that embeds queries alone: ``Tokens`` -> (Q, D).

        Its weights have the names that they have in the whole model.

        Args:
            arguments: those of the whole model.

        Raises:
            UserError: this architecture has none.
        """
        raise UserError(f"{cls.__name__} has no query_encoder, which an index needs")

    def adapted(
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

    def without_gradient(self) -> list[nn.Parameter]:
        """Return the weights that no training loss reaches, for they do not enter ``video_key``."""
        return []

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
