"""The video reader "av": PyAV, which decodes no more than the wanted frames need."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from base.registry import VIDEO_READERS
from data_loader.readers.base_reader import VideoError, VideoReader

_IDR, _LAST_SLICE = 5, 5  # NAL unit types 1 … 5 are slices of a picture
_PARAMETERS = (7, 8, 13, 15)  # what the stream's header should hold, not its packets
_MAX_BYTES = 1 << 28  # of packets kept in memory: the compressed file, while it is open


class Picture(NamedTuple):
    """Facts about the picture of one packet."""

    is_start: bool  # decoding can start here
    is_reference: bool  # another picture may refer to it


@VIDEO_READERS.register("av")
class AvReader(VideoReader):
    """The fastest reader; checks the time stamp of every frame it decodes.

    Of H.264 in MP4, MOV and Matroska it decodes only what the wanted frames refer to, see
    ``find_needed_packets``. Where that fails, and in all other files, it decodes everything from
    the start up to the last wanted frame.
    """

    name = "av"
    requires = "PyAV: pip install av"
    decodes_at_opening = False

    def _import_library(self) -> ModuleType:
        import av
        import av.video.reformatter

        return av

    def close(self) -> None:
        """Close the file and the decoder."""
        self._container.close()

    def _open(self) -> int:
        # One for all frames: it caches the state of the conversion.
        self._reformatter = self._library.video.reformatter.VideoReformatter()
        self._container, stream = self._open_container()
        self._context, self._unit = stream.codec_context, stream.time_base
        rate = stream.average_rate or stream.guessed_rate
        self._period = 1 / rate if rate else None
        packets, shown, size = [], [], 0
        for packet in self._container.demux(stream):
            if packet.size and not packet.is_discard:
                shown.append(packet.pts)
            size += packet.size
            if size > _MAX_BYTES:
                packets.clear()
            elif packet.size:
                packets.append(packet)
        # Presentation order; some containers (AVI) carry no such times.
        self._times = None if None in shown else sorted(shown)
        self._pictures = self._read_pictures(packets)
        self._packets = packets if self._pictures else []
        return len(shown)

    def _read_times(self) -> np.ndarray:
        if self._times is not None:
            return np.array(self._times, dtype=np.float64) * float(self._unit)
        if self._period is None:
            raise VideoError(self.path, "has neither frame times nor a frame rate")
        return np.arange(self.num_frames) * float(self._period)

    def _open_container(self) -> tuple[Any, Any]:
        """Open the file once more; return it and its video stream."""
        container = self._library.open(self.path)
        if not container.streams.video:
            container.close()
            raise VideoError(self.path, "holds no video stream, perhaps only sound")
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return container, stream

    def _read_pictures(self, packets: list[Any]) -> list[Picture] | None:
        """Read the facts of an H.264 stream's packets; None: everything is to be decoded."""
        size = get_length_size(self._context.extradata) if self._context.name == "h264" else None
        times = {packet.pts for packet in packets}
        if size is None or None in times or len(times) < len(packets):
            return None
        pictures = [read_picture(memoryview(packet), size) for packet in packets]
        return pictures if pictures and None not in pictures and pictures[0].is_start else None

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        num_decoded = 0
        for image in self._decode_needed(wanted):
            num_decoded += 1
            yield image
        if num_decoded < len(wanted):
            yield from self._decode_in_order(wanted[num_decoded:])

    def _decode_needed(self, wanted: list[int]) -> Iterator[np.ndarray]:
        """Decode as little as possible; ends early at anything unexpected."""
        if not self._pictures:
            return
        times = {self._times[number] for number in wanted}
        indices = [n for n, packet in enumerate(self._packets) if packet.pts in times]
        for numbers in find_needed_packets(self._pictures, indices):
            packets = [self._packets[number] for number in numbers]
            expected = iter(sorted(packet.pts for packet in packets if not packet.is_discard))
            try:
                for frame in self._decode_packets(packets):
                    if frame.pts != next(expected, None) or frame.is_corrupt:
                        return
                    if frame.pts in times:
                        yield self._convert_to_rgb(frame)
            except self._library.error.FFmpegError:  # decoding in order reports it
                return
            if next(expected, None) is not None:
                return

    def _decode_packets(self, packets: list[Any]) -> Iterator[Any]:
        try:
            for packet in (*packets, None):  # None: the frames that the decoder still holds
                yield from self._context.decode(packet)
        finally:
            self._context.flush_buffers()

    def _decode_in_order(self, wanted: list[int]) -> Iterator[np.ndarray]:
        due = set(wanted)
        container, stream = self._open_container()
        with container:
            for number, frame in enumerate(container.decode(stream)):
                if self._times is not None and frame.pts != self._times[number]:
                    raise self._make_error(f"frame {number} can't be decoded")
                if number in due:
                    yield self._convert_to_rgb(frame)
                    due.remove(number)
                if not due:
                    return
        raise self._make_error(f"frame {min(due)} can't be decoded")

    def _convert_to_rgb(self, frame: Any) -> np.ndarray:
        """Return PyAV's frame as (H, W, 3) uint8, rotated as the file asks."""
        # One thread: in a forked loading process the other threads would be missing.
        image = self._reformatter.reformat(
            frame, format="rgb24", interpolation="BICUBIC", threads=1
        )
        return np.rot90(image.to_ndarray(), round(frame.rotation / 90) % 4)


def get_length_size(extradata: bytes | None) -> int | None:
    """Return how many bytes hold a NAL unit's length in MP4 and Matroska; None: another form."""
    if extradata is None or len(extradata) < 7 or extradata[0] != 1:
        return None
    return (extradata[4] & 3) + 1


def read_picture(packet: memoryview, size: int) -> Picture | None:
    """Read the facts of a packet's picture; None: the packet is damaged, or changes parameters.

    ``packet`` holds NAL units, each behind its length of ``size`` bytes.
    """
    position = 0
    while position + size < len(packet):
        length = int.from_bytes(packet[position : position + size], "big")
        head = packet[position + size]
        kind = head & 31
        if kind in _PARAMETERS or not 0 < length <= len(packet) - position - size:
            return None
        if 1 <= kind <= _LAST_SLICE:
            return Picture(kind == _IDR, head & 0x60 != 0)
        position += size + length
    return None


def find_needed_packets(pictures: Sequence[Picture], wanted: Sequence[int]) -> list[list[int]]:
    """Return the packets of an H.264 stream to decode, in decoding order (ITU-T H.264, 7.3.1, 7.4).

    A picture that no other refers to is marked in its first byte (``nal_ref_idc`` 0, most
    B-frames), and no picture refers to one before the last IDR picture. So a wanted picture is
    decoded exactly from its IDR picture on, without the unreferred pictures between.

    Args:
        pictures: of all packets, in decoding order; the first one is a start.
        wanted: numbers of packets.

    Returns:
        A list of packet numbers for each stretch between two starts that holds a wanted picture.
        Each begins with its start and depends on nothing outside of the list.
    """
    starts = [number for number, picture in enumerate(pictures) if picture.is_start]
    due = set(wanted)
    stretches = groupby(sorted(due), key=lambda number: starts[bisect_right(starts, number) - 1])
    return [
        [n for n in range(start, max(numbers) + 1) if pictures[n].is_reference or n in due]
        for start, numbers in stretches
    ]
