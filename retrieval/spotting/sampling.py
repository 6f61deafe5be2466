"""Which frames of a video are read: one now and then, and none that shows nothing new."""

import numpy as np

BLOCK = 8  # pixels a side; a letter that changes fills one, however large the picture is
# Grey levels. What differs less is noise of the camera and the codec; of what is above, a block's
# mean: 2 or more where a letter 9 pixels high and of weak contrast becomes another one, up to 1.1
# in a still picture with noise at x264's crf 28 (above: it is read again, which does no harm).
FAINT, NOTICEABLE = 24, 1.5


def frames_every(times: np.ndarray, step: float) -> np.ndarray:
    """Choose the first frame at or after each multiple of a time step.

    Args:
        times: (N,) seconds, ascending from 0, N at least 1.
        step: seconds, above 0.

    Returns:
        Frame numbers, ascending, none twice; frame 0 is among them.
    """
    # A time that a file rounds down to its clock still counts as reached.
    steps = np.floor((times + 1e-3) / step).astype(np.int64)
    return np.flatnonzero(np.diff(steps, prepend=-1))


class ChangeDetector:
    """Tells whether a frame differs from the last one that was found to differ."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None

    def differs(self, frame: np.ndarray) -> bool:
        """Compare a frame, (H, W, 3) uint8; the first one always differs."""
        green = frame[..., 1].astype(np.int16)  # most of the brightness
        if self._last is not None and green.shape == self._last.shape:
            strong = np.maximum(np.abs(green - self._last) - FAINT, 0)
            if block_means(strong).max() < NOTICEABLE:
                return False
        self._last = green
        return True


def block_means(values: np.ndarray) -> np.ndarray:
    """Return the means of blocks of ``BLOCK`` pixels a side; those at the edges may be smaller.

    Args:
        values: (H, W).

    Returns:
        (ceil(H / BLOCK), ceil(W / BLOCK)) float64.
    """
    rows, columns = (np.arange(0, length, BLOCK) for length in values.shape)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=np.int64), columns, axis=1)
    heights, widths = (
        np.diff(starts, append=length)
        for starts, length in zip((rows, columns), values.shape, strict=True)
    )
    return sums / np.outer(heights, widths)
