"""Video readers, one per library; their contract is in ``data_loader/readers/base_reader.py``."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from base.registry import VIDEO_READERS
from data_loader.readers.av_reader import AvReader
from data_loader.readers.base_reader import VideoError, VideoReader
from data_loader.readers.container import has_index
from data_loader.readers.opening import is_pattern, limit_opencv, name_local_file
from data_loader.readers.video_stream import read_orientation

_QUIET = -8  # FFmpeg's level at which it prints nothing


class LibraryReader(VideoReader):
    """A reader of a library that chooses streams and counts frames in its own way.

    The reader av looks at each file first: what the library would show otherwise is refused, and
    the times of frames are those of av.
    """

    def _open(self) -> int:
        with closing(AvReader(self.path)) as exact:
            self._times, self._start = exact.times(), exact.start_s
            self._stream_index, num_frames = exact.stream_index, exact.num_frames
            self.num_left_out = exact.num_left_out
            place, num_streams = exact.find_place()
            first, is_interlaced = exact.read_first_frame(), exact.is_interlaced
        self._orientation = read_orientation(first)
        if not self._reads_stream(place, num_streams):
            raise self._refuse("holds several streams of pictures, of which it may read another")
        if not self._can_set_upright():
            raise self._refuse("is to be turned or mirrored, which it can't do")
        if is_interlaced or first.interlaced_frame:
            raise self._refuse("is interlaced, of which it makes other pictures")
        if is_pattern(self.path):
            raise self._refuse("has a %d in its name, which it takes for a pattern of names")
        num_found = self._open_library()
        if num_found != num_frames:
            raise self._refuse(f"shows {num_frames} frames, of which it counts {num_found}")
        return num_frames

    def _open_library(self) -> int:
        """Open the file and return the number of frames, as the library counts them."""
        raise NotImplementedError

    def _reads_stream(self, place: int, num_streams: int) -> bool:
        """Whether the library reads that one of a file's streams of pictures."""
        return place == 0

    def _can_set_upright(self) -> bool:
        return self._orientation.is_upright

    def _read_times(self) -> np.ndarray:
        return self._times

    def _read_start(self) -> float:
        return self._start

    def _refuse(self, reason: str) -> VideoError:
        """Return the error for what a library can't do; ``reason`` calls it "it"."""
        reason = f'can\'t be read by "{self.name}": the file {reason}'
        return VideoError(self.path, reason, 're-encode it, or use the video reader "av"')


@VIDEO_READERS.register("decord")
class DecordReader(LibraryReader):
    """Decord 0.6, which decodes in order wherever its seeking can't be trusted.

    After a seek decord silently misnumbers frames where a group of pictures is open, at recovery
    points, and where an edit list hides frames. So it seeks only in files with one key frame,
    where a seek always leads to the start.
    """

    name = "decord"
    requires = "decord: pip install decord"

    def _import_library(self) -> ModuleType:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        return decord

    def _open_library(self) -> int:
        if not has_index(self.path):  # MPEG-TS, for one: its first frames come out wrong
            raise self._refuse(
                "is in a container without an index of its frames, in which it miscounts"
            )
        self._video, self._position = self._open_video(), 0
        starts = np.asarray(self._video.get_frame_timestamp(range(len(self._video))))[:, 0]
        # decord counts the frames that an edit list hides; they have negative times.
        num_shown = int((starts > -1e-6).sum())
        has_one_key = len(self._video.get_key_indices()) == 1
        self._may_seek = has_one_key and num_shown == len(self._video)
        return num_shown

    def _reads_stream(self, place: int, num_streams: int) -> bool:
        return num_streams == 1  # which of several depends on the container

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        if self._may_seek:
            for index in wanted:
                yield self._video[index].asnumpy()
            return
        if wanted[0] < self._position:
            self._video, self._position = self._open_video(), 0
        for index in wanted:
            while self._position <= index:
                frame = self._video.next()  # skip_frames() would seek
                self._position += 1
            yield frame.asnumpy()

    def _open_video(self) -> Any:
        # decord repeats the nearest frame for one it can't decode; this limit makes it raise.
        name = name_local_file(self.path)
        return self._library.VideoReader(name, num_threads=1, fault_tol=1e-9)


@VIDEO_READERS.register("torchcodec")
class TorchcodecReader(LibraryReader):
    """torchcodec in its exact mode, which indexes the file's frames when it opens it."""

    name = "torchcodec"
    requires = (
        "torchcodec (pip install torchcodec) and FFmpeg's shared libraries "
        "(apt-get install ffmpeg, or conda install ffmpeg)"
    )

    def _import_library(self) -> Any:
        import torchcodec
        from torchcodec.decoders import VideoDecoder

        # Without FFmpeg, old releases raise here and new ones only when a file is opened.
        if getattr(torchcodec, "ffmpeg_major_version", 0) is None:
            raise ImportError("torchcodec found no FFmpeg libraries that it can load")
        return VideoDecoder

    def _open_library(self) -> int:
        self._video = self._library(
            name_local_file(self.path),
            stream_index=self._stream_index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
        )
        return len(self._video)

    def _reads_stream(self, place: int, num_streams: int) -> bool:
        return True

    def _can_set_upright(self) -> bool:
        return not self._orientation.is_mirrored  # it turns pictures by itself

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        # From the first frame on: get_frames_at() seeks, which is wrong at recovery points.
        due = set(wanted)
        for number in range(wanted[-1] + 1):
            frame = self._video.get_frame_at(number).data
            if number in due:
                yield frame.numpy()


@VIDEO_READERS.register("cv2")
class Cv2Reader(LibraryReader):
    """OpenCV: seeks inexactly and hides decoding errors, so it decodes in order and counts."""

    name = "cv2"
    requires = "OpenCV: pip install opencv-python-headless"

    def _import_library(self) -> ModuleType:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", str(_QUIET))  # read at the import
        import cv2

        limit_opencv()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are raised
        return cv2

    def _open_library(self) -> int:
        with self._open_capture() as capture:
            num_frames = 0
            while capture.grab():
                num_frames += 1
        return num_frames

    def _can_set_upright(self) -> bool:
        return True

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        due = set(wanted)
        with self._open_capture() as capture:
            for number in range(wanted[-1] + 1):
                if not capture.grab():
                    raise self._make_error(f"frame {number} can't be decoded")
                if number in due:
                    frame = capture.retrieve()[1][..., ::-1]  # BGR
                    yield self._orientation.apply(frame)

    @contextmanager
    def _open_capture(self) -> Iterator[Any]:
        capture = self._library.VideoCapture(
            name_local_file(self.path),
            self._library.CAP_FFMPEG,
            [self._library.CAP_PROP_N_THREADS, 1],
        )
        try:
            if not capture.isOpened():
                raise self._make_error("OpenCV finds no video in it")
            capture.set(self._library.CAP_PROP_ORIENTATION_AUTO, 0)  # it knows of no mirroring
            yield capture
        finally:
            capture.release()


def open_video(path: str | Path, reader: str = "decord") -> AbstractContextManager[VideoReader]:
    """Open a video for a ``with`` block, with a reader by its registered name.

    Raises:
        VideoError: the file is missing, empty, cut short, not a video, or without a video stream.
        UserError: the reader is unknown, or its library is not installed.
    """
    return closing(VIDEO_READERS.get(reader)(path))
