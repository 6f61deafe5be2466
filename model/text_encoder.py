"""Text encoders of Hugging Face transformers: the query encoder and the OCR word encoder.

A model is transformers' own class, so that its weights have their published names. How its family
is built and pooled is a class of ``TEXT_ENCODERS``, under the ``model_type`` of ``config.json``.

Shapes: N texts, T tokens of the longest, U distinct words, D width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from base.batch import Tokens, Words
from base.registry import TEXT_ENCODERS
from model.packed_distilbert import PackedLayer, encode_packed, encode_padded, use_packed_layers
from utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

# Families of transformers' AutoModel whose first token stands for the text, as in the published
# code, where a pooler behind it is not used.
FIRST_TOKEN_TYPES = (
    "albert", "camembert", "data2vec-text", "deberta", "deberta-v2", "electra", "ernie",
    "modernbert", "mpnet", "rembert", "roberta", "roformer", "xlm-roberta",
)  # fmt: skip


class TextEncoder:
    """A text model and how it is pooled: here by its first token.

    A family that is pooled otherwise is a subclass, registered by its ``model_type``:

        @TEXT_ENCODERS.register("gpt2")
        class LastToken(TextEncoder):
            def pool(self, input_ids, attention_mask):
                states = self.run(input_ids, attention_mask).last_hidden_state
                return states[torch.arange(len(states)), attention_mask.sum(1) - 1]

    ``model_class`` builds the model: a class, or a name of transformers'.
    """

    model_class: ClassVar[Any] = "AutoModel"

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @property
    def width(self) -> int:
        """D."""
        return self.model.config.hidden_size

    def prepare(self, name: str) -> None:
        """Change the model once it is built by its name or folder, names of weights excepted."""

    def run(self, input_ids: Tensor, attention_mask: Tensor | None) -> Any:
        """Return transformers' output for (N, T)."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask)

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one vector a text: (N, T) -> (N, D), N at least 1; padding must not change it."""
        return self.run(input_ids, attention_mask).last_hidden_state[:, 0]

    def encode_words(self, words: Words) -> Tensor:
        """Return (U, D), without padding."""
        return encode_unpadded(words, self.pool)

    def find_unused_parts(self) -> dict[str, nn.Module]:
        """Return the modules that ``pool`` does not use, by name."""
        pooler = getattr(self.model, "pooler", None)
        return {} if pooler is None else {"pooler": pooler}

    def recompute_activations(self) -> None:
        """Let the backward pass compute each layer again, with the dropout of the forward pass."""
        model = self.model
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise UserError(
                f"trainer.activation_checkpointing: the text model {type(model).__name__} has "
                "none; set it to false"
            )
        older = model.gradient_checkpointing_enable  # the name before transformers 5.2x
        enable = getattr(model, "activation_checkpointing_enable", older)
        enable({"use_reentrant": False, "preserve_rng_state": True})


for _type in FIRST_TOKEN_TYPES:
    TEXT_ENCODERS.register(_type)(TextEncoder)


@TEXT_ENCODERS.register("distilbert")
class DistilBertEncoder(TextEncoder):
    """DistilBERT with layers that take all words of a batch at once."""

    def prepare(self, name: str) -> None:
        """Use packed layers."""
        use_packed_layers(self.model)

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the first token's vector (N, D)."""
        return encode_padded(self.model, input_ids, attention_mask)

    def encode_words(self, words: Words) -> Tensor:
        """Return (U, D) of the words laid end to end."""
        return encode_packed(self.model, words.input_ids, words.groups)

    def recompute_activations(self) -> None:
        """Let the backward pass compute each layer again."""
        for part in self.model.modules():
            if isinstance(part, PackedLayer):
                part.activation_checkpointing = True


@TEXT_ENCODERS.register("bert")
class PoolerEncoder(TextEncoder):
    """BERT, which has a trained pooler behind its first token."""

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the output of the model's own pooler."""
        return self.run(input_ids, attention_mask).pooler_output

    def find_unused_parts(self) -> dict[str, nn.Module]:
        """Return none."""
        return {}


@TEXT_ENCODERS.register("clip")
@TEXT_ENCODERS.register("clip_text_model")
class ClipTextEncoder(PoolerEncoder):
    """The text side of CLIP, also of a whole CLIP: causal, pooled at the end-of-text token."""

    model_class = "CLIPTextModel"


@TEXT_ENCODERS.register("siglip")
@TEXT_ENCODERS.register("siglip_text_model")
class SiglipTextEncoder(PoolerEncoder):
    """The text side of SigLIP: pooled at its last position, also where that is padding, as trained.

    So each text is padded to the most tokens that the model takes, and padding is attended to. The
    words of a batch cost as much as sentences.
    """

    model_class = "SiglipTextModel"

    def prepare(self, name: str) -> None:
        """Note how the tokenizer pads."""
        config = self.model.config
        try:
            config.pad_token_id, config.padding_side = read_padding(name)
        except (OSError, ValueError):  # no tokenizer there: the loader refuses the folder anyway
            logger.debug("%s: no tokenizer, texts are padded as config.json says", name)

    @property
    def width(self) -> int:
        """Width of the head's output."""
        return self.model.config.projection_size

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the head's output for the last position."""
        config = self.model.config
        ids = pad_texts(
            input_ids, attention_mask, config.max_position_embeddings, config.pad_token_id,
            getattr(config, "padding_side", "right"),
        )  # fmt: skip
        return self.run(ids, None).pooler_output


def pad_texts(ids: Tensor, mask: Tensor, length: int, pad_id: int, side: str) -> Tensor:
    """Return token ids (N, T), whose padding is on the right, padded as a text model was trained.

    Args:
        mask: (N, T), 0 on padding.
        length: tokens of each text then.
        side: ``left`` or ``right``: where padding goes.
    """
    ids = F.pad(
        ids.masked_fill(mask == 0, pad_id), (0, max(0, length - ids.shape[1])), value=pad_id
    )
    if side == "right":
        return ids
    places = torch.arange(ids.shape[1], device=ids.device) + mask.sum(1, keepdim=True)
    return ids.gather(1, places % ids.shape[1])  # each row turned by its number of tokens


def read_padding(name: str) -> tuple[int | None, str]:
    """Return the token and the side that a model's tokenizer pads with.

    The model's own configuration does not always say so: SigLIP 2's has token 1, its tokenizer 0.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    return tokenizer.pad_token_id, tokenizer.padding_side


def encode_unpadded(words: Words, encode: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return a vector a distinct word, (U, D): words of equal token count go together.

    Args:
        encode: token ids (N, T) and their mask -> (N, D).
    """
    encoded, start = [], 0
    for length, count in words.groups:
        ids = words.input_ids[start : start + count, :length]
        encoded.append(encode(ids, torch.ones_like(ids)))
        start += count
    return torch.cat(encoded)


def get_text_encoder(model: PreTrainedModel) -> TextEncoder:
    """Return a text model with what its family knows."""
    return TEXT_ENCODERS.get(model.config.model_type)(model)


def load_text_config(name: str) -> PreTrainedConfig:
    """Load a text model's configuration by name or folder."""
    from transformers import AutoConfig, BertConfig, DistilBertConfig

    # The sizes of these are the defaults of transformers' classes: no network is needed.
    known = {"distilbert-base-uncased": DistilBertConfig, "bert-base-uncased": BertConfig}
    if name in known and not os.path.exists(name):
        return known[name]()
    return AutoConfig.from_pretrained(name)


def load_text_model(name: str, pretrained: bool) -> PreTrainedModel:
    """Build a text model by name or folder, with its weights or freshly initialised.

    Raises:
        UserError: its family is not known, the files are not there, or the weights do not fit.
    """
    files = "config.json and model.safetensors" if pretrained else "config.json"
    try:
        config = load_text_config(name)
        if config.model_type not in TEXT_ENCODERS.names():
            raise UserError(
                f'arch.args.text_params.model: "{name}" is a "{config.model_type}" model, and how '
                "one is pooled into a vector is not known; known are "
                f"{', '.join(TEXT_ENCODERS.names())}. CONTRIBUTING.md shows how to register "
                "another (TEXT_ENCODERS)"
            )
        model, report = _load_model(name, config, pretrained)
    except UserError:
        raise
    except Exception as error:  # of hub, JSON, safetensors, pickle: the types share no base class
        where = (
            f'the folder "{name}" must hold {files} that fit each other'
            if os.path.isdir(name)
            else f'"{name}" is no local folder and could not be had from the Hugging Face hub; '
            f"without network put {files} of it into a folder and give that folder as "
            "arch.args.text_params.model"
        )
        detail = " ".join(str(error).split())[:300]
        raise UserError(f"text model: {where} ({type(error).__name__}: {detail})") from error
    encoder = get_text_encoder(model)
    _check_weights(encoder, report, name)
    encoder.prepare(name)
    return model


def _load_model(name: str, config: PreTrainedConfig, pretrained: bool) -> tuple[Any, dict]:
    """The model, and what ``from_pretrained`` reports about its weights."""
    import transformers

    model_class = TEXT_ENCODERS.get(config.model_type).model_class
    if isinstance(model_class, str):
        model_class = getattr(transformers, model_class)
    if pretrained:
        # Without the last two options transformers only warns of weights that do not fit.
        return model_class.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    if model_class is transformers.AutoModel:
        return model_class.from_config(config, dtype=torch.float32), {}
    return model_class(config.get_text_config()), {}


def _check_weights(encoder: TextEncoder, report: dict, name: str) -> None:
    """Refuse weights that leave a part of the encoder random; heads of other tasks may be there."""
    if not report:
        return
    parts = {name for name, _ in encoder.model.named_children()}
    unused = encoder.find_unused_parts()  # saved by some tasks only, and made anew
    missing = [n for n in report["missing_keys"] if n.split(".")[0] not in unused]
    of_other_tasks, unexpected = [], []
    for key in sorted(report["unexpected_keys"]):
        inner = key.removeprefix(f"{encoder.model.base_model_prefix}.").removeprefix("text_model.")
        (unexpected if inner.split(".")[0] in parts else of_other_tasks).append(key)
    problems = [f"missing {n}" for n in sorted(missing)]
    problems += [f"unexpected {n}" for n in unexpected]
    problems += [
        f"{n} is {tuple(given)}, the model's {tuple(wanted)}"
        for n, given, wanted in sorted(report["mismatched_keys"])
    ]
    if problems:
        raise UserError(
            f'text model: the weights of "{name}" do not fit its config.json: '
            + "; ".join(problems)
        )
    if of_other_tasks:
        more = f" and {len(of_other_tasks) - 20} more" if len(of_other_tasks) > 20 else ""
        named = ", ".join(of_other_tasks[:20]) + more
        logger.info("%s: weights of other tasks, not used: %s", name, named)


def encode_tokens(model: PreTrainedModel, tokens: Tokens) -> Tensor:
    """Return one vector a text, (N, D)."""
    encoder = get_text_encoder(model)
    if not len(tokens.input_ids):  # a batch of further windows of videos holds no query
        return tokens.input_ids.new_zeros(0, encoder.width, dtype=model.dtype)
    return encoder.pool(tokens.input_ids, tokens.attention_mask)


def encode_words(model: PreTrainedModel, words: Words) -> Tensor:
    """Return one vector a distinct word, (U, D)."""
    return get_text_encoder(model).encode_words(words)
