"""Videos that cost a decoder what real ones do: H.264 as x264 writes it unless told otherwise."""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch.nn.functional import interpolate

FPS = 25
GRAIN = 3.0  # standard deviation of the noise of a camera, in levels of 255
_SHAPES = 3  # things that move before the background


def make_folder(root: Path, width: int, height: int, seconds: float, cuts: int, count: int) -> Path:
    """Make a folder in the layout of TextVR, the same videos for training and test.

    Args:
        root: the folder, which is made.
        width: pixels.
        height: pixels.
        seconds: of each video.
        cuts: to other scenes, in each video.
        count: videos.
    """
    entries = []
    for number in range(count):
        path = root / "Videos" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, scenes(width, height, round(seconds * FPS), cuts, seed=number))
        caption = {"caption": f"video {number}", "caption_info": {}}
        entries.append({"path": path.name, "captions_info": [caption], "videos_info": {}})
    for split in ("train", "test"):
        (root / f"TextVR_{split}.json").write_text(json.dumps(entries))
    return root


def write(path: Path, frames: Iterator[np.ndarray]) -> None:
    """Encode frames with x264's own choices: preset medium, CRF 23, GOP 250, 3 B-frames."""
    with av.open(str(path), "w") as container:
        options = {"preset": "medium", "crf": "23", "g": "250", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(frames):
            if number == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def scenes(width: int, height: int, length: int, cuts: int, seed: int) -> Iterator[np.ndarray]:
    """Yield ``length`` frames (H, W, 3) uint8: shapes over a background that the camera pans."""
    rng = np.random.default_rng(seed)
    ends = np.linspace(0, length, cuts + 2).astype(int)[1:]
    end = 0
    for number in range(length):
        if number == end:
            end = ends[ends > number][0]
            background = _texture(rng, 2 * height, 2 * width)
            shapes = [_texture(rng, height // 4, width // 4) for _ in range(_SHAPES)]
            phase = rng.uniform(0, 6, 2 * (_SHAPES + 1))
        at = _places(number, phase)
        top, left = round(at[0, 0] * height), round(at[0, 1] * width)
        frame = background[top : top + height, left : left + width].copy()
        for shape, (y, x) in zip(shapes, at[1:], strict=True):
            top, left = int(y * (height - len(shape))), int(x * (width - shape.shape[1]))
            frame[top : top + len(shape), left : left + shape.shape[1]] = shape
        frame += rng.normal(0, GRAIN, (height, width, 1))
        yield frame.clip(0, 255).astype(np.uint8)


def _places(number: int, phase: np.ndarray) -> np.ndarray:
    """Where camera and shapes are, (1 + shapes, 2), each in [0, 1]."""
    periods = np.linspace(25, 80, len(phase))  # frames; the camera's come last, so go slowest
    return (0.5 + 0.5 * np.sin(number / periods + phase)).reshape(-1, 2)[::-1]


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) float32 around 128, with detail of several sizes, coarse more than fine."""
    image = torch.full((1, 3, height, width), 128.0)
    for cell in (4, 16, 64):  # pixels
        coarse = rng.normal(0, 5 * cell**0.5, (1, 3, height // cell + 2, width // cell + 2))
        image += interpolate(torch.from_numpy(coarse).float(), (height, width), mode="bicubic")
    return image[0].permute(1, 2, 0).numpy()
