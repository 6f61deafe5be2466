"""Packets of compressed video: what their first bytes say of their pictures, without decoding.

Only for codecs of which a packet is one picture that is shown or not; of the others (and wherever a
header is not as expected) the decoder is asked.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_SLICES, _IDR = range(1, 6), 5  # NAL unit types of H.264
_PARAMETERS = (7, 8, 13, 15)  # what the stream's header should hold, not its packets
_HEVC_SLICES, _HEVC_STARTS, _HEVC_SKIPPED = range(32), (19, 20, 21), (8, 9)
_HEVC_RESTARTS = (16, 17, 18, 36, 37)  # broken links, and ends of a sequence
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_UNCODED_BYTES = 19  # of an MPEG-4 picture that is not coded, at most
PROGRESSIVE = (0, 1)  # ``AVFieldOrder``: not known, and no fields


class Picture(NamedTuple):
    """Facts about the picture of one packet."""

    is_start: bool  # decoding can start here
    is_reference: bool  # another picture may refer to it
    is_shown: bool = True
    needs_earlier: bool = False  # pictures before the last start; without them it is not shown
    is_countable: bool = True  # False: only the decoder knows whether it is one frame
    has_parameters: bool = False  # new ones, which the pictures after it refer to, too


# None: the packet is damaged.
PictureReader = Callable[[Any], Picture | None]


def choose_picture_reader(context: Any) -> PictureReader | None:
    """Return what reads the picture of a packet; None: only the decoder knows."""
    codec = context.codec.canonical_name
    if context.field_order not in PROGRESSIVE:  # perhaps a packet for each field
        return None
    if codec == "h264" and may_hold_fields(context.extradata or b""):
        return None
    if codec in ("h264", "hevc"):
        size = get_length_size(context.extradata, codec)
        read = read_picture if codec == "h264" else read_hevc_picture
        return None if size is None else lambda packet: read(memoryview(packet), size)
    if context.codec.intra_only:
        return lambda packet: Picture(is_start=True, is_reference=False)
    return _READERS.get(codec)


def are_countable(pictures: Sequence[Picture | None]) -> bool:
    """Whether each picture of a stream that says it is shown will be one frame, if it decodes.

    One that is damaged counts, also as the first one.
    """
    known = [picture for picture in pictures if picture is not None]
    if not known or not (pictures[0] is None or known[0].is_start):
        return False
    stop = next((n for n, one in enumerate(known) if n and one.is_start), len(known))
    is_cut = any(picture.needs_earlier for picture in known[:stop])
    return not is_cut and all(picture.is_countable for picture in known)


def get_length_size(extradata: bytes | None, codec: str = "h264") -> int | None:
    """Return how many bytes hold a NAL unit's length in MP4 and Matroska; None: another form."""
    place = 4 if codec == "h264" else 21
    if extradata is None or len(extradata) < place + 3 or extradata[0] != 1:
        return None
    return (extradata[place] & 3) + 1


def may_hold_fields(extradata: bytes) -> bool:
    """Whether an H.264 stream may have interlaced pictures, by its first sequence parameter set.

    Args:
        extradata: an AVCDecoderConfigurationRecord (ISO/IEC 14496-15).
    """
    try:
        return not _read_frame_mbs_only(_Bits(extradata[8:]))
    except IndexError:  # it is cut, or another form
        return True


class _Bits:
    """Bits of a NAL unit, behind which nothing stands: an ``IndexError``."""

    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data.replace(b"\0\0\3", b"\0\0"))
        self._position = 0

    def read(self, count: int = 1) -> int:
        """Read an unsigned number of that many bits."""
        self._position += count
        if self._position > len(self._bits):
            raise IndexError
        return int(self._bits[self._position - count : self._position] or "0", 2)

    def read_golomb(self) -> int:
        """Read an Exp-Golomb code, as if it were unsigned (ITU-T H.264, 9.1)."""
        num_zeros = 0
        while not self.read():
            num_zeros += 1
        return (1 << num_zeros) - 1 + self.read(num_zeros)


def _read_frame_mbs_only(bits: _Bits) -> bool:
    """Read a sequence parameter set up to its flag that all pictures are frames (7.3.2.1.1)."""
    bits.read(8)  # the NAL unit's own header
    profile = bits.read(8)
    bits.read(16)
    bits.read_golomb()  # id
    if profile in _HIGH_PROFILES:
        if bits.read_golomb() == 3:  # chroma_format_idc
            bits.read()
        bits.read_golomb(), bits.read_golomb(), bits.read()  # bit depths
        if bits.read():  # scaling matrices: long, and hardly ever there
            raise IndexError
    bits.read_golomb()  # log2_max_frame_num
    order = bits.read_golomb()
    if order == 0:
        bits.read_golomb()
    elif order == 1:
        bits.read(), bits.read_golomb(), bits.read_golomb()
        for _ in range(bits.read_golomb()):
            bits.read_golomb()
    bits.read_golomb(), bits.read()  # reference frames, gaps between their numbers
    bits.read_golomb(), bits.read_golomb()  # width and height
    return bool(bits.read())


def read_picture(packet: memoryview, size: int) -> Picture | None:
    """Read the facts of an H.264 picture; None: the packet is damaged.

    ``packet`` holds NAL units, each behind its length of ``size`` bytes.
    """
    position, has_parameters = 0, False
    while position + size < len(packet):
        length = int.from_bytes(packet[position : position + size], "big")
        head = packet[position + size]
        kind = head & 31
        if not 0 < length <= len(packet) - position - size:
            return None
        has_parameters = has_parameters or kind in _PARAMETERS
        if kind in _SLICES:
            return Picture(kind == _IDR, head & 0x60 != 0, has_parameters=has_parameters)
        position += size + length
    return None


def read_hevc_picture(packet: memoryview, size: int) -> Picture | None:
    """Read the facts of an HEVC picture (ITU-T H.265, 7.4.2.2), as ``read_picture`` does."""
    picture, position = None, 0
    while position + size + 2 < len(packet):
        length = int.from_bytes(packet[position : position + size], "big")
        kind = packet[position + size] >> 1 & 0x3F
        if not 2 < length <= len(packet) - position - size:
            return None
        if kind in _HEVC_SLICES and picture is None:
            is_whole = packet[position + size + 2] & 0x80 != 0  # it begins with its first slice
            picture = Picture(
                kind in _HEVC_STARTS, True, True, kind in _HEVC_SKIPPED, is_countable=is_whole
            )
        if kind in _HEVC_RESTARTS:
            return Picture(False, True, is_countable=False)
        position += size + length
    return picture


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


def _read_mpeg4_picture(packet: Any) -> Picture:
    """Read whether a picture may say "nothing new": for such a one the decoder shows none."""
    is_coded = packet.size > _UNCODED_BYTES
    return Picture(packet.is_keyframe, True, is_countable=is_coded)


_READERS: dict[str, PictureReader] = {
    "vp8": lambda packet: Picture(packet.is_keyframe, True, not is_hidden_vp8(packet)),
    "vp9": lambda packet: Picture(packet.is_keyframe, True, not is_hidden_vp9(packet)),
    "av1": lambda packet: Picture(packet.is_keyframe, True),
    "mpeg4": _read_mpeg4_picture,
}
