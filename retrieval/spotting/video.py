"""Spot the text of one video, from its file to its OCR document."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_loader.video_reader import open_video
from retrieval.spotting.sampling import ChangeDetector, frames_every
from retrieval.spotting.text_spotter import TextSpotter
from retrieval.spotting.tracks import Tracker, document

EVERY_S = 0.4
# PyAV opens every container and turns pictures as their file asks; decord, the training's reader,
# refuses files that ask for it, and containers without an index. All of them count frames alike.
READER = "av"
# How far a line may come from one read frame to the next, as a share of the picture's diagonal.
REACH = 0.25


def spot_video(
    path: str | Path,
    spotter: TextSpotter,
    every: float = EVERY_S,
    reader: str = READER,
    progress: Callable[[float], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Find, read and track the text of a video; one frame at a time is in memory.

    Args:
        path: the video.
        spotter: the engine.
        every: seconds from one frame that is looked at to the next.
        reader: a registered video reader: av, decord, cv2 or torchcodec.
        progress: called with the share of the video that is done, in (0, 1], after each frame.

    Returns:
        The OCR document (see ``data_loader.ocr_words``): "0", "1", ... -> one tracked line each,
        ``{"text", "score", "tracks": {frame: [x1, y1, ..., x4, y4, confidence, read]},
        "recommend_box"}``, with frame numbers and pixels of the video as its readers give them.
        Empty where there is no text.

    Raises:
        VideoError: the video can't be read to its end.
        UserError: the reader is unknown or not installed.
    """
    with open_video(path, reader) as video:
        indices = frames_every(video.times(), every)
        tracker = Tracker(REACH * float(video.width**2 + video.height**2) ** 0.5)
        change = ChangeDetector()
        for index, frame in zip(indices.tolist(), video.stream(indices), strict=True):
            if change.differs(frame):
                tracker.update(index, spotter.spot(frame))
            else:
                tracker.carry(index)
            if progress is not None:
                progress((index + 1) / video.num_frames)
    return document(tracker.tracks())
