"""The video reader "av": PyAV, which decodes no more than the wanted frames need."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from base.registry import VIDEO_READERS
from data_loader.readers.base_reader import VideoError, VideoReader
from data_loader.readers.video_stream import choose_video_stream, get_file_start

_IDR, _LAST_SLICE = 5, 5  # NAL unit types 1 … 5 are slices of a picture
_PARAMETERS = (7, 8, 13, 15)  # what the stream's header should hold, not its packets
_UNCODED_BYTES = 19  # of an MPEG-4 picture that is not coded, at most
_TAKE_OUT = "take it out of the videos"
_MAX_BYTES = 1 << 28  # of packets kept in memory: the compressed file, while it is open


class Picture(NamedTuple):
    """Facts about the picture of one packet."""

    is_start: bool  # decoding can start here
    is_reference: bool  # another picture may refer to it


class PacketFacts(NamedTuple):
    """What the container says of a packet that holds data."""

    pts: int | None  # when its picture is shown, in units of the stream
    dts: int | None  # when it is decoded
    size: int  # bytes
    is_shown: bool  # not hidden by an edit list, and no picture for reference only


@VIDEO_READERS.register("av")
class AvReader(VideoReader):
    """The fastest reader; knows of every frame it decodes which packet it came from.

    Of H.264 in MP4, MOV and Matroska it decodes only what the wanted frames refer to, see
    ``find_needed_packets``. Where that fails, and in all other files, it decodes everything from
    the start up to the last wanted frame.

    Opening counts packets and decodes nothing, as far as each one that is shown is one frame. Time
    stamps of the container are believed until the decoder shows the frames in another order, as
    with H.264 in AVI: then all is decoded once to learn it.
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
        codec = self._context.codec.canonical_name
        is_hidden = _HIDDEN.get(codec, lambda data: False)
        facts, packets, size = [], [], 0
        for packet in self._demux(self._container, stream):
            if not packet.size:  # the frame before is shown again (Theora), or the end
                continue
            is_shown = not packet.is_discard and not is_hidden(packet)
            facts.append(PacketFacts(packet.pts, packet.dts, packet.size, is_shown))
            size += packet.size
            packets.append(packet)
            if size > _MAX_BYTES:
                packets.clear()
        if codec == "mpeg4":
            facts = self._find_uncoded(facts)
        self._numbers = number_frames(facts)
        self._shown = {number for number, fact in enumerate(facts) if fact.is_shown}
        shown = [facts[number] for number in sorted(self._shown)]
        if self._container.format.name == "gif" and len(shown) == 1:
            raise VideoError(self.path, "is a GIF of one frame: a picture, not a video", _TAKE_OUT)
        # AVI has no times of showing; FFmpeg guesses them, and in a damaged file wrongly.
        self._guesses_times = self._container.format.name == "avi"
        if self._guesses_times:
            self._times = sort_times([fact._replace(pts=None) for fact in shown])
        else:
            self._times = sort_times(shown)
        self._pictures = self._read_pictures(packets)
        self._packets = packets if self._pictures else []
        return len(shown)

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
        container = self._library.open(self.path)
        stream = choose_video_stream(container)
        if stream is None:
            container.close()
            raise VideoError(self.path, "holds no video stream, perhaps only sound")
        stream.thread_type = "NONE"
        return container, stream

    def _demux(self, container: Any, stream: Any) -> Iterator[Any]:
        return container.demux(stream)

    def _find_uncoded(self, facts: list[PacketFacts]) -> list[PacketFacts]:
        """Mark the packets of MPEG-4 that say "nothing new"; the decoder shows no frame for them.

        As small are only pictures of very few blocks, so that hardly any file is decoded for this.
        """
        small = {number for number, fact in enumerate(facts) if fact.size <= _UNCODED_BYTES}
        if small:
            with suppress(self._library.error.FFmpegError):  # reading the frames reports it
                small -= {number for number, _ in self._decode_file()}
                return [
                    fact._replace(is_shown=fact.is_shown and number not in small)
                    for number, fact in enumerate(facts)
                ]
        return facts

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
        for position, (packet, frame) in enumerate(self._decode_file()):
            if self._numbers is not None and self._numbers.get(packet) != position:
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
        numbers = {packet: number for number, packet in enumerate(order)}
        is_complete = len(numbers) == len(order) and numbers.keys() == self._numbers.keys()
        if not is_complete or numbers == self._numbers:
            return False
        self._numbers, self._pictures = numbers, None
        return True

    def _decode_file(self) -> Iterator[tuple[int, Any]]:
        """Decode everything in order; yield the number of each frame's packet, and the frame.

        Packets are counted from 0, those without data left out, as FFmpeg's own tools do.
        """
        container, stream = self._open_container()
        with container:
            number = 0
            for packet in self._demux(container, stream):
                if not packet.size:
                    continue
                # Whatever the container says: so each frame tells which packet it came from.
                packet.pts = number
                number += 1
                for frame in self._decode_packet(stream.codec_context, packet):
                    yield frame.pts, frame
            for frame in self._decode_packet(stream.codec_context, None):  # still held
                yield frame.pts, frame

    def _decode_packet(self, context: Any, packet: Any) -> list[Any]:
        return context.decode(packet)

    def _convert_to_rgb(self, frame: Any) -> np.ndarray:
        """Return PyAV's frame as (H, W, 3) uint8, rotated as the file asks."""
        # One thread: in a forked loading process the other threads would be missing.
        image = self._reformatter.reformat(
            frame, format="rgb24", interpolation="BICUBIC", threads=1
        )
        return np.rot90(image.to_ndarray(), round(frame.rotation / 90) % 4)


def number_frames(facts: Sequence[PacketFacts]) -> dict[int, int] | None:
    """Return packet number -> number of its frame; None: only decoding shows their order."""
    shown = {n: fact.pts for n, fact in enumerate(facts) if fact.is_shown}
    if None in shown.values() or len(set(shown.values())) < len(shown):
        return None
    return {packet: number for number, packet in enumerate(sorted(shown, key=shown.get))}


def sort_times(facts: Sequence[PacketFacts]) -> list[int] | None:
    """Return when the frames of packets are shown, ascending, in units of the stream.

    Those that a container doesn't tell are as far apart as the times of decoding. None: it tells
    neither for all of them.
    """
    for times in ([fact.pts for fact in facts], [fact.dts for fact in facts]):
        if None not in times:
            return sorted(times)
    return None


def is_hidden_vp8(packet: Any) -> bool:
    """Whether a VP8 picture is for reference only (RFC 6386, 9.1)."""
    return not memoryview(packet)[0] & 0x10


def is_hidden_vp9(packet: Any) -> bool:
    """Whether a packet of VP9 is one picture for reference only (its bitstream, 6.2, annex B)."""
    data = memoryview(packet)
    if data[-1] & 0xE0 == 0xC0:  # the mark of several pictures, of which one is shown
        return False
    head = int.from_bytes(bytes(data[:2]).ljust(2, b"\0"), "big")
    profile = (head >> 13 & 1) | (head >> 12 & 1) << 1
    after = 12 - (profile == 3)  # bits that are left behind the profile
    shows_existing = head >> (after - 1) & 1
    is_shown = head >> (after - 3) & 1
    return not shows_existing and not is_shown


_HIDDEN = {"vp8": is_hidden_vp8, "vp9": is_hidden_vp9}


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
