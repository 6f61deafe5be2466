"""Segments of a video as fragmented MP4, for Media Source Extensions.

Each is made on its own, and holds its own header: H.264 is copied from key frame to key frame,
everything else is encoded. Times in it are those of the video, so that it can be appended anywhere.
"""

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av

from retrieval.web.playback.decoding import (
    Job,
    NoPictureError,
    demux_from,
    find_key_frame,
    open_stream,
)
from retrieval.web.playback.encoding import CLOCK, PictureEncoder, SoundEncoder
from retrieval.web.playback.media import SEGMENT_S, Media, has_encoder, is_idr

# One fragment, which begins at the time of its first packet whatever has come before; the decoding
# times are moved so that none is below 0, which fragments can't express.
_FRAGMENT = {
    "movflags": "empty_moov+default_base_moof+frag_custom+frag_discont+negative_cts_offsets"
    "+skip_trailer",
    "use_editlist": "0",
    "avoid_negative_ts": "disabled",
    "video_track_timescale": str(CLOCK),
}
_QUALITY = {"preset": "superfast", "crf": "23"}


def make_segment(media: Media, number: int, job: Job) -> bytes:
    """Return a segment; empty where all of it belongs to another, as key frames are far apart.

    Segment n begins with the last key frame that is shown at or before n times ``SEGMENT_S``, where
    packets are copied, and at that time itself otherwise; it ends where the next one begins.

    Raises:
        JobCancelledError: nobody waits for it any more.
        NoPictureError: it can't be made.
    """
    start_s, end_s = (find_boundary(media, place, job) for place in (number, number + 1))
    if start_s >= end_s:
        return b""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4", options=_FRAGMENT) as output:
        if not media.can_copy or not _copy(media, output, start_s, end_s, job):
            _encode(media, output, start_s, end_s, job)
    return content.getvalue()


def find_boundary(media: Media, number: int, job: Job) -> Fraction:
    """Return when a segment begins, in seconds; the one after the last begins at the end."""
    if number <= 0:
        return Fraction(0)
    if number >= media.num_segments:
        return Fraction(media.duration_s)
    return (
        _find_key_boundary(media, number, job) if media.can_copy else Fraction(number * SEGMENT_S)
    )


def _find_key_boundary(media: Media, number: int, job: Job) -> Fraction:
    known = _known_boundaries(media)
    if number not in known:
        time_s = Fraction(number * SEGMENT_S)
        found = find_key_frame(media, time_s, job)
        known[number] = time_s if found is None else max(found, Fraction(0))
    return known[number]


@lru_cache(maxsize=256)
def _known_boundaries(media: Media) -> dict[int, Fraction]:
    return {}


def _copy(media: Media, output: Any, start_s: Fraction, end_s: Fraction, job: Job) -> bool:
    """Copy the pictures and encode the sound; False: not all of it begins and ends afresh."""
    is_last = end_s >= media.duration_s
    packets = collect_packets(media, start_s, None if is_last else end_s, job)
    if packets is None:
        return False
    with open_stream(media, media.video) as (_, template):
        stream = output.add_stream_from_template(template)
        sound = None if media.audio is None else SoundEncoder(media, output, job)
        shift = round(media.start / packets[0].time_base)
        pictures = retime_packets(packets, shift, Fraction(end_s) + media.start)
        mux(output, stream, pictures)
        if sound is not None:
            mux(output, sound.stream, sound.encode(start_s, end_s))
    return True


def collect_packets(
    media: Media, start_s: Fraction, end_s: Fraction | None, job: Job
) -> list[Any] | None:
    """Return the packets from a key frame up to another one, or to the end; None: it can't be done.

    Both have to be such that nothing after them refers to what is before.
    """
    packets: list[Any] = []
    for packet in demux_from(media, start_s, job):
        if not packet.size:
            break
        if packet.pts is None:
            return None
        shown_s = media.to_seconds(packet.pts, packet.time_base)
        if not packets and not (packet.is_keyframe and shown_s >= start_s):
            continue
        if not packets and (shown_s != start_s or not is_idr(packet)):
            return None
        if end_s is not None and packet.is_keyframe and shown_s >= end_s:
            return packets if shown_s == end_s and is_idr(packet) else None
        packets.append(packet)
    return packets if packets and end_s is None else None


def retime_packets(packets: Sequence[Any], shift: int, end_s: Fraction) -> Iterator[Any]:
    """Yield packets with all times, whatever the container had of them.

    Args:
        shift: taken off the time stamps.
        end_s: time stamp at which the last frame ends, seconds.
    """
    order = sorted(packet.pts for packet in packets)
    delay = max(due - packet.pts for due, packet in zip(order, packets, strict=True))
    end = max(round(end_s / packets[0].time_base), order[-1] + 1)
    for due, following, packet in zip(order, [*order[1:], end], packets, strict=True):
        packet.pts, packet.dts = packet.pts - shift, due - delay - shift
        packet.duration = following - due
        yield packet


def _encode(media: Media, output: Any, start_s: Fraction, end_s: Fraction, job: Job) -> None:
    if not has_encoder():
        raise NoPictureError("this PyAV can't encode H.264")
    encoder = PictureEncoder(media, output, _QUALITY, job)
    if not encoder.add_stream(start_s):
        raise NoPictureError("nothing of this part can be decoded")
    sound = None if media.audio is None else SoundEncoder(media, output, job)
    shift = round(start_s * CLOCK)

    def move(packet: Any) -> Any:
        packet.pts = packet.dts = packet.pts + shift
        return packet

    mux(output, encoder.stream, map(move, encoder.encode(start_s, end_s)))
    if sound is not None:
        mux(output, sound.stream, sound.encode(start_s, end_s))


def mux(output: Any, stream: Any, packets: Iterator[Any]) -> None:
    """Write packets of one stream."""
    for packet in packets:
        packet.stream = stream
        output.mux(packet)
