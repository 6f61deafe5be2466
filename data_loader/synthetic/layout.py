"""Folders and files of made-up data sets.

Every file takes its name when it is complete, so that a file that exists is whole: a run that was
cut short can be taken up again by making what is missing.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np

from data_loader.readers.opening import name_local_file
from utils.errors import UserError
from utils.files import atomic_write, write_text

VIDEO_FOLDER = "Videos"
OCR_FOLDER = "Kwai_VideoOCR"
TEXT_MODEL_FOLDER = "text_model"
TOWER_FOLDER = "tower"

# RGB in 0-255 -> Y in 16-235, U and V in 16-240 around 128
YUV_MATRIX = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]],
    dtype=np.float32,
) / np.float32(255)


def write_json_line(path: Path, value: Any, indent: int | None = None) -> None:
    """Write JSON on one line, unless an indent is given, with a line end; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int, crf: int = 20) -> None:
    """Write an H.264 mp4 file, the same bytes for the same frames; its folder is made.

    ``frames`` are at least one array (H, W, 3), uint8 RGB, H and W even and the same for all;
    ``crf`` is x264's constant rate factor.
    """
    # x264 decides differently, so writes other bytes, with another number of threads; and on
    # processors with AVX-512 even from run to run, unless all processors must give the same.
    options = {"preset": "veryfast", "crf": str(crf), "threads": "1"}
    options["x264-params"] = "cpu-independent=1"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        with av.open(name_local_file(temporary), "w", format="mp4") as container:
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


def check_is_folder(out: Path) -> None:
    """Raise ``UserError`` where a file stands in the way of the folder to write."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is not a folder: give another --out")
