"""Folders of videos or images without captions, for the extraction of features."""

import logging
from collections.abc import Sequence

from base.base_dataset import DatasetForm, VideoEntry
from base.registry import DATASETS
from data_loader.datasets.annotations import AnnotationError
from data_loader.datasets.text_video_dataset import FROZEN_IN_TIME, TextVideoDataset
from data_loader.readers.container import VIDEO_EXTENSIONS
from utils.files import list_files

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = ".jpg .jpeg .jpe .png .bmp .webp .gif .tif .tiff .ppm .pgm".split()


class Directory(TextVideoDataset):
    """Every file of a kind below ``data_dir``, sorted by path, as ``list_files`` finds them.

    There are no captions, so the split is ``test``. OCR documents, where there are any, mirror the
    files, see ``data_loader/ocr/paths.py``.
    """

    extensions: Sequence[str] = ()

    @classmethod
    def get_form(cls, cut: str | None) -> DatasetForm:
        """Return Frozen in Time's."""
        return FROZEN_IN_TIME

    def name_annotation_file(self) -> str:
        """Return the folder itself: there is no annotation file."""
        return "."

    def load_entries(self) -> list[VideoEntry]:
        """List the files; raises ``UserError`` where there are none, or captions are asked for."""
        name = type(self).__name__
        job = "train" if self.options.training else self.options.split
        if job != "test":
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
        if listing.unreadable:  # a data set is whole, or an error
            name, reason = next(iter(listing.unreadable.items()))
            raise AnnotationError(
                f"{self.data_dir / name}: the folder can't be read ({reason}); give access to it, "
                "or move it elsewhere"
            )
        if not listing.names:
            kinds = " ".join(self.extensions)
            raise AnnotationError(f"{self.data_dir}: holds no file with an extension of: {kinds}")
        if listing.num_others:
            logger.info(
                "%s: %d files of other kinds are left out", self.data_dir, listing.num_others
            )
        return self.build_entries(self.data_dir, [(file, file, ()) for file in listing.names])


@DATASETS.register("VideoDirectory")
class VideoDirectory(Directory):
    """A folder of videos."""

    extensions = VIDEO_EXTENSIONS


@DATASETS.register("ImageDirectory")
class ImageDirectory(Directory):
    """A folder of images, read as clips of one frame."""

    extensions = IMAGE_EXTENSIONS
    images = True
