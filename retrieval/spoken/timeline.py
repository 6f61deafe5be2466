"""Times of a file's streams, as seconds from its video's first frame.

The index counts from the first frame that is shown; a file's own clock may begin elsewhere (MPEG-TS
at 1.4 s), and its sound may begin before its picture.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import UserError

if TYPE_CHECKING:
    from av.container import InputContainer


class StartTimes(NamedTuple):
    """Seconds by the clock of a file."""

    first_frame_s: float  # when the first frame of the video is shown
    file_s: float  # when the first of its streams begins: where players count from


@contextmanager
def open_streams(path: Path) -> Iterator["InputContainer"]:
    """Open a file to read its sound or subtitles; raises ``UserError``, which names it."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path}: its sound and subtitles can't be read ({reason}); replace the file"
        ) from error


def read_start_times(path: Path) -> StartTimes:
    """Read when a file and its first frame begin; raises ``UserError``."""
    import av

    with open_streams(path) as container:
        start = (container.start_time or 0) / av.time_base
        if not container.streams.video:
            return StartTimes(start, start)
        stream = container.streams.video[0]
        first = None if stream.start_time is None else float(stream.start_time * stream.time_base)
        # What a stream says of itself counts frames that an edit list hides. A damaged frame is the
        # business of the video's reader.
        with suppress(av.error.FFmpegError, StopIteration):
            frame = next(container.decode(stream))
            first = first if frame.time is None else frame.time
        return StartTimes(start if first is None else first, start)
