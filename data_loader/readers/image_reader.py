"""Images: read as videos of one frame, and made of frames."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_loader.readers.base_reader import VideoReader
from data_loader.readers.container import check_file

_JPEG_QUALITY = 70


class ImageReader(VideoReader):
    """Pillow, in the contract of a video reader: one frame, RGB.

    An image is turned as its EXIF data ask, as a video is as its file asks (Frozen in Time leaves
    it as stored). Of an animation the first image is read; transparency is left out; 16-bit grey
    is cut to 8 bits. It is no choice of ``data_loader.args.reader``: data sets of images use it.
    """

    name = "image"
    kind = "an image"
    check_file = staticmethod(check_file)

    def _open(self) -> int:
        from PIL import Image, ImageOps

        with Image.open(self.path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode == "F":
                raise self._make_error("holds numbers, not colours")
            if image.mode.startswith("I"):  # Pillow would cut off all that is brighter than 255
                grey = np.asarray(image, dtype=np.int64) >> 8
                image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
            self._frame = np.asarray(image.convert("RGB"))  # (H, W, 3)
        return 1

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        yield self._frame

    def _read_times(self) -> list[float]:
        return [0.0]

    def remedy(self) -> str:
        """Return what a user can do about an image that can't be read."""
        return "replace the file, or take it out of the data set"


@contextmanager
def open_image(path: str | Path) -> Iterator[VideoReader]:
    """Open an image for the time of a ``with`` block.

    Raises:
        VideoError: the file is missing, empty, cut short, no image, or too large to be one.
    """
    yield ImageReader(path)


def encode_jpeg(frame: NDArray, width: int, max_height: int) -> bytes:
    """Return an RGB frame (H, W, 3) uint8 as a JPEG of ``width`` pixels.

    A picture that would be higher than ``max_height`` pixels is made smaller.
    """
    from PIL import Image

    image = Image.fromarray(frame)
    scale = min(width / image.width, max_height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(
        out, "JPEG", quality=_JPEG_QUALITY, optimize=True
    )
    return out.getvalue()
