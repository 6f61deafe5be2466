"""Folders of videos or images without captions, for the extraction of features."""

import logging
from collections.abc import Sequence

from base.base_dataset import VideoEntry
from base.registry import DATASETS
from data_loader.datasets.annotations import AnnotationError
from data_loader.datasets.text_video_dataset import TextVideoDataset
from data_loader.readers.container import VIDEO_EXTENSIONS
from utils.files import list_files

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = ".jpg .jpeg .jpe .png .bmp .webp .gif .tif .tiff .ppm .pgm".split()


class Directory(TextVideoDataset):
    """Every file of a kind below ``data_dir``, sorted by path, as ``list_files`` finds them.

    There are no captions, so the split is ``test``. OCR documents, where there are any, mirror the
    files: ``a/b.mp4`` has ``Kwai_VideoOCR/a/b.mp4.json``, or ``a/b.json`` where no other file
    could have that.
    """

    extensions: Sequence[str] = ()

    def name_annotation_file(self) -> str:
        """Return the folder itself: there is no annotation file."""
        return "."

    def load_entries(self) -> list[VideoEntry]:
        """List the files; raises ``UserError`` where there are none, or captions are asked for."""
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
        listing = list_files(self.data_dir, self.extensions)
        if not listing.names:
            kinds = " ".join(self.extensions)
            raise AnnotationError(f"{self.data_dir}: holds no file with an extension of: {kinds}")
        if listing.num_others:
            logger.info(
                "%s: %d files of other kinds are left out", self.data_dir, listing.num_others
            )
        documents = self.find_documents(listing.names)
        return [
            VideoEntry(file, self.data_dir / file, (), document)
            for file, document in zip(listing.names, documents, strict=True)
        ]


@DATASETS.register("VideoDirectory")
class VideoDirectory(Directory):
    """A folder of videos."""

    extensions = VIDEO_EXTENSIONS


@DATASETS.register("ImageDirectory")
class ImageDirectory(Directory):
    """A folder of images, read as clips of one frame."""

    extensions = IMAGE_EXTENSIONS
    images = True
