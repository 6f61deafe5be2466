"""Tokenizers of open_clip's models, with the members of transformers' that ``Collate`` uses.

open_clip (``open_clip_torch``, optional) has its own byte-pair tokenizer, and one that wraps a
tokenizer of transformers. Its models are given texts that were cleaned as in their training, which
is therefore done here, too. Names are ``open_clip:NAME[/TAG]`` or ``open_clip:FOLDER``, as those of
the models; the tag of the weights changes nothing here.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.files import write_json

if TYPE_CHECKING:
    import torch

PREFIX = "open_clip:"
FILE = "open_clip_tokenizer.json"  # in a folder: which of open_clip's tokenizers it holds
_SIMPLE = "SimpleTokenizer"
_CLEANINGS = ("canonicalize", "lower", "whitespace")  # open_clip's names
_WITH_SCHEMA = ("hf-hub:", "local-dir:")  # these names have no tag


def is_open_clip(name: str) -> bool:
    """Say whether a tokenizer's name or folder is one of open_clip's."""
    return name.startswith(PREFIX) or os.path.isfile(os.path.join(name, FILE))


def load_open_clip_tokenizer(name: str) -> "OpenClipTokenizer":
    """Load a tokenizer by its model's name, or from a folder where one was saved.

    Raises:
        UserError: open_clip is not installed, or there is no such model.
        Exception: of the hub or of files.
    """
    try:
        import open_clip
        from open_clip import tokenizer as tokenizers
    except ImportError as error:
        raise UserError(
            f'tokenizer "{name}": open_clip is not installed; pip install open_clip_torch'
        ) from error
    if not name.startswith(PREFIX):
        settings = json.loads((Path(name) / FILE).read_text(encoding="utf-8"))
        kind = settings.pop("tokenizer")
        if kind == _SIMPLE:
            return OpenClipTokenizer(tokenizers.SimpleTokenizer(**settings))
        return OpenClipTokenizer(tokenizers.HFTokenizer(name, **settings))
    model = name.removeprefix(PREFIX)
    if os.path.isdir(model):
        model = f"local-dir:{model}"
    elif not model.startswith(_WITH_SCHEMA):
        model = model.partition("/")[0]
        if model not in open_clip.list_models():  # open_clip would take a tokenizer of its own
            raise UserError(
                f'"{name}": open_clip {open_clip.__version__} has no model "{model}"; '
                "open_clip.list_models() names them"
            )
    return OpenClipTokenizer(open_clip.get_tokenizer(model))


class OpenClipTokenizer:
    """One of open_clip's tokenizers.

    Args:
        tokenizer: of open_clip.

    Raises:
        UserError: what it makes of a text depends on the padding, or on chance.
    """

    def __init__(self, tokenizer: Any) -> None:
        from open_clip.tokenizer import SigLipTokenizer, get_clean_fn

        if getattr(tokenizer, "tokenizer_mode", ""):
            raise UserError(
                f'open_clip\'s tokenizer mode "{tokenizer.tokenizer_mode}" puts a token behind the '
                "padding, which is not supported; take another model"
            )
        if getattr(tokenizer, "reduction_fn", None) is not None:
            raise UserError(
                "open_clip's tokenizer of this model (CLIPA) leaves out words of long texts, some "
                "at random, which is not supported; take another model"
            )
        self._tokenizer = tokenizer
        self._inner = getattr(tokenizer, "tokenizer", None)  # of transformers; None: its own
        is_siglip = isinstance(tokenizer, SigLipTokenizer)
        self._clean = get_clean_fn("canonicalize") if is_siglip else tokenizer.clean_fn
        self.model_max_length: int = tokenizer.context_length
        self.pad_token_id: int = 0 if self._inner is None else self._inner.pad_token_id

    def __call__(
        self, texts: Sequence[str], truncation: bool = True, max_length: int | None = None
    ) -> dict[str, list[list[int]]]:
        """Return the tokens that open_clip gives each text, special ones included, not padded."""
        length = max_length if max_length and truncation else self.model_max_length
        if self._inner is None:
            # What is behind the end is padding; the number of the padding stands for a "!", too.
            rows = self._tokenizer(list(texts), context_length=length)
            return {"input_ids": [self._cut_padding(row) for row in rows]}
        ids = self._inner(list(map(self._clean, texts)), truncation=True, max_length=length)
        rows = ids["input_ids"]
        if getattr(self._tokenizer, "strip_sep_token", False):
            sep = self._inner.sep_token_id
            rows = [[0 if token == sep else token for token in row] for row in rows]
        return {"input_ids": rows}

    def _cut_padding(self, row: "torch.Tensor") -> list[int]:
        ends = (row == self._tokenizer.eot_token_id).nonzero()
        return row[: int(ends[-1]) + 1].tolist()

    @property
    def eos_token_id(self) -> int | None:
        """The end of a text."""
        own = self._inner is None
        return self._tokenizer.eot_token_id if own else self._inner.eos_token_id

    @property
    def unk_token(self) -> str | None:
        """What stands for a piece that is not known; None: every one is."""
        return None if self._inner is None else self._inner.unk_token

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens that are no text."""
        if self._inner is not None:
            return self._inner.all_special_tokens
        return self.convert_ids_to_tokens(self._tokenizer.all_special_ids)

    def get_vocab(self) -> dict[str, int]:
        """Return token -> number."""
        return self._tokenizer.encoder if self._inner is None else self._inner.get_vocab()

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of their numbers."""
        if self._inner is not None:
            return self._inner.convert_ids_to_tokens(list(ids))
        return [self._tokenizer.decoder[number] for number in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of tokens."""
        own = self._inner is None
        return self._tokenizer.decode(ids).strip() if own else self._inner.decode(list(ids))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what ``load_open_clip_tokenizer`` makes the same tokenizer of, without network."""
        from open_clip.tokenizer import get_clean_fn

        clean = next(name for name in _CLEANINGS if get_clean_fn(name) is self._clean)
        settings = {"context_length": self.model_max_length, "clean": clean}
        if self._inner is None:
            settings["tokenizer"] = _SIMPLE
        else:
            settings["tokenizer"] = "HFTokenizer"
            settings["strip_sep_token"] = getattr(self._tokenizer, "strip_sep_token", False)
            self._inner.save_pretrained(folder)
        write_json(Path(folder) / FILE, settings)
