"""A video file as windows that a model can embed, in one pass over its frames.

A window is to the model what a whole video was in training: frames sampled from all of it, and the
words that are seen in it, where and when as shares of its frame and of its length.

Shapes: F frames of a clip, H x W pixels, R side of the model's input.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from base.batch import Sample
from data_loader.frame_sampling import sample_frame_indices
from data_loader.ocr.ocr_words import OcrLine, OcrParams, normalise_tracks, select_words
from data_loader.readers.base_reader import VideoError, VideoReader
from data_loader.readers.image_reader import encode_jpeg
from data_loader.readers.video_readers import open_video
from data_loader.transforms import ClipTransform
from retrieval.index.database import ContentStamp, NewVideo
from retrieval.index.ocr_text import OcrSource, build_tracks
from retrieval.index.windows import Window, compute_duration, cut_windows, find_windows

logger = logging.getLogger(__name__)

SECOND_READER = "av"  # opens every container and turns what was filmed upright; decord does not
THUMBNAIL = 320  # most pixels of each side


@dataclass(frozen=True)
class ReadingParams:
    """How videos are read."""

    window_s: float  # length of a window
    stride_s: float  # between the starts of two windows
    num_frames: int  # F
    transform: ClipTransform  # of a test clip
    reader: str  # tried first
    ocr: OcrParams  # which words the model is given
    uses_vision: bool  # whether the model is given frames
    uses_ocr: bool  # whether it is given words


@dataclass
class WindowSample:
    """A window as the model's input, and its picture (a JPEG)."""

    window: Window
    sample: Sample
    thumbnail: bytes


class VideoFile:
    """A video of the folder, opened; a ``with`` block closes it.

    Attributes:
        video: what the index will keep of it; without entries as yet.
        windows: where it is cut.

    Raises:
        UserError: no reader can read it, or its OCR document is malformed.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        stamps: tuple[ContentStamp, ContentStamp | None],
        params: ReadingParams,
        source: OcrSource,
    ) -> None:
        self._params = params
        with ExitStack() as stack:
            self._reader = stack.enter_context(_open_video(folder / name, params.reader))
            times, size = self._reader.times(), (self._reader.width, self._reader.height)
            self.windows = cut_windows(times, params.window_s, params.stride_s)
            lines = source.read_lines(name, folder / name)
            last = max((frame for line in lines for frame in line.frames), default=-1)
            if last >= self._reader.num_frames:
                logger.warning(
                    "%s: its OCR document speaks of frame %d, but it has %d: was it made from "
                    "another file? What is beyond the end is left out",
                    self._reader.path, last, self._reader.num_frames,
                )  # fmt: skip
            self._lines_in: list[list[OcrLine]] = [[] for _ in self.windows]
            for line in lines:
                for place in find_windows(list(line.frames), self.windows):
                    self._lines_in[place].append(line)
            tracks = build_tracks(lines, times, size, self.windows)
            self.video = NewVideo(name, *stamps, compute_duration(times), *size, tracks=tracks)
            self._close = stack.pop_all().close

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read_samples(self) -> Iterator[WindowSample]:
        """Yield the windows in order; the frames of those that overlap are decoded once.

        Raises:
            VideoError: a frame can't be decoded.
        """
        pictures = [_choose_frames(window, 1)[0] for window in self.windows]
        num_frames = self._params.num_frames if self._params.uses_vision else 0
        clips = [_choose_frames(window, num_frames) for window in self.windows]
        in_clips, in_pictures = {frame for clip in clips for frame in clip}, set(pictures)
        wanted = sorted(in_clips | in_pictures)
        stream = zip(wanted, self._reader.stream(wanted), strict=True)
        held: dict[int, tuple[Tensor | None, bytes | None]] = {}
        for place, window in enumerate(self.windows):
            # Those of earlier windows are over.
            held = {number: frame for number, frame in held.items() if number >= window.first}
            while max(held, default=-1) < max([pictures[place], *clips[place]]):
                number, frame = next(stream)
                held[number] = (
                    self._transform(frame) if number in in_clips else None,
                    encode_jpeg(frame, THUMBNAIL, THUMBNAIL) if number in in_pictures else None,
                )
            sample = self._build_sample(place, [held[number][0] for number in clips[place]])
            yield WindowSample(window, sample, held[pictures[place]][1])

    def _transform(self, frame: np.ndarray) -> Tensor:
        """(H, W, 3) -> (3, R, R) uint8."""
        clip = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
        return self._params.transform(clip, None)[0][0]

    def _build_sample(self, place: int, frames: list[Tensor]) -> Sample:
        window = self.windows[place]
        sample = Sample(f"{self.video.path} {window.start_s:g}", place, [])
        if self._params.uses_vision:
            clip = frames[0].new_zeros(self._params.num_frames, *frames[0].shape)
            clip[: len(frames)] = torch.stack(frames)
            sample.frames, sample.num_frames = clip, len(frames)
        if self._params.uses_ocr:
            lines = [line.within(window.first, window.stop) for line in self._lines_in[place]]
            found = select_words(lines, self._params.ocr)
            size = window.stop - window.first, self.video.width, self.video.height
            sample.words, sample.tracks = found.words, normalise_tracks(found.tracks, *size)
        return sample


def _choose_frames(window: Window, count: int) -> list[int]:
    """Return up to ``count`` frames of a window, spread over it."""
    if not count:
        return []
    return (sample_frame_indices(count, window.stop - window.first) + window.first).tolist()


@contextmanager
def _open_video(path: Path, reader: str) -> Iterator[VideoReader]:
    """Open a video with the first of two readers that can; all count frames alike."""
    with ExitStack() as stack:
        try:
            video = stack.enter_context(open_video(path, reader))
        except VideoError as error:
            if reader == SECOND_READER:
                raise
            try:
                video = stack.enter_context(open_video(path, SECOND_READER))
            except VideoError:
                raise error from None
            logger.info("%s: read with %s, for %s", path, SECOND_READER, error.reason)
        yield video
