"""Opening of video files: always one local file, whatever its name, and nothing that it names.

FFmpeg takes a name for more than a file: ``10:30/a.mp4`` for an address, ``-`` for a pipe, and
``a%03d.png`` for a pattern. And a file for more than its own content: playlists (HLS, DASH,
ffconcat) and descriptions of sessions (SDP) name other files. Whatever hands a path to FFmpeg,
through which library it may be, does it by the functions here.
"""

import os
import re
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer

# FFmpeg's demuxers of containers that hold their streams themselves. Those of sound are for what
# is said of a file without pictures.
_DEMUXERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,live_flv,ogg,mxf,gxf,gif,apng,nut,rm,wtv,dv,"
    "ivf,obu,h261,h263,h264,hevc,vvc,m4v,cavsvideo,vc1,yuv4mpegpipe,mjpeg,"
    "mp3,flac,wav,w64,aac,ac3,eac3,dts,aiff,amr,au,caf"
)
# Options of avformat_open_input; MOV may refer to other files, too.
OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file", "enable_drefs": "0"}
_IS_NONE = "no container of a video; a playlist, which names other files, is not followed"


def name_local_file(path: str | Path) -> str:
    """Return a name by which FFmpeg opens this file and nothing else: one that is absolute."""
    return str(Path(path).absolute())


def open_container(file: str | Path | RawIOBase) -> "InputContainer":
    """Open a file, which may be open already, with PyAV; raises its errors.

    It is an error, too, where the file names others.
    """
    import av

    name, options = file, OPTIONS
    if isinstance(file, RawIOBase):
        options = OPTIONS | {"protocol_whitelist": "none"}  # nothing else is opened
    else:
        name = name_local_file(file)
    is_gif = isinstance(name, str) and is_pattern(name) and name.lower().endswith(".gif")
    try:
        return av.open(
            name, "r", "gif" if is_gif else None, container_options=options,
            metadata_errors="replace",
        )  # fmt: skip
    except av.error.ArgumentError as error:
        raise av.error.InvalidDataError(error.errno, _IS_NONE, str(file)) from error


def is_ffmpeg_error(error: Exception) -> bool:
    """Whether an error is FFmpeg's own, by PyAV, whatever else it is."""
    import av

    return isinstance(error, av.error.FFmpegError)


def is_pattern(path: str | Path) -> bool:
    """Whether FFmpeg may take a name for that of numbered pictures, by its file's extension."""
    return re.search(r"%\d*d", name_local_file(path)) is not None


def limit_opencv() -> None:
    """Let OpenCV open the same containers as ``open_container``.

    It reads its options for FFmpeg from the environment, each time that it opens a file.
    """
    options = "|".join(f"{key};{value}" for key, value in OPTIONS.items())
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = options
