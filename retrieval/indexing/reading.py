"""A video file becomes windows that a model can embed, in one pass over its frames.

A window is to the model what a whole video was in training: frames sampled from all of it, and the
words that are seen in it, where and when as shares of its frame and of its length.

Shapes: F frames of a clip, H x W pixels, R side of the model's input.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from base.batch import Sample
from data_loader.frame_sampling import frame_indices
from data_loader.ocr_words import OcrLine, OcrParams, normalise_tracks, words_of_lines
from data_loader.thumbnails import jpeg
from data_loader.transforms import ClipTransform
from data_loader.video_reader import VideoError, VideoReader, open_video
from retrieval.indexing.text import OcrSource, seen_in, tracks_of
from retrieval.indexing.windows import Window, cut, duration
from retrieval.storage.contents import NewVideo, Stamp

logger = logging.getLogger(__name__)

SECOND_READER = "av"  # opens every container and turns what was filmed upright; decord does not
THUMBNAIL = 320  # most pixels of each side


@dataclass(frozen=True)
class ReadingParams:
    """How videos are read.

    Attributes:
        window_s: length of a window.
        stride_s: between the starts of two windows.
        num_frames: F.
        transform: of a test clip.
        reader: tried first.
        ocr: which words the model reads.
        sees: whether the model sees frames.
        reads: whether it reads words.
    """

    window_s: float
    stride_s: float
    num_frames: int
    transform: ClipTransform
    reader: str
    ocr: OcrParams
    sees: bool
    reads: bool


@dataclass
class WindowSample:
    """A window as the model's input, and its picture."""

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
        stamps: tuple[Stamp, Stamp | None],
        params: ReadingParams,
        source: OcrSource,
    ) -> None:
        self._params = params
        with ExitStack() as stack:
            self._reader = stack.enter_context(_opened(folder / name, params.reader))
            times, size = self._reader.times(), (self._reader.width, self._reader.height)
            self.windows = cut(times, params.window_s, params.stride_s)
            lines = source.lines(name, folder / name)
            self._warn_of_other_frames(lines)
            self._lines_in: list[list[OcrLine]] = [[] for _ in self.windows]
            for line in lines:
                for place in seen_in(line, self.windows):
                    self._lines_in[place].append(line)
            self.video = NewVideo(
                name,
                *stamps,
                duration(times),
                *size,
                tracks=tracks_of(lines, times, size, self.windows),
            )
            self._close = stack.pop_all().close

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def samples(self) -> Iterator[WindowSample]:
        """Yield the windows in order; the frames of those that overlap are decoded once.

        Raises:
            VideoError: a frame can't be decoded.
        """
        pictures = [_middle(window) for window in self.windows]
        clips = [self._frames_of(window) for window in self.windows]
        seen, shown = {frame for clip in clips for frame in clip}, set(pictures)
        wanted = sorted(seen | shown)
        stream = zip(wanted, self._reader.stream(wanted), strict=True)
        held: dict[int, tuple[Tensor | None, bytes | None]] = {}
        for place, window in enumerate(self.windows):
            # Those of earlier windows are over.
            held = {number: frame for number, frame in held.items() if number >= window.first}
            while max(held, default=-1) < max([pictures[place], *clips[place]]):
                number, frame = next(stream)
                held[number] = (
                    self._transformed(frame) if number in seen else None,
                    jpeg(frame, THUMBNAIL, THUMBNAIL) if number in shown else None,
                )
            frames = [held[number][0] for number in clips[place]]
            sample = self._sample(window, place, frames)
            yield WindowSample(window, sample, held[pictures[place]][1])

    def _frames_of(self, window: Window) -> list[int]:
        if not self._params.sees:
            return []
        indices = frame_indices(self._params.num_frames, window.stop - window.first)
        return (indices + window.first).tolist()

    def _transformed(self, frame: np.ndarray) -> Tensor:
        """(H, W, 3) -> (3, R, R) uint8."""
        clip = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
        return self._params.transform(clip, None)[0][0]

    def _sample(self, window: Window, place: int, frames: list[Tensor]) -> Sample:
        sample = Sample(f"{self.video.path} {window.start_s:g}", place, [])
        if self._params.sees:
            clip = frames[0].new_zeros(self._params.num_frames, *frames[0].shape)
            clip[: len(frames)] = torch.stack(frames)
            sample.frames, sample.num_frames = clip, len(frames)
        if self._params.reads:
            lines = [line.within(window.first, window.stop) for line in self._lines_in[place]]
            read = words_of_lines(lines, self._params.ocr)
            size = window.stop - window.first, self.video.width, self.video.height
            sample.words, sample.tracks = read.words, normalise_tracks(read.tracks, *size)
        return sample

    def _warn_of_other_frames(self, lines: Sequence[OcrLine]) -> None:
        last = max((frame for line in lines for frame in line.frames), default=-1)
        if last >= self._reader.num_frames:
            logger.warning(
                "%s: its OCR document speaks of frame %d, but it has %d: was it made from another "
                "file? What is beyond the end is left out",
                self._reader.path,
                last,
                self._reader.num_frames,
            )


def _middle(window: Window) -> int:
    return int(frame_indices(1, window.stop - window.first)[0]) + window.first


@contextmanager
def _opened(path: Path, reader: str) -> Iterator[VideoReader]:
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
