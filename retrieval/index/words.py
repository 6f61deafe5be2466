"""Words as they are compared: without case, accents of Latin letters, and outer punctuation."""

import re
import unicodedata

_ACCENTS = re.compile("[\u0300-\u036f]")


def fold(text: str) -> str:
    """Return a text as it is compared: ``ＣＡＦÉ`` and ``café`` are both ``cafe``.

    What is no text (control characters, halves of surrogate pairs) becomes a blank.
    """
    if text.isascii() and text.isprintable():  # most are; the rest would change nothing
        return text.lower()
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    text = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))


def get_words(text: str) -> list[str]:
    """Return the folded words of a text: what stands between blanks, without outer punctuation.

    ``"Now -50%: $9.99!"`` has ``now``, ``50`` and ``9.99``.
    """
    words = (_strip_punctuation(piece) for piece in fold(text).split())
    return [word for word in words if word]


def _strip_punctuation(piece: str) -> str:
    if piece.isalnum():
        return piece
    # Letters, digits, and marks that belong to a letter (Hindi, Thai).
    letters = [i for i, c in enumerate(piece) if unicodedata.category(c)[0] in "LNM"]
    return piece[letters[0] : letters[-1] + 1] if letters else ""
