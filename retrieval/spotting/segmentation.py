"""Segmentation of what was read in one place into the texts that it showed one after the other.

A counter, a clock, a score or a slide's title stays where it is while its text changes. Of all ways
to cut the looks at it, and to give each part one of the texts that were read, the cheapest is taken
(a shortest path, as Viterbi's): a look costs by how much its reading differs from the text of its
part, each cut costs a fixed sum. Looks that differ cost the more the longer they go on, so that a
single misreading is cheaper than two cuts, and a reading that stays is not.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, NamedTuple

# Of a cut, in looks that differ in a digit, each read for sure. One such look, at either end, is
# cheaper than a cut; two in a row, which cost 1 + 2, are dearer than two cuts.
CUT = 1.2
# Where the picture has not changed, another reading is another guess at the same pixels. It is
# believed when it goes on, since the pixels' comparison doesn't see slow and faint changes.
CUT_UNCHANGED = 4.0
MAX_RUN = 4  # looks in a row that differ; each further one costs what this one does
MIN_ALIKE = 0.8  # texts that are more alike differ by a letter or two, as misreadings do
# Without a text that was read twice, each reading stands for itself where it was as sure as this.
SURE = 0.8

# Letters that are read for digits, and digits for letters.
_LOOK_ALIKE_LETTERS = "oil|!szbgq"
_LOOK_ALIKE = str.maketrans(_LOOK_ALIKE_LETTERS, "0111152899")


class Look(NamedTuple):
    """A look at one place.

    ``is_changed``: whether the picture there may have changed since the look before. ``weight`` is
    the number of looks that it stands for: those after it whose pictures look the same.
    """

    text: str
    score: float  # of the reading, in [0, 1]
    is_changed: bool = True
    weight: int = 1


class _Path(NamedTuple):
    """The cheapest way to end at a look in a part of some text, with some looks that differ."""

    cost: float
    cuts: tuple[int, Any] | None  # the look that begins the last part, and the cuts before


def find_changes(looks: Sequence[Look]) -> list[int]:
    """Return the numbers of the looks at which another text begins, ascending; none is 0."""
    if len({look.text for look in looks}) < 2:
        return []
    starts = [0, *_find_cheapest_cuts(looks)]
    found: list[int] = []
    for start, stop in zip(starts, [*starts[1:], len(looks)], strict=True):
        found += [start, *_separate_passing_texts(looks, start, stop)]
    return found[1:]


def _find_cheapest_cuts(looks: Sequence[Look]) -> list[int]:
    """Return the cuts of the shortest path.

    A state is a text and how many looks in a row have differed from it. States that are dearer than
    the cheapest one by more than a cut are never caught up with and are dropped, so that the time
    grows with the number of looks only.
    """
    states: dict[tuple[str, int], _Path] = {(text, 0): _Path(0, None) for text in _offer(looks, 0)}
    for number, look in enumerate(looks):
        entered: dict[tuple[str, int], _Path] = dict(states)
        if number:
            cheapest = min(states.values(), key=lambda path: path.cost)
            price = CUT if look.is_changed else CUT_UNCHANGED
            fresh = _Path(cheapest.cost + price, (number, cheapest.cuts))
            for text in _offer(looks, number):
                entered[text, 0] = min(entered.get((text, 0), fresh), fresh, key=_get_cost)
        states = {}
        for (text, run), path in entered.items():
            difference = measure_difference(look.text, text)
            added = 0.0
            for _ in range(look.weight):
                run = min(run + 1, MAX_RUN) if difference else 0
                added += difference * look.score * run
            path = path._replace(cost=path.cost + added)
            states[text, run] = min(states.get((text, run), path), path, key=_get_cost)
        least = min(path.cost for path in states.values())
        states = {s: path for s, path in states.items() if path.cost <= least + CUT_UNCHANGED}
    cuts, last = [], min(states.values(), key=_get_cost).cuts
    while last is not None:
        number, last = last
        cuts.append(number)
    return cuts[::-1]


def _get_cost(path: _Path) -> float:
    return path.cost


def _offer(looks: Sequence[Look], number: int) -> set[str]:
    """Return the texts that a part may have that begins at a look: those read soon."""
    return {look.text for look in looks[number : number + MAX_RUN]}


def _separate_passing_texts(looks: Sequence[Look], start: int, stop: int) -> list[int]:
    """Return further cuts of a part in which no text was read twice: a counter that runs fast.

    Its readings are kept one by one where they differ in digits and are sure.
    """
    part = looks[start:stop]
    keys = [_fold_look_alikes(look.text) for look in part]
    if len(part) < 2 or len(set(keys)) < len(keys) or any(look.weight > 1 for look in part):
        return []
    return [
        number
        for number in range(start + 1, stop)
        if looks[number].is_changed
        and min(looks[number].score, looks[number - 1].score) >= SURE
        and measure_difference(looks[number - 1].text, looks[number].text) == 1
    ]


@lru_cache(maxsize=4096)
def measure_difference(text: str, other: str) -> float:
    """Return how much two readings speak for two texts, in [0, 1]; 1 where digits differ.

    Letters count less than digits, since misreadings change a letter or two of a line; more of them
    count up to twice as much. Half of it counts where the texts are nearly alike, and where one is
    a part of the other, as while a line comes into the picture or is typed.
    """
    keys = _fold_look_alikes(text), _fold_look_alikes(other)
    if keys[0] == keys[1]:
        return 0.0
    is_part = keys[0] in keys[1] or keys[1] in keys[0]
    digits = _get_digits(text), _get_digits(other)
    if digits[0] != digits[1]:
        return 1.0 if all(digits) or not is_part else 0.5
    share = 1 - compare_texts(text, other)
    num_letters = share * sum(map(len, keys))  # that have no equal in the other text
    difference = share * (1 + min(max(0, num_letters - 2) / 6, 1))
    halves = (share <= 1 - MIN_ALIKE) + is_part
    return min(1.0, difference) / 2**halves


def _fold_look_alikes(text: str) -> str:
    """Return letters and digits with one sign for those that are mistaken for each other."""
    folded = text.casefold().translate(_LOOK_ALIKE)
    return "".join(sign for sign in folded if sign.isalnum()) or folded


def _get_digits(text: str) -> str:
    """Return the digits of a text's numbers; a word with a digit in it (cas1no) is no number."""
    digits = ""
    for word in text.casefold().split():
        num_digits = sum(sign.isdecimal() for sign in word)
        num_letters = sum(sign.isalpha() and sign not in _LOOK_ALIKE_LETTERS for sign in word)
        if num_digits and num_digits >= num_letters:
            digits += "".join(s for s in word.translate(_LOOK_ALIKE) if s.isdecimal())
    return digits


def compare_texts(text: str, other: str) -> float:
    """Return how alike two texts are, in [0, 1]; neither case nor blanks count."""
    text, other = ("".join(t.casefold().split()) for t in (text, other))
    if text == other:
        return 1.0
    return SequenceMatcher(None, text, other, autojunk=False).ratio()
