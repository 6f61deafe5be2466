"""OCR documents shortened before they are parsed, for whoever wants their words only.

Almost all of a document is the corners of its tracks, and parsing those takes most of the time.
"""

import re

import numpy as np

_FRAME = rb'"\d+": ?\[[-0-9., ]+\]'
_RUN = re.compile(_FRAME + rb"(?:, ?" + _FRAME + rb")+")
_DIGIT, _DOT, _COMMA, _OPEN, _CLOSE = 1, 3, 4, 6, 7  # 0 and 1: the digits 0 and 1 to 9
_CLASSES = bytes.maketrans(
    b'0123456789-., []":', bytes([0, *[_DIGIT] * 9, 2, _DOT, _COMMA, 5, _OPEN, _CLOSE, 8, 9])
)
# What may follow each of 0 1-9 - . , blank [ ] " : where numbers are written as JSON has them.
_AFTER_DIGIT = (0, 1, _DOT, _COMMA, _CLOSE, 8)
_FOLLOWING = [
    _AFTER_DIGIT, _AFTER_DIGIT, (0, 1), (0, 1), (0, 1, 2, 5, 8), (0, 1, 2, _OPEN, 8), (0, 1, 2),
    (_COMMA,), (0, 1, 9), (5, _OPEN),
]  # fmt: skip
_PAIRS = {first * 16 + second for first, row in enumerate(_FOLLOWING) for second in row}
_IS_PAIR = bytes(code in _PAIRS for code in range(256))
_LONGEST = 64  # digits; any float holds that many


def shorten(data: bytes) -> bytes | None:
    """Return a document's bytes without the second and further frames of its tracks.

    It is valid afterwards if and only if it was before: only whole members of an object,
    ``"FRAME": [8 or 10 numbers]``, are left out, of which none is needed for the others. Within a
    JSON string there is no such text, as its quotes would be escaped.

    Returns:
        None: a frame is not plainly good, so the parser and ``ocr_words`` are to judge it.
    """
    runs = [match.span() for match in _RUN.finditer(data)]
    if runs and not _are_good(b",".join(data[start:end] for start, end in runs)):
        return None
    kept, done = [], 0
    for start, end in runs:
        kept.append(data[done : data.index(b"]", start) + 1])
        done = end
    return b"".join([*kept, data[done:]])


def _are_good(frames: bytes) -> bool:
    """Whether frames that ``_RUN`` found are 8 or 10 finite JSON numbers each."""
    codes = np.frombuffer(frames.translate(_CLASSES), dtype=np.uint8)
    if b"\0" in (codes[:-1] * 16 + codes[1:]).tobytes().translate(_IS_PAIR):
        return False
    (places,) = np.nonzero(codes > _DIGIT)  # of all that is no digit
    marks = codes[places]
    lengths = np.diff(places)
    is_after_start = (marks[:-1] != _DOT) & (marks[:-1] != 8)  # a key or a fraction may begin so
    has_leading_zero = is_after_start & (lengths > 2) & (codes[places[:-1] + 1] == 0)
    has_two_dots = (marks[1:] == _DOT) & (marks[:-1] == _DOT)
    if has_leading_zero.any() or has_two_dots.any() or lengths.max() > _LONGEST:
        return False
    commas = np.cumsum(marks == _COMMA)
    counts = commas[marks == _CLOSE] - commas[marks == _OPEN]
    return bool(((counts == 7) | (counts == 9)).all())
