"""Tokenizers of text models: loading, limits, and what differs among their families."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from data_loader.open_clip_tokenizer import (
    PREFIX,
    OpenClipTokenizer,
    is_open_clip,
    load_open_clip_tokenizer,
)
from utils.errors import UserError
from utils.token_limit import find_token_limit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    Tokenizer = PreTrainedTokenizerBase | OpenClipTokenizer

TOKENIZER_FILES = "tokenizer.json (or vocab.txt) and tokenizer_config.json"
_NO_LIMIT = 10**6  # tokenizers whose limit is not known give a huge number
_LEAST = 3  # two special tokens, and one of the text


def load_tokenizer(name: str) -> "Tokenizer":
    """Load a tokenizer by Hugging Face name, local folder or ``open_clip:NAME``.

    Raises ``UserError``.
    """
    from transformers import AutoTokenizer

    try:
        if is_open_clip(name):
            tokenizer = load_open_clip_tokenizer(name)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name)
    except UserError:
        raise
    except Exception as error:  # of hub, JSON and tokenizers: the types share no base class
        detail = " ".join(str(error).split())[:300]
        remedy = f"the folder must hold {TOKENIZER_FILES}"
        if not os.path.isdir(name.removeprefix(PREFIX)):
            remedy = (
                "is no local folder and could not be loaded from the Hugging Face hub; without "
                f"network put {TOKENIZER_FILES} of {name} into a folder and give that folder in "
                "its place in arch.args (FrozenInTime: arch.args.text_params.model; DualEncoder: "
                "arch.args.tower)"
            )
        raise UserError(f'tokenizer "{name}": {remedy} ({detail})') from error
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise UserError(
            f'tokenizer "{name}": has no vocabulary; the folder must hold {TOKENIZER_FILES}'
        )
    if not is_open_clip(name):
        tokenizer.model_max_length = _choose_limit(name, tokenizer.model_max_length)
    return tokenizer


def _choose_limit(name: str, stated: Any) -> int:
    """Return the most tokens of a text: no more than the model beside the tokenizer takes.

    Args:
        stated: by the tokenizer's settings, which many do not have, so that it is a huge number.
    """
    try:
        limit = int(stated)
    except (TypeError, ValueError, OverflowError):
        limit = 0
    is_known = _LEAST <= limit < _NO_LIMIT
    if is_known and not os.path.isfile(os.path.join(name, "config.json")):  # no look at the hub
        return limit
    from transformers import AutoConfig

    try:
        positions = find_token_limit(AutoConfig.from_pretrained(name))
    except (OSError, ValueError, KeyError):  # a tokenizer alone, or a model that is none of these
        positions = None
    if positions is None:
        return limit if is_known else _NO_LIMIT
    return min(limit, positions) if is_known else positions


class LimitedTokenizer:
    """A tokenizer with the limit of its model.

    Args:
        tokenizer: of transformers or open_clip.
        limit: most tokens of a text, where the tokenizer's limit is not the model's; None: it is.
    """

    def __init__(self, tokenizer: "Tokenizer", limit: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.limit = limit

    def tokenize(self, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
        """Return unpadded token ids, at least one each, cut to all limits.

        A text of which a tokenizer makes nothing, not even special tokens, is its end token, or its
        padding.
        """
        if not texts:
            return []
        limits = (limit, self.limit, getattr(self.tokenizer, "model_max_length", None))
        known = [most for most in limits if most is not None and most < _NO_LIMIT]
        cut = {"truncation": True, "max_length": min(known)} if known else {}
        rows = self.tokenizer(list(texts), **cut)["input_ids"]
        return rows if all(rows) else [row or [self._nothing_id] for row in rows]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones; what is not known shows."""
        names = zip(ids, self.tokenizer.convert_ids_to_tokens(list(ids)), strict=True)
        return self.tokenizer.decode([i for i, name in names if name not in self._not_text])

    @cached_property
    def pad_id(self) -> int:
        """What rows are padded with, where no model looks."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else pad

    @cached_property
    def _nothing_id(self) -> int:
        end = getattr(self.tokenizer, "eos_token_id", None)
        return self.pad_id if end is None else end

    @cached_property
    def _not_text(self) -> set[str]:
        """The special tokens, but for one that stands for nothing but what is not known."""
        tokenizer = self.tokenizer
        roles = ("cls_token", "sep_token", "pad_token", "bos_token", "eos_token")
        others = {getattr(tokenizer, role, None) for role in roles}
        return {*tokenizer.all_special_tokens} - ({tokenizer.unk_token} - others)
