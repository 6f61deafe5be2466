"""Misreadings: words that an OCR engine takes for each other, and those that are mistyped.

Some letters look alike in most fonts (``0`` and ``o``, ``rn`` and ``m``); two words that are the
same but for such letters are taken for each other by every engine. Any other letter is rarely
misread, and in a short word it makes another word: ``life`` is not ``like``.
"""

_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "!": "l", "5": "s", "8": "b",
                        "2": "z", "6": "g"})  # fmt: skip
# Cyrillic and Greek letters whose capitals, mostly, are those of Latin ones.
_ALIKE |= str.maketrans("авекмнорстухіјѕ" + "αβεζηικμνορτυχ", "abekmhopctyxljs" + "abezhlkmnoptyx")
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))
MIN_ALIKE = 3  # letters of a word that is compared by its shape
LOOKALIKE_SCORE = 0.7
_EDIT_SCORE = 0.6
_MIN_SWAPPED, _MIN_ONE_EDIT, _MIN_TWO_EDITS = 4, 6, 8  # letters


def fold_lookalikes(word: str) -> str:
    """Return what a folded word has in common with those that look like it."""
    word = word.translate(_ALIKE)
    for pair, letter in _PAIRS:
        word = word.replace(pair, letter)
    return word


def get_max_edits(word: str) -> int:
    """Return how many letters of a word may be other ones, missing, extra, or swapped.

    In words of fewer than six letters only two neighbours that are swapped count, see
    ``is_plausible``.
    """
    if word.isdecimal() or len(word) < _MIN_SWAPPED:
        return 0  # a number with another digit is another number
    return 1 if len(word) < _MIN_TWO_EDITS else 2


def is_plausible(word: str, other: str) -> bool:
    """Whether a word within ``get_max_edits`` is that word, and not another one.

    ``10:59:45`` with another digit is another time, ``re16`` another part; digits may be swapped.
    """
    digits, others = (sorted(filter(str.isdecimal, text)) for text in (word, other))
    if digits and others and digits != others:
        return False
    return len(word) >= _MIN_ONE_EDIT or sorted(word) == sorted(other)


def score_edits(word: str, distance: int) -> float:
    """Return the score of a match at an edit distance: the higher, the more letters are right."""
    return _EDIT_SCORE * (1 - 3 * distance / max(len(word), 4 * distance))
