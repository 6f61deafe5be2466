"""Text of one video, from its file to its OCR document.

One frame now and then is looked at, and only those are read that differ from the one before.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.readers.video_readers import open_video
from retrieval.spotting.text_spotter import TextSpotter
from retrieval.spotting.tracks import LineTracker, make_document, measure_height

EVERY_S = 0.4
# PyAV opens every container and turns pictures as their file asks; decord, the training's reader,
# refuses files that ask for it, and containers without an index. All of them count frames alike.
READER = "av"
# How far a line may come from one read frame to the next, as a share of the picture's diagonal.
REACH = 0.25
BLOCK = 8  # pixels a side; a letter that changes fills one, however large the picture is
# Grey levels. What differs less is noise of the camera and the codec; of what is above, a block's
# mean: 2 or more where a letter 9 pixels high and of weak contrast becomes another one, up to 1.1
# in a still picture with noise at x264's crf 28 (above: it is read again, which does no harm).
FAINT, NOTICEABLE = 24, 1.5


def spot_video(
    path: str | Path,
    spotter: TextSpotter,
    every: float = EVERY_S,
    reader: str = READER,
    progress: Callable[[float], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Find, read and track the text of a video; one frame at a time is in memory.

    Args:
        path: of the video.
        spotter: loaded or not.
        every: seconds from one frame that is looked at to the next.
        reader: a registered video reader: av, decord, cv2 or torchcodec.
        progress: called with the share of the video that is done, in (0, 1], after each frame.

    Returns:
        The OCR document (``data_loader.ocr.ocr_words``): "0", "1", ... -> a tracked line each,
        ``{"text", "score", "tracks": {frame: [x1, y1, ..., x4, y4, confidence, read]},
        "recommend_box"}``, with frame numbers and pixels of the video as its readers give them.
        Empty where there is no text.

    Raises:
        VideoError: the video can't be read to its end.
        UserError: the reader is unknown or not installed.
    """
    with open_video(path, reader) as video:
        indices = choose_frames(video.times(), every)
        tracker = LineTracker(REACH * float(video.width**2 + video.height**2) ** 0.5)
        change = ChangeDetector()
        for index, frame in zip(indices.tolist(), video.stream(indices), strict=True):
            if change.is_new(frame):
                lines = spotter.spot(frame)
                tracker.update(index, lines, [change.has_changed(line.corners) for line in lines])
            else:
                tracker.carry(index)
            if progress is not None:
                progress((index + 1) / video.num_frames)
    return make_document(tracker.tracks)


def choose_frames(times: np.ndarray, step: float) -> np.ndarray:
    """Return the numbers of the first frames at or after each multiple of a time step.

    ``times``, (N,), are seconds and ascend from 0; ``step`` is above 0 seconds. The numbers ascend
    from 0, none is there twice.
    """
    # A time that a file rounds down to its clock still counts as reached.
    steps = np.floor((times + 1e-3) / step).astype(np.int64)
    return np.flatnonzero(np.diff(steps, prepend=-1))


class ChangeDetector:
    """Compares a frame with the last one that was found to differ."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._changes: np.ndarray | None = None  # (rows, columns) bool of blocks; None: all of them

    def is_new(self, frame: np.ndarray) -> bool:
        """Whether a frame, (H, W, 3) uint8, differs; the first one always does."""
        green = frame[..., 1].astype(np.int16)  # most of the brightness
        changes = None
        if self._last is not None and green.shape == self._last.shape:
            strong = np.maximum(np.abs(green - self._last) - FAINT, 0)
            changes = average_blocks(strong) >= NOTICEABLE
            if not changes.any():
                return False
        self._last, self._changes = green, changes
        return True

    def has_changed(self, corners: np.ndarray) -> bool:
        """Whether the last new frame differs at a line, or right beside it, where a digit went.

        ``corners``, (4, 2), are in pixels.
        """
        if self._changes is None:
            return True
        margin = measure_height(corners)
        low = np.maximum((corners.min(axis=0) - margin) // BLOCK, 0).astype(int)
        high = ((corners.max(axis=0) + margin) // BLOCK).astype(int) + 1
        return bool(self._changes[low[1] : high[1], low[0] : high[0]].any())


def average_blocks(values: np.ndarray) -> np.ndarray:
    """Return the means of blocks of ``BLOCK`` pixels a side; those at the edges may be smaller.

    (H, W) -> (ceil(H / BLOCK), ceil(W / BLOCK)) float64.
    """
    rows, columns = (np.arange(0, length, BLOCK) for length in values.shape)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=np.int64), columns, axis=1)
    heights, widths = (
        np.diff(starts, append=length)
        for starts, length in zip((rows, columns), values.shape, strict=True)
    )
    return sums / np.outer(heights, widths)
