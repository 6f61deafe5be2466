"""Video streams of a file: which of them is the film, which way up it is shown, and from when on.

All that opens a video asks here, so that readers, search and player show the same pictures.
"""

from contextlib import suppress
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_loader.readers.opening import open_container

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_STILLS = ("attached_pic", "still_image", "timed_thumbnails")  # dispositions
_PICTURE_CODECS = ("mjpeg", "png", "bmp", "tiff", "webp", "jpegxl", "jpeg2000")
_FEW = 10  # a stream of fewer frames than a tenth of another one's is a still or its previews


class StartTimes(NamedTuple):
    """Seconds by the clock of a file."""

    first_frame_s: float  # when the first frame of the video is shown
    file_s: float  # when the first of its streams begins: where players count from


class Orientation(NamedTuple):
    """How a stored picture is set upright: first transposed, then mirrored."""

    is_transposed: bool = False
    flips_x: bool = False  # left and right change places
    flips_y: bool = False

    @property
    def is_upright(self) -> bool:
        """Whether a picture is shown as it is stored."""
        return not any(self)

    @property
    def is_mirrored(self) -> bool:
        """Whether it is more than a turn."""
        return sum(self) % 2 == 1

    def apply(self, picture: NDArray) -> NDArray:
        """Return a stored picture (H, W, 3) as it is shown; a view."""
        if self.is_transposed:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1]

    def list_filters(self) -> list[tuple[str, str]]:
        """Return FFmpeg's filters, name and arguments, that do the same."""
        transpose = [("transpose", "cclock_flip")] if self.is_transposed else []
        return transpose + [("hflip", "")] * self.flips_x + [("vflip", "")] * self.flips_y


def choose_video_stream(
    container: "InputContainer", path: str | RawIOBase | None = None
) -> "VideoStream | None":
    """Return the stream that is the film; None: there is none.

    Covers, stills and previews are none. Of several films it is the one that the file marks as
    default, then that with the most frames, then the largest, then the first.

    Args:
        path: by which the file is opened once more where frames have to be counted, or it opened
            again already; None: its own.
    """
    films = [stream for stream in container.streams.video if _may_be_film(stream)]
    is_alone = len(films) == 1
    if not films or (is_alone and not (_is_picture(films[0]) and container.streams.audio)):
        return films[0] if films else None
    counts = [stream.frames for stream in films]
    if 0 in counts:  # the container doesn't tell
        counts = _count_packets(path or container.name, films)
    most = max(counts)
    if is_alone:  # a picture beside sound
        return films[0] if most > 1 else None

    def rank(number: int) -> tuple[int, ...]:
        stream, count = films[number], counts[number]
        is_default = bool(stream.disposition & stream.disposition.default)
        return count * _FEW >= most, is_default, count, _get_area(stream), -number

    return films[max(range(len(films)), key=rank)]


def describe_missing_film(container: "InputContainer") -> str:
    """Return why ``choose_video_stream`` found none."""
    if container.streams.video:
        return "holds no moving pictures, only a still: a cover or a thumbnail"
    return "holds no video stream, perhaps only sound"


def _may_be_film(stream: "VideoStream") -> bool:
    disposition = stream.disposition
    is_still = any(disposition & getattr(disposition, name) for name in _STILLS)
    return stream.codec_context is not None and not is_still


def _is_picture(stream: "VideoStream") -> bool:
    return stream.codec_context.codec.canonical_name in _PICTURE_CODECS


def _get_area(stream: "VideoStream") -> int:
    return stream.codec_context.width * stream.codec_context.height


def _count_packets(path: str | RawIOBase, streams: list["VideoStream"]) -> list[int]:
    import av

    counts = dict.fromkeys((stream.index for stream in streams), 0)
    with open_container(path) as container, suppress(av.error.FFmpegError):
        for packet in container.demux([container.streams[index] for index in counts]):
            counts[packet.stream_index] += packet.size > 0
    return list(counts.values())


def read_orientation(frame: "VideoFrame") -> Orientation:
    """Return how a decoded frame is to be set upright, by its display matrix."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    return find_orientation(np.frombuffer(data, np.int32, 9).tolist())


def find_orientation(matrix: list[int]) -> Orientation:
    """Return the orientation of a display matrix (ISO/IEC 14496-12, 6.2.2).

    Of the eight that consist of quarter turns and mirroring, the nearest one: a picture that is to
    be turned by some other angle is not cut at its corners.

    Args:
        matrix: a, b, u, c, d, v, x, y, w: a point (p, q) is shown at (ap + cq + x, bp + dq + y).
    """
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def get_file_start(container: "InputContainer") -> float:
    """Return when the first of a file's streams begins, in seconds by its clock."""
    import av

    return (container.start_time or 0) / av.time_base


def read_start_times(path: str | Path) -> StartTimes:
    """Read when a file and its first frame begin; raises PyAV's errors."""
    import av

    with open_container(path) as container:
        start = get_file_start(container)
        stream = choose_video_stream(container)
        if stream is None:
            return StartTimes(start, start)
        first = None if stream.start_time is None else float(stream.start_time * stream.time_base)
        # What a stream says of itself counts frames that an edit list hides. A damaged frame is the
        # business of the video's reader.
        with suppress(av.error.FFmpegError, StopIteration):
            frame = next(container.decode(stream))
            first = first if frame.time is None else frame.time
        return StartTimes(start if first is None else first, start)
