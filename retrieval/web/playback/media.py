"""Media of a video file: its streams, and how a browser can play them.

Times are those of the index, of the clock of ``utils.times``.
"""

import errno
import io
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av

from data_loader.readers.container import check_complete, check_file
from data_loader.readers.opening import open_container
from data_loader.readers.video_stream import (
    Orientation,
    choose_video_stream,
    describe_missing_film,
    read_orientation,
)
from retrieval.index.remote_videos import Place
from utils.files import FileStamp, open_resolved
from utils.remote_files import RemoteError
from utils.remote_store import RemoteReader, StoreUnreachableError
from utils.times import LATE_S

PlaybackKind = Literal["file", "stream", "pictures", "missing"]
SEGMENT_S = 6
AAC = "mp4a.40.2"
ENCODED_H264 = "avc1.640028"  # High profile, level 4: what is encoded here
_NUM_COMPARED = 24  # frames
_MAX_DAMAGED = 250  # packets at the start that give no frame
_EIGHT_BIT = ("yuv420p", "yuvj420p")
_TEN_BIT = ("yuv420p10le",)
# Containers, as FFmpeg calls them: media type, pixel formats of each video codec, sound.
_PLAYABLE: dict[str, tuple[str, dict[str, tuple[str, ...]], tuple[str, ...]]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": (
        "video/mp4",
        {"h264": _EIGHT_BIT, "vp9": _EIGHT_BIT, "av1": _EIGHT_BIT + _TEN_BIT},
        ("aac", "mp3", "opus", "flac"),
    ),
    "matroska,webm": (
        "video/webm",
        {"vp8": _EIGHT_BIT, "vp9": _EIGHT_BIT + _TEN_BIT, "av1": _EIGHT_BIT + _TEN_BIT},
        ("opus", "vorbis"),
    ),
}


class UnplayableError(Exception):
    """Nothing can be decoded; the message says why, without the file's path."""


@dataclass(frozen=True)
class Media:
    """What a file holds, and how it is played.

    Attributes:
        path: resolved, or a place at a URL.
        identity: of the file that was opened, see ``get_identity``.
        audio: number of the stream; None: it has no sound that can be decoded.
        start: time stamp at time 0, seconds.
        orientation: how a frame is set upright.
        pixel_ratio: width of a pixel in heights of one, before it is turned.
        frame_s: how long a frame is shown, mostly.
        is_unordered: whether frames come with each other's time stamps.
        has_times: whether packets have their own.
        can_copy: whether browsers decode the packets of its pictures, once they are in MP4.
        codecs: of what a ``SourceBuffer`` is given.
    """

    path: Place
    identity: tuple[Hashable, ...]
    container: str
    video: int
    audio: int | None
    codec: str
    audio_codec: str | None
    start: Fraction
    duration_s: float
    orientation: Orientation
    pixel_ratio: Fraction
    frame_s: float
    is_unordered: bool
    has_times: bool
    can_copy: bool
    codecs: str
    kind: PlaybackKind
    media_type: str
    reason: str | None  # why it isn't played as it is

    @property
    def num_segments(self) -> int:
        """How many segments it is streamed in, the last one perhaps shorter."""
        return max(1, -int(-self.duration_s // SEGMENT_S))

    def to_seconds(self, time_stamp: int, time_base: Fraction) -> Fraction:
        """Return when something with that time stamp is shown."""
        return time_stamp * time_base - self.start


@lru_cache(maxsize=512)
def probe_media(path: Place, stamp: FileStamp, duration_s: float, first_s: float = 0.0) -> Media:
    """Look at a file's streams and decode its first frame.

    Args:
        path: resolved, see ``utils.files.open_resolved``, or a place at a URL.
        stamp: of the file as it is now.
        duration_s: as the index has it; 0: not known.
        first_s: when the first frame is shown by the index's times.

    Raises:
        UnplayableError: no frame can be decoded.
    """
    try:
        with open_media(path) as file, open_again(file) as again:
            if stamp_opened(file) != stamp:
                raise UnplayableError("the file has just changed; try again")
            wrong = _check_opened(file)
            if wrong is not None:
                raise UnplayableError(f"the file {wrong}")
            try:
                with open_container(file) as container:
                    video = choose_video_stream(container, again)
                    if video is None:
                        raise UnplayableError(f"the file {describe_missing_film(container)}")
                    known = duration_s, first_s
                    return _describe(path, get_identity(file), container, video, *known)
            except av.FFmpegError as error:
                wrong = _check_opened(file, check_complete)
                if wrong is None:
                    raise
                raise UnplayableError(f"the file {wrong}") from error
    except (av.FFmpegError, OSError) as error:
        raise UnplayableError(f"the file can't be read ({error.strerror})") from error


def open_media(place: Place) -> FileIO | RemoteReader:
    """Open a video by a path as ``resolve`` gives it, or at a URL; raises ``OSError``."""
    if isinstance(place, Path):
        return open_resolved(place)
    try:
        return place.open_reader()
    except (RemoteError, StoreUnreachableError) as error:
        raise OSError(errno.EIO, "its store gives nothing") from error


@contextmanager
def open_again(file: FileIO | RemoteReader) -> Iterator[str | RemoteReader]:
    """Give what an open file can be opened by once more, whatever has its name by now."""
    if isinstance(file, RemoteReader):
        with RemoteReader(file.file) as again:
            yield again
    else:
        yield name_opened(file)


def name_opened(file: FileIO) -> str:
    """Return a path that leads to an open file, whatever has its name by now, if there is one."""
    path = f"/proc/self/fd/{file.fileno()}"
    return path if os.path.exists(path) else str(file.name)


def _check_opened(
    file: FileIO | RemoteReader, check: Callable[[BinaryIO, int], str | None] | None = None
) -> str | None:
    """Return what is wrong with an open file, see ``data_loader.readers.container.check_file``."""
    if isinstance(file, RemoteReader):
        if file.size == 0:
            return "is empty (0 bytes)"
        file.seek(0)
        return None if check is None else check(io.BufferedReader(file), file.size)
    wrong = check_file(name_opened(file), check)
    return None if wrong is None else wrong[0]


def get_identity(file: FileIO | RemoteReader) -> tuple[Hashable, ...]:
    """Return what tells an open file from all others: its device and number, or its version."""
    if isinstance(file, RemoteReader):
        return (file.file.status,)
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def stamp_opened(file: FileIO | RemoteReader) -> FileStamp:
    """Return the stamp of an open file."""
    if isinstance(file, RemoteReader):
        return file.file.status.make_stamp()
    return FileStamp.of(file.fileno())


def _describe(
    path: Place,
    identity: tuple[Hashable, ...],
    container: Any,
    video: Any,
    duration_s: float,
    first_s: float,
) -> Media:
    audio = next((one for one in container.streams.audio if one.codec_context is not None), None)
    first = _decode_first_frame(container, video)
    context, name = video.codec_context, video.codec_context.name
    start = first.pts * first.time_base - Fraction(first_s)
    orientation = read_orientation(first)
    ratio = video.sample_aspect_ratio or Fraction(1)
    ratio = ratio if Fraction(1, 8) < ratio < 8 else Fraction(1)  # junk in the header
    frame_s = float(1 / (video.average_rate or video.guessed_rate or 25))
    if duration_s <= 0:
        duration_s = _read_duration(container, video, start) or frame_s
    avc = _read_avc(context.extradata) if name == "h264" else None
    codec, pix_fmt = video.codec.canonical_name, first.format.name
    # These count packets; where frames are shown in another order, FFmpeg guesses at their times,
    # of frames and, with H.264, of packets.
    counts_packets = container.format.name in ("avi", "asf")
    is_unordered = counts_packets and not _is_ascending(container, video, first.pts)
    has_times = not is_unordered and not (counts_packets and name in ("h264", "hevc"))
    has_times = has_times or not context.has_b_frames
    # Of a display matrix in fragments of MP4 not every browser takes notice.
    can_copy = avc is not None and pix_fmt in _EIGHT_BIT and orientation.is_upright and has_times
    sound = None if audio is None else audio.codec.canonical_name
    media_type, reason = _find_obstacle(container.format.name, codec, pix_fmt, sound)
    if reason is None and abs(start) > LATE_S:
        reason = "its time stamps do not begin at 0"
    kind: PlaybackKind = "file" if reason is None else "stream"
    if kind == "stream" and not can_copy and not has_encoder():
        kind, reason = "pictures", f"{reason}, and this PyAV can't encode H.264"
    streamed = avc if can_copy and avc is not None else ENCODED_H264
    streamed += "" if audio is None else f",{AAC}"
    return Media(
        path, identity, container.format.name, video.index,
        None if audio is None else audio.index, codec, sound, start, duration_s, orientation,
        ratio, frame_s, is_unordered, has_times,
        can_copy, streamed, kind, media_type if kind == "file" else "video/mp4", reason,
    )  # fmt: skip


def _find_obstacle(
    container: str, codec: str, pix_fmt: str, sound: str | None
) -> tuple[str, str | None]:
    """Return the media type of a container, and why browsers don't play what is in it, if so."""
    media_type, videos, sounds = _PLAYABLE.get(container, ("video/mp4", {}, ()))
    if pix_fmt not in videos.get(codec, ()):
        return media_type, f"browsers do not play {codec} in this container"
    if sound is not None and sound not in sounds:
        return media_type, f"browsers do not play sound of the kind {sound}"
    return media_type, None


def _read_duration(container: Any, video: Any, start: Fraction) -> float:
    """Return the seconds that the headers say; 0: they don't."""
    if video.duration:
        return float(video.duration * video.time_base)
    if container.duration:
        end = Fraction((container.start_time or 0) + container.duration, av.time_base)
        return max(0.0, float(end - start))
    return 0.0


def _decode_first_frame(container: Any, stream: Any) -> Any:
    damaged = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            frames = []
        for frame in frames:
            if frame.pts is not None:
                return frame
        damaged += 1
        if damaged > _MAX_DAMAGED:
            break
    raise UnplayableError("none of its pictures can be decoded")


def _is_ascending(container: Any, stream: Any, last: int) -> bool:
    """Whether the frames that are decoded next have ascending time stamps."""
    try:
        for frame in islice(container.decode(stream), _NUM_COMPARED):
            if frame.pts is not None and frame.pts <= last:
                return False
            last = last if frame.pts is None else frame.pts
    except av.FFmpegError:
        pass  # it is damaged there
    return True


def has_encoder() -> bool:
    """Whether this PyAV encodes H.264."""
    return "libx264" in av.codecs_available


def _read_avc(extradata: bytes | None) -> str | None:
    """Return the codec of an H.264 stream as browsers want it (RFC 6381); None: not known."""
    if extradata is None or len(extradata) < 8:
        return None
    if extradata[0] == 1:  # an AVCDecoderConfigurationRecord (ISO/IEC 14496-15)
        return f"avc1.{extradata[1:4].hex()}"
    for unit in extradata.split(b"\0\0\1"):
        if unit and unit[0] & 31 == 7 and len(unit) > 3:  # a sequence parameter set
            return f"avc1.{unit[1:4].hex()}"
    return None


def is_idr(packet: Any) -> bool:
    """Whether an H.264 packet is a key frame at which a decoder can start afresh (NAL unit 5)."""
    data, extradata = bytes(packet), packet.stream.codec_context.extradata
    if extradata[0] != 1:
        return any(unit and unit[0] & 31 == 5 for unit in data.split(b"\0\0\1"))
    size, position = (extradata[4] & 3) + 1, 0
    while position + size < len(data):
        if data[position + size] & 31 == 5:
            return True
        position += size + int.from_bytes(data[position : position + size], "big")
    return False
