"""Words as they are compared: in their written form, and in a reduced one that finds more.

The written form is without case, accents, and outer punctuation. The reduced form of a word is
also without the signs within it (``k-9``, ``u.s.a``, ``555-0123``), the zeros after a whole number
(``1,299.00``), marks that may be left out (Arabic and Hebrew vowels), strokes and dots of Latin
letters (``ø``, ``ı``), and has the digits 0 to 9 and one of the two Japanese syllabaries. Words
that are the same but for that are the same word written otherwise.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

# A breve makes another letter of и (й) and of у (ў); all others are accents.
_ACCENTS = re.compile("(?<![иу])\u0306|[\u0300-\u0305\u0307-\u036f]")
_LETTERS_WITH_BREVE = re.compile("(?<=[иу])\u0306")
# Signs that make another word: C++ and C#.
_KEPT_SIGNS = re.compile(r"\+\+$|(?<=^[a-z])#$")
_MIN_DIGITS = 3  # of a number that is written without its signs: 2:3 is not 23
# A number with decimals: grouped by thousands or not, and the two signs are not the same.
_NUMBER = re.compile(r"(\d{1,3}(?:([.,'’٬])\d{3})(?:\2\d{3})*|\d+)(?!\2)[.,٫](\d{1,2})")
_PARTS = re.compile(r"\d[\d.,'’٬٫]*|\D")
_LATIN = re.compile("LATIN SMALL (?:LETTER|LIGATURE) (?:DOTLESS )?([A-Z]|AE|OE)(?: WITH .+)?")
_OPTIONAL_MARKS = ("ARABIC", "HEBREW", "SYRIAC", "COMBINING", "VARIATION")
# Other ways to write a letter, as of the normalisation of Arabic and Persian in search engines.
_LETTERS = {"ð": "d", "þ": "th", "ŋ": "n", "ٱ": "ا", "ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه",
            "ہ": "ه", "ە": "ه", "ـ": ""}  # fmt: skip
# Scripts without blanks between words, or with few of them: Thai and Lao, Burmese, Khmer, Japanese,
# Korean, Chinese. A piece of two characters of Han or Hangul is mostly a word, of others of three.
_SYLLABLES = "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = re.compile(f"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff{_SYLLABLES}]+")
_LAST_KATAKANA, _TO_HIRAGANA = "ヶ", 0x60
_MIN_RUN = 3  # single characters that are read as a word that is spaced out
_STARTS_WITH_SYLLABLE = re.compile(f"[{_SYLLABLES}]")


def fold(text: str) -> str:
    """Return a text as it is compared: ``ＣＡＦÉ`` and ``café`` are both ``cafe``.

    What is no text (control characters, halves of surrogate pairs) becomes a blank.
    """
    if text.isascii() and text.isprintable():  # most are; the rest would change nothing
        return text.lower()
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    text = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))


def fold_formerly(word: str) -> str:
    """Return a word as indexes before format 4 have it: й is и, and C++ is C."""
    if word.isalnum() and word.isascii():
        return word
    decomposed = unicodedata.normalize("NFD", _KEPT_SIGNS.sub("", word))
    return unicodedata.normalize("NFC", _LETTERS_WITH_BREVE.sub("", decomposed))


def get_words(text: str) -> list[str]:
    """Return the folded words of a text: what stands between blanks, without outer punctuation.

    ``"Now -50%: $9.99!"`` has ``now``, ``50`` and ``9.99``.
    """
    words = (_strip_punctuation(piece) for piece in fold(text).split())
    return [word for word in words if word]


def _strip_punctuation(piece: str) -> str:
    if piece.isalnum():
        return piece
    letters = [i for i, c in enumerate(piece) if _is_letter(c)]
    if not any(map(str.isalnum, piece)):
        return ""
    first, end = letters[0], letters[-1] + 1
    signs = "++" if piece.startswith("++", end) else piece[end : end + 1]
    word = piece[first:end] + signs
    return word if _KEPT_SIGNS.search(word) else piece[first:end]


def _is_letter(character: str) -> bool:
    """Whether it is a letter, a digit, or a mark that belongs to a letter (Hindi, Thai)."""
    return unicodedata.category(character)[0] in "LNM"


def split_at_signs(text: str) -> str:
    """Return the words of a name, one blank apart: ``img_4711`` is ``img 4711``."""
    return " ".join("".join(c if _is_letter(c) else " " for c in text).split())


def reduce_word(word: str) -> str:
    """Return the reduced form of a folded word; see the head of this module."""
    if word.isascii() and word.isalnum():  # most are
        return word
    signs = _KEPT_SIGNS.search(word)
    body = word[: signs.start()] if signs else word
    body = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in body)
    text = unicodedata.normalize("NFC", _PARTS.sub(_reduce_part, body))
    num_digits = sum(map(str.isdecimal, body))
    if text.isdecimal() and len(text) == num_digits < min(_MIN_DIGITS, len(body)):
        return word
    text = (text + signs.group() if signs else text) or word
    return text if text == word else reduce_word(text)  # 0.1:25 is 0.125, and that 0125


def _reduce_part(found: re.Match[str]) -> str:
    part = found.group()
    if not part[0].isdecimal():
        return _reduce_character(part)
    number = _NUMBER.fullmatch(part)
    if number is None:
        return "".join(filter(str.isdecimal, part))
    whole, _, decimals = number.groups()
    whole = "".join(filter(str.isdecimal, whole))
    return f"{whole}.{decimals}" if decimals.strip("0") else whole


@lru_cache(8192)
def _reduce_character(character: str) -> str:
    """Return what is left of a character that is no digit."""
    name = unicodedata.name(character, "")
    if not _is_letter(character) or name.startswith("MODIFIER LETTER"):
        return ""
    if unicodedata.category(character)[0] == "M":
        return "" if name.startswith(_OPTIONAL_MARKS) or "NUKTA" in name else character
    if name.startswith("ARABIC"):
        character = unicodedata.normalize("NFD", character)[0]
    latin = _LATIN.fullmatch(name)
    if latin:
        return latin.group(1).lower()
    if name.startswith("KATAKANA LETTER") and character <= _LAST_KATAKANA:
        return chr(ord(character) - _TO_HIRAGANA)
    return _LETTERS.get(character, character)


def list_index_words(text: str) -> dict[str, str]:
    """Return the distinct words that a line is found by, each with its reduced form.

    Single characters that stand beside each other, three or more, are a word, too: ``S A L E``.
    """
    words = get_words(text)
    found = {word: reduce_word(word) for word in words}
    for is_single, run in groupby(words, lambda word: len(word) == 1):
        letters = list(run)
        if is_single and len(letters) >= _MIN_RUN:
            found[" ".join(letters)] = reduce_word("".join(letters))
    return found


def find_joined(words: Sequence[str], text: str) -> str | None:
    """Return the neighbours among a line's words that are one reduced word, one blank apart."""
    for first in range(len(words) - 1):
        joined = ""
        for last, word in enumerate(words[first:], first):
            joined += reduce_word(word)
            if joined == text and last > first:
                return " ".join(words[first : last + 1])
            if not text.startswith(joined):
                break
    return None


def is_unspaced(text: str) -> bool:
    """Whether a text is of scripts that have no blanks between words, or few of them."""
    return bool(_UNSPACED.fullmatch(text))


def list_pieces(reduced: str) -> list[str]:
    """Return the distinct neighbours in what is of unspaced scripts, and the last one alone."""
    runs = _UNSPACED.findall(reduced)
    return list(dict.fromkeys(run[i : i + 2] for run in runs for i in range(len(run))))


def measure_pieces(part: str, whole: str) -> float:
    """Return the share of a text of an unspaced script that stands in another one, in pieces."""
    covered = first = 0
    while first < len(part):
        least = 2 if _STARTS_WITH_SYLLABLE.match(part, first) else 3
        end = first
        while end < len(part) and part[first : end + 1] in whole:
            end += 1
        is_piece = end - first >= least
        covered += end - first if is_piece else 0
        first = end if is_piece else first + 1
    return covered / len(part)
