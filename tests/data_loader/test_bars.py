"""Long silent work has a bar on stderr, in the first process; short work has none."""

import pytest

from data_loader import bars


@pytest.mark.parametrize(("delay", "rank", "shown"), [(0, 0, True), (60, 0, False), (0, 1, False)])
def test_a_bar_is_shown_by_the_first_process_alone_and_not_for_a_moment(
    delay, rank, shown, monkeypatch, capsys
):
    monkeypatch.setattr(bars, "SHOWN_AFTER_S", delay)
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    assert list(bars.watched([1, 2, 3], "counting", " videos")) == [1, 2, 3]
    out, err = capsys.readouterr()
    assert out == "" and ("counting" in err and "3/3" in err) is shown
