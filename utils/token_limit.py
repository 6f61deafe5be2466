"""Token limit of a text model, by the positions of its configuration."""

from typing import Any

# Families of transformers whose positions begin behind the number of the padding token.
_BEHIND_PADDING = {
    "camembert", "data2vec-text", "longformer", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
}  # fmt: skip
_MPNET_PADDING = 1  # whatever the configuration says


def find_token_limit(config: Any) -> int | None:
    """Return the most tokens of a text that a model has positions for; None: any number.

    Args:
        config: of transformers, of the text model or of one that has it as a part.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # -1 of models without absolute positions
        return None
    if text.model_type == "mpnet":
        return positions - _MPNET_PADDING - 1
    if text.model_type in _BEHIND_PADDING:
        return positions - (getattr(text, "pad_token_id", None) or 0) - 1
    return positions
