"""Words of like meaning, by the static word vectors that the package ``wordllama`` ships.

Its two files (vectors of 32,000 pieces of words, 256 wide, and their tokenizer) are read directly:
the package's own loader asks a hub for them. A word's vector is the mean of its pieces'.

Of 74 pairs of like meaning 70 % have a cosine of ``LEAST`` or more, of 72 unlike ones none (their
95th percentile is .07). What has several pieces is less sure (``beach`` ~ ``caches`` .44, by
chance), so that short ones, often misread, are left out. Where two words share a piece they are
spelt alike, which other matches find.

Shapes: W words.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError

LEAST = 0.35  # cosine
MAX_SIMILAR = 20  # words of the videos for a word of the query: the most alike
_MIN_LETTERS, _MIN_LETTERS_OF_SEVERAL = 3, 6  # of a word that is one piece, and of several
_INSTALL = "words of like meaning need the vectors of wordllama: pip install wordllama==0.4.0.post1"


class WordVectors:
    """The vectors of all pieces of words; raises ``UserError`` where they are not installed."""

    def __init__(self) -> None:
        package = find_spec("wordllama")
        if package is None or package.origin is None:
            raise UserError(_INSTALL)
        folder = Path(package.origin).parent
        weights = folder / "weights" / "l2_supercat_256.safetensors"
        tokenizer = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
        if not (weights.is_file() and tokenizer.is_file()):
            raise UserError(f"{folder}: this version of wordllama ships no vectors; {_INSTALL}")
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self._pieces = load_file(weights)["embedding.weight"].astype(np.float32)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))

    def embed(self, words: Sequence[str]) -> tuple[NDArray, list[set[int]]]:
        """Return the vectors of W words, (W, 256) float32 of length 1, and each one's pieces."""
        encoded = self._tokenizer.encode_batch(list(words), add_special_tokens=False)
        vectors = np.zeros((len(words), self._pieces.shape[1]), np.float32)
        for row, found in zip(vectors, encoded, strict=True):
            row += self._pieces[found.ids].mean(axis=0)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, 1e-9), [set(found.ids) for found in encoded]


@cache
def load_word_vectors() -> WordVectors:
    """Return the vectors, read once in a process; raises ``UserError``."""
    return WordVectors()


class SimilarWords:
    """The words of an index, given as (id, folded text), by their meaning; raises ``UserError``."""

    def __init__(self, words: Sequence[tuple[int, str]]) -> None:
        self._words = [word for word in words if _names_something(word[1])]
        self._vectors, self._pieces = load_word_vectors().embed([text for _, text in self._words])

    def find_similar(self, text: str) -> list[tuple[int, str, float]]:
        """Return (id, word, cosine) of words of like meaning, the most alike first."""
        if not self._words or not _names_something(text):
            return []
        (vector,), (pieces,) = load_word_vectors().embed([text])
        cosines = self._vectors @ vector
        found = []
        for position in np.flatnonzero(cosines >= LEAST).tolist():
            number, word = self._words[position]
            own = self._pieces[position]
            if (len(own) == 1 or len(word) >= _MIN_LETTERS_OF_SEVERAL) and not own & pieces:
                found.append((number, word, float(cosines[position])))
        return sorted(found, key=lambda word: (-word[2], word[1]))[:MAX_SIMILAR]


def _names_something(text: str) -> bool:
    return len(text) >= _MIN_LETTERS and text.isalpha()
