"""The video reader "av": PyAV, which decodes no more than the wanted frames need."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from base.registry import VIDEO_READERS
from data_loader.h264 import Picture, length_size, needed, read_picture
from data_loader.video_base import INSTALL, VideoError, VideoReader, load_library

_MOST_BYTES = 1 << 28  # of packets kept in memory: the compressed file, while it is open


@VIDEO_READERS.register("av")
class AvReader(VideoReader):
    """The fastest reader; checks the time stamp of every frame it decodes.

    Of H.264 in MP4, MOV and Matroska it decodes what the wanted frames refer to and nothing else,
    see ``data_loader/h264.py``. Where that does not go as expected, and in all other files, it
    decodes everything from the start up to the last wanted frame.
    """

    name = "av"
    decodes_at_opening = False

    def __init__(self, path: str | Path) -> None:
        self._library = load_library(
            _import_av, f'the video reader "av" needs PyAV: pip install av; {INSTALL}'
        )
        self._container: Any = None
        # One for all frames: it keeps what the conversion needs to know.
        self._reformatter = self._library.video.reformatter.VideoReformatter()
        super().__init__(path)

    def close(self) -> None:
        """Give back the file and the decoder."""
        if self._container is not None:
            self._container.close()

    def _open(self) -> int:
        self._container, stream = self._opened()
        self._context, self._unit = stream.codec_context, stream.time_base
        rate = stream.average_rate or stream.guessed_rate
        self._period = 1 / rate if rate else None
        packets, shown, size = [], [], 0
        for packet in self._container.demux(stream):
            if packet.size and not packet.is_discard:
                shown.append(packet.pts)
            size += packet.size
            if size > _MOST_BYTES:
                packets.clear()
            elif packet.size:
                packets.append(packet)
        # Presentation order; some containers (AVI) carry no such times.
        self._times = None if None in shown else sorted(shown)
        self._pictures = self._read_pictures(packets)
        self._packets = packets if self._pictures else []
        return len(shown)

    def _frame_times(self) -> np.ndarray:
        if self._times is not None:
            return np.array(self._times, dtype=np.float64) * float(self._unit)
        if self._period is None:
            raise VideoError(self.path, "tells no frame's time and no frame rate")
        return np.arange(self.num_frames) * float(self._period)

    def _opened(self) -> tuple[Any, Any]:
        """The file, opened anew, and its video stream."""
        container = self._library.open(self.path)
        if not container.streams.video:
            container.close()
            raise VideoError(self.path, "holds no video stream, perhaps only sound")
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return container, stream

    def _read_pictures(self, packets: list[Any]) -> list[Picture] | None:
        """What the packets of an H.264 stream say; None: everything is to be decoded."""
        size = length_size(self._context.extradata) if self._context.name == "h264" else None
        times = {packet.pts for packet in packets}
        if size is None or None in times or len(times) < len(packets):
            return None
        pictures = [read_picture(memoryview(packet), size) for packet in packets]
        return pictures if pictures and None not in pictures and pictures[0].is_start else None

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        left = iter(wanted)
        for image in self._decode_needed(wanted):
            next(left)
            yield image
        if rest := list(left):
            yield from self._decode_in_order(rest)

    def _decode_needed(self, wanted: list[int]) -> Iterator[np.ndarray]:
        """Decode as little as possible; ends early where anything is not as it should be."""
        if not self._pictures:
            return
        times = {self._times[number] for number in wanted}
        places = [n for n, packet in enumerate(self._packets) if packet.pts in times]
        for numbers in needed(self._pictures, places):
            packets = [self._packets[number] for number in numbers]
            expected = iter(sorted(packet.pts for packet in packets if not packet.is_discard))
            try:
                for frame in self._decoded(packets):
                    if frame.pts != next(expected, None) or frame.is_corrupt:
                        return
                    if frame.pts in times:
                        yield self._as_rgb(frame)
            except self._library.error.FFmpegError:  # met again, and told, in order
                return
            if next(expected, None) is not None:
                return

    def _decoded(self, packets: list[Any]) -> Iterator[Any]:
        try:
            for packet in (*packets, None):  # None: give what is still held back
                yield from self._context.decode(packet)
        finally:
            self._context.flush_buffers()

    def _decode_in_order(self, wanted: list[int]) -> Iterator[np.ndarray]:
        due = iter(wanted)
        index = next(due)
        container, stream = self._opened()
        with container:
            for number, frame in enumerate(container.decode(stream)):
                if self._times is not None and frame.pts != self._times[number]:
                    raise VideoError(self.path, f"frame {number} can't be decoded", self.remedy())
                if number == index:
                    yield self._as_rgb(frame)
                    index = next(due, None)
                if index is None:
                    return
        raise VideoError(self.path, f"frame {index} can't be decoded", self.remedy())

    def _as_rgb(self, frame: Any) -> np.ndarray:
        """(H, W, 3) uint8 of PyAV's frame, turned as the file asks."""
        # One thread: a loading process that is forked from this one would wait for others for ever.
        how = {"format": "rgb24", "interpolation": "BICUBIC", "threads": 1}
        image = self._reformatter.reformat(frame, **how)
        return np.rot90(image.to_ndarray(), round(frame.rotation / 90) % 4)


def _import_av() -> ModuleType:
    import av
    import av.video.reformatter

    return av
