"""Files and work shared by the two jobs of ``data_loader.synthetic``.

Every file is written under a temporary name and renamed, so that a file that exists is whole:
a run that was cut short can be taken up again by making what is missing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import av
import numpy as np
from tqdm import tqdm

from utils.errors import UserError

VIDEO_FOLDER = "Videos"
OCR_FOLDER = "Kwai_VideoOCR"
TEXT_MODEL_FOLDER = "text_model"

# RGB in 0-255 -> Y in 16-235, U and V in 16-240 around 128
YUV_MATRIX = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]],
    dtype=np.float32,
) / np.float32(255)

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it takes `path`'s place, else it is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with Unix line ends, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Writes `value` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Writes an H.264 mp4 file, the same bytes for the same frames.

    Args:
        path: the file; its folder is made.
        frames: at least one array (H, W, 3), uint8 RGB, H and W even and the same for all.
        fps: frames a second.
    """
    # x264 decides differently, so writes other bytes, with another number of threads; and on
    # processors with AVX-512 even from run to run, unless all processors must give the same.
    options = {"preset": "veryfast", "crf": "20", "threads": "1"}
    options["x264-params"] = "cpu-independent=1"
    with replacing(path) as temporary:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=fps, options=options)
            stream.pix_fmt = "yuv420p"
            for index, frame in enumerate(frames):
                if index == 0:
                    stream.height, stream.width = frame.shape[:2]
                picture = av.VideoFrame.from_ndarray(_to_yuv420(frame), format="yuv420p")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))


def _to_yuv420(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB to the planes Y, U, V one below the other, (H * 3 / 2, W), uint8.

    BT.601, limited range, which decoders take for granted in small videos. Done here since the
    library's own conversion starts threads for each frame, which takes longer than encoding it.
    """
    height, width, _ = frame.shape
    rgb = frame.astype(np.float32)
    halved = rgb.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))  # (H/2, W/2, 3)
    planes = [rgb @ YUV_MATRIX[0], *(halved @ row for row in YUV_MATRIX[1:])]
    return np.concatenate(
        [
            np.rint(plane + offset).astype(np.uint8).reshape(-1, width)
            for plane, offset in zip(planes, (16, 128, 128), strict=True)
        ]
    )


def is_inside(path: str) -> bool:
    """Whether `path` is a plain relative path that can't lead out of the folder it is put in."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    if not posix.parts or posix.is_absolute() or windows.anchor or "\0" in path:
        return False
    return ".." not in posix.parts and ".." not in windows.parts


def default_workers() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_workers(workers: int) -> None:
    """Raises UserError if `workers`, a number of processes, is not positive."""
    if workers < 1:
        raise UserError(f"--workers is {workers}: at least 1 is needed")


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    progress: bool,
    label: str,
) -> list[Result]:
    """Applies a module's function to every task and gives the results in the tasks' order.

    Args:
        function: importable by name, since the workers are started afresh ("spawn").
        tasks: picklable.
        workers: at most so many processes, at least 1; 1 works in this process.
        progress: whether a bar is shown on standard error.
        label: the bar's title.

    Raises:
        Exception: what a task raises.
    """
    workers = min(workers, len(tasks))

    def shown(results: Iterable[Result]) -> list[Result]:
        pause = 0.5 if sys.stderr.isatty() else 10  # seconds; a log file keeps every line
        bar = tqdm(results, total=len(tasks), desc=label, mininterval=pause, disable=not progress)
        return list(bar)

    if workers <= 1:
        return shown(map(function, tasks))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return shown(pool.map(function, tasks, chunksize=8))
