"""The side of a FrozenInTime that embeds queries, to be used without the other."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from base.batch import Tokens
from model.params import TextParams
from model.text_encoder import encode_tokens, load_text_model


class QueryEncoder(nn.Module):
    """Embeds queries; its weights are those of the whole model, under the same names.

    Args:
        text_params: the query encoder; its weights are not loaded.
        projection: as in ``FrozenInTime``.
        projection_dim: E, width of the common space.
        others: arguments of the other side, of no use here.
    """

    def __init__(
        self, text_params: TextParams, projection: str, projection_dim: int, **others: Any
    ) -> None:
        super().__init__()
        self.text_model = load_text_model(text_params.model, pretrained=False)
        width = self.text_model.config.hidden_size
        self.txt_proj = query_projection(projection, width, projection_dim)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the embeddings of queries, (Q, E)."""
        return self.txt_proj(encode_tokens(self.text_model, tokens))

    def save_text_config(self, folder: Path) -> None:
        """Write the text model's ``config.json``, so that ``folder`` names the text model."""
        self.text_model.config.save_pretrained(folder)


def query_projection(projection: str, width: int, dim: int) -> nn.Module:
    """Return the layers from the text model's width into the common space."""
    if projection == "minimal":
        return nn.Sequential(nn.ReLU(), nn.Linear(width, dim))
    return nn.Identity()
