"""The contract of a loss: similarity, loss and what is learned with them, in one module.

Shapes: B videos of all processes and as many queries, E width of the common space.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from base.base_model import RetrievalModel


class Criterion(nn.Module, ABC):
    """Compares queries with videos, and says how wrong the comparison is.

    A loss is one subclass with ``compute_loss``, registered in ``LOSSES``. Its parameters, such as
    a learned temperature, are trained, clipped, saved and averaged over processes with the model's;
    ``optimizer.args.groups`` knows them as ``criterion.NAME``. There is one instance in a run:
    validation uses that of training.
    """

    def start_from(self, model: RetrievalModel) -> None:
        """Let what is learned start where the model's pretraining ended; by default nothing does.

        Called once, where a run's criterion is built; a checkpoint's values come after it.

        Args:
            model: ``initial_scale`` and ``initial_bias`` are what its pretraining ended with.
        """

    def clamp_parameters(self) -> None:
        """Bring parameters back within their bounds; called after each optimizer step."""

    def get_logged_values(self) -> dict[str, float]:
        """Return what each epoch logs beside the loss, such as a learned temperature."""
        return {}

    def forward(self, text: Tensor, video: Tensor, caption_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and the logits (B, B) that it compares, detached.

        Args:
            text: (B, E) embeddings of the queries.
            video: (B, E) embeddings of the videos; row x belongs to query x.
            caption_ids: (B,) int64, equal for equal captions.
        """
        similarity = self.compute_similarity(text, video)
        loss = self.compute_loss(similarity, caption_ids)
        return loss, self.compute_logits(similarity).detach()

    def compute_similarity(self, text: Tensor, video: Tensor) -> Tensor:
        """Return the similarities (Q, V) of (Q, E) and (V, E): cosines, as in every evaluation."""
        return cosine_similarity(text, video)

    def compute_logits(self, similarity: Tensor) -> Tensor:
        """Return the similarities on the scale on which the loss compares them."""
        return similarity

    @abstractmethod
    def compute_loss(self, similarity: Tensor, caption_ids: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            similarity: (B, B), the right pairs on the diagonal.
            caption_ids: (B,) int64; a query is also right for the videos of equal captions.
        """


def cosine_similarity(queries: Tensor, videos: Tensor, eps: float = 1e-8) -> Tensor:
    """Return the cosines (Q, V) of (Q, E) and (V, E) embeddings; norms are clamped at ``eps``."""
    queries = queries / queries.norm(dim=1, keepdim=True).clamp_min(eps)
    videos = videos / videos.norm(dim=1, keepdim=True).clamp_min(eps)
    return queries @ videos.T
