"""Small pictures of videos, to look at."""

import io

from numpy.typing import NDArray

from base.base_dataset import VideoEntry
from data_loader.image_reader import open_image
from data_loader.text_video_dataset import TextVideoDataset
from data_loader.video_reader import VideoError, open_video

WIDTH, MOST_HEIGHT = 160, 240  # pixels
QUALITY = 70


def thumbnail(dataset: TextVideoDataset, entry: VideoEntry) -> bytes | None:
    """Return the middle frame as a JPEG of ``WIDTH`` pixels; None: the video can't be read.

    A picture that would be higher than ``MOST_HEIGHT`` is made smaller.
    """
    reader, is_image = dataset.options.reader, dataset.images
    opened = open_image(entry.video) if is_image else open_video(entry.video, reader)
    try:
        with opened as video:
            frame = video.frames([video.num_frames // 2])[0]
    except VideoError:
        return None
    return jpeg(frame, WIDTH, MOST_HEIGHT)


def jpeg(frame: NDArray, width: int, most_height: int) -> bytes:
    """Return a frame (H, W, 3) uint8 as a JPEG of that width, or of that height if it were higher.

    Args:
        frame: RGB.
        width: pixels.
        most_height: pixels.
    """
    from PIL import Image

    image = Image.fromarray(frame)
    scale = min(width / image.width, most_height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()
