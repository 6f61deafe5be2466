"""Words, captions and OCR documents of the made-up TextVR.

Three vocabularies that share no word: the words to be read in a video, the distractors that are
read beside them, and the words of the captions' sentences.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_loader.synthetic.scene import Box, Look

SIGN_WORDS: tuple[str, ...] = tuple(
    """
    casino bakery hotel museum pharmacy library garage school hospital florist cinema barber
    butcher stadium airport station dentist laundry tavern brewery bookshop gallery harbor nursery
    pizzeria jeweler optician tailor aquarium arcade bistro bank
    hostel temple tobacco printing plumber locksmith ballroom chapel embassy kennel marina orchard
    pottery saloon sauna sushi toyshop vineyard winery theater campus castle dairy factory fishery
    college kebab parlor ranch rental cobbler armory
    """.split()
)

DISTRACTORS: tuple[str, ...] = tuple(
    """
    welcome open sale exit parking street north south entry closed ticket push free today price
    grand royal city park main lane avenue public special summer winter offer menu daily fresh
    deluxe night service private central corner plaza level floor best
    """.split()
)

# Both orders, the look first or the word first; none tells more about the video than these two.
TEMPLATES: tuple[str, ...] = (
    "a {colour} {shape} drifts over a {background} background and the sign reads {word}",
    "the word {word} next to a {colour} {shape} moving on {background}",
    "{word} is written near a {colour} {shape} before a {background} wall",
    "on {background} ground a {colour} {shape} slides past the text {word}",
    "a sign that says {word} while a {colour} {shape} floats in front of {background}",
    "a {background} picture with a {colour} {shape} and the letters {word}",
    "someone shows {word} beside the {colour} {shape} over {background}",
    "we see a {colour} {shape} against {background} and can read {word}",
)


def _fill_template(template: str, look: Look, word: str) -> str:
    """The caption of a look and a word."""
    return template.format(
        colour=look.colour, shape=look.shape, background=look.background, word=word
    )


def make_captions(rng: np.random.Generator, look: Look, word: str, count: int) -> list[str]:
    """Return ``count`` captions (at most ``len(TEMPLATES)``), each after another template.

    As in the real files some start with a blank, end with a full stop or shout the word.
    """
    captions = []
    for index in rng.choice(len(TEMPLATES), size=count, replace=False):
        written = word.upper() if rng.random() < 0.3 else word
        blank = " " if rng.random() < 0.1 else ""
        stop = "." if rng.random() < 0.3 else ""
        captions.append(blank + _fill_template(TEMPLATES[index], look, written) + stop)
    return captions


def list_vocabulary(looks: Sequence[Look], words: Sequence[str]) -> list[str]:
    """Return texts that hold every word of the captions and signs of these looks and words."""
    captions = [_fill_template(TEMPLATES[0], look, "") for look in looks]
    captions += [_fill_template(template, looks[0], "") for template in TEMPLATES]
    return [*captions, *words, *DISTRACTORS]


def change_case(rng: np.random.Generator, text: str) -> str:
    """Return the text in upper case, as most signs are, or in title or lower case."""
    return (text.upper(), text.upper(), text.title(), text.lower())[rng.integers(4)]


def pick_distractor(rng: np.random.Generator) -> str:
    """Return one distractor, in lower case."""
    return DISTRACTORS[rng.integers(len(DISTRACTORS))]


def make_noise(rng: np.random.Generator) -> str:
    """Return what text spotting makes of dirt: letters around a digit, one character, nothing."""
    kind = rng.integers(4)
    if kind == 0:
        return ""
    letters = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz|'-"), size=4))
    digit = str(rng.integers(10))
    if kind == 1:
        return letters[0] if rng.random() < 0.5 else digit
    return letters[: rng.integers(1, 3)] + digit + letters[2 : rng.integers(3, 5)]


def make_record(
    rng: np.random.Generator, text: str, boxes: Mapping[int, Box], lowest_score: float
) -> dict[str, Any]:
    """Return one text line, tracked over consecutive frames, in the Kwai format.

    Drawn are its score, up to 0.99, the tracker's stride and the two numbers that nobody uses.
    """
    frames = sorted(boxes)
    tracked = sorted({*frames[:: rng.integers(1, 4)], frames[-1]})
    tracks = {}
    for frame in tracked:
        unused = [round(float(rng.uniform(0.5, 1)), 4), int(rng.integers(2))]
        tracks[str(frame)] = [*_list_corners(boxes[frame]), *unused]
    score: float | str = round(float(rng.uniform(lowest_score, 0.99)), 4)
    if rng.random() < 0.3:  # as in the real files
        score = str(score)
    return {
        "text": text,
        "score": score,
        "tracks": tracks,
        "recommend_box": _list_corners(boxes[tracked[len(tracked) // 2]]),
    }


def make_document(rng: np.random.Generator, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the records in random order, under rising numbers with gaps."""
    numbers = np.cumsum(rng.integers(1, 4, size=len(records))) - 1
    order = rng.permutation(len(records))
    return {str(number): records[index] for number, index in zip(numbers, order, strict=True)}


def draw_boxes(
    rng: np.random.Generator, num_frames: int, width: int, height: int
) -> dict[int, Box]:
    """Return a box that stands still somewhere in the picture, over a random run of frames."""
    box_width, box_height = int(rng.integers(8, width // 2)), int(rng.integers(6, height // 4))
    left = int(rng.integers(0, width - box_width))
    top = int(rng.integers(0, height - box_height))
    first = int(rng.integers(num_frames))
    last = int(rng.integers(first, num_frames))
    box = (left, top, left + box_width, top + box_height)
    return {frame: box for frame in range(first, last + 1)}


def _list_corners(box: Box) -> list[int]:
    """The four corners of a box, clockwise from the upper left: x1, y1 ... x4, y4."""
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]
