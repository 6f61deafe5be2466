"""Readings of one place, cut into the texts that it showed: by hand-made readings."""

import pytest

from retrieval.spotting.segmentation import Look, find_changes, measure_difference


def cut(*readings: "str | Look", score: float = 0.95) -> list[list[str]]:
    looks = [r if isinstance(r, Look) else Look(r, score) for r in readings]
    starts = find_changes(looks)
    bounds = zip([0, *starts], [*starts, len(looks)], strict=True)
    return [[look.text for look in looks[start:stop]] for start, stop in bounds]


def unchanged(text: str) -> Look:
    return Look(text, 0.95, is_changed=False)


@pytest.mark.parametrize(
    "readings",
    [
        ["12:45", "12:45", "17:45", "12:45", "12:45"],  # a single misread digit, anywhere
        ["17:45", "12:45", "12:45", "12:45"],
        ["12:45", "12:45", "12:45", "12:46"],
        ["12:45", "12:45", "17:45", "12:48", "12:45", "12:45"],  # two misreadings that differ
        ["38", "33", "38", "33", "38", "33"],  # in turns
        ["casino", "casin0", "cas1no", "casino", "casin0", "cas1no", "caslno", "CASINO"],
        ["GRAND HOTEL", "GRAND H0TEL", "GRAMD HOTEL", "CRAND HOTE", "GRAND HOTEL"],
        ["PLATFORM 3", "PLATFORM", "PLATFORM 3", "PLATFORM 3"],
        ["1O:45", "10:45", "10 : 45", "I0:45", "10.45"],  # look-alikes, blanks and signs
        ["DEPARTURES", "DEPARTURE", "DEPARTUR", "DEPART", "DEPARTUR", "DEPARTURES"],  # covered
    ],
)
def test_misreadings_never_cut(readings):
    assert cut(*readings) == [readings]


@pytest.mark.parametrize(
    "texts",
    [
        ["000000", "000100", "000300"],
        ["HOME 1 : 0", "HOME 1 : 1", "HOME 2 : 1", "HOME 1 : 1"],  # and back
        ["$19.99", "$14.99"],
        ["Loading 0 %", "Loading 39 %", "Loading 61 %", "Loading 100 %"],
        ["12:03:59", "12:04:00", "12:04:01"],
        ["Level 9", "Level 10"],
        ["What", "Why"],
        ["Where did you leave the car?", "Where do you live, then?"],
    ],
)
@pytest.mark.parametrize("num_looks", [2, 3, 9])
def test_what_holds_for_two_looks_is_a_text_of_its_own(texts, num_looks):
    expected = [[text] * num_looks for text in texts]
    assert cut(*sum(expected, [])) == expected


def test_the_picture_that_stays_confirms_a_reading_once():
    """One look, and looks after it at pictures that are the same."""
    stays = [Look("6", 0.95, weight=2), Look("8", 0.95, weight=2), Look("6", 0.95, weight=2)]
    assert cut(*stays) == [["6"], ["8"], ["6"]]
    passes = [stays[0], Look("8", 0.95), stays[2]]
    assert cut(*passes) == [["6", "8", "6"]]


def test_another_reading_of_the_same_pixels_is_no_change():
    assert len(cut("6", "6", unchanged("8"), unchanged("8"), "6")) == 1
    # Slow and faint changes of the picture aren't seen: three readings in a row are believed.
    faint = ["6", *[unchanged("6")] * 2, *[unchanged("8")] * 4]
    assert cut(*faint) == [["6"] * 3, ["8"] * 4]


def test_a_counter_that_changes_with_each_look():
    frames = [f"Frame {number}" for number in range(0, 60, 4)]
    assert cut(*frames) == [[frame] for frame in frames]
    assert cut("Frame 0", "Frame 4", "Frame 8") == [["Frame 0"], ["Frame 4"], ["Frame 8"]]
    assert cut("Frame 0", "Frame 4") == [["Frame 0"], ["Frame 4"]]
    unsure = [Look("Frame 0", 0.7), Look("Frame 4", 0.7)]
    assert cut(*unsure) == [["Frame 0", "Frame 4"]]
    stopped = ["Frame 0"] * 3 + frames[1:4]
    assert cut(*stopped) == [["Frame 0"] * 3, ["Frame 4"], ["Frame 8"], ["Frame 12"]]


def test_a_typed_line_is_few_texts_and_its_end_is_one():
    typed = ["H", "He", "Hel", "Hello", "Hello W", "Hello Wor", *["Hello World"] * 5]
    found = cut(*typed)
    assert len(found) <= 2 and "Hello World" in found[-1]


def test_letters_that_change_for_good_are_found_when_they_stay():
    assert len(cut(*["Lecture on cats"] * 4, *["Lecture on bats"] * 2, "Lecture on cats")) == 1
    talks = [["Lecture on cats"] * 10, ["Lecture on bats"] * 10]
    assert cut(*sum(talks, [])) == talks


def test_differences_by_hand():
    assert measure_difference("Room 204", "ROOM 2O4") == 0
    assert measure_difference("Room 204", "Room 205") == 1
    assert measure_difference("Room 204", "Room") == 0.5
    assert measure_difference("cas1no", "casino") == 0
    assert measure_difference("Why", "What") == pytest.approx(3 / 7 * 7 / 6)  # 3 letters
    assert measure_difference("cats", "bats") == pytest.approx(1 / 4)
    assert measure_difference("Grand", "Gramd") == pytest.approx(0.1)  # half: alike
    assert 0 < measure_difference("Grand Hotel", "Grand Hot") < 0.1  # half of it: a part


def test_looks_by_the_thousand_take_no_time():
    """As of a mark that is read in every picture of a long video, and of one that counts them."""
    assert cut(*["CHANNEL", "CHANNEI", "CHANMEL"] * 1000) == [
        ["CHANNEL", "CHANNEI", "CHANMEL"] * 1000
    ]
    assert len(cut(*(f"Frame {number}" for number in range(3000)))) == 3000


def test_nothing_and_one_look():
    assert find_changes([]) == [] and find_changes([Look("a", 1.0)]) == []
