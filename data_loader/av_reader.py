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
        self._context = stream.codec_context
        packets = [packet for packet in self._container.demux(stream) if packet.size]
        shown = [packet.pts for packet in packets if not packet.is_discard]
        # Presentation order; some containers (AVI) carry no such times.
        self._times = None if None in shown else sorted(shown)
        self._pictures = self._read_pictures(packets)
        self._packets = packets if self._pictures else []
        return len(shown)

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
        if sum(packet.size for packet in packets) > _MOST_BYTES:
            return None
        pictures = [read_picture(memoryview(packet), size) for packet in packets]
        return pictures if pictures and None not in pictures and pictures[0].is_start else None

    def _decode(self, wanted: list[int]) -> np.ndarray:
        frames = self._decode_needed(wanted) if self._pictures else None
        return np.stack(self._decode_in_order(wanted) if frames is None else frames)

    def _decode_needed(self, wanted: list[int]) -> list[np.ndarray] | None:
        """Decode as little as possible; None where anything is not as it should be."""
        times = {self._times[number] for number in wanted}
        places = [n for n, packet in enumerate(self._packets) if packet.pts in times]
        found = []
        for numbers in needed(self._pictures, places):
            packets = [self._packets[number] for number in numbers]
            expected = iter(sorted(packet.pts for packet in packets if not packet.is_discard))
            try:
                for frame in self._decoded(packets):
                    if frame.pts != next(expected, None) or frame.is_corrupt:
                        return None
                    if frame.pts in times:
                        found.append(self._as_rgb(frame))
            except self._library.error.FFmpegError:  # met again, and told, in order
                return None
        return found if len(found) == len(wanted) else None

    def _decoded(self, packets: list[Any]) -> Iterator[Any]:
        try:
            for packet in (*packets, None):  # None: give what is still held back
                yield from self._context.decode(packet)
        finally:
            self._context.flush_buffers()

    def _decode_in_order(self, wanted: list[int]) -> list[np.ndarray]:
        frames, due = [], iter(wanted)
        index = next(due)
        container, stream = self._opened()
        with container:
            for number, frame in enumerate(container.decode(stream)):
                if self._times is not None and frame.pts != self._times[number]:
                    raise VideoError(self.path, f"frame {number} can't be decoded", self.remedy())
                if number == index:
                    frames.append(self._as_rgb(frame))
                    index = next(due, None)
                if index is None:
                    return frames
        raise VideoError(self.path, f"frame {index} can't be decoded", self.remedy())

    def _as_rgb(self, frame: Any) -> np.ndarray:
        """(H, W, 3) uint8 of PyAV's frame, turned as the file asks."""
        image = self._reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC")
        return np.rot90(image.to_ndarray(), round(frame.rotation / 90) % 4)


def _import_av() -> ModuleType:
    import av
    import av.video.reformatter

    return av
