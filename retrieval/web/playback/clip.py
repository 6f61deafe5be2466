"""Clip of a video: a part of it as a file of its own, copied where that is exact enough."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import av

from retrieval.web.playback.decoding import (
    INSTANT,
    Job,
    NoPictureError,
    demux,
    demux_from,
    find_key_frame,
    open_stream,
    seek,
)
from retrieval.web.playback.encoding import SAMPLE_RATE, PictureEncoder, SoundEncoder
from retrieval.web.playback.media import Media, has_encoder
from retrieval.web.playback.segments import mux, retime_packets

NEAR_S = 0.5  # how much earlier than asked a copied clip may begin
MAX_ENCODED_S = 600.0  # a longer clip is copied, from the key frame before its start
_PICTURES = ("h264", "hevc", "av1", "vp9", "mpeg4")  # what MP4 holds
_SOUNDS = ("aac", "mp3", "opus", "ac3", "eac3", "flac")
_QUALITY = {"preset": "veryfast", "crf": "20"}


@dataclass(frozen=True)
class Clip:
    """What was cut; seconds of the video."""

    start_s: float
    end_s: float
    is_copy: bool  # not encoded anew


def cut_clip(media: Media, start_s: float, end_s: float, file: Path, job: Job) -> Clip:
    """Write a part of a video as an MP4 file.

    Raises:
        JobCancelledError: nobody waits for it any more.
        NoPictureError: nothing of it can be decoded, or it can't be encoded.
    """
    end_s = min(end_s, media.duration_s)
    key_s = None
    if media.codec in _PICTURES and media.has_times:
        key_s = find_key_frame(media, Fraction(start_s) + Fraction(1, 1000), job)
    is_near = key_s is not None and start_s - key_s <= NEAR_S
    if key_s is not None and (is_near or end_s - start_s > MAX_ENCODED_S or not has_encoder()):
        copied_s = _copy(media, key_s, end_s, file, job)
        if copied_s is not None:
            return Clip(float(key_s), copied_s, True)
    if end_s - start_s > MAX_ENCODED_S:
        raise NoPictureError(f"more than {MAX_ENCODED_S:g} s of this video can't be cut")
    _encode(media, start_s, end_s, file, job)
    return Clip(start_s, end_s, False)


def _copy(media: Media, start_s: Fraction, end_s: float, file: Path, job: Job) -> float | None:
    """Copy what is shown from a key frame on; returns the end, None: the packets have no times."""
    packets = list(_collect_pictures(media, start_s, end_s, job))
    if not packets or any(packet.pts is None for packet in packets):
        return None
    # The last frame may need one that is shown after it; those between are shown, too.
    needed = packets[: _find_last(media, packets, end_s) + 1]
    shown_s = max(float(_get_time(media, packet)) + media.frame_s for packet in needed)
    end_s = min(max(end_s, shown_s), media.duration_s)
    packets = packets[: _find_last(media, packets, end_s) + 1]
    with ExitStack() as stack:
        _, template = stack.enter_context(open_stream(media, media.video))
        output = stack.enter_context(_open_output(file))
        stream = output.add_stream_from_template(template)
        sounds = _add_sound(media, output, start_s, end_s, job, stack)
        shift = round((start_s + media.start) / packets[0].time_base)
        mux(output, stream, retime_packets(packets, shift, end_s + media.start))
        for sound, sound_packets in sounds:
            mux(output, sound, sound_packets)
    return end_s


def _find_last(media: Media, packets: list[Any], end_s: float) -> int:
    """Return the last packet, as they are decoded, that is shown before a time."""
    return max(n for n, one in enumerate(packets) if _get_time(media, one) < end_s - INSTANT)


def _encode(media: Media, start_s: float, end_s: float, file: Path, job: Job) -> None:
    if not has_encoder():
        raise NoPictureError("this PyAV can't encode H.264")
    with ExitStack() as stack:
        output = stack.enter_context(_open_output(file))
        encoder = PictureEncoder(media, output, _QUALITY, job)
        if not encoder.add_stream(start_s):
            raise NoPictureError("nothing of this part can be decoded")
        sounds = _add_sound(media, output, Fraction(start_s), end_s, job, stack)
        mux(output, encoder.stream, encoder.encode(start_s, end_s))
        for sound, packets in sounds:
            mux(output, sound, packets)


def _open_output(file: Path) -> Any:
    return av.open(str(file), "w", format="mp4", options={"movflags": "faststart"})


def _collect_pictures(media: Media, start_s: Fraction, end_s: float, job: Job) -> Iterator[Any]:
    """Yield the packets from a key frame on until all are there that are shown before the end.

    And those that are shown before one of them.
    """
    begun = False
    for packet in demux_from(media, start_s, job):
        if not packet.size:
            return
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is not None and media.to_seconds(stamp, packet.time_base) >= end_s:
            return
        begun = begun or (packet.is_keyframe and _get_time(media, packet) == start_s)
        if begun:
            yield packet
            end_s = max(end_s, float(_get_time(media, packet) or 0))


def _get_time(media: Media, packet: Any) -> Fraction | None:
    return None if packet.pts is None else media.to_seconds(packet.pts, packet.time_base)


def _add_sound(
    media: Media, output: Any, start_s: Fraction, end_s: float, job: Job, stack: ExitStack
) -> list[tuple[Any, Iterator[Any]]]:
    """Add the sound, if there is one; returns its stream and its packets, times from 0."""
    if media.audio is None:
        return []
    if media.audio_codec not in _SOUNDS:
        sound = SoundEncoder(media, output, job)
        shift = ceil(start_s * SAMPLE_RATE)
        return [(sound.stream, _move(sound.encode(start_s, end_s), shift))]
    container, template = stack.enter_context(open_stream(media, media.audio))
    stream = output.add_stream_from_template(template)
    return [(stream, _copy_sound(media, container, template, start_s, end_s, job))]


def _copy_sound(
    media: Media, container: Any, stream: Any, start_s: Fraction, end_s: float, job: Job
) -> Iterator[Any]:
    if start_s > 2 and not seek(container, media, start_s - 2):
        return
    shift = round((start_s + media.start) / stream.time_base)
    packets = (packet for packet in demux(container, stream, job) if packet.pts is not None)
    for packet in packets:
        time_s = media.to_seconds(packet.pts, packet.time_base)
        if time_s >= end_s:
            return
        if time_s >= start_s:
            yield from _move(iter([packet]), shift)


def _move(packets: Iterator[Any], shift: int) -> Iterator[Any]:
    for packet in packets:
        packet.pts = packet.dts = packet.pts - shift
        yield packet
