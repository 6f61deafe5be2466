"""Images: read as videos of one frame, and frames written as JPEG."""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_loader.readers.base_reader import VideoReader
from data_loader.readers.container import check_file

if TYPE_CHECKING:
    from PIL import Image

_JPEG_QUALITY = 70


class ImageReader(VideoReader):
    """Pillow as a video reader of one RGB frame, used by data sets of images.

    An image is rotated as its EXIF data ask (Frozen in Time leaves it as stored). Of an animation
    the first image is read; transparency is left out; 16-bit grey is cut to 8 bits.
    """

    name = "image"
    kind = "an image"
    check_file = staticmethod(check_file)

    def _open(self) -> int:
        from PIL import Image

        with Image.open(self.path) as file:
            if file.mode == "F":
                raise self._make_error("holds numbers, not colours")
            self._frame = convert_to_rgb(file)
        return 1

    def _decode(self, wanted: list[int]) -> Iterator[np.ndarray]:
        yield self._frame

    def _read_times(self) -> list[float]:
        return [0.0]

    def _read_start(self) -> float:
        return 0.0

    def get_remedy(self) -> str:
        """Return what a user can do about an image that can't be read."""
        return "replace the file, or take it out of the data set"


def open_image(path: str | Path) -> AbstractContextManager[VideoReader]:
    """Open an image for a ``with`` block; raises ``VideoError``."""
    return closing(ImageReader(path))


def convert_to_rgb(image: "Image.Image") -> NDArray:
    """Decode an image of colours or greys: (H, W, 3) uint8 RGB, turned as its EXIF data ask."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow would clip what is brighter than 255
        grey = np.asarray(image, dtype=np.int64) >> 8
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def encode_jpeg(frame: NDArray, width: int, max_height: int) -> bytes:
    """Return an RGB frame (H, W, 3) uint8 as a JPEG of at most this size, in pixels."""
    from PIL import Image

    image = Image.fromarray(frame)
    scale = min(width / image.width, max_height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(
        out, "JPEG", quality=_JPEG_QUALITY, optimize=True
    )
    return out.getvalue()
