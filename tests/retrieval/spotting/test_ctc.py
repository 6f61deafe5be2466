"""CTC decoding of a recogniser's probabilities, and icons among what is read."""

import numpy as np
import pytest

from retrieval.spotting.ctc import CtcDecoder, Reading, drop_icons

CHARACTERS = ["blank", "a", "b", "字", " "]
LATIN = np.array([1, 1, 1, 0, 1], np.float32)


def decode(*steps: dict[str, float], weights=LATIN) -> Reading:
    probabilities = np.zeros((1, len(steps), len(CHARACTERS)), np.float32)
    for number, step in enumerate(steps):
        for character, value in step.items():
            probabilities[0, number, CHARACTERS.index(character)] = value
    return CtcDecoder(CHARACTERS, weights)(probabilities, False, wh_ratio_list=[1])[0]


def test_the_best_path_without_repetitions():
    reading = decode({"a": 0.9}, {"a": 0.8}, {"blank": 1}, {"a": 0.7}, {"b": 0.5})
    assert reading.text == "aab" and reading.score == pytest.approx(0.7)
    np.testing.assert_allclose(reading.confidences, [0.9, 0.7, 0.5])
    assert reading.get_foreign() == 0 and reading.unmasked == ""


def test_what_may_not_be_read_is_told_apart():
    steps = {"字": 0.9, "a": 0.1}, {"blank": 1}, {"字": 0.8, "b": 0.2}
    masked, free = decode(*steps), decode(*steps, weights=np.ones(5, np.float32))
    assert masked.text == "ab" and masked.unmasked == "字字"
    assert masked.get_foreign() == pytest.approx(0.85)
    assert free.text == "字字" and free.get_foreign() == 0 and free.unmasked == ""
    assert decode(*({"字": 0.45, "a": 0.1},) * 3).unmasked == ""  # one, and unsure
    nothing = decode({"blank": 1})
    assert nothing.text == "" and nothing.score == nothing.get_foreign() == 0


def test_an_icon_that_is_taken_for_a_foreign_letter_is_no_part_of_the_text():
    reading = decode({"a": 1}, {"b": 1}, {"a": 1}, {"blank": 1}, {"字": 0.95})
    assert reading.text == "aba" and reading.get_foreign() == 0 and reading.unmasked == ""
    assert decode({"a": 1}, {"字": 0.9}, {"b": 1}).get_foreign() == pytest.approx(0.3)
    steps = {"a": 1}, {"b": 1}, {" ": 1}, {"字": 0.9, "a": 0.1}
    assert drop_icons(decode(*steps)).text.strip() == "ab"
    assert drop_icons(decode(*steps)).get_foreign() == 0


def reading(text: str, *unsure: int, confidence: float = 0.3) -> Reading:
    sure = np.full(len(text), 0.98)
    sure[list(unsure)] = confidence
    steps = np.arange(len(text))
    return Reading(text, float(sure.mean()), sure, steps, np.zeros(len(text)))


@pytest.mark.parametrize(
    ("text", "unsure", "kept"),
    [
        ("iPod Nano.o", (9, 10), "iPod Nano"),
        ("* Settings", (0,), "Settings"),
        ("Q Search", (0,), "Search"),
        ("Profile O", (8,), "Profile"),
        ("o", (0,), ""),
        ("Plan B", (), "Plan B"),
        ("A New Hope", (), "A New Hope"),
        ("5", (), "5"),
        ("Djokovic", (7,), "Djokovic"),  # in a word, an unsure letter is a letter
        ("Djokovic", (0, 7), "Djokovic"),
        ("6 4 7", (2,), "6 4 7"),  # in the middle, too
        ("MbICnAX ABC", (8, 9, 10), "MbICnAX ABC"),  # three are a word
    ],
)
def test_icons_are_dropped_and_single_letters_are_not(text, unsure, kept):
    result = drop_icons(reading(text, *unsure))
    assert result.text.strip() == kept
    assert len(result.text) == len(result.confidences)
    if kept != text.strip():
        assert result.score == (pytest.approx(0.98) if kept else 0)


def test_a_single_letter_that_is_rather_sure_is_kept():
    assert drop_icons(reading("W", 0, confidence=0.74)).text == "W"
    assert drop_icons(reading("Vitamin C", 8, confidence=0.61)).text == "Vitamin C"
