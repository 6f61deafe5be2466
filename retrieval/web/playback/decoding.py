"""Decoding from any time of a video: packets from a key frame on, and the frames that are shown.

What can't be decoded is left out, so that a damaged file is shown as far as it goes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush
from typing import Any

import av
import numpy as np

from data_loader.readers.image_reader import encode_jpeg
from data_loader.readers.opening import open_container
from retrieval.web.playback.media import Media, get_identity, open_media

MAX_GOP_S = 30  # key frames farther apart are not looked for
INSTANT = 1e-3  # seconds; times have been through floats
# How long before a time it is looked for a key frame, where a container's seeking is not exact.
_BACK_S = (0, 2, 8, MAX_GOP_S)


class JobCancelledError(Exception):
    """Nobody waits for the result any more."""


class NoPictureError(Exception):
    """Nothing of a part of a video can be decoded, or it can't be encoded."""


@dataclass(frozen=True)
class Job:
    """What a job is allowed.

    Attributes:
        check: called between packets and frames; raises ``JobCancelledError``.
        num_threads: of the decoder and of the encoder.
    """

    check: Callable[[], None] = lambda: None
    num_threads: int = 1


@contextmanager
def open_stream(media: Media, number: int, num_threads: int = 1) -> Iterator[tuple[Any, Any]]:
    """Open the file; yields the container and one of its streams.

    Raises:
        NoPictureError: it is another file than the one that was probed.
        OSError: it can't be opened.
    """
    with open_media(media.path) as file, open_container(file) as container:
        if get_identity(file) != media.identity:
            raise NoPictureError("the file has just been replaced; try again")
        stream = container.streams[number]
        stream.thread_type = "AUTO" if num_threads > 1 else "NONE"
        stream.codec_context.thread_count = num_threads
        yield container, stream


def demux(container: Any, stream: Any, job: Job) -> Iterator[Any]:
    """Yield packets until the end, or until the container is damaged; the last one is empty."""
    try:
        for packet in container.demux(stream):
            job.check()
            yield packet
    except av.FFmpegError:
        return


def seek(container: Any, media: Media, time_s: Fraction | float) -> bool:
    """Go to a key frame before a time, more or less; False: it can't be done."""
    try:
        container.seek(int((time_s + media.start) * av.time_base))
    except (av.FFmpegError, OSError):
        return False
    return True


def demux_from(media: Media, time_s: Fraction | float, job: Job) -> Iterator[Any]:
    """Yield the packets of the pictures from a key frame on that is shown at or before a time."""
    limit = time_s + INSTANT
    # MPEG program streams carry few time stamps: after seeking those of the first frames are wrong.
    for back_s in (*_BACK_S[media.container == "mpeg" :], None):
        with open_stream(media, media.video, job.num_threads) as (container, stream):
            begun = back_s is None or time_s - back_s <= 0
            if not begun and not seek(container, media, time_s - back_s):
                continue
            for packet in demux(container, stream, job):
                if not begun and packet.pts is not None:
                    begun = packet.is_keyframe and _get_time(media, packet) <= limit
                if not begun and _is_after(media, packet, limit):
                    break
                if begun:
                    yield packet
            if begun:
                return


def _get_time(media: Media, packet: Any) -> Fraction:
    return media.to_seconds(packet.pts, packet.time_base)


def _is_after(media: Media, packet: Any, time_s: Fraction | float) -> bool:
    """Whether neither this packet nor a later one is shown at or before a time."""
    stamp = packet.pts if packet.dts is None else packet.dts
    return stamp is not None and media.to_seconds(stamp, packet.time_base) > time_s


def find_key_frame(media: Media, time_s: Fraction, job: Job) -> Fraction | None:
    """Return when the last key frame is shown at or before a time; None: it is far from there."""
    for back_s in _BACK_S:
        with open_stream(media, media.video) as (container, stream):
            if time_s - back_s > 0 and not seek(container, media, time_s - back_s):
                return None
            found = None
            for number, packet in enumerate(demux(container, stream, job)):
                if packet.pts is None:
                    continue
                shown_s = _get_time(media, packet)
                if number == 0 and time_s - shown_s > 2 * MAX_GOP_S:
                    return None  # it would take long to read all that is between
                if packet.is_keyframe and shown_s <= time_s:
                    found = shown_s
                if _is_after(media, packet, time_s):
                    break
            if found is not None:
                return found if time_s - found <= MAX_GOP_S else None
    return None


def decode_from(media: Media, time_s: Fraction | float, job: Job) -> Iterator[tuple[float, Any]]:
    """Yield frames with the seconds at which they are shown, first the one that is shown then.

    After the last frame it is the last one.
    """
    shown, last_s = None, float(time_s) + INSTANT
    for frame_s, frame in _decode_frames(media, time_s, job):
        if frame_s <= time_s + INSTANT:
            shown = frame_s, frame
        elif frame_s > last_s:
            if shown is not None:
                yield shown
                shown = None
            yield frame_s, frame
            last_s = frame_s
    if shown is not None:
        yield shown


def _decode_frames(media: Media, time_s: Fraction | float, job: Job) -> Iterator[tuple[float, Any]]:
    """Yield the frames from a key frame on, with the times that they have."""
    stamps: list[int] = []
    frame_s = -media.frame_s
    for packet in demux_from(media, time_s, job):
        if media.is_unordered and packet.pts is not None:
            heappush(stamps, packet.pts)
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            job.check()
            stamp = heappop(stamps) if stamps else frame.pts
            if stamp is None:
                frame_s += media.frame_s
            else:
                frame_s = float(media.to_seconds(stamp, frame.time_base))
            if not frame.is_corrupt:
                yield frame_s, frame


def decode_picture(media: Media, time_s: float, width: int, job: Job) -> bytes:
    """Return the frame that is shown at a time as a JPEG, upright; raises ``NoPictureError``."""
    for _, frame in decode_from(media, time_s, job):
        size = compute_square_size(media, frame)
        rgb = frame.reformat(*size, format="rgb24", interpolation="BICUBIC").to_ndarray()
        picture = np.ascontiguousarray(media.orientation.apply(rgb))
        return encode_jpeg(picture, min(width, picture.shape[1]), 4 * width)
    raise NoPictureError("nothing of this part can be decoded")


def compute_square_size(media: Media, frame: Any) -> tuple[int, int]:
    """Return width and height of a frame, before it is turned, when its pixels are square."""
    wide, high = max(media.pixel_ratio, Fraction(1)), min(media.pixel_ratio, Fraction(1))
    return round(frame.width * wide), round(frame.height / high)
