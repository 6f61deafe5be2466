"""Text of another script that a recogniser of Latin letters takes for Latin, told from real Latin.

"КРАСОТА В МЫСЛЯХ" is read as "KPACOTA B MbICnAX": with less confidence, with some probability on
letters that may not be read, and in shapes that words don't have. How much each of these says
was found by logistic regression on rendered lines (DejaVu, Liberation and Noto fonts of 14 to 40
pixels): 372 of Cyrillic, Greek, Arabic, Devanagari and Japanese that were read at all, against 766
of Latin, from prices and part numbers to code and GmbH, and 359 of ``benchmarks.text_scenes``.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retrieval.spotting.ctc import Reading

_BIAS, _UNSURE, _MASS, _SHAPE, _SHORT = -4.7, 11.4, 5.0, 2.4, -5.9
# Above SURE are 0.9 % of the Latin lines (0x7fff5fbff8c0, n00b), 0.3 % of the scenes' and 50 to
# 100 % of the others. In a video that has shown by them that it isn't all Latin, the bounds that
# follow hold: share of sure lines -> least score. Above -2 are 6.9, 0.6 and 80 to 100 %, above -3
# 15, 2 and 86 to 100 %.
SURE = 1.0
_BOUNDS = ((0.4, -3.0), (0.25, -2.0))
_MIN_SURE = 3  # lines
# Of 389 places of text in the scenes one can't be read at all; of 60 of Korean, 54.
_MIN_UNREAD, _UNREAD_SHARE = 10, 0.75
# Least share of what is left out; of a single text, which may be a misread line of Latin, more.
_WORTH_SAYING, _WORTH_SAYING_OF_ONE = 0.03, 0.3
# "BoK3an", "MbICnAX", "06pa30BaHMA"; not "iPod", "getElementById", "McDonald", "MP3".
_ODD = re.compile(r"[a-z][A-Z](?![a-z]{2})|[^\W\d_]{2}[0346][^\W\d_]{2}")
_MIN_LETTERS = 4  # of a word that is judged by its shape


class Noticed(NamedTuple):
    """What was noticed in one frame; JSON keeps it as a list."""

    num_lines: int
    num_sure: int  # of them, surely of another script
    num_unread: int  # places of text that could not be read with any confidence
    left_out: Sequence[tuple[str, Sequence[str]]]  # texts, and what they may be
    doubtful: Sequence[tuple[str, float, Sequence[str]]]  # that were kept: with their scores


class ForeignText:
    """Lines of one video, sorted by whether they are of another script."""

    def __init__(self) -> None:
        self._num_lines = self._num_sure = self._num_left_out = 0  # readings of all frames
        self._num_unread = 0
        self._left_out: dict[str, tuple[str, ...]] = {}  # distinct texts -> what they may be
        self._kept: dict[str, tuple[float, tuple[str, ...]]] = {}  # least score, what they may be

    def sort_out(
        self, readings: Sequence[Reading], num_unread: int = 0
    ) -> tuple[list[bool], Noticed]:
        """Sort the readings of a frame.

        Args:
            num_unread: what was found there, but could not be read with any confidence.

        Returns:
            Whether each reading is kept; and what ``add`` takes, as this has done already.
        """
        scores = [judge_reading(reading) for reading in readings]
        counts = len(readings), int(sum(score > SURE for score in scores)), num_unread
        self.add(Noticed(*counts, (), ()))
        bound = self._choose_bound()
        is_own = [score <= bound for score in scores]
        left_out, doubtful = [], []
        for reading, score, own in zip(readings, scores, is_own, strict=True):
            text = reading.unmasked or " ".join(reading.text.split())
            if not own:
                left_out.append((text, _guess(reading)))
            elif score > _BOUNDS[0][1]:
                doubtful.append((text, float(score), _guess(reading)))
        self.add(Noticed(0, 0, 0, left_out, doubtful))
        return is_own, Noticed(*counts, left_out, doubtful)

    def add(self, noticed: Noticed) -> None:
        """Take in what was noticed in a frame of the video."""
        self._num_lines += noticed.num_lines
        self._num_sure += noticed.num_sure
        self._num_unread += noticed.num_unread
        self._num_left_out += len(noticed.left_out)
        self._left_out |= {text: tuple(guess) for text, guess in noticed.left_out}
        for text, score, guess in noticed.doubtful:
            self._kept[text] = min((score, tuple(guess)), self._kept.get(text, (np.inf, ())))

    def confirm(self, text: str) -> bool:
        """Whether a line that was kept is still to be, now that the whole video is known."""
        score, guess = self._kept.get(text, (-np.inf, ()))
        if score <= self._choose_bound():
            return True
        self._left_out[text] = guess
        return False

    def _choose_bound(self) -> float:
        if self._num_sure >= _MIN_SURE:
            for share, bound in _BOUNDS:
                if self._num_sure >= share * self._num_lines:
                    return bound
        return SURE

    def describe(self) -> str | None:
        """Return what was left out, and how it is read, in one line; None: (nearly) nothing."""
        left_out = self._num_left_out / max(1, self._num_lines)
        least = _WORTH_SAYING if len(self._left_out) > 1 else _WORTH_SAYING_OF_ONE
        if left_out <= least:
            share = self._num_unread / max(1, self._num_unread + self._num_lines)
            if self._num_unread < _MIN_UNREAD or share < _UNREAD_SHARE:
                return None
            return (
                "most of what looks like text can't be read: if it is of another script than "
                "latin, --script NAME reads it, or says which file it needs"
            )
        count, guess = len(self._left_out), Counter(self._left_out.values()).most_common(1)[0][0]
        lines = "1 line looks" if count == 1 else f"{count} lines look"
        first, *others = guess
        return (
            f"{lines} like another script than latin and {'is' if count == 1 else 'are'} left out: "
            f"--script {first} (or {', '.join(others)}) reads such text, or says which file it "
            "needs"
        )


def judge_reading(reading: Reading) -> float:
    """Return how much a line looks like another script's; above 0: it is as likely as not."""
    if reading.unmasked:
        return np.inf
    sure = _list_confidences(reading)
    if not sure:
        return -np.inf
    words = [word for word in reading.text.split() if sum(map(str.isalpha, word)) >= _MIN_LETTERS]
    odd = sum(_ODD.search(word) is not None for word in words) / max(1, len(words))
    mass = float(np.log10(reading.get_foreign() + 1e-3)) + 3
    unsure = 1 - float(np.mean(sure))
    return _BIAS + _UNSURE * unsure + _MASS * mass + _SHAPE * odd + _SHORT / len(sure)


def _list_confidences(reading: Reading) -> list[float]:
    """Return those of what is no blank."""
    pairs = zip(reading.text, reading.confidences.tolist(), strict=True)
    return [value for letter, value in pairs if letter != " "]


def _guess(reading: Reading) -> tuple[str, ...]:
    """Return the names of scripts that the line may be of; of look-alikes not even the kind."""
    if reading.unmasked:
        return "chinese", "japanese"
    return "cyrillic", "greek", "arabic", "devanagari"
