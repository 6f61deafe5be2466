"""Data sets in the layout of TextVR: an annotation file that names videos and OCR documents."""

import logging
from pathlib import Path

from base.base_dataset import VideoEntry
from data_loader.annotations import AnnotationError, textvr_entries
from data_loader.text_video_dataset import TextVideoDataset

logger = logging.getLogger(__name__)

VIDEO_FOLDERS = ("Videos", "Video")  # the download has the first, the published code the second
# Published files have a test or a validation set, and each stands for the other.
STANDS_IN = {"train": ("train",), "val": ("val", "test"), "test": ("test", "val")}
DEFAULT_CUT = "split"


class AnnotatedVideos(TextVideoDataset):
    """Videos in ``Videos/`` and OCR documents in ``Kwai_VideoOCR/``, named by an annotation file.

    The annotations are ``NAME_{train|val|test}.json``, each a split of its own and read whole, or
    one ``NAME.json`` (or ``name.json``) of all entries, of which ``videos_info[cut]`` names the
    split. Any other ``annotation_file`` is taken as the latter, unless its name ends in a split's.
    Where there is no validation set the test set stands for it, and the other way round.

    A data set of its own sets ``stem``, the NAME; ``cut`` is ``split`` where none is given.
    """

    stem = ""

    def default_annotation(self) -> str:
        """Return the split's own file where it is there, else that of all splits."""
        wanted = STANDS_IN[self.options.split]
        own = {f"{self.stem}_{split}.json": split for split in wanted}
        whole = [f"{self.stem}.json", f"{self.stem.lower()}.json"]
        names = [next(iter(own)), *whole, *list(own)[1:]]
        for name in names:
            if (self.metadata_dir / name).is_file():
                if own.get(name, wanted[0]) != wanted[0]:
                    logger.info("%s stands for the split %s", self.metadata_dir / name, wanted[0])
                return name
        raise AnnotationError(
            f"{self.metadata_dir}: holds none of the annotation files {', '.join(names)}; correct "
            "data_loader.args.data_dir or metadata_dir"
        )

    def load_entries(self) -> list[VideoEntry]:
        """Read the annotations.

        Raises:
            AnnotationError: the annotation file or the video folder is missing or faulty.
        """
        return self.annotated_entries()

    def annotated_entries(self) -> list[VideoEntry]:
        """Read the entries of the split from ``annotation_file``."""
        file, cut = self.annotation_file, self.cut or DEFAULT_CUT
        if file.stem.endswith(("_train", "_val", "_test")):
            cut = None  # a file of one split
        splits = STANDS_IN[self.options.split]
        return textvr_entries(file, self.video_dir(), self.ocr_dir, cut, splits)

    def video_dir(self, hint: str = "correct data_loader.args.data_dir") -> Path:
        """Return the folder of the videos; ``hint`` says what to do where there is none."""
        for name in VIDEO_FOLDERS:
            if (self.data_dir / name).is_dir():
                return self.data_dir / name
        raise AnnotationError(
            f"{self.data_dir}: holds no folder {' or '.join(VIDEO_FOLDERS)}; {hint}"
        )
