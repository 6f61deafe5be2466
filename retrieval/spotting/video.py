"""Text of one video, from its file to its OCR document.

One frame now and then is looked at, and only those are read that differ from the one before.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.readers.tolerant_reader import SEARCH_READER, TolerantReader, open_tolerantly
from retrieval.spotting.journal import Journal, VideoLook, describe_spotting
from retrieval.spotting.text_spotter import TextSpotter
from retrieval.spotting.tracks import LineTracker, make_document, measure_height

logger = logging.getLogger(__name__)

EVERY_S = 0.4
READER = SEARCH_READER
# How far a line may come from one read frame to the next, as a share of the picture's diagonal.
REACH = 0.25
CELL = 4  # pixels a side; windows of 2 x 2 cells: however a letter lies, it fills one
# Grey levels. What differs less is noise of the camera and the codec; of what is above, a window's
# mean: 1.7 or more where a digit 9 pixels high and of weak contrast (80) becomes another one, up to
# 1.4 in a still picture with noise at x264's crf 23 (above: it is read again, which does no harm).
FAINT, NOTICEABLE = 24, 1.5


def spot_video(
    path: str | Path,
    spotter: TextSpotter,
    every: float = EVERY_S,
    reader: str = READER,
    progress: Callable[[float], None] | None = None,
    journal: Path | None = None,
    report_damage: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Find, read and track the text of a video; one frame at a time is in memory.

    Args:
        path: of the video.
        spotter: loaded or not.
        every: seconds from one frame that is looked at to the next.
        reader: the registered video reader that is tried first: av, decord, cv2 or torchcodec.
        progress: called with the share of the video that is done, in (0, 1], after each frame.
        journal: file of what is done so far (``retrieval.spotting.journal``). Where it is there
            already, of this file, engine, ``every`` and reader, the spotting goes on after its last
            look, and returns what it would have returned without a stop. Who has kept the document
            removes it.
        report_damage: called with what can't be decoded, in a few words, where that is something.

    Returns:
        The OCR document (``data_loader.ocr.ocr_words``): "0", "1", ... -> a tracked line each,
        ``{"text", "score", "tracks": {frame: [x1, y1, ..., x4, y4, confidence, read]},
        "recommend_box"}``, with frame numbers and pixels of the video as its readers give them.
        Empty where there is no text.

    Raises:
        VideoError: nothing of the video can be read. A look that can't be decoded is left out.
        UserError: the reader is unknown or not installed.
    """
    spotter.reset()
    with open_tolerantly(path, reader) as video:
        frames = choose_frames(video.times(), every).tolist()
        tracker = LineTracker(REACH * float(video.width**2 + video.height**2) ** 0.5)
        header = {} if journal is None else describe_spotting(path, spotter, every, reader)
        with Journal(journal, header, frames) as kept:
            for look in kept.looks:
                tracker.add(look)
                if look.noticed is not None:
                    spotter.restore(look.noticed)
            if kept.looks and progress is not None:
                progress((kept.looks[-1].frame + 1) / video.num_frames)
            for look in _look_at_frames(video, spotter, frames, kept.looks):
                tracker.add(look)
                kept.append(look)
                if progress is not None:
                    progress((look.frame + 1) / video.num_frames)
        if report_damage is not None and (damage := video.describe_damage()):
            report_damage(damage)
    records = make_document(tracker.tracks).values()
    confirmed = [record for record in records if spotter.confirm(record["text"])]
    unread = spotter.describe_unread()
    if unread is not None:
        logger.warning("%s: %s", path, unread)
    return {str(number): record for number, record in enumerate(confirmed)}


def _look_at_frames(
    video: TolerantReader, spotter: TextSpotter, frames: list[int], done: list[VideoLook]
) -> Iterator[VideoLook]:
    """Look at the frames after those that are done, as far as they can be decoded."""
    coming = [frame for frame in frames if not done or frame > done[-1].frame]
    if not coming:
        return
    change = ChangeDetector()
    # The next frame is compared with the last one that was read.
    last = [look.frame for look in done if look.lines is not None][-1:]
    for frame, (number, picture) in zip(last + coming, video.stream(last + coming), strict=True):
        if number != frame:  # it stands for one that can't be decoded
            continue
        if not change.is_new(picture):
            yield VideoLook(frame)
        elif last and frame == last[0]:
            continue
        else:
            lines = spotter.spot(picture)
            changed = [change.has_changed(line.corners) for line in lines]
            yield VideoLook(frame, lines, changed, spotter.noticed)


def choose_frames(times: np.ndarray, step: float) -> np.ndarray:
    """Return the numbers of the first frames at or after each multiple of a time step.

    ``times``, (N,), are seconds and ascend from 0; ``step`` is above 0 seconds. The numbers ascend
    from 0, none is there twice.
    """
    # A time that a file rounds down to its clock still counts as reached.
    with np.errstate(over="ignore", invalid="ignore"):  # of steps that nothing is shorter than
        steps = np.floor((times + 1e-3) / step)
        return np.flatnonzero(np.diff(steps, prepend=-1))


class ChangeDetector:
    """Compares a frame with the last one that was found to differ."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._changes: np.ndarray | None = None  # (rows, columns) bool; None: all windows

    def is_new(self, frame: np.ndarray) -> bool:
        """Whether a frame, (H, W, 3) uint8, differs; the first one always does."""
        green = frame[..., 1].astype(np.int16)  # most of the brightness
        changes = None
        if self._last is not None and green.shape == self._last.shape:
            strong = np.maximum(np.abs(green - self._last) - FAINT, 0)
            changes = average_windows(strong) >= NOTICEABLE
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
        low = np.maximum((corners.min(axis=0) - margin) // CELL - 1, 0).astype(int)
        high = np.maximum((corners.max(axis=0) + margin) // CELL + 1, 0).astype(int)
        return bool(self._changes[low[1] : high[1], low[0] : high[0]].any())


def average_windows(values: np.ndarray) -> np.ndarray:
    """Return the means of windows of 2 x 2 cells, which overlap by one; beyond the edges are zeros.

    (H, W) integers -> (ceil(H / CELL), ceil(W / CELL)) float64.
    """
    rows, columns = (np.arange(0, length, CELL) for length in values.shape)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=np.int64), columns, axis=1)
    sums = np.pad(sums, (0, 1))
    sums = sums[:-1] + sums[1:]
    return (sums[:, :-1] + sums[:, 1:]) / (2 * CELL) ** 2
