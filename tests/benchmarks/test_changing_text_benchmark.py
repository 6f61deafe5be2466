"""``python -m benchmarks.changing_text``: its videos, what it counts, and its tables."""

import numpy as np
import pytest

from benchmarks import changing_text
from benchmarks.changing_text import KINDS, SECONDS, Reading, is_found
from retrieval.spotting.text_spotter import TextLine, TextSpotter


@pytest.mark.parametrize("kind", KINDS)
def test_texts_change_for_as_long_as_is_asked(kind):
    make_texts, _ = KINDS[kind]
    texts = make_texts(np.random.default_rng(1))
    shown = [next(texts) for _ in range(8)]
    changes = sum(a != b for (a, _), (b, _) in zip(shown, shown[1:], strict=False))
    assert changes == 7 and all(seconds >= 1 for _, seconds in shown)
    again = make_texts(np.random.default_rng(1))
    assert [next(again) for _ in range(8)] == shown


def record(text: str, first: float, last: float) -> dict:
    return {"text": text, "tracks": {str(round(25 * second)): [] for second in (first, last)}}


def test_a_reading_is_found_at_its_time_only():
    readings = [Reading("7 : 1", 0, 2), Reading("7 : 2", 2, 3), Reading("8 : 2", 3, 6)]

    def list_found(*records: dict) -> list[bool]:
        document = {str(number): record for number, record in enumerate(records)}
        return [is_found(document, reading, readings) for reading in readings]

    exact = record("7:1", 0, 1.6), record("7 :2", 2.0, 2.8), record("8 : 2", 3.2, 5.6)
    assert list_found(*exact) == [True, True, True]
    assert list_found(record("7 : 1", 0, 5.6)) == [False, False, False]  # one text for all
    assert list_found(record("7 : 2", 4, 5)) == [False, False, False]  # at another time
    assert list_found(record("8 : 2", 2.4, 5.6)) == [False, False, False]  # half of another
    assert list_found(record("8 : 2", 2.6, 5.6)) == [False, False, True]
    assert list_found() == [False, False, False]


class ReadsOne(TextSpotter):
    """Reads one line, whatever is there."""

    def identity(self) -> dict[str, str]:
        return {}

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        return [TextLine("Gate 99", 0.9, np.array([[0, 0], [9, 0], [9, 9], [0, 9]], float))]


def test_lost_and_false_readings_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(changing_text, "SECONDS", 2.0)
    path = tmp_path / "a.mp4"
    found = changing_text.measure_changing(path, ReadsOne(), "counter", "still", 28, 0)
    assert found["readings"] == 2 and [text for text, *_ in found["lost"]][0] == "Frame 0"
    assert found["lines"] == 1
    found = changing_text.measure_unchanging(path, ReadsOne(), changing_text.Disturbance(), 0)
    assert found["false"] == ["Gate 99"] and len(found["lost"]) == found["written"] == 4


def test_each_disturbance_changes_the_pictures():
    still = {}

    def draw(number: int) -> list[tuple[np.ndarray, float, float]]:
        return [(np.ones((20, 40)), 30, 40)]

    for name, disturbance in changing_text.DISTURBANCES.items():
        frames = changing_text.render_frames(np.random.default_rng(0), draw, disturbance)
        first, *_, last = (next(frames) for _ in range(4))
        assert first.shape == (360, 640, 3) and first[50, 50].mean() > 190
        still[name] = np.array_equal(first, last)
    # Of motion, fades and zoom it is the ink that changes.
    assert {name for name in still if still[name]} == {"none", "motion", "fades", "zoom"}


def test_the_tables_have_every_kind_and_their_sums():
    lost = [["7 : 1", 0.0, 2.0]]
    result = {
        "date": "2001-02-03", "machine": "one thread", "versions": "Python 3",
        "changing": [
            {"kind": "clock", "backdrop": "still", "readings": 12, "lost": [], "lines": 12},
            {"kind": "score", "backdrop": "still", "readings": 4, "lost": lost, "lines": 4},
        ],
        "unchanging": [
            {"kind": "noise", "seconds": SECONDS, "written": 4, "lost": [], "false": ["x"]},
            {"kind": "blur", "seconds": SECONDS, "written": 4, "lost": ["gate12"], "false": []},
        ],
    }  # fmt: skip
    lines = changing_text.make_table(result).splitlines()
    assert lines[0] == "2001-02-03; one thread; Python 3"
    assert "| score | still | 4 | 75.0 |" in lines and "| all | all | 16 | 93.8 |" in lines
    assert "| noise | 4 | 100.0 | 5.0 |" in lines and "| all | 8 | 87.5 | 2.5 |" in lines
