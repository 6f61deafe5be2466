"""Video file as windows: the parts that it is cut into, each of them an entry of the index.

The model is given a window as it was given a whole video in training: frames sampled from all of
it, and the words that are seen in it, with boxes as shares of the frame and times as shares of its
length.

Shapes: N frames of a video, F frames of a clip, H x W pixels, R side of the model's input.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_loader.frame_sampling import sample_frame_indices
from data_loader.ocr.ocr_words import OcrLine, OcrParams, normalise_tracks, select_words
from data_loader.readers.image_reader import encode_jpeg
from data_loader.readers.tolerant_reader import SEARCH_READER, TolerantReader, open_tolerantly
from retrieval.index.database import ContentStamp, NewEntry, NewTrack, NewVideo, Stamps
from retrieval.index.ocr_text import OcrSource
from retrieval.index.roots import Roots
from utils.errors import UserError

if TYPE_CHECKING:  # without a model nothing needs torch
    from torch import Tensor

    from base.batch import Sample
    from data_loader.transforms import ClipTransform

logger = logging.getLogger(__name__)

SAME_TIME_S = 1e-3  # rounding of times
THUMBNAIL = 320  # most pixels of each side


class Window(NamedTuple):
    """A time span, in seconds from the video's first frame, and its frames."""

    start_s: float
    end_s: float
    first: int  # the frame that is shown at ``start_s``
    stop: int  # one more than the last frame that is shown before ``end_s``


@dataclass(frozen=True)
class ReadingParams:
    """How videos are read."""

    window_s: float  # length of a window
    stride_s: float  # between the starts of two windows
    num_frames: int = 0  # F
    transform: "ClipTransform | None" = None  # of a test clip; None: no frames are wanted
    reader: str = SEARCH_READER  # tried first
    ocr: OcrParams = OcrParams()  # which words the model is given
    uses_vision: bool = False
    uses_ocr: bool = False


class _HeldFrame(NamedTuple):
    """What is kept of a decoded frame."""

    number: int
    input: "Tensor | None"  # (3, R, R) uint8, where the model is given it
    jpeg: bytes | None  # the thumbnail, where it is one

    def is_in(self, window: Window) -> bool:
        return window.first <= self.number < window.stop


class VideoFile:
    """An open video, cut into windows.

    Args:
        starts: only windows that start at one of these times are kept; None: all.

    Attributes:
        video: what the index will keep of it; without entries as yet.
    """

    def __init__(
        self,
        name: str,
        stamps: Stamps,
        reader: TolerantReader,
        lines: Sequence[OcrLine],
        params: ReadingParams,
        starts: Sequence[float] | None = None,
    ) -> None:
        self._params, self._reader = params, reader
        times, size = reader.times(), (reader.width, reader.height)
        self._times = times
        windows = cut_windows(times, params.window_s, params.stride_s)
        if starts is not None:
            is_kept = partial(np.isclose, starts, rtol=0, atol=SAME_TIME_S)
            windows = [window for window in windows if is_kept(window.start_s).any()]
        self.windows = windows
        self.video = NewVideo(name, *stamps, compute_duration(times), *size)
        self._lines_in: list[list[OcrLine]] = [[] for _ in self.windows]
        last = max((frame for line in lines for frame in line.frames), default=-1)
        if last >= reader.num_frames:
            logger.warning(
                "%s: its OCR document speaks of frame %d, but it has %d: was it made from another "
                "file? What is beyond the end is left out",
                reader.path, last, reader.num_frames,
            )  # fmt: skip
        for line in lines:
            if line.span_s is not None:
                heard_in = find_windows_at(line.span_s, self.windows)
                track = _build_spoken_track(line, heard_in)
            else:
                seen_in = find_windows(list(line.frames), self.windows)
                for position in seen_in:
                    self._lines_in[position].append(line)
                track = _build_track(line, times, size, seen_in)
            self.video.tracks += [] if track is None else [track]

    def find_windows_of(self, entries: Sequence[NewEntry]) -> list[int]:
        """Return the positions of the windows that entries were made of."""
        starts = np.array([window.start_s for window in self.windows])
        return [int(np.abs(starts - entry.start_s).argmin()) for entry in entries]

    def read_windows(
        self, start: int = 0, kept: Sequence[int] = ()
    ) -> "Iterator[tuple[NewEntry, Sample | None]]":
        """Yield each window, or those from ``start`` on, as an entry and as the model's input.

        The entries are without embeddings; without a model there is no input. The frames of windows
        that overlap are decoded once. The nearest frame of a window stands for one that can't be
        decoded; a window without any is left out. Raises ``VideoError``.

        Args:
            kept: positions of the windows before ``start`` that have entries.
        """
        pictures = [_choose_frames(window, 1)[0] for window in self.windows]
        num_frames = self._params.num_frames if self._params.uses_vision else 0
        clips = [_choose_frames(window, num_frames) for window in self.windows]
        in_clips = {frame for clip in clips[start:] for frame in clip}
        in_pictures = set(pictures[start:])
        wanted = sorted(in_clips | in_pictures)
        stream = zip(wanted, self._reader.stream(wanted), strict=True)
        held: dict[int, _HeldFrame] = {}
        kept = list(kept)
        for position, window in enumerate(self.windows[start:], start):
            # Frames of earlier windows only are no longer needed.
            held = {number: frame for number, frame in held.items() if number >= window.first}
            while max(held, default=-1) < max([pictures[position], *clips[position]]):
                asked, (number, frame) = next(stream)
                held[asked] = _HeldFrame(
                    number,
                    self._transform(frame) if asked in in_clips else None,
                    encode_jpeg(frame, THUMBNAIL, THUMBNAIL) if asked in in_pictures else None,
                )
            picture = held[pictures[position]]
            found = [held[number] for number in clips[position]]
            clip = {frame.number: frame.input for frame in found if frame.is_in(window)}
            if not picture.is_in(window) or (num_frames and not clip):
                continue
            kept.append(position)
            sample = self._build_sample(position, list(clip.values()))
            times = self._times[list(clip)].tolist()
            yield NewEntry(window.start_s, window.end_s, picture.jpeg, frame_times=times), sample
        if len(kept) < len(self.windows):
            self._keep_windows(kept)
        if damage := self._reader.describe_damage():
            logger.warning("%s: %s; the rest is indexed", self._reader.path, damage)

    def _keep_windows(self, kept: Sequence[int]) -> None:
        """Leave out the other windows, and lines of text that are seen in none of ``kept``."""
        moved = {position: new for new, position in enumerate(kept)}
        tracks = []
        for track in self.video.tracks:
            seen_in = tuple(moved[position] for position in track.seen_in if position in moved)
            tracks += [replace(track, seen_in=seen_in)] if seen_in else []
        self.windows = [self.windows[position] for position in kept]
        self.video.tracks = tracks

    def _transform(self, frame: np.ndarray) -> "Tensor":
        """(H, W, 3) -> (3, R, R) uint8."""
        import torch

        clip = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
        return self._params.transform(clip, None)[0][0]

    def _build_sample(self, position: int, frames: "list[Tensor]") -> "Sample | None":
        if not self._params.uses_vision and not self._params.uses_ocr:
            return None
        import torch

        from base.batch import Sample

        window = self.windows[position]
        sample = Sample(f"{self.video.path} {window.start_s:g}", position, [])
        if self._params.uses_vision:
            clip = frames[0].new_zeros(self._params.num_frames, *frames[0].shape)  # (F, 3, R, R)
            clip[: len(frames)] = torch.stack(frames)
            sample.frames, sample.num_frames = clip, len(frames)
        if self._params.uses_ocr:
            lines = [line.within(window.first, window.stop) for line in self._lines_in[position]]
            found = select_words(lines, self._params.ocr)
            size = window.stop - window.first, self.video.width, self.video.height
            sample.words, sample.tracks = found.words, normalise_tracks(found.tracks, *size)
        return sample


@contextmanager
def open_video_file(
    roots: Roots, params: ReadingParams, source: OcrSource, name: str
) -> Iterator[VideoFile]:
    """Open a video by its name; all readers count frames alike.

    Raises:
        UserError: nothing of it can be read, or its OCR document is malformed.
    """
    path = roots.locate(name)
    # Taken before the video is read: the next run finds what changes meanwhile.
    stamps = ContentStamp.of(path), source.get_stamp(name, None)
    with open_tolerantly(path, params.reader) as reader:
        yield VideoFile(name, stamps, reader, source.read_lines(name, path), params)


def check_windows(window_s: float, stride_s: float) -> None:
    """Raise ``UserError`` where windows of that length and stride make no sense."""
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
    windows = []
    for number in range(count):
        start_s = min(number * stride_s, rest)
        end_s = min(start_s + window_s, end)
        instant = 1e-6  # times are computed, with rounding errors
        first = int(np.searchsorted(times, start_s + instant, side="right")) - 1
        stop = int(np.searchsorted(times, end_s - instant, side="left"))
        windows.append(Window(start_s, end_s, first, max(stop, first + 1)))
    return windows


def find_windows(frames: Sequence[int], windows: Sequence[Window]) -> tuple[int, ...]:
    """Return the positions of the windows that have one of these frames."""
    ordered = np.sort(np.array(frames, dtype=np.int64))
    firsts, stops = (np.array([getattr(w, name) for w in windows]) for name in ("first", "stop"))
    has_one = np.searchsorted(ordered, stops) > np.searchsorted(ordered, firsts)
    return tuple(np.flatnonzero(has_one).tolist())


def find_windows_at(span_s: tuple[float, float], windows: Sequence[Window]) -> tuple[int, ...]:
    """Return the positions of the windows that have a part of a time span, in seconds."""
    start_s, end_s = span_s
    return tuple(
        position
        for position, window in enumerate(windows)
        if start_s < window.end_s and max(end_s, start_s + 1e-6) > window.start_s
    )


def _choose_frames(window: Window, count: int) -> list[int]:
    """Return up to ``count`` frames of a window, spread over it."""
    if not count:
        return []
    return (sample_frame_indices(count, window.stop - window.first) + window.first).tolist()


def _build_track(
    line: OcrLine, times: NDArray, size: tuple[int, int], seen_in: tuple[int, ...]
) -> NewTrack | None:
    """Return a line as an index keeps it; None where no frame of the video shows it.

    Args:
        times: (N,) when each frame is shown, in seconds.
        size: (width, height) of a frame, in pixels.
    """
    frames = sorted(frame for frame in line.frames if frame < len(times))
    if not frames:
        return None
    quads = np.array([line.frames[frame] for frame in frames]).reshape(-1, 4, 2)
    quads = np.clip(quads / np.array(size), 0.0, 1.0)
    corners = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    boxes = np.column_stack([times[frames], corners]).astype(np.float32)
    span = float(times[frames[0]]), float(times[frames[-1]])
    return NewTrack(_clean_text(line.text), line.score, *span, boxes, seen_in)


def _build_spoken_track(line: OcrLine, heard_in: tuple[int, ...]) -> NewTrack | None:
    """Return a spoken line as an index keeps it; None where the video has ended before it.

    Also None of a line without text: a document has one where it was listened to and nothing is
    said.
    """
    if not heard_in or line.span_s is None or not line.text.strip():
        return None
    nowhere = np.zeros((0, 5), np.float32)
    return NewTrack(_clean_text(line.text), line.score, *line.span_s, nowhere, heard_in, "spoken")


def _clean_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # JSON may hold half characters
