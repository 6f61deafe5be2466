"""Video readers, one per library; their contract is in ``data_loader/readers/base_reader.py``."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from base.registry import VIDEO_READERS
from data_loader.readers import av_reader  # noqa: F401  (registers the default reader)
from data_loader.readers.base_reader import VideoError, VideoReader
from data_loader.readers.container import has_index

_QUIET = -8  # FFmpeg's level at which it prints nothing


@VIDEO_READERS.register("decord")
class DecordReader(VideoReader):
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

    def _open(self) -> int:
        if not has_index(self.path):  # MPEG-TS, for one: its first frames come out wrong
            raise VideoError(
                self.path,
                "is in a container without an index of its frames, in which decord miscounts",
                're-encode it as MP4, or use the video reader "av" or "cv2"',
            )
        self._video, self._position = self._open_video(), 0
        starts = np.asarray(self._video.get_frame_timestamp(range(len(self._video))))[:, 0]
        # decord counts the frames that an edit list hides; they have negative times.
        self._times = np.sort(starts[starts > -1e-6])
        has_one_key = len(self._video.get_key_indices()) == 1
        self._may_seek = has_one_key and len(self._times) == len(self._video)
        return len(self._times)

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

    def _read_times(self) -> np.ndarray:
        return self._times

    def _open_video(self) -> Any:
        # decord repeats the nearest frame for one it can't decode; this limit makes it raise.
        return self._library.VideoReader(self.path, num_threads=1, fault_tol=1e-9)


@VIDEO_READERS.register("torchcodec")
class TorchcodecReader(VideoReader):
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

    def _open(self) -> int:
        self._video = self._library(
            self.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        return len(self._video)

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        # From the first frame on: get_frames_at() seeks, which is wrong at recovery points.
        due = set(wanted)
        for number in range(wanted[-1] + 1):
            frame = self._video.get_frame_at(number).data
            if number in due:
                yield frame.numpy()

    def _read_times(self) -> list[float]:
        return [self._video.get_frame_at(number).pts_seconds for number in range(self.num_frames)]


@VIDEO_READERS.register("cv2")
class Cv2Reader(VideoReader):
    """OpenCV: seeks inexactly and hides decoding errors, so it decodes in order and counts."""

    name = "cv2"
    requires = "OpenCV: pip install opencv-python-headless"

    def _import_library(self) -> ModuleType:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", str(_QUIET))  # read at the import
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are raised
        return cv2

    def _open(self) -> int:
        undecoded = self._open_capture(self._library.CAP_PROP_FORMAT, -1)
        num_packets = len(self._grab_times(undecoded))
        self._times = self._grab_times(self._open_capture(self._library.CAP_PROP_N_THREADS, 1))
        num_decoded = len(self._times)
        if num_decoded != num_packets:
            raise self._make_error(
                f"{num_decoded} of {num_packets} frames decode: it is damaged, or cut by an edit "
                "list, which OpenCV does not tell apart"
            )
        return num_decoded

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        capture, due = self._open_capture(self._library.CAP_PROP_N_THREADS, 1), set(wanted)
        try:
            for number in range(wanted[-1] + 1):
                if not capture.grab():
                    raise self._make_error(f"frame {number} can't be decoded")
                if number in due:
                    yield capture.retrieve()[1][..., ::-1]  # BGR
        finally:
            capture.release()

    def _read_times(self) -> list[float]:
        return self._times

    def _open_capture(self, prop: int, value: int) -> Any:
        capture = self._library.VideoCapture(self.path, self._library.CAP_FFMPEG, [prop, value])
        if not capture.isOpened():
            raise self._make_error("OpenCV finds no video in it")
        return capture

    def _grab_times(self, capture: Any) -> list[float]:
        """Return each frame's time in seconds."""
        times = []
        while capture.grab():
            times.append(capture.get(self._library.CAP_PROP_POS_MSEC) / 1000)
        capture.release()
        return times


def open_video(path: str | Path, reader: str = "decord") -> AbstractContextManager[VideoReader]:
    """Open a video for a ``with`` block, with a reader by its registered name.

    Raises:
        VideoError: the file is missing, empty, cut short, not a video, or without a video stream.
        UserError: the reader is unknown, or its library is not installed.
    """
    return closing(VIDEO_READERS.get(reader)(path))
