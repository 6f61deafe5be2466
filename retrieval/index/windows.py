"""Windows: the parts a long video is cut into, each of them one entry of the index.

Shapes: N frames.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError

WINDOW_S, STRIDE_S = 10.0, 5.0


class Window(NamedTuple):
    """A time span and its frames."""

    start_s: float  # seconds from the video's first frame
    end_s: float  # likewise
    first: int  # the frame that is shown at ``start_s``
    stop: int  # one more than the last frame that is shown before ``end_s``


def check_windows(window_s: float, stride_s: float) -> None:
    """Raise ``UserError`` where windows of that length and distance make no sense."""
    if not 0 < stride_s <= window_s < float("inf"):
        raise UserError(
            f"--window {window_s:g} --stride {stride_s:g}: give seconds, 0 < stride <= window; "
            "with a longer stride parts of the videos would be in no window"
        )


def compute_duration(times: NDArray) -> float:
    """Return the seconds until the end of the last frame, taken as long as the one before.

    Args:
        times: (N,) when each frame is shown, seconds from the first one.
    """
    return float(2 * times[-1] - times[-2]) if len(times) > 1 else 0.0


def cut_windows(times: NDArray, window_s: float, stride_s: float) -> list[Window]:
    """Return the windows of a video; the last one ends with it and is as long as the others.

    A video that is no longer than a window is one window.

    Args:
        times: (N,) when each frame is shown, seconds from the first one, ascending.
        stride_s: from the start of a window to that of the next.
    """
    end = compute_duration(times)
    rest = max(0.0, end - window_s)
    # A rest that is but a rounding error is no window of its own.
    count = int(np.ceil(rest / stride_s - 1e-6)) + 1
    starts = [min(number * stride_s, rest) for number in range(count)]
    spans = [(start, min(start + window_s, end)) for start in starts]
    return [Window(start, stop, *_find_frames(times, start, stop)) for start, stop in spans]


def _find_frames(times: NDArray, start_s: float, end_s: float) -> tuple[int, int]:
    """Return the first frame and one more than the last one that are shown in a time span."""
    instant = 1e-6  # times are computed
    first = int(np.searchsorted(times, start_s + instant, side="right")) - 1
    stop = int(np.searchsorted(times, end_s - instant, side="left"))
    return first, max(stop, first + 1)


def find_windows(frames: Sequence[int], windows: Sequence[Window]) -> tuple[int, ...]:
    """Return the positions of the windows that have one of these frames."""
    ordered = np.sort(np.array(frames, dtype=np.int64))
    firsts, stops = (np.array([getattr(w, name) for w in windows]) for name in ("first", "stop"))
    there = np.searchsorted(ordered, stops) > np.searchsorted(ordered, firsts)
    return tuple(np.flatnonzero(there).tolist())
