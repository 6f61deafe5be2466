"""Text encoders of Hugging Face transformers: the query encoder and the OCR word encoder."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from base.batch import Tokens, Words
from model.padding import pad_tokens, similar_words
from model.text_layer import TextLayer, encode_packed, use_text_layers
from utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


logger = logging.getLogger(__name__)


def _not_loaded(name: str, files: str, error: Exception) -> UserError:
    where = (
        f'the folder "{name}" must hold {files} that fit each other'
        if Path(name).is_dir()
        else f'"{name}" is no local folder and could not be had from the Hugging Face hub; without '
        f"network put {files} of it into a folder and give that folder as "
        "arch.args.text_params.model"
    )
    detail = " ".join(str(error).split())[:300]
    return UserError(f"text model: {where} ({type(error).__name__}: {detail})")


def load_text_config(name: str) -> PreTrainedConfig:
    """Load a text model's configuration by name or folder.

    The two base models of the published configurations are known without network: their sizes
    are the defaults of transformers' configuration classes.
    """
    from transformers import AutoConfig, BertConfig, DistilBertConfig

    known = {"distilbert-base-uncased": DistilBertConfig, "bert-base-uncased": BertConfig}
    if name in known and not Path(name).exists():
        return known[name]()
    return AutoConfig.from_pretrained(name)


def load_text_model(name: str, pretrained: bool) -> PreTrainedModel:
    """Build a text model by name or folder, with its weights or freshly initialised.

    Raises:
        UserError: the files are not there, or the weights do not fit.
    """
    from transformers import AutoModel

    files = "config.json and model.safetensors" if pretrained else "config.json"
    try:
        if not pretrained:
            return _with_own_layers(AutoModel.from_config(load_text_config(name)))
        # Without the two options transformers warns of such weights, or hides their names.
        model, report = AutoModel.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # of hub, JSON, safetensors, pickle: the types share no base class
        raise _not_loaded(name, files, error) from error
    _check_weights(model, report, name)
    return _with_own_layers(model)


def _with_own_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Bring layers that waste nothing into the kind of model that has them."""
    if model.config.model_type == "distilbert":
        use_text_layers(model)
    return model


def _own_layers(model: PreTrainedModel) -> list[TextLayer]:
    return [part for part in model.modules() if isinstance(part, TextLayer)]


def _check_weights(model: PreTrainedModel, report: dict, name: str) -> None:
    """Refuse weights that leave a part of the encoder random; heads of other tasks may be there.

    Raises:
        UserError: a weight is missing, left over or of another shape; all are listed.
    """
    own = {part for part, _ in model.named_children()}
    pooler_unread = not _reads_pooler(model)  # saved by some tasks only, and made anew
    missing = [n for n in report["missing_keys"] if not (pooler_unread and n.startswith("pooler."))]
    prefix = model.base_model_prefix + "."
    extra = {n: n.removeprefix(prefix).split(".")[0] in own for n in report["unexpected_keys"]}
    faults = [f"missing {n}" for n in sorted(missing)]
    faults += [f"left over {n}" for n, is_own in sorted(extra.items()) if is_own]
    faults += [
        f"{n} is {tuple(given)}, the model's {tuple(wanted)}"
        for n, given, wanted in sorted(report["mismatched_keys"])
    ]
    if faults:
        raise UserError(
            f'text model: the weights of "{name}" do not fit its config.json: ' + "; ".join(faults)
        )
    heads = sorted(n for n, is_own in extra.items() if not is_own)
    if heads:
        logger.info("%s: weights of other tasks, not used: %s", name, ", ".join(heads))


def encode_tokens(model: PreTrainedModel, tokens: Tokens, padded: bool = False) -> Tensor:
    """Return one vector a text, (N, D).

    Args:
        model: the query encoder.
        tokens: the queries.
        padded: let only a few sizes reach the model, as a compiled one wants; the vectors are the
            same but for rounding.
    """
    if not padded or not len(tokens.input_ids):
        return _encode(model, tokens.input_ids, tokens.attention_mask)
    whole = pad_tokens(tokens, _most_tokens(model))
    return _encode(model, whole.input_ids, whole.attention_mask)[: len(tokens.input_ids)]


def encode_words(model: PreTrainedModel, words: Words, padded: bool = False) -> Tensor:
    """Return one vector a distinct word, (U, D).

    None is padded: DistilBERT takes all words at once, laid end to end, other models those of equal
    token count together. Where ``padded`` asks for few sizes, words of similar token count go
    together.

    Args:
        model: the word encoder.
        words: of a batch.
        padded: see ``encode_tokens``.
    """
    if padded:
        parts = similar_words(words, _most_tokens(model))
        return torch.cat([encode_tokens(model, part, True) for part in parts])
    if _own_layers(model):
        return encode_packed(model, words.input_ids, words.groups)
    encoded, start = [], 0
    for length, count in words.groups:
        ids = words.input_ids[start : start + count, :length]
        encoded.append(_encode(model, ids, torch.ones_like(ids)))
        start += count
    return torch.cat(encoded)


def _encode(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(N, T) -> (N, D): BERT's own pooler, else the first token, as the published code does."""
    if not len(input_ids):  # a batch of further windows of videos holds no query
        return input_ids.new_zeros(0, model.config.hidden_size, dtype=model.dtype)
    output = model(input_ids=input_ids, attention_mask=attention_mask)
    return output.pooler_output if _reads_pooler(model) else output.last_hidden_state[:, 0]


def _most_tokens(model: PreTrainedModel) -> int:
    """Tokens that the model takes; as many as one likes where its positions are relative."""
    return getattr(model.config, "max_position_embeddings", sys.maxsize)


def recompute_layers(model: PreTrainedModel) -> None:
    """Let the backward pass compute each layer once more, with the dropout of the forward pass.

    Raises:
        UserError: transformers has none for this kind of model.
    """
    for layer in (own := _own_layers(model)):
        layer.recomputes = True
    if own:
        return
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"trainer.activation_checkpointing: the text model {type(model).__name__} has none; "
            "set it to false"
        )
    older = model.gradient_checkpointing_enable  # the name before transformers 5.2x
    enable = getattr(model, "activation_checkpointing_enable", older)
    enable({"use_reentrant": False, "preserve_rng_state": True})


def unread_parts(model: PreTrainedModel) -> list[nn.Module]:
    """Return the parts of a text model whose output is not used."""
    pooler = getattr(model, "pooler", None)
    return [] if pooler is None or _reads_pooler(model) else [pooler]


def _reads_pooler(model: PreTrainedModel) -> bool:
    return model.config.model_type == "bert"
