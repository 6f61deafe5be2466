"""Times of a file's streams, as seconds from its video's first frame.

The index counts from the first frame that is shown; a file's own clock may begin elsewhere (MPEG-TS
at 1.4 s), and its sound may begin before its picture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_loader.readers import video_stream
from data_loader.readers.opening import open_container
from data_loader.readers.video_stream import StartTimes
from utils.errors import UserError

if TYPE_CHECKING:
    from av.container import InputContainer


@contextmanager
def open_streams(path: Path) -> Iterator["InputContainer"]:
    """Open a file to read its sound or subtitles; raises ``UserError``, which names it."""
    with translate_errors(path), open_container(path) as container:
        yield container


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turn what a damaged file causes into a ``UserError`` that names it."""
    import av

    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path}: its sound and subtitles can't be read ({reason}); replace the file"
        ) from error


def read_start_times(path: Path) -> StartTimes:
    """Read when a file and its first frame begin; raises ``UserError``."""
    with translate_errors(path):
        return video_stream.read_start_times(path)
