"""The distinct words of an index, to find those that nearly are a given one.

Shapes: W words.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import OSA

LONGEST = 32  # letters of a word that is compared with edits


class Vocabulary:
    """Words with what is compared first: their lengths and which letters they have.

    Args:
        words: (number, folded text) of each.
    """

    def __init__(self, words: Sequence[tuple[int, str]]) -> None:
        self.words = [word for word in words if len(word[1]) <= LONGEST]
        texts = [text for _, text in self.words]
        self._lengths = np.array([len(text) for text in texts], dtype=np.int16)
        self._letters = letter_sets(texts)

    def within(self, text: str, edits: int) -> list[tuple[int, str, int]]:
        """Return (number, word, edits) of the words 1 … ``edits`` edits away.

        An edit is another, a missing or an extra letter, or two neighbours swapped (optimal
        string alignment).
        """
        if not edits or not self.words or len(text) > LONGEST:
            return []
        near = np.abs(self._lengths - len(text)) <= edits
        # An edit takes one letter out of the set of letters, puts one in, or both.
        other = letter_sets([text])[0] ^ self._letters
        near &= np.bitwise_count(other) <= 2 * edits
        found = []
        for place in np.flatnonzero(near):
            number, word = self.words[place]
            distance = OSA.distance(text, word, score_cutoff=edits)
            if 0 < distance <= edits:
                found.append((number, word, distance))
        return found


def letter_sets(texts: Sequence[str]) -> NDArray:
    """Return (W,) uint64: which letters a text of up to ``LONGEST`` has, by code modulo 64."""
    if not texts:
        return np.zeros(0, dtype=np.uint64)
    codes = np.array(texts, dtype=f"<U{LONGEST}").view("<u4").reshape(len(texts), LONGEST)
    bits = np.left_shift(np.uint64(1), (codes % 64).astype(np.uint64))
    return np.bitwise_or.reduce(np.where(codes > 0, bits, np.uint64(0)), axis=1)
