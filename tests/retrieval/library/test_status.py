"""What is said of the work: in the file, in the terminal, and how long it takes."""

import io

import pytest

from retrieval.library import status as status_module
from retrieval.library.status import RemainingTime, StatusWriter, read_status
from retrieval.library.terminal import Terminal, format_work


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that the status sees, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(status_module.time, "monotonic", lambda: now[0])
    return now


def test_the_rest_is_estimated_by_frames(clock):
    remaining = RemainingTime({"short": 10, "long": 90, "resumed": 100})
    assert remaining.estimate() is None
    clock[0] = 2.0
    remaining.advance("short", 0.5)
    remaining.advance("short", 1.0)
    assert remaining.estimate() == pytest.approx(190 * 2 / 10)  # five frames a second
    remaining.advance("resumed", 0.9)  # most of which an earlier run has done
    assert remaining.estimate() == pytest.approx(100 * 2 / 10)
    clock[0] = 4.0
    remaining.advance("resumed", 1.0)
    assert remaining.estimate() == pytest.approx(90 * 4 / 20)
    remaining.advance("unknown", 1.0)
    remaining.advance("long", 1.0)
    assert remaining.estimate() == 0


def test_the_file_says_what_is_in_hand(tmp_path, clock):
    file = tmp_path / "status.json"
    status = StatusWriter(file)
    assert read_status(file)["state"] == "working"
    status.begin_step("reading text", {"a.mp4": 10.0, "b\udcff.mp4": 30.0})
    clock[0] = 10.0
    status.advance("b\udcff.mp4", 0.5)
    status.advance("a.mp4", 0.25)
    clock[0] = 11.0
    status.write()
    work = read_status(file)
    assert (work["step"], work["video"], work["share"]) == ("reading text", "b\udcff.mp4", 0.5)
    assert (work["num_done"], work["num_total"]) == (0, 2) and work["remaining_s"] > 0
    status.finish("b\udcff.mp4")
    work = read_status(file)
    assert (work["video"], work["share"], work["num_done"]) == ("a.mp4", 0.25, 1)
    assert format_work(work | {"remaining_s": 65.2}) == (
        "reading text 1 of 2, 1:05 left, a.mp4 25%"
    )
    status.set_failed({f"{number}.mp4": "is empty" for number in range(150)})
    status.set_state("done", "1 added, 150 unreadable")
    work = read_status(file)
    assert work["num_failed"] == 150 and len(work["failed"]) == 100
    assert (work["state"], work["video"], work["remaining_s"]) == ("done", None, None)
    file.write_text("{")
    assert read_status(file) is None


def test_the_terminal_says_each_thing_once(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    terminal, work = Terminal(), {"state": "working", "message": None, "failed": []}
    bad = {"video": "a\nb.mp4", "reason": "is empty"}
    for one in (None, work, work | {"failed": [bad]}, work | {"failed": [bad], "message": "done"}):
        for _ in range(2):
            terminal.show(one)
    assert shown.getvalue() == "failed  'a\\nb.mp4': is empty\ndone\n"
