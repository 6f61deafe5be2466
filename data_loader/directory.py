"""Folders of videos or images without captions, for the extraction of features."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from base.base_dataset import VideoEntry
from base.registry import DATASETS
from data_loader.annotations import AnnotationError
from data_loader.text_video_dataset import TextVideoDataset
from data_loader.video_container import VIDEO_EXTENSIONS

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = ".jpg .jpeg .jpe .png .bmp .webp .gif .tif .tiff .ppm .pgm".split()


class Directory(TextVideoDataset):
    """Every file of a kind below ``data_dir``, sorted by path; hidden ones are left out.

    There are no captions, so the split is ``test``. OCR documents, where there are any, mirror
    the files: ``a/b.mp4`` has ``Kwai_VideoOCR/a/b.json``.
    """

    extensions: list[str] = []

    def default_annotation(self) -> str:
        """Return the folder itself: there is no annotation file."""
        return "."

    def load_entries(self) -> list[VideoEntry]:
        """List the files.

        Raises:
            AnnotationError: training or validation is asked for, there is no such folder, or it
                holds no such file.
        """
        name, split = type(self).__name__, self.options.split
        if self.options.training or split != "test":
            job = "train" if self.options.training else split
            raise AnnotationError(
                f"{self.data_dir}: {name} has no captions, so nothing to {job} with; use it with "
                "test.py --split test --save_feats"
            )
        if self.annotation_file != self.metadata_dir or self.metadata_dir != self.data_dir:
            raise AnnotationError(
                f"{self.annotation_file}: {name} reads no annotations; set "
                "data_loader.args.annotation_file and metadata_dir to null"
            )
        if not self.data_dir.is_dir():
            raise AnnotationError(f"{self.data_dir}: no such folder")
        files = list(_files(self.data_dir))
        names = sorted(f for f in files if Path(f).suffix.lower() in self.extensions)
        if not names:
            kinds = " ".join(self.extensions)
            raise AnnotationError(f"{self.data_dir}: holds no file with an extension of: {kinds}")
        if len(names) < len(files):
            others = len(files) - len(names)
            logger.info("%s: %d files of other kinds are left out", self.data_dir, others)
        return [VideoEntry(f, self.data_dir / f, (), self.mirrored_ocr(f)) for f in names]


@DATASETS.register("VideoDirectory", provided=("data_dir", "options", "transform"))
class VideoDirectory(Directory):
    """A folder of videos."""

    extensions = VIDEO_EXTENSIONS


@DATASETS.register("ImageDirectory", provided=("data_dir", "options", "transform"))
class ImageDirectory(Directory):
    """A folder of images, read as clips of one frame."""

    extensions = IMAGE_EXTENSIONS
    images = True


def _files(folder: Path, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the POSIX paths of all files below a folder; a link back to a folder above ends."""
    here = os.path.realpath(folder)
    if here in above:
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise AnnotationError(f"{folder}: can't be read ({error.strerror})") from error
    for name in names:
        if name.startswith("."):
            continue
        if os.path.isdir(folder / name):
            yield from _files(folder / name, f"{prefix}{name}/", (*above, here))
        else:
            yield f"{prefix}{name}"
