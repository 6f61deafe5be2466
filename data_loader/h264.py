"""Which pictures of an H.264 stream a decoder needs for the wanted ones (ITU-T H.264, 7.3.1, 7.4).

A picture that no other refers to says so in its first byte (``nal_ref_idc`` 0, most B-frames), and
an IDR picture says that nothing before it is referred to any more. So what is wanted of a video is
decoded exactly without the unreferred pictures between, from the IDR picture before it on. Only
packets are looked at here, nothing is decoded.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

_IDR, _LAST_SLICE = 5, 5  # NAL unit types 1 … 5 are slices of a picture
_PARAMETERS = (7, 8, 13, 15)  # what the stream's header should hold, not its packets


class Picture(NamedTuple):
    """Of one packet: whether decoding can start with it, and whether another may refer to it."""

    is_start: bool
    is_reference: bool


def length_size(extradata: bytes | None) -> int | None:
    """Return the bytes of a NAL unit's length, as MP4 and Matroska have it; None: another form."""
    if extradata is None or len(extradata) < 7 or extradata[0] != 1:
        return None
    return (extradata[4] & 3) + 1


def read_picture(packet: memoryview, size: int) -> Picture | None:
    """Read what a packet says of its picture.

    Args:
        packet: NAL units, each behind its length.
        size: of ``length_size``.

    Returns:
        None where nothing can be relied on: the packet is damaged, or changes the parameters.
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


def needed(pictures: Sequence[Picture], wanted: Sequence[int]) -> list[list[int]]:
    """Return what is to be decoded, in decoding order.

    Args:
        pictures: of all packets, in decoding order; the first one is a start.
        wanted: numbers of packets.

    Returns:
        One list of packet numbers for each stretch between two starts that holds a wanted picture.
        Each begins with its start and depends on nothing outside of the list.
    """
    starts = [number for number, picture in enumerate(pictures) if picture.is_start]
    due = set(wanted)
    stretches = groupby(sorted(due), key=lambda number: starts[bisect_right(starts, number) - 1])
    return [
        [n for n in range(start, max(own) + 1) if pictures[n].is_reference or n in due]
        for start, own in stretches
    ]
