"""Errors that the user can mend: a command shows their text and no traceback."""

import re

_MAX_CHARACTERS = 2_000  # of a text: whatever a file says of itself, it fits a terminal
_END = 500  # of them at least for the end of a longer one, where the remedy stands
# Control characters, which a terminal would obey; those that turn the direction of writing; and
# halves of surrogate pairs, which no encoding can write.
_UNPRINTABLE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class UserError(ValueError):
    """Something the user gave is wrong; the text says what, where, and the remedy.

    Names and values of foreign files stand in it: what can't be shown is escaped, and the middle
    of a text that is too long is left out.
    """

    max_characters = _MAX_CHARACTERS

    def __init__(self, text: str) -> None:
        super().__init__(shorten(escape_unprintable(text), self.max_characters))


def escape_unprintable(text: str) -> str:
    """Return a text of any origin so that a terminal shows it; lines stay apart."""
    return _UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], text)


def is_printable(text: str) -> bool:
    """Whether nothing of a text would be escaped."""
    return _UNPRINTABLE.search(text) is None


def shorten(text: str, max_characters: int) -> str:
    """Leave the middle out of a text that has more characters, and say how many."""
    if len(text) <= max_characters:
        return text
    mark = f" ... ({len(text) - max_characters:,} characters and more) ... "
    kept = max_characters - len(mark)
    return text[: kept - min(_END, kept // 4)] + mark + text[-min(_END, kept // 4) :]
