"""Times of frames as files have them: jumps, repeats, negative, huge, and none at all.

Each list is put to a reader, and what that accepts into windows and into the frames that are looked
at for text.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_loader.readers.base_reader import VideoError, VideoReader
from retrieval.index.video_file import MAX_SHOWN_S, compute_duration, cut_windows
from retrieval.spotting.video import choose_frames
from tests.fuzz.fuzzing import end_well, fuzz
from utils.times import LONGEST_S

GAPS = st.one_of(
    st.sampled_from([0.0, 0.04, 1 / 30, 1e-9, 1.0, 9.999999, 10.0, 3600.0, 3601.0, 95443.7, 1.6e9]),
    st.floats(0, 1e5),
    st.floats(0, 1e11),
)
STEPS = st.one_of(st.sampled_from([0.04, 0.4, 1.0, 5.0, 10.0]), st.floats(1e-3, 1e4))


@st.composite
def frame_times(draw):
    """Times that ascend by gaps of all sizes; some are spoilt."""
    gaps = draw(st.lists(GAPS, min_size=0, max_size=60))
    times = np.cumsum([draw(st.floats(-1e4, 1e6)), *gaps])
    spoilt = draw(st.lists(st.integers(0, len(times) - 1), max_size=2))
    for position in spoilt:
        times[position] = draw(st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300]))
    return times.tolist()


class ListReader(VideoReader):
    """A reader of nothing but times."""

    name, decodes_at_opening = "list", False
    check_file = staticmethod(lambda path: None)

    def __init__(self, times):
        self._listed = times
        super().__init__("a film.mp4")

    def _open(self):
        return len(self._listed)

    def _read_times(self):
        return self._listed


@pytest.mark.slow
@fuzz()
@given(frame_times(), STEPS, st.floats(0.01, 1.0))
def test_windows_are_made_of_frames(times, window_s, share):
    found = end_well(lambda: ListReader(times).times(), "a film.mp4")
    if isinstance(found, VideoError):
        assert not np.isfinite(times).all() or (np.diff(times) < 0).any()
        return
    found = found[found <= LONGEST_S]
    windows = cut_windows(found, window_s, window_s * share)
    assert len(windows) <= 10 * len(found)
    in_windows = np.zeros(len(found), bool)
    for window in windows:
        assert 0 <= window.first < window.stop <= len(found)
        in_windows[window.first : window.stop] = True
        frames = found[window.first : window.stop]
        assert (np.diff(frames) <= MAX_SHOWN_S).all()  # no jump of the clock is in a window
        assert frames[0] <= window.end_s + 1e-5 and frames[-1] >= window.start_s - MAX_SHOWN_S
        assert 0 <= window.start_s <= window.end_s <= compute_duration(found) + 1e-5
        assert frames[-1] <= window.end_s + 1e-5  # rounding of times
    assert in_windows.all()
    starts = [window.start_s for window in windows]
    assert starts == sorted(starts)


@pytest.mark.slow
@fuzz()
@given(frame_times(), st.one_of(STEPS, st.floats(1e-300, 1e300)))
def test_frames_that_are_looked_at_ascend_and_begin_with_the_first(times, step):
    found = end_well(lambda: ListReader(times).times(), "a film.mp4")
    if isinstance(found, VideoError):
        return
    chosen = choose_frames(found, step)
    assert chosen[0] == 0 and (np.diff(chosen) > 0).all() and chosen[-1] < len(found)
    looked = found[chosen]
    for time in found:  # each frame has a look at most a step before it
        assert (looked[looked <= time][-1] > time - step - 2e-3) or step > 1e4 or time > 1e6
