"""Words of training as a worse text spotter would have read them (``ocr_params.noise``).

So a model does not lean on spotting that is perfect. Words are lower-cased by then, but a spotter
saw them as they were written: an s may have been an S, and be read as 5.
"""

import numpy as np

from data_loader.ocr.ocr_words import OcrParams, OcrWords

# What one or two characters look like to a spotter. Each goes both ways where both are listed.
CONFUSIONS: dict[str, tuple[str, ...]] = {
    "0": ("o", "d"),
    "1": ("l", "i", "7"),
    "2": ("z",),
    "3": ("8", "e"),
    "4": ("a",),
    "5": ("s",),
    "6": ("b", "g"),
    "7": ("1", "t"),
    "8": ("b", "3"),
    "9": ("g", "q"),
    "a": ("o", "e", "4"),
    "b": ("8", "6", "h"),
    "c": ("e", "o"),
    "d": ("0", "o", "cl"),
    "e": ("c", "o", "3"),
    "f": ("t",),
    "g": ("9", "q", "6"),
    "h": ("n", "b"),
    "i": ("l", "1", "j"),
    "j": ("i",),
    "k": ("x",),
    "l": ("1", "i", "t"),
    "m": ("rn", "nn"),
    "n": ("h", "ri"),
    "o": ("0", "c", "a"),
    "p": ("f",),
    "q": ("g", "9"),
    "r": ("n",),
    "s": ("5",),
    "t": ("f", "7", "l"),
    "u": ("v", "n"),
    "v": ("u", "y"),
    "w": ("vv",),
    "x": ("k",),
    "y": ("v",),
    "z": ("2",),
    "rn": ("m",),
    "nn": ("m",),
    "cl": ("d",),
    "ri": ("n",),
    "vv": ("w",),
    ",": (".",),
    ".": (",",),
    "!": ("1", "l"),
}
LOOKALIKE_SHARE = 0.7  # of misread characters that have any; of the others each case is a third


def disturb_words(found: OcrWords, params: OcrParams, rng: np.random.Generator) -> OcrWords:
    """Return words of a video as training reads them: some left out, and characters misread.

    Words of one line (of equal tracks) may grow together where a blank is missed; a word in which
    one is read falls apart. Both keep the line's track. What is shorter than ``min_length`` is left
    out, as of a document, and there are at most ``max_words``; no word is compared with the others.

    Args:
        found: left as they are.
        params: with ``drop_words`` and ``noise``; where both are 0 nothing is drawn.
        rng: the training sample's.
    """
    words, tracks = found.words, found.tracks
    if params.drop_words:
        kept = np.flatnonzero(rng.random(len(words)) >= params.drop_words)
        words, tracks = [words[number] for number in kept], tracks[kept]
    if params.noise and words:
        read, rows = [], []
        for text, row in _merge_words(words, tracks, params.noise, rng):
            pieces = misread(text, params.noise, rng).split(" ")
            pieces = [piece for piece in pieces if len(piece) >= params.min_length]
            read += pieces
            rows += [row] * len(pieces)
        words, tracks = read[: params.max_words], tracks[rows[: params.max_words]]
    return OcrWords(words, tracks, found.num_skipped)


def misread(text: str, noise: float, rng: np.random.Generator) -> str:
    """Return a text in which each character is misread with probability ``noise``.

    What is not in ``CONFUSIONS`` is lost, doubled, or followed by a blank; what is, mostly becomes
    what it looks like.
    """
    wrong = rng.random(len(text)) < noise
    if not wrong.any():
        return text
    parts, place = [], 0
    while place < len(text):
        char, pair = text[place], text[place : place + 2]
        place += 1
        if not wrong[place - 1]:
            parts.append(char)
            continue
        of_pair = CONFUSIONS.get(pair, ()) if len(pair) == 2 else ()
        choices = [*of_pair, *CONFUSIONS.get(char, ())]
        if choices and rng.random() < LOOKALIKE_SHARE:
            number = int(rng.integers(len(choices)))
            parts.append(choices[number])
            place += number < len(of_pair)  # the second character is read with it
        else:
            parts.append(("", char * 2, char + " ")[rng.integers(3)])
    return "".join(parts)


def _merge_words(
    words: list[str], tracks: np.ndarray, noise: float, rng: np.random.Generator
) -> list[tuple[str, int]]:
    """Return the words where some blanks of a line are missed, each with its track's row."""
    missed = rng.random(len(words)) < noise
    merged: list[tuple[str, int]] = []
    for row, word in enumerate(words):
        if row and missed[row] and np.array_equal(tracks[row - 1], tracks[row]):
            text, first = merged[-1]
            merged[-1] = (text + word, first)
        else:
            merged.append((word, row))
    return merged
