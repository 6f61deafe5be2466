"""Base class of the video readers: their contract, errors, and checks of what a library returns.

Every reader returns what the file shows: RGB in presentation order, converted by swscale with the
file's colour matrix and range (BT.601, limited, where it names none), turned and mirrored as the
file asks, all as large as the first one. The reader av numbers frames as FFmpeg's decoder shows
them; the others refuse what they would show otherwise. For 8-bit video with an even height, which
is all H.264 in yuv420p, the readers agree bit for bit; other pixel formats go through interpolating
code that differs between the libraries' FFmpeg versions.

Nothing is repaired: a frame that can't be decoded is a ``VideoError``, never a neighbour's copy. A
reader is used by the process and thread that opened it, decodes in one thread (it runs in loader
workers) and keeps no frame.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.readers.container import check_container
from data_loader.readers.opening import is_ffmpeg_error
from data_loader.readers.video_stream import read_start_times
from utils.errors import UserError


class VideoError(UserError):
    """A video file that can't be read: the reason, in one line, and the remedy."""

    def __init__(
        self, path: str | Path, reason: str, remedy: str = "replace the file, or re-encode it"
    ) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path, self.reason, self.remedy = str(path), reason, remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Raised in loader workers and pickled on the way to the trainer.
        return type(self), (self.path, self.reason, self.remedy)


class VideoReader:
    """One open video; the subclasses open, count and decode with a library.

    Attributes:
        path: the file.
        num_frames: frames that are shown, numbered from 0 in presentation order.
        num_left_out: pictures before the first one that decodes, as where a recording begins
            anywhere; no frames are counted for them.
    """

    name = ""
    kind = "a video"
    requires = ""  # library and how it is installed, where ``_import_library`` needs one
    decodes_at_opening = True  # the first frame, so that a decoder's errors are seen early
    check_file = staticmethod(check_container)  # before the library opens the file

    num_left_out = 0

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._library = load_library(
            self._import_library,
            f'the video reader "{self.name}" needs {self.requires}; install it, or choose another '
            "video reader",
        )
        error = self.check_file(path)
        if error is not None:
            raise VideoError(path, *error)
        with self._translate_errors(f"can't be opened as {self.kind}"):
            self.num_frames = self._open()
        if self.num_frames < 1:
            raise VideoError(path, "has no video frame")
        if self.decodes_at_opening:
            _ = self._size  # decodes a frame

    @property
    def width(self) -> int:
        """Width of a decoded frame, pixels."""
        return self._size[1]

    @property
    def height(self) -> int:
        """Height of a decoded frame, pixels."""
        return self._size[0]

    @cached_property
    def _size(self) -> tuple[int, int]:
        return next(self._decode_checked([0])).shape[:2]

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames.

        Args:
            indices: F frame numbers in any order, repeats allowed, each in [0, num_frames).

        Returns:
            (F, height, width, 3) uint8 RGB, in the order of ``indices``.

        Raises:
            VideoError: an index outside of the video, or a frame that can't be decoded.
        """
        wanted, order = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        frames = np.stack(list(self._decode_checked(wanted.tolist())))
        self._size = frames.shape[1:3]
        return frames[order]

    def stream(self, indices: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        """Decode frames in one pass, one at a time, each (height, width, 3) uint8 RGB.

        ``indices`` are as for ``frames``, but ascending and distinct.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        assert (np.diff(wanted) > 0).all(), "frames are streamed in order"
        return self._decode_checked(wanted.tolist())

    def times(self) -> np.ndarray:
        """Return when each frame is shown, (num_frames,) float64 in seconds from the first one.

        Raises:
            VideoError: the file doesn't tell, or tells of no times that ascend.
        """
        with self._translate_errors("its frames' times can't be read"):
            times = np.asarray(self._read_times(), dtype=np.float64)
        assert times.shape == (self.num_frames,), times.shape
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise self._make_error("its frames' times are not numbers that ascend")
        return times - times[0]

    @cached_property
    def start_s(self) -> float:
        """When the first frame is shown, in seconds from where players count: the file's start.

        0 for most files; sound may begin earlier than the pictures.
        """
        with self._translate_errors("its start can't be read"):
            return max(0.0, float(self._read_start()))

    def close(self) -> None:
        """Close the file and the decoder."""

    def _import_library(self) -> Any:
        """Import and return what the reader needs."""

    def _open(self) -> int:
        """Open the file and return the number of frames."""
        raise NotImplementedError

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        """Yield the frames ``wanted`` (ascending, distinct), each (H, W, 3) uint8."""
        raise NotImplementedError

    def _read_times(self) -> Sequence[float] | np.ndarray:
        """Return when each frame is shown, in seconds, ascending."""
        raise NotImplementedError

    def _read_start(self) -> float:
        """Return when the first frame is shown, in seconds from the file's start."""
        first = read_start_times(self.path)
        return first.first_frame_s - first.file_s

    def _decode_checked(self, wanted: list[int]) -> Iterator[np.ndarray]:
        if not wanted:
            raise VideoError(self.path, "no frame was asked for", "ask for at least one")
        if wanted[0] < 0 or wanted[-1] >= self.num_frames:
            raise VideoError(
                self.path,
                f"frames {wanted[0]} to {wanted[-1]} were asked for, but it has {self.num_frames}",
                "sample frames within the video",
            )
        with self._translate_errors(f"frames up to {wanted[-1]} can't be decoded"):
            num_frames, size = 0, None
            for frame in self._decode(wanted):
                if frame.ndim != 3 or frame.shape[2] != 3:
                    raise self._make_error(
                        f"an RGB frame was asked for, but an array of {frame.shape} came"
                    )
                size = frame.shape if size is None else size
                if frame.shape != size:
                    raise self._make_error(
                        f"its pictures are of two sizes, {size} and {frame.shape}"
                    )
                num_frames += 1
                yield frame
            if num_frames != len(wanted):
                raise self._make_error(
                    f"{len(wanted)} frames were asked for, but {num_frames} came"
                )

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Turn whatever the library raises into a VideoError; their types share no base class.

        Python's want of memory is the machine's, FFmpeg's the file's: its sizes are absurd.
        """
        try:
            yield
        except VideoError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError) and not is_ffmpeg_error(error):
                raise
            detail = " ".join(str(error).split())[:200]
            reason = f"{what} ({self.name}: {type(error).__name__}: {detail})"
            raise self._make_error(reason) from error

    def _make_error(self, reason: str) -> VideoError:
        return VideoError(self.path, reason, self.get_remedy())

    def get_remedy(self) -> str:
        """Return what a user can do about a file that this reader fails on."""
        return 'replace the file, re-encode it, or use the video reader "av"'


def load_library(load: Callable[[], Any], hint: str) -> Any:
    """Import an optional package; raises ``UserError`` with the hint."""
    try:
        return load()
    except (ImportError, OSError, RuntimeError) as error:  # missing shared libraries raise the last
        raise UserError(f"{hint} ({' '.join(str(error).split())[:200]})") from error
