"""Video reader for search: whatever of a file decodes, with the first reader that can open it.

Training is strict, see ``data_loader/readers/base_reader.py``. Here a damaged frame costs no more
than itself and what can't be decoded without it, and a file that was cut short is read up to there.
A frame keeps its number: those that can't be decoded are counted, too.
"""

import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from itertools import accumulate
from math import ceil, floor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from base.registry import VIDEO_READERS
from data_loader.readers import video_readers  # noqa: F401  (registers the readers)
from data_loader.readers.av_reader import AvReader
from data_loader.readers.base_reader import VideoError, VideoReader
from data_loader.readers.container import check_file, is_cut_short
from utils.errors import UserError
from utils.times import format_time

logger = logging.getLogger(__name__)

SEARCH_READER = "av"  # opens every container and turns pictures as their file asks
_MAX_GAPS = 3  # in one line


class Gap(NamedTuple):
    """A time span, in seconds from the first frame, of which no frame can be decoded."""

    start_s: float
    end_s: float


class PartialReader(AvReader):
    """The reader av, of the frames that can be decoded; it decodes everything when it is opened.

    Attributes:
        decodable: (num_frames,) bool; to ask for another frame is a ``VideoError``.
    """

    decodes_at_opening = True
    check_file = staticmethod(check_file)  # it may be cut short

    def _open(self) -> int:
        self._failed: set[int] = set()  # packets
        num_frames = super()._open()
        if self._is_counted:
            self._find_decodable()
        return num_frames

    def _find_order(self) -> list[int]:
        decoded = [packet for packet, _ in self._decode_file()]
        if not decoded:
            raise VideoError(self.path, "none of its frames can be decoded")
        missing = sorted(self._failed - set(decoded))
        order = insert_missing(decoded, missing)
        self.decodable = np.array([packet not in missing for packet in order])
        return order

    def _find_decodable(self) -> None:
        decoded = list(dict.fromkeys(packet for packet, _ in self._decode_shown()))
        if not decoded:
            raise VideoError(self.path, "none of its frames can be decoded")
        places = {packet: place for place, packet in enumerate(self._order)}
        if not is_ascending([places[packet] for packet in decoded]):
            self._order = insert_missing(decoded, sorted(set(self._order) - set(decoded)))
        self.decodable = np.isin(self._order, decoded)

    def _decode_shown(self) -> Iterator[tuple[int, Any]]:
        """Decode everything; yield the frames that are counted."""
        seen = set()
        for packet, frame in self._decode_file():
            if self._is_counted and (packet in seen or not self._facts[packet].is_shown):
                continue
            seen.add(packet)
            yield packet, frame

    def find_nearest(self, indices: Sequence[int] | NDArray) -> NDArray:
        """Return the decodable frame that is nearest to each one of ``indices``, by number."""
        able, wanted = np.flatnonzero(self.decodable), np.asarray(indices, dtype=np.int64)
        after = np.searchsorted(able, wanted).clip(0, len(able) - 1)
        before = (after - 1).clip(0)
        is_before = np.abs(able[before] - wanted) <= np.abs(able[after] - wanted)
        return np.where(is_before, able[before], able[after])

    def find_gaps(self) -> list[Gap]:
        """Return the stretches that can't be decoded."""
        times = self.times()
        ends = np.append(times[1:], 2 * times[-1] - times[-2] if len(times) > 1 else 0.0)
        edges = np.flatnonzero(np.diff(~self.decodable, prepend=False, append=False))
        return [
            Gap(float(times[first]), float(ends[stop - 1])) for first, stop in edges.reshape(-1, 2)
        ]

    @cached_property
    def _size(self) -> tuple[int, int]:
        first = int(self.decodable.argmax())
        return next(self._decode_checked([first])).shape[:2]

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        due = set(wanted)
        numbers = np.flatnonzero(self.decodable).tolist()
        for number, (_, frame) in zip(numbers, self._decode_shown(), strict=False):
            if number in due:
                yield self._convert_to_rgb(frame)
                due.remove(number)
            if not due:
                return

    def _demux(self, container: Any, stream: Any) -> Iterator[Any]:
        with suppress(self._library.error.FFmpegError):  # the end of what can be read
            yield from super()._demux(container, stream)

    def _decode_packet(self, context: Any, packet: Any, has_begun: bool) -> list[Any]:
        try:
            return super()._decode_packet(context, packet, has_begun)
        except self._library.error.FFmpegError:
            if packet is not None:
                self._failed.add(packet.pts)
            return []


class TolerantReader:
    """An open video of which what can be decoded is read.

    The first reader that opens the file is used until a frame can't be decoded; only then all of
    the file is decoded to find which can.

    Attributes:
        path: the file.
        num_frames: frames that are shown, decodable or not.
    """

    def __init__(self, path: str | Path, first_choice: str) -> None:
        self.path = str(path)
        self._reader = self._open_first(first_choice)
        self.num_frames = self._reader.num_frames
        self._is_cut = is_cut_short(path)

    @property
    def width(self) -> int:
        """Width of a decoded frame, pixels."""
        return self._reader.width

    @property
    def height(self) -> int:
        """Height of a decoded frame, pixels."""
        return self._reader.height

    def times(self) -> NDArray:
        """Return when each frame is shown, (num_frames,) float64 in seconds from the first one."""
        return self._reader.times()

    @property
    def start_s(self) -> float:
        """When the first frame is shown, in seconds from where players count: the file's start."""
        return self._reader.start_s

    def stream(self, indices: Sequence[int] | NDArray) -> Iterator[tuple[int, np.ndarray]]:
        """Decode frames in one pass; ``indices`` ascend and are distinct.

        Yields:
            For each one its number and the frame, (height, width, 3) uint8 RGB. In the place of a
            frame that can't be decoded comes the nearest one that can, with that one's number; it
            may come more than once.

        Raises:
            VideoError: an index outside of the video, or the file has changed.
        """
        wanted = np.asarray(indices, dtype=np.int64).tolist()
        num_done = 0
        if not isinstance(self._reader, PartialReader):
            try:
                for frame in self._reader.stream(wanted):
                    yield wanted[num_done], frame
                    num_done += 1
            except VideoError as error:
                self._go_on_after(error)
        if num_done == len(wanted):
            return
        numbers = self._reader.find_nearest(wanted[num_done:])
        frames, last = self._reader.stream(np.unique(numbers)), None
        for number in numbers.tolist():
            if number != last:
                last, frame = number, next(frames)
            yield number, frame

    def describe_damage(self) -> str | None:
        """Return what is known by now of what can't be read, in a few words; None: nothing."""
        gaps = self._reader.find_gaps() if isinstance(self._reader, PartialReader) else []
        end_s = float(2 * self.times()[-1] - self.times()[-2]) if self.num_frames > 1 else 0.0
        if self._is_cut and gaps and gaps[-1].end_s == end_s:
            end_s = gaps.pop().start_s
        spans = format_gaps(gaps)
        if len(spans) > _MAX_GAPS:
            spans[_MAX_GAPS:] = [f"{len(spans) - _MAX_GAPS} more parts"]
        parts = [f"{', '.join(spans)} can't be decoded"] if spans else []
        parts += [f"it is cut short at {format_time(end_s)}"] if self._is_cut else []
        if num_left_out := self._reader.num_left_out:
            parts.insert(0, f"{num_left_out} pictures before its first whole one are left out")
        return " and ".join(parts) or None

    def close(self) -> None:
        """Close the file and the decoder."""
        self._reader.close()

    def _open_first(self, first_choice: str) -> VideoReader:
        """Open the file with the first reader that can; raises ``UserError``."""
        errors: list[VideoError] = []
        for name in dict.fromkeys((first_choice, SEARCH_READER)):
            try:
                return self._open(VIDEO_READERS.get(name))
            except VideoError as error:
                errors.append(error)
        with suppress(UserError):  # what the first ones say is nearer to the cause
            return self._open(PartialReader)
        raise errors[-1]

    def _open(self, reader: type[VideoReader]) -> VideoReader:
        opened = reader(self.path)
        try:
            _ = opened.width, opened.times()
        except VideoError:
            opened.close()
            raise
        return opened

    def _go_on_after(self, error: VideoError) -> None:
        """Find out what decodes; raises ``error`` where that is nothing."""
        try:
            reader = PartialReader(self.path)
        except VideoError:
            raise error from None
        self._reader.close()
        self._reader = reader
        if reader.num_frames != self.num_frames:
            raise error


@contextmanager
def open_tolerantly(
    path: str | Path, first_choice: str = SEARCH_READER
) -> Iterator[TolerantReader]:
    """Open a video to read what of it decodes; raises ``UserError`` where that is nothing.

    Args:
        path: of the video.
        first_choice: the name of the reader that is tried first.
    """
    with closing(TolerantReader(path, first_choice)) as reader:
        yield reader


def format_gaps(gaps: Sequence[Gap]) -> list[str]:
    """Return gaps in tenths of a second, none shorter than it is; those that then touch are one."""
    merged: list[list[int]] = []
    for gap in gaps:
        start, end = floor(gap.start_s * 10 + 1e-3), ceil(gap.end_s * 10 - 1e-3)
        if merged and start <= merged[-1][1]:
            merged[-1][1] = end
        else:
            merged.append([start, end])
    return [f"{format_time(start / 10)}-{format_time(end / 10)}" for start, end in merged]


def insert_missing(decoded: Sequence[int], missing: Sequence[int]) -> list[int]:
    """Return the packets of a file in the order in which their pictures are shown.

    One that gave no frame is put before the first frame of a later packet; where the container
    tells no times, that is right but for the few frames by which a codec reorders.

    Args:
        decoded: numbers of packets, as the decoder showed their frames.
        missing: numbers of the others, ascending.
    """
    greatest = list(accumulate(decoded, max))
    order = [(float(position), packet) for position, packet in enumerate(decoded)]
    order += [(bisect_right(greatest, packet) - 0.5, packet) for packet in missing]
    return [packet for _, packet in sorted(order)]


def is_ascending(numbers: Sequence[int]) -> bool:
    """Whether each number is greater than the one before."""
    return all(one < following for one, following in zip(numbers, numbers[1:], strict=False))
