"""The similarity of queries and videos: the same in the loss, in validation and in the matrix."""

from torch import Tensor


def cosine_similarity(queries: Tensor, videos: Tensor, eps: float = 1e-8) -> Tensor:
    """Return the cosines (Q, V) of (Q, E) and (V, E) embeddings; norms are clamped at ``eps``."""
    queries = queries / queries.norm(dim=1, keepdim=True).clamp_min(eps)
    videos = videos / videos.norm(dim=1, keepdim=True).clamp_min(eps)
    return queries @ videos.T
