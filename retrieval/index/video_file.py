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
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_loader.frame_sampling import sample_frame_indices
from data_loader.ocr.ocr_words import OcrLine, OcrParams, normalise_tracks, select_words
from data_loader.readers.image_reader import encode_jpeg
from data_loader.readers.tolerant_reader import SEARCH_READER, TolerantReader, open_tolerantly
from retrieval.index.ocr_text import OcrSource
from retrieval.index.records import NewEntry, NewTrack, NewVideo, Stamps
from retrieval.index.roots import Roots
from utils.errors import UserError
from utils.times import LATE_S, LONGEST_S

if TYPE_CHECKING:  # without a model nothing needs torch
    from torch import Tensor

    from base.batch import Sample
    from data_loader.transforms import ClipTransform

logger = logging.getLogger(__name__)

SAME_TIME_S = 1e-3  # rounding of times
MAX_SHOWN_S = 3600.0  # of one frame, a slide for instance; after more the clock has jumped
MAX_WINDOWS = 100_000  # of one video
THUMBNAIL = 320  # most pixels of each side


class Window(NamedTuple):
    """A time span, in seconds (``utils.times``), and its frames."""

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
        self._start_s = choose_start(reader, starts)
        times = self._times = self._limit(reader.times()) + self._start_s
        size = reader.width, reader.height
        windows = cut_windows(times, params.window_s, params.stride_s)
        if len(windows) > MAX_WINDOWS:
            logger.warning(
                "%s: has %d windows; the first %d, up to second %.0f, are indexed: give a longer "
                "--stride",
                reader.path, len(windows), MAX_WINDOWS, windows[MAX_WINDOWS - 1].end_s,
            )  # fmt: skip
            windows = windows[:MAX_WINDOWS]
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
                span = line.span_s[0] + self._start_s, line.span_s[1] + self._start_s
                track = _build_spoken_track(line, span, find_windows_at(span, self.windows))
            else:
                seen_in = find_windows(list(line.frames), self.windows)
                for position in seen_in:
                    self._lines_in[position].append(line)
                track = _build_track(line, times, size, seen_in)
            self.video.tracks += [] if track is None else [track]

    def _limit(self, times: NDArray) -> NDArray:
        """Leave out frames whose time stamps are junk, and say so."""
        shown = times[: np.searchsorted(times, LONGEST_S, side="right")]
        if len(shown) < len(times):
            logger.warning(
                "%s: %d of its %d frames are shown more than %g s after the first one, by their "
                "time stamps, and left out: re-encode the file",
                self._reader.path, len(times) - len(shown), len(times), LONGEST_S,
            )  # fmt: skip
        return shown

    def has_windows_at(self, starts: Sequence[float]) -> bool:
        """Whether its windows are those that begin at these times, in seconds."""
        own = [window.start_s for window in self.windows]
        return len(own) == len(starts) and np.allclose(own, starts, rtol=0, atol=SAME_TIME_S)

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
    with roots.open_video(name) as video:
        # Taken before the video is read: the next run finds what changes meanwhile.
        stamps = video.read_stamp(), source.get_stamp(name, None)
        with open_tolerantly(video.path, params.reader) as reader:
            yield VideoFile(name, stamps, reader, source.read_lines(name, video.path), params)


def choose_start(reader: TolerantReader, starts: Sequence[float] | None = None) -> float:
    """Return when the first frame is shown, in seconds of the clock of ``utils.times``.

    Args:
        starts: of the entries that an index has of the video; where the first one begins earlier,
            it is of a version that counted from the first frame.
    """
    start_s = reader.start_s
    is_counted = starts is None or min(starts, default=start_s) > start_s - SAME_TIME_S
    return start_s if start_s > LATE_S and is_counted else 0.0


def check_windows(window_s: float, stride_s: float) -> None:
    """Raise ``UserError`` where windows of that length and stride make no sense."""
    if not 0 < stride_s <= window_s < float("inf"):
        raise UserError(
            f"--window {window_s:g} --stride {stride_s:g}: give seconds, 0 < stride <= window; "
            "with a longer stride parts of the videos would be in no window"
        )


def compute_duration(times: NDArray) -> float:
    """Return when the last frame ends, which is taken as long as the one before.

    Args:
        times: (N,) when each frame is shown, in seconds.
    """
    start = find_stretches(times)[-1][0]
    return _compute_end(times[start:])


def _compute_end(times: NDArray) -> float:
    return float(2 * times[-1] - times[-2]) if len(times) > 1 else float(times[-1])


def find_stretches(times: NDArray) -> list[tuple[int, int]]:
    """Return the parts of a video without jumps of its clock: first frame, and one after the last.

    Args:
        times: (N,) when each frame is shown, in seconds, ascending.
    """
    jumps = np.flatnonzero(np.diff(times) > MAX_SHOWN_S) + 1
    return list(pairwise([0, *jumps.tolist(), len(times)]))


def cut_windows(times: NDArray, window_s: float, stride_s: float) -> list[Window]:
    """Return the windows of a video; the last one ends with it and is as long as the others.

    A video that is no longer than a window is one window. Where one frame stays for long, a window
    covers all of that, so that there are at most ten windows a frame; where the clock jumps, the
    windows begin anew.

    Args:
        times: (N,) when each frame is shown, in seconds, ascending.
        stride_s: from the start of a window to that of the next.
    """
    windows: list[Window] = []
    for start, stop in find_stretches(times):
        for window in _cut_stretch(times[start:stop], window_s, stride_s):
            windows.append(window._replace(first=window.first + start, stop=window.stop + start))
    return windows


def _cut_stretch(times: NDArray, window_s: float, stride_s: float) -> Iterator[Window]:
    """Yield the windows of a part of a video without jumps."""
    instant = 1e-6  # times are computed, with rounding errors
    begin, end = float(times[0]), _compute_end(times)
    rest = max(0.0, end - begin - window_s)
    # A rest that is but a rounding error is no window of its own.
    last = float(np.ceil(rest / stride_s - 1e-6))
    # Other frames than before are shown by windows at whose start or end a frame begins: these are
    # made, and two after them.
    changes = np.concatenate([times, times - window_s]) - begin
    numbers = np.floor(changes / stride_s)[:, None] + np.arange(-1, 3)
    numbers = np.unique(np.append(np.clip(numbers, 0, last), (0, last)))
    starts = begin + np.minimum(numbers * stride_s, rest)
    firsts = np.searchsorted(times, starts + instant, side="right") - 1
    stops = np.searchsorted(times, np.minimum(starts + window_s, end) - instant, side="left")
    stops = np.maximum(stops, firsts + 1)
    firsts[0], stops[-1] = 0, len(times)
    firsts[1:] = np.minimum(firsts[1:], stops[:-1])  # no frame is between two windows
    # What is left out after a window shows the same as it does, which goes on until there.
    ends = np.append(numbers[1:] - 1, last)
    ends = np.minimum(begin + np.minimum(ends * stride_s, rest) + window_s, end)
    yield from map(Window, *(column.tolist() for column in (starts, ends, firsts, stops)))


def find_windows(frames: Sequence[int], windows: Sequence[Window]) -> tuple[int, ...]:
    """Return the positions of the windows that have one of these frames."""
    ordered = np.sort(np.array(frames, dtype=np.int64))
    firsts, stops = (np.array([getattr(w, name) for w in windows]) for name in ("first", "stop"))
    has_one = np.searchsorted(ordered, stops) > np.searchsorted(ordered, firsts)
    return tuple(np.flatnonzero(has_one).tolist())


def find_windows_at(span_s: tuple[float, float], windows: Sequence[Window]) -> tuple[int, ...]:
    """Return the positions of the windows that have a part of a time span, in seconds."""
    start_s, end_s = span_s
    starts, ends = (np.array([getattr(w, name) for w in windows]) for name in ("start_s", "end_s"))
    has_part = (start_s < ends) & (max(end_s, start_s + 1e-6) > starts)
    return tuple(np.flatnonzero(has_part).tolist())


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


def _build_spoken_track(
    line: OcrLine, span_s: tuple[float, float], heard_in: tuple[int, ...]
) -> NewTrack | None:
    """Return a spoken line as an index keeps it; None where the video has ended before it.

    Also None of a line without text: a document has one where it was listened to and nothing is
    said.
    """
    if not heard_in or not line.text.strip():
        return None
    nowhere = np.zeros((0, 5), np.float32)
    return NewTrack(_clean_text(line.text), line.score, *span_s, nowhere, heard_in, "spoken")


def _clean_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # JSON may hold half characters
