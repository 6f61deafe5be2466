"""Conceptual Captions 3M: 3.3M web images with alt texts, read as clips of one frame."""

from collections.abc import Sequence
from zlib import crc32

from base.base_dataset import VideoEntry
from base.registry import DATASETS
from data_loader.table import read_table, table_entries
from data_loader.text_video_dataset import TextVideoDataset

TRAIN = "Train_GCC-training-success-020321-VALIDIMG.csv"
VAL = "Validation_GCC-1.1.0-Validation-success-020321-VALIDIMG.csv"


@DATASETS.register("ConceptualCaptions3M", provided=("data_dir", "options", "transform"))
class ConceptualCaptions3M(TextVideoDataset):
    """The CC3M data set in Frozen in Time's layout.

    The csv files have the columns caption and thumbnailUrl; an image is ``training/NUMBER`` or
    ``validation/NUMBER``, without extension, where the number is the CRC-32 of its URL. Of 3.3M
    URLs some thousand share a number, so a file: their captions become those of one entry. OCR
    documents, where there are any, are ``Kwai_VideoOCR/training/NUMBER.json``. Of the validation
    file 1000 rows are drawn, those of the published code; the test set is the same file, whole.
    """

    images = True

    def default_annotation(self) -> str:
        """Return the split's csv file; validation and test have one file, as published."""
        return TRAIN if self.options.split == "train" else VAL

    def load_entries(self) -> Sequence[VideoEntry]:
        """Read the csv file.

        Raises:
            AnnotationError: it is missing or faulty.
        """
        split = self.options.split
        draw = split == "val" and self.subsample == 1
        table = read_table(self.annotation_file, ("caption", "thumbnailUrl"), draw)
        folder = "training" if split == "train" else "validation"
        names = table["thumbnailUrl"].map(lambda url: f"{folder}/{crc32(url.encode())}")
        ocr_dir = self.ocr_dir if self.ocr_dir.is_dir() else None
        return table_entries(self.annotation_file, names, table["caption"], self.data_dir, ocr_dir)
