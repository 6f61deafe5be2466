"""Video streams of a file: which of them is shown, and from when on."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


class StartTimes(NamedTuple):
    """Seconds by the clock of a file."""

    first_frame_s: float  # when the first frame of the video is shown
    file_s: float  # when the first of its streams begins: where players count from


def choose_video_stream(container: "InputContainer") -> "VideoStream | None":
    """Return the stream of pictures that is shown; None: there is none."""
    return container.streams.video[0] if container.streams.video else None


def get_file_start(container: "InputContainer") -> float:
    """Return when the first of a file's streams begins, in seconds by its clock."""
    import av

    return (container.start_time or 0) / av.time_base


def read_start_times(path: str | Path) -> StartTimes:
    """Read when a file and its first frame begin; raises PyAV's errors."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:
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
