"""Where matched words stand in a line as it was read."""

import re

from retrieval.storage.text import words_of

_PIECE = re.compile(r"\S+")


def marks_of(text: str, word: str) -> list[tuple[int, int]]:
    """Return the places of a word, or of neighbouring words, in a line of text.

    Args:
        text: as it was read.
        word: as it was compared (``WordMatch.word``); those of a phrase are one blank apart.

    Returns:
        First character of each place and the one after its last, by position.
    """
    pieces = [
        (match.span(), own) for match in _PIECE.finditer(text) for own in words_of(match.group())
    ]
    wanted = word.split(" ")
    found, place = [], 0
    while place + len(wanted) <= len(pieces):
        part = pieces[place : place + len(wanted)]
        if [own for _, own in part] == wanted:
            found.append((part[0][0][0], part[-1][0][1]))
            place += len(wanted)
        else:
            place += 1
    return found
