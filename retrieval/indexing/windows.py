"""A long video is cut into windows, each of them one entry of the index.

Shapes: N frames.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError

WINDOW_S, STRIDE_S = 10.0, 5.0


class Window(NamedTuple):
    """A time span and its frames.

    Attributes:
        start_s: seconds from the video's first frame.
        end_s: likewise.
        first: the frame that is shown at ``start_s``.
        stop: one more than the last frame that is shown before ``end_s``.
    """

    start_s: float
    end_s: float
    first: int
    stop: int


def check_windows(window_s: float, stride_s: float) -> None:
    """Raise ``UserError`` where windows of that length and distance make no sense."""
    if not 0 < stride_s <= window_s < float("inf"):
        raise UserError(
            f"--window {window_s:g} --stride {stride_s:g}: give seconds, 0 < stride <= window; "
            "with a longer stride parts of the videos would be in no window"
        )


def duration(times: NDArray) -> float:
    """Return the seconds until the end of the last frame, taken as long as the one before.

    Args:
        times: (N,) when each frame is shown, seconds from the first one.
    """
    return float(2 * times[-1] - times[-2]) if len(times) > 1 else 0.0


def cut(times: NDArray, window_s: float, stride_s: float) -> list[Window]:
    """Return the windows of a video; the last one ends with it and is as long as the others.

    A video that is no longer than a window is one window.

    Args:
        times: (N,) when each frame is shown, seconds from the first one, ascending.
        window_s: length of a window.
        stride_s: from the start of a window to that of the next.
    """
    end = duration(times)
    rest = max(0.0, end - window_s)
    # A rest that is but a rounding error is no window of its own.
    count = int(np.ceil(rest / stride_s - 1e-6)) + 1
    starts = [min(number * stride_s, rest) for number in range(count)]
    spans = [(start, min(start + window_s, end)) for start in starts]
    return [Window(start, stop, *_frames(times, start, stop)) for start, stop in spans]


def _frames(times: NDArray, start_s: float, end_s: float) -> tuple[int, int]:
    """The first frame and one more than the last one that are shown in a time span."""
    instant = 1e-6  # times are computed
    first = int(np.searchsorted(times, start_s + instant, side="right")) - 1
    stop = int(np.searchsorted(times, end_s - instant, side="left"))
    return first, max(stop, first + 1)
