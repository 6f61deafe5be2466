"""Readings of a recogniser: probabilities decoded by CTC's best path, with what they rest on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

# Mean probability of letters that may not be read: 0.007 in 99 of 100 lines of Latin, 0.97 and
# more in 95 of 100 of Chinese; half of the Japanese ones are above this, no line of Latin is.
_MOSTLY = 0.4
_SURE = 0.5  # least mean confidence of what is read then; blurred Latin letters are read with 0.1
EMPTY = 0  # the class that stands for no character (CTC's "blank")


class Reading(NamedTuple):
    """A line as a recogniser reads it; the first two are what RapidOCR's own decoder gives.

    L characters, T steps of the recogniser.
    """

    text: str
    score: float  # mean confidence of its characters
    confidences: np.ndarray  # (L,) of each character of the text
    steps: np.ndarray  # (L,) at which they begin
    foreign: np.ndarray  # (T,) probability of letters that may not be read; NaN: there is nothing
    unmasked: str = ""  # the text if everything might be read, where most of it may not

    def get_foreign(self) -> float:
        """Return the mean probability of letters that may not be read, within the text.

        An icon at its end, which may be taken for such a letter, doesn't count.
        """
        if not len(self.steps):
            return 0.0
        return float(np.nanmean(self.foreign[self.steps[0] : self.steps[-1] + 1]))


@dataclass
class CtcDecoder:
    """Decoder in the place of RapidOCR's own.

    Attributes:
        characters: of the classes, C.
        weights: (C,) factors of their probabilities; 0: it is never read.
    """

    characters: Sequence[str]
    weights: np.ndarray

    def __call__(self, probabilities: np.ndarray, *_: Any, **__: Any) -> list[Reading]:
        """Decode (N, T, C) probabilities; raises ``ValueError`` for another number of classes."""
        if probabilities.shape[2] != len(self.characters):
            raise ValueError(
                f"{probabilities.shape[2]} classes, but {len(self.characters)} characters"
            )
        return decode_readings(probabilities, self.weights, self.characters)


def decode_readings(
    probabilities: np.ndarray, weights: np.ndarray, characters: Sequence[str]
) -> list[Reading]:
    """Decode (N, T, C) probabilities by the best path through what may be read."""
    is_foreign = np.array(
        [letter.isalpha() and not use for letter, use in zip(characters, weights, strict=True)]
    )
    is_foreign[EMPTY] = False
    weighted = probabilities * weights  # (N, T, C)
    best, confidence = weighted.argmax(axis=2), weighted.max(axis=2).clip(max=1)
    masses = probabilities @ is_foreign.astype(probabilities.dtype)  # (N, T)
    masses[(best == EMPTY) & (masses <= 0.5)] = np.nan
    readings = []
    for path, sure, mass, free in zip(best, confidence, masses, probabilities, strict=True):
        steps = _find_characters(path)
        unmasked = ""
        if (mass > 0).any() and np.nanmean(mass) > _MOSTLY:
            whole = free.argmax(axis=1)
            found = _find_characters(whole)
            if len(found) > 1 and free[found, whole[found]].mean() >= _SURE:
                unmasked = "".join(characters[number] for number in whole[found])
        text = "".join(characters[number] for number in path[steps])
        score = float(sure[steps].mean()) if len(steps) else 0.0
        readings.append(Reading(text, score, sure[steps], steps, mass, unmasked))
    return readings


def _find_characters(path: np.ndarray) -> np.ndarray:
    """Return the steps of a path, (T,), at which a character begins."""
    return np.flatnonzero((path != EMPTY) & (np.diff(path, prepend=-1) != 0))


# Of 87 pictures of lines with real single letters and 72 with icons: a letter that stands alone is
# read with a confidence of 0.6 (a c for a C) or more, nearly all with 0.8; icons as a letter or a
# sign with 0 to 0.66, but for a cross, which is read as the plus that it is.
_ALONE = 0.7  # least confidence of a line's only character
_AT_EDGE = 0.6  # and of those apart from the rest, at the beginning or the end
_MAX_ICON = 2  # characters that an icon is read as: ".o"


def drop_icons(reading: Reading) -> Reading:
    """Return a reading without what an icon at its beginning or end was taken for.

    That is one or two unsure characters, apart from the others by a blank or because they are, or
    begin with, a sign; and a line that is but one unsure character.
    """
    kept = [place for place, letter in enumerate(reading.text) if letter != " "]
    if len(kept) == 1:
        return reading if reading.confidences[kept[0]] >= _ALONE else _cut(reading, 0, 0)
    first = _count_icon(reading.text, reading.confidences)
    last = _count_icon(reading.text[::-1], reading.confidences[::-1])
    if not first and not last:
        return reading
    return _cut(reading, first, max(first, len(reading.text) - last))


def _count_icon(text: str, confidences: np.ndarray) -> int:
    """Return how many characters at the beginning are an icon."""
    count = len(text) - len(text.lstrip())  # blanks before it
    is_apart = False
    for place in range(count, len(text)):
        if text[place] == " ":
            is_apart = True
            break
        if confidences[place] >= _AT_EDGE:
            break
        is_apart |= not text[place].isalnum()
        count = place + 1
    inked = text[:count].strip()
    return count if is_apart and 0 < len(inked) <= _MAX_ICON else 0


def _cut(reading: Reading, start: int, stop: int) -> Reading:
    sure = reading.confidences[start:stop]
    return reading._replace(
        text=reading.text[start:stop],
        score=float(sure.mean()) if len(sure) else 0.0,
        confidences=sure,
        steps=reading.steps[start:stop],
    )
