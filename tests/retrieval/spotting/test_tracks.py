"""From lines, picture by picture, to tracks, their texts and the document."""

import json

import numpy as np
import pytest

from data_loader.ocr.ocr_words import OcrParams, extract_words
from retrieval.spotting.text_spotter import TextLine
from retrieval.spotting.tracks import LineTracker, compare_texts, compute_iou, make_document


def line(text: str, x: float, y: float, score: float = 0.9, width: int = 100, height: int = 20):
    corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
    return TextLine(text, score, np.array(corners, dtype=np.float64))


def track(*pictures: list[TextLine], reach: float = 180, step: int = 10):
    tracker = LineTracker(reach)
    for number, lines in enumerate(pictures):
        tracker.update(number * step, lines)
    return tracker.tracks


def frames_of(tracks) -> list[list[int]]:
    return [[sighting.frame for sighting in found.sightings] for found in tracks]


def test_lines_that_stay_are_one_track_each_whatever_their_order():
    above, below = line("OPEN", 10, 10), line("EXIT", 10, 60)
    found = track([above, below], [below, above], [above, below])
    assert [t.elect_text()[0] for t in found] == ["OPEN", "EXIT"]
    assert frames_of(found) == [[0, 10, 20]] * 2


def test_misreadings_in_the_same_place_stay_in_the_track():
    found = track([line("CASINO", 10, 10)], [line("CASlN0", 11, 10)], [line("CASINO", 12, 10)])
    assert len(found) == 1 and found[0].elect_text()[0] == "CASINO"


def test_another_text_in_the_same_place_is_another_track():
    found = track([line("DEPARTURES", 10, 10)], [line("10:45 ROME", 10, 10)])
    assert frames_of(found) == [[0], [10]]


def test_a_line_is_followed_far_by_its_text_and_movement():
    found = track(*([line("FAST", 150 * n, 10)] for n in range(5)), reach=160)
    assert frames_of(found) == [[0, 10, 20, 30, 40]]
    far = track(*([line("FAST", 170 * n, 10)] for n in range(2)), reach=160)
    assert len(far) == 2


def test_the_reach_is_counted_from_where_it_is_expected():
    """A line that flies on at its speed is followed, one that turns back is another one."""
    there = [[line("BUS", x, 10)] for x in (0, 140, 280)]
    assert len(track(*there, reach=145)) == 1
    back = [[line("BUS", x, 10)] for x in (0, 140, -150)]
    assert len(track(*back, reach=145)) == 2


def test_equal_signs_side_by_side_keep_apart():
    pictures = [[line("EXIT", 10 + 30 * n, 10), line("EXIT", 160 + 30 * n, 10)] for n in range(4)]
    pictures[2].reverse()
    found = track(*pictures)
    assert len(found) == 2
    lefts = [[s.line.corners[0, 0] for s in t.sightings] for t in found]
    assert lefts == [[10, 40, 70, 100], [160, 190, 220, 250]]


def test_the_same_word_in_another_size_is_another_line():
    assert len(track([line("SALE", 10, 10)], [line("SALE", 10, 40, height=60)])) == 2


def test_a_line_may_be_missed_twice_and_not_more():
    sign = [line("HOTEL", 10, 10)]
    assert frames_of(track(sign, [], [], sign)) == [[0, 30]]
    assert frames_of(track(sign, [], [], [], sign)) == [[0], [40]]


def test_votes_weigh_confidence():
    assert (
        track(*[[line("BAR", 0, 0, s)] for s in (0.5, 0.5)], [line("BAD", 0, 0, 0.9)])[
            0
        ].elect_text()[0]
        == "BAR"
    )
    assert track([line("BAR", 0, 0, 0.5)], [line("BAD", 0, 0, 0.9)])[0].elect_text()[0] == "BAD"


def test_readings_that_all_differ_elect_the_one_most_like_the_others():
    texts = ["GRAND HOTEL", "GRAND H0TEL", "GRAMD HOTEL", "CRAND HOTE"]
    found = track(*([line(text, 0, 0)] for text in texts))
    assert len(found) == 1 and found[0].elect_text()[0] == "GRAND HOTEL"
    score = found[0].elect_text()[1]
    assert 0.5 < score < 0.9
    assert track(*[[line("GRAND HOTEL", 0, 0)]] * 4)[0].elect_text()[1] == pytest.approx(0.9)


def test_comparing_texts_looks_past_case_and_blanks():
    assert compare_texts("SALE UP", "saleup") == 1 and compare_texts("abc", "xyz") == 0
    assert 0.7 < compare_texts("casino", "caslno") < 1


def test_iou_by_hand():
    square = line("", 0, 0, width=10, height=10).corners
    assert compute_iou(square, square) == 1
    assert compute_iou(square, square + [5, 0]) == pytest.approx(1 / 3)
    assert compute_iou(square, square + 20) == 0
    assert compute_iou(square * 0, square * 0) == 0


def test_carried_frames_are_seen_and_have_no_vote():
    tracker = LineTracker(100)
    tracker.update(0, [line("OPEN", 0, 0, 0.6), line("GONE", 0, 90)])
    tracker.update(10, [line("OPEM", 0, 0, 0.5)])
    for frame in range(20, 60, 10):
        tracker.carry(frame)
    first, gone = tracker.tracks
    assert frames_of([first, gone]) == [[0, 10, 20, 30, 40, 50], [0]]
    assert first.elect_text()[0] == "OPEN"
    assert [s.read for s in first.sightings] == [True, True, False, False, False, False]


def test_one_look_at_the_next_text_does_not_win_over_a_text_that_stayed():
    tracker = LineTracker(100)
    tracker.update(0, [line("002700", 0, 0, 0.9983)])
    for frame in range(10, 50, 10):
        tracker.carry(frame)
    tracker.update(50, [line("003400", 0, 0, 0.9984)])
    made = make_document(tracker.tracks)
    assert [record["text"] for record in made.values()] == ["002700"]


def test_a_track_whose_text_changes_is_a_line_for_each_text():
    tracker = LineTracker(100)
    for number, text in enumerate(["7 : 1", "7 : 1", "7 : 2", "7 : 7", "7 : 2", "8 : 2", "8 : 2"]):
        tracker.update(20 * number, [line(text, 0, 0), line("HOME", 0, 90)])
        tracker.carry(20 * number + 10)
    made = make_document(tracker.tracks)
    assert len(tracker.tracks) == 2 and len(made) > 2
    shown = [(record["text"], *list(record["tracks"])[:: len(record["tracks"]) - 1])
             for record in made.values()]  # fmt: skip
    assert shown[:3] == [("7 : 1", "0", "30"), ("HOME", "0", "130"), ("7 : 2", "40", "50")]
    assert shown[-1] == ("8 : 2", "100", "130")


def test_the_document_is_what_the_data_sets_read():
    tracker = LineTracker(100)
    tracker.update(0, [line("Grand Hotel", 10.4, 20), line("été", 10, 80, 0.5)])
    tracker.carry(10)
    made = json.loads(json.dumps(make_document(tracker.tracks)))
    assert list(made) == ["0", "1"]
    box = [10, 20, 110, 20, 110, 40, 10, 40]
    assert made["0"] == {
        "text": "Grand Hotel",
        "score": 0.9,
        "tracks": {"0": [*box, 0.9, 1], "10": [*box, 0.9, 0]},
        "recommend_box": box,
    }
    words = extract_words(made, OcrParams())
    assert words.words == ["grand", "hotel"]  # é is beyond the published limit
    assert words.tracks[0, :3].tolist() == [0, 10, 2]


def test_no_text_is_an_empty_document():
    assert make_document(track([], [])) == {}
