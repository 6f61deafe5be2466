"""What the trainer and the evaluator ask of a model."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from base.batch import Batch


class RetrievalModel(nn.Module, ABC):
    """A model that embeds queries and videos in one space.

    ``forward`` returns a dict of embeddings: ``"text"`` (Q, D) for the queries and, of the same
    width, ``"video"`` and/or ``"fusion"`` (B, D). ``video_key`` names the one that queries are
    compared with.
    """

    video_key: str

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Embed the queries and the videos of a batch."""

    def num_parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
