"""Captions that need reading: those that speak of the text in their video."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from base.base_dataset import VideoEntry
from data_loader.ocr.ocr_reader import OcrReader
from data_loader.ocr.ocr_words import OcrParams
from utils.distributed import show_progress

MIN_LETTERS = 4
# Every word of a document, whatever the experiment's rules: the split of the captions must not
# change with an ablation.
ALL_WORDS = OcrParams(max_words=10**9, min_length=1, max_char=None, duplicates="drop")


def flag_captions_that_need_reading(
    entries: Sequence[VideoEntry], ocr_dir: Path | None = None, cache_dir: Path | None = None
) -> list[bool]:
    """Say of each caption of each entry, in order, whether it needs reading.

    A video without a document has no words, so its captions do not. ``ocr_dir`` and ``cache_dir``
    are those of ``OcrReader``, which raises ``UserError`` where a document can't be read.
    """
    reader = OcrReader(entries, ALL_WORDS, ocr_dir, cache_dir)
    reader.open_store()
    flags = []
    for index, entry in enumerate(show_progress(entries, "reading OCR documents", " videos")):
        read = reader.read(index)
        words = [] if read is None else read.words
        flags += [needs_reading(caption, words) for caption in entry.captions]
    return flags


def needs_reading(caption: str, words: Iterable[str]) -> bool:
    """Whether a caption shares a word of at least four letters with the OCR words of its video."""
    spotted = {part for word in words for part in _find_long_words(word)}
    return not spotted.isdisjoint(_find_long_words(caption))


def _find_long_words(text: str) -> set[str]:
    """The lower-cased words of a text that have at least ``MIN_LETTERS`` letters."""
    words = re.findall(r"\w+", text.lower())
    return {word for word in words if sum(map(str.isalpha, word)) >= MIN_LETTERS}
