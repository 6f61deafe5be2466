"""Text encoders of Hugging Face transformers: the query encoder and the OCR word encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from base.batch import Tokens, Words
from utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def _not_loaded(what: str, name: str, files: str, error: Exception) -> UserError:
    where = (
        f'the folder "{name}" must hold {files}'
        if Path(name).is_dir()
        else f'"{name}" is no local folder and could not be had from the Hugging Face hub; without '
        f"network put {files} of it into a folder and give that folder as text_params.model"
    )
    return UserError(f"{what}: {where} ({type(error).__name__}: {str(error).splitlines()[0]})")


def load_text_config(name: str) -> PreTrainedConfig:
    """Load a text model's configuration by name or folder; raises ``UserError``.

    The two base models of the published configurations are known without network: their sizes
    are the defaults of transformers' configuration classes.
    """
    from transformers import AutoConfig, BertConfig, DistilBertConfig

    known = {"distilbert-base-uncased": DistilBertConfig, "bert-base-uncased": BertConfig}
    if name in known and not Path(name).exists():
        return known[name]()
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded("text model", name, "config.json", error) from error


def load_text_model(name: str, pretrained: bool) -> PreTrainedModel:
    """Build a text model by name or folder, with its weights or freshly initialised.

    Raises:
        UserError: the files are not there, or the weights do not fit.
    """
    from transformers import AutoModel

    if not pretrained:
        return AutoModel.from_config(load_text_config(name))
    try:
        return AutoModel.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        files = "config.json and model.safetensors"
        raise _not_loaded("text model", name, files, error) from error


def encode_tokens(model: PreTrainedModel, tokens: Tokens) -> Tensor:
    """Return one vector a text, (N, D)."""
    return _encode(model, tokens.input_ids, tokens.attention_mask)


def encode_words(model: PreTrainedModel, words: Words) -> Tensor:
    """Return one vector a distinct word, (U, D).

    Words of equal token count go through the model together, so none is padded.
    """
    encoded, start = [], 0
    for length, count in words.groups:
        ids = words.input_ids[start : start + count, :length]
        encoded.append(_encode(model, ids, torch.ones_like(ids)))
        start += count
    return torch.cat(encoded)


def _encode(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(N, T) -> (N, D): BERT's own pooler, else the first token, as the published code does."""
    output = model(input_ids=input_ids, attention_mask=attention_mask)
    if model.config.model_type == "bert":
        return output.pooler_output
    return output.last_hidden_state[:, 0]
