"""How a video is cut: every frame is in a window, and the last one ends with the video."""

import numpy as np
import pytest

from retrieval.index.video_file import check_windows, compute_duration, cut_windows
from utils.errors import UserError


def steady(num_frames: int, rate: float = 25.0) -> np.ndarray:
    return np.arange(num_frames) / rate


@pytest.mark.parametrize("num_frames", [1, 2, 49, 50, 51, 249, 250, 251, 252, 260, 375, 376, 1001])
@pytest.mark.parametrize(("window", "stride"), [(10, 5), (2, 2), (3, 1.5), (0.5, 0.04), (1, 0.3)])
def test_windows_cover_a_video(num_frames, window, stride):
    times = steady(num_frames)
    windows = cut_windows(times, window, stride)
    end = compute_duration(times)
    assert end == pytest.approx(num_frames / 25 if num_frames > 1 else 0)
    assert windows[0].start_s == 0 and windows[0].first == 0
    assert windows[-1].end_s == pytest.approx(end) and windows[-1].stop == num_frames
    for one, following in zip(windows, windows[1:], strict=False):
        assert 0 < following.start_s - one.start_s <= stride + 1e-9
        assert following.first <= one.stop  # no frame between them
    for number, (start, stop, first, last) in enumerate(windows):
        assert stop - start == pytest.approx(min(window, end)) and last > first
        if number < len(windows) - 1:
            assert start == number * stride
        shown = [i for i in range(num_frames)
                 if times[i] + 0.04 > start + 1e-5 and times[i] < stop - 1e-5]  # fmt: skip
        assert list(range(first, last)) == (shown or [0])


def test_the_windows_of_a_minute():
    spans = [(w.start_s, w.end_s) for w in cut_windows(steady(25 * 23), 10, 5)]
    assert spans == [(0, 10), (5, 15), (10, 20), (13, 23)]
    assert [(w.start_s, w.end_s) for w in cut_windows(steady(25 * 10), 10, 5)] == [(0, 10)]


def test_a_frame_that_stays_is_in_every_window_that_shows_it():
    times = np.array([0.0, 30.0, 30.5])  # slides
    windows = cut_windows(times, 10, 5)
    assert all(window.stop > window.first for window in windows)
    assert compute_duration(times) == 31
    assert [(w.start_s, w.first, w.stop) for w in windows] == [
        (0, 0, 1), (5, 0, 1), (10, 0, 1), (15, 0, 1), (20, 0, 1), (21, 0, 3),
    ]  # fmt: skip


def test_a_frame_that_stays_for_long_makes_few_windows():
    windows = cut_windows(np.array([0.0, 1800.0, 1800.5]), 10, 5)
    assert [(w.start_s, w.end_s, w.first, w.stop) for w in windows] == [
        (0, 10, 0, 1), (5, 15, 0, 1), (10, 1790, 0, 1), (1785, 1795, 0, 1),
        (1790, 1800, 0, 1), (1791, 1801, 0, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("jump", [95443.7, 1.6e9])
def test_no_window_covers_a_jump_of_the_clock(jump):
    times = np.arange(27) / 25 + np.where(np.arange(27) > 1, jump, 0)
    windows = cut_windows(times, 10, 5)
    assert [(w.first, w.stop) for w in windows] == [(0, 2), (2, 27)]
    assert [w.start_s for w in windows] == pytest.approx([0, jump + 0.08])
    assert [w.end_s for w in windows] == pytest.approx([0.08, jump + 1.08])
    assert compute_duration(times) == pytest.approx(jump + 1.08)
    last = np.append(np.arange(100) / 25, jump)  # one outlying stamp at the end
    assert [w.stop for w in cut_windows(last, 10, 5)] == [100, 101]
    assert compute_duration(last) == jump


def test_frames_of_the_same_time_are_all_in_a_window():
    for times in ([0, 1, 1], [0, 0, 0], [0, 1e-7, 2e-7, 5, 5, 5]):
        windows = cut_windows(np.array(times, dtype=float), 1, 1)
        assert windows[0].first == 0 and windows[-1].stop == len(times)
        assert all(b.first <= a.stop for a, b in zip(windows, windows[1:], strict=False))


@pytest.mark.parametrize("spans", [(0, 0), (5, 6), (-1, -1), (5, 0), (float("nan"), 1), (1e400, 1)])
def test_windows_that_make_no_sense(spans):
    with pytest.raises(UserError, match="0 < stride <= window"):
        check_windows(*spans)
