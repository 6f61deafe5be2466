"""Models and batches for benchmarks: real sizes, random weights, frames of noise, drawn words.

A batch's words are drawn from the words of captions, as often as they occur there; so are its
queries. The captions are those of an annotation file, or made up of 6,000 words whose frequencies
fall as their rank grows (Zipf's law), as those of real captions do.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from base.batch import Batch, Tokens
from base.config import Config
from data_loader.collate import lay_out_words, pad_tokens
from data_loader.ocr.ocr_words import TRACK_SIZE, OcrParams
from parse_config import load_config
from utils.errors import UserError

CONFIG = Path(__file__).parents[1] / "configs/TextVR_fusion.json"
VOCABULARY = 3000  # pieces: common words are whole, rare ones of two to five pieces
NUM_MADE, MADE_WORDS = 2727, 6000
CLS, SEP, PAD = 2, 3, 0


@dataclass(frozen=True)
class Texts:
    """What queries and OCR words are drawn from.

    Attributes:
        captions: the queries.
        words: of all captions, lower-cased, as often as they occur; those that the OCR rules keep.
        tokens: texts -> token ids of each, with first and last token.
    """

    captions: list[str]
    words: list[str]
    tokens: Callable[[Sequence[str]], list[list[int]]]

    def shown(self, rng: np.random.Generator, count: int) -> list[str]:
        """Draw ``count`` distinct words of a video."""
        drawn: dict[str, None] = {}
        while len(drawn) < count:
            drawn[self.words[rng.integers(len(self.words))]] = None
        return list(drawn)


def texts_of(annotations: Path | None) -> Texts:
    """Read the captions of an annotation file of the TextVR form, or make some up.

    Raises:
        UserError: the file holds none.
    """
    captions = made_captions() if annotations is None else _captions(annotations)
    rules = OcrParams()
    words = [word.lower() for caption in captions for word in caption.split()]
    words = [
        w for w in words if len(w) >= rules.min_length and all(ord(c) <= rules.max_char for c in w)
    ]
    tokenizer = _tokenizer(captions)

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        return [[CLS, *found.ids, SEP] for found in tokenizer.encode_batch(list(texts))]

    return Texts(captions, words, tokens)


def _captions(file: Path) -> list[str]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [info["caption"] for entry in entries for info in entry["captions_info"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: is no annotation file of the TextVR form ({error!r})") from error


def made_captions() -> list[str]:
    """Return made-up captions of 14 words, the same ones each time."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = ["".join(rng.choice(letters, rng.integers(3, 10))) for _ in range(MADE_WORDS)]
    share = 1 / np.arange(1, MADE_WORDS + 1)
    drawn = rng.choice(MADE_WORDS, (NUM_MADE, 14), p=share / share.sum())
    return [" ".join(words[number] for number in row) for row in drawn]


def _tokenizer(captions: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def base_config(*changes: str) -> Config:
    """Return the published run's configuration, without its pretrained weights.

    The time attention starts random, not at zero: zeros would hide what it computes.
    """
    fresh = ["video_params.pretrained=false", "text_params.pretrained=false"]
    fresh.append("video_params.time_init=rand")
    return load_config(CONFIG, [*(f"arch.args.{change}" for change in fresh), *changes])


def made_batch(
    texts: Texts, size: int, num_words: int, frames: int, res: int, device: torch.device
) -> Batch:
    """Return a batch as it is when the device transform has run.

    Args:
        texts: of queries and words.
        size: B, the videos; each has one query.
        num_words: distinct words of each video; with 0 it has the one blank word.
        frames: F of a clip.
        res: side of a frame, pixels.
        device: where it goes.
    """
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    shown = [texts.shown(rng, num_words) if num_words else [" "] for _ in range(size)]
    distinct = list(dict.fromkeys(word for words in shown for word in words))
    used = dict(zip(distinct, texts.tokens(distinct), strict=True))
    tracks = [rng.random((len(words), TRACK_SIZE), dtype=np.float32) for words in shown]
    chosen = rng.choice(len(texts.captions), size, replace=False)
    ids = texts.tokens([texts.captions[number] for number in chosen])
    query = pad_tokens(ids, PAD)
    mask = torch.arange(query.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
    return Batch(
        ids=[str(number) for number in range(size)],
        video_index=torch.arange(size),
        query=Tokens(query, mask.long()),
        query_row=torch.arange(size),
        video=torch.randn((size, frames, 3, res, res), generator=generator),
        words=lay_out_words(used, shown, tracks, PAD),
    ).to(device)
