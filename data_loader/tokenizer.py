"""Queries and OCR words as tokens, by the tokenizer of the text model."""

from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILES = "tokenizer.json (or vocab.txt) and tokenizer_config.json"


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """Load a tokenizer by Hugging Face name or local folder.

    Raises:
        UserError: it is not there, or has no vocabulary; says which file to put where.
    """
    from transformers import AutoTokenizer

    folder = Path(name).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # of hub, JSON and tokenizers: the types share no base class
        detail = " ".join(str(error).split())[:300]
        where = (
            f"the folder must hold {FILES}"
            if folder
            else "is no local folder and could not be had from the Hugging Face hub; without "
            f"network put {FILES} of {name} into a folder and give that folder as "
            "arch.args.text_params.model"
        )
        raise UserError(f'tokenizer "{name}": {where} ({detail})') from error
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise UserError(f'tokenizer "{name}": has no vocabulary; the folder must hold {FILES}')
    return tokenizer
