"""The video reader "av": PyAV, which decodes no more than the wanted frames need."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cached_property
from itertools import groupby
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from base.registry import VIDEO_READERS
from data_loader.readers.base_reader import VideoError, VideoReader
from data_loader.readers.frame_times import is_nearly_ascending, mend_times
from data_loader.readers.opening import open_container
from data_loader.readers.packet_headers import (
    PROGRESSIVE,
    Picture,
    are_countable,
    choose_picture_reader,
)
from data_loader.readers.video_stream import (
    choose_video_stream,
    describe_missing_film,
    get_file_start,
    read_orientation,
)

_TAKE_OUT = "take it out of the videos"
_MAX_BYTES = 1 << 28  # of packets kept in memory: the compressed file, while it is open
# AVI has no times of showing; FFmpeg guesses them, and in a damaged file wrongly.
_GUESSED = "avi"


class PacketFacts(NamedTuple):
    """What the container says of a packet that holds data."""

    pts: int | None  # when its picture is shown, in units of the stream
    dts: int | None  # when it is decoded
    is_key: bool
    is_shown: bool  # not hidden by an edit list, and no picture for reference only


@VIDEO_READERS.register("av")
class AvReader(VideoReader):
    """The fastest reader; knows of every frame it decodes which packet it came from.

    Frames are numbered as the decoder shows them. Opening a file decodes nothing where its packets
    tell how many frames there will be, see ``data_loader/readers/packet_headers.py``; else all is
    decoded once to learn it. Pictures at the start that need others from before it, as where a
    recording begins anywhere, are left out and counted.

    Of H.264 in MP4, MOV and Matroska it decodes only what the wanted frames refer to, see
    ``find_needed_packets``. Where that fails, and in all other files, it decodes everything from
    the start up to the last wanted frame.

    Attributes:
        stream_index: of the pictures, in the file.
        is_interlaced: whether frames are said to consist of two fields.
    """

    name = "av"
    requires = "PyAV: pip install av"
    decodes_at_opening = False

    def _import_library(self) -> ModuleType:
        import av
        import av.video.reformatter

        return av

    def find_place(self) -> tuple[int, int]:
        """Return which of the file's streams of pictures is read, from 0, and how many it has."""
        indices = [stream.index for stream in self._container.streams.video]
        return indices.index(self.stream_index), len(indices)

    def get_remedy(self) -> str:
        """Return what a user can do: no other reader opens what this one can't."""
        return "replace the file, or re-encode it"

    def close(self) -> None:
        """Close the file and the decoder."""
        self._container.close()

    def _open(self) -> int:
        # One for all frames: it caches the state of the conversion.
        self._reformatter = self._library.video.reformatter.VideoReformatter()
        self.stream_index: int | None = None
        self._container, stream = self._open_container()
        self.stream_index = stream.index
        self._context, self._unit = stream.codec_context, stream.time_base
        # Of the first frame, by the container; what Matroska says may be of any of them.
        is_said = "matroska" not in self._container.format.name
        self._said_size = (self._context.width, self._context.height) if is_said else None
        rate = stream.average_rate or stream.guessed_rate
        self._period = 1 / rate if rate else None
        self.num_left_out, self.is_interlaced = 0, self._context.field_order not in PROGRESSIVE
        packets = self._read_facts(stream)
        shown = [number for number, fact in enumerate(self._facts) if fact.is_shown]
        if self._container.format.name == "gif" and len(shown) == 1:
            raise VideoError(self.path, "is a GIF of one frame: a picture, not a video", _TAKE_OUT)
        # Packet of each frame, in the order of showing.
        self._is_counted = self._can_count()
        if self._is_counted:
            self._order = sorted(shown, key=lambda number: self._facts[number].pts)
        else:
            self._order = self._find_order()
            self.num_left_out = self._count_left_out(shown)
        self._packets = packets if self._is_counted and self._knows_references() else []
        self._times = self._find_times()
        return len(self._order)

    def _read_facts(self, stream: Any) -> list[Any]:
        """Read all packets; returns those that hold data, or none of a large file."""
        read = choose_picture_reader(self._context)
        self._facts: list[PacketFacts] = []
        self._pictures: list[Picture | None] = []
        packets, size = [], 0
        for packet in self._demux(self._container, stream):
            if not packet.size:  # the frame before is shown again (Theora), or the end
                continue
            picture = None if read is None else read(packet)
            is_shown = not packet.is_discard and (picture is None or picture.is_shown)
            self._pictures.append(picture)
            fact = PacketFacts(packet.pts, packet.dts, packet.is_keyframe, is_shown)
            self._facts.append(fact)
            size += packet.size
            packets.append(packet)
            if size > _MAX_BYTES:
                packets.clear()
        self._reads_pictures = read is not None
        return packets if size <= _MAX_BYTES else []

    def _can_count(self) -> bool:
        """Whether each packet that is shown is one frame, shown at the time that it says."""
        times = [fact.pts for fact in self._facts]
        if None in times or not self._reads_pictures or not are_countable(self._pictures):
            return False
        is_intra = self._context.codec.intra_only
        if self._container.format.name == _GUESSED and not is_intra:
            return False
        return is_nearly_ascending(times)

    def _knows_references(self) -> bool:
        """Whether it is known which pictures others refer to."""
        return self._context.name == "h264" and not any(
            picture is None or picture.has_parameters for picture in self._pictures
        )

    def _find_order(self) -> list[int]:
        """Decode everything; returns the packet of each frame."""
        order = []
        for packet, frame in self._decode_file():
            order.append(packet)
            self.is_interlaced = self.is_interlaced or frame.interlaced_frame
        if not order:
            raise VideoError(self.path, "none of its frames can be decoded")
        return order

    def _count_left_out(self, shown: Sequence[int]) -> int:
        """Return how many pictures come, or are shown, before the first frame."""
        first, decoded = self._order[0], set(self._order)
        start = self._facts[first].pts

        def is_before(number: int) -> bool:
            time = self._facts[number].pts
            return number < first or (None not in (time, start) and time < start)

        return sum(number not in decoded and is_before(number) for number in shown)

    def _find_times(self) -> list[int] | None:
        """Return when each frame is shown, in units of the stream; None: the file doesn't tell."""
        facts = [self._facts[number] for number in self._order]
        if self._is_counted:
            return [fact.pts for fact in facts]
        if self._container.format.name == _GUESSED:
            facts = [fact._replace(pts=None) for fact in facts]
        times = choose_times(facts)
        return None if times is None else mend_times(times)

    def _read_times(self) -> np.ndarray:
        if self._times is not None:
            return np.array(self._times, dtype=np.float64) * float(self._unit)
        if self._period is None:
            raise VideoError(self.path, "has neither frame times nor a frame rate")
        return np.arange(self.num_frames) * float(self._period)

    def _read_start(self) -> float:
        if self._times is None:
            return super()._read_start()
        return float(self._times[0] * self._unit) - get_file_start(self._container)

    def _open_container(self) -> tuple[Any, Any]:
        """Open the file once more; return it and its video stream."""
        container = open_container(self.path)
        try:
            if self.stream_index is not None:
                stream = container.streams[self.stream_index]
            else:
                stream = choose_video_stream(container)
            if stream is None:
                raise VideoError(self.path, describe_missing_film(container), _TAKE_OUT)
        except BaseException:
            container.close()
            raise
        stream.thread_type = "NONE"
        return container, stream

    def _demux(self, container: Any, stream: Any) -> Iterator[Any]:
        return container.demux(stream)

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        num_decoded = 0
        for image in self._decode_needed(wanted):
            num_decoded += 1
            yield image
        if num_decoded < len(wanted):
            yield from self._decode_in_order(wanted[num_decoded:])

    def _decode_needed(self, wanted: list[int]) -> Iterator[np.ndarray]:
        """Decode as little as possible; ends early at anything unexpected."""
        if not self._packets:
            return
        indices = [self._order[number] for number in wanted]
        times = {self._packets[number].pts for number in indices}
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
        for position, (packet, frame) in enumerate(self._decode_file()):
            if position >= self.num_frames or self._order[position] != packet:
                if not self._learn_order():
                    raise self._make_error(f"frame {position} can't be decoded")
                yield from self._decode_in_order(sorted(due))
                return
            if position in due:
                yield self._convert_to_rgb(frame)
                due.remove(position)
            if not due:
                return
        raise self._make_error(f"frame {min(due)} can't be decoded")

    def _learn_order(self) -> bool:
        """Number the frames as they are decoded; return whether all of them are."""
        try:
            order = [packet for packet, _ in self._decode_file()]
        except self._library.error.FFmpegError:
            return False
        if sorted(order) != sorted(self._order) or order == self._order:
            return False
        self._order, self._packets = order, []
        return True

    def _decode_file(self) -> Iterator[tuple[int, Any]]:
        """Decode everything in order; yield the number of each frame's packet, and the frame.

        Packets are counted from 0, those without data left out, as FFmpeg's own tools do.
        """
        container, stream = self._open_container()
        with container:
            number, has_begun = 0, self._is_counted
            for packet in self._demux(container, stream):
                if not packet.size:
                    continue
                # Whatever the container says: so each frame tells which packet it came from.
                packet.pts = number
                has_begun = has_begun or packet.is_keyframe
                for frame in self._decode_packet(stream.codec_context, packet, has_begun):
                    has_begun = True
                    yield frame.pts, frame
                number += 1
            for frame in self._decode_packet(stream.codec_context, None, True):  # still held
                yield frame.pts, frame

    def _decode_packet(self, context: Any, packet: Any, has_begun: bool) -> list[Any]:
        """Return frames; pictures before the first key frame need others that are not there."""
        try:
            return context.decode(packet)
        except self._library.error.FFmpegError:
            if has_begun:
                raise
            return []

    def _convert_to_rgb(self, frame: Any) -> np.ndarray:
        """Return PyAV's frame as (H, W, 3) uint8, upright and as large as the first one."""
        width, height = size = frame.width, frame.height
        if size != self._said_size:
            width, height = self._first_size
        # One thread: in a forked loading process the other threads would be missing.
        image = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation="BICUBIC", threads=1
        )
        return read_orientation(frame).apply(image.to_ndarray())

    @cached_property
    def _first_size(self) -> tuple[int, int]:
        """Width and height of the first frame, as it is stored; FFmpeg scales the others to it."""
        frame = self.read_first_frame()
        return frame.width, frame.height

    def read_first_frame(self) -> Any:
        """Decode and return PyAV's first frame."""
        with closing(self._decode_file()) as frames:
            for _, frame in frames:
                return frame
        raise self._make_error("none of its frames can be decoded")


def choose_times(facts: Sequence[PacketFacts]) -> list[int] | None:
    """Return when the frames of packets are shown, as far as a container tells, for each packet.

    Those that it doesn't tell are as far apart as the times of decoding. None: it tells neither for
    all of them.
    """
    for times in ([fact.pts for fact in facts], [fact.dts for fact in facts]):
        if None not in times:
            return times
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
