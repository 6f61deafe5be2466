"""TextVR (arXiv 2305.03347) and the data sets in its form: videos, OCR documents, annotations."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

from base.base_dataset import DatasetForm, VideoEntry
from base.registry import DATASETS
from data_loader.datasets.annotations import (
    UNSHUFFLED,
    AnnotationError,
    explain_shuffled,
    read_textvr_entries,
)
from data_loader.datasets.text_video_dataset import TEXTVR, TextVideoDataset

logger = logging.getLogger(__name__)

VIDEO_FOLDERS = ("Videos", "Video")  # the download has the first, the published code the second
# Published files have a test or a validation set, and each replaces the other.
SUBSTITUTES = {"train": ("train",), "val": ("val", "test"), "test": ("test", "val")}
DEFAULT_CUT = "split"

SHUFFLED, VALIDATION = "TextVR_test_rand.json", "TextVR_val.json"
README_HINT = "README.md, section “Get the TextVR data”, says where the files are"


class AnnotatedVideos(TextVideoDataset):
    """Videos in ``Videos/`` and OCR documents in ``Kwai_VideoOCR/``, named by an annotation file.

    The annotations are ``NAME_{train|val|test}.json``, a file for each split, or one ``NAME.json``
    (or ``name.json``) of all entries, of which ``videos_info[cut]`` names the split. Any other
    ``annotation_file`` is taken as the latter, unless its name ends in a split's. Where there is
    no validation set the test set is used, and the other way round.

    A subclass sets ``stem``, the NAME, and ``test_captions``, see ``DatasetForm``; ``cut`` is
    ``split`` where none is given.
    """

    stem = ""
    recipe = "textvr"
    test_captions: Literal["first", "all"] = "all"

    @classmethod
    def get_form(cls, cut: str | None) -> DatasetForm | None:
        """Return TextVR's: its code reads all these data sets alike."""
        return replace(TEXTVR, recipe=cls.recipe, test_captions=cls.test_captions)

    def name_annotation_file(self) -> str:
        """Return the split's file if it exists, else that of all splits, else a substitute."""
        split = self.options.split
        self.say_what_is_not_used(f"{self.stem}_val.json")
        first, *others = (f"{self.stem}_{name}.json" for name in SUBSTITUTES[split])
        names = [first, f"{self.stem}.json", f"{self.stem.lower()}.json", *others]
        for name in names:
            if (self.metadata_dir / name).is_file():
                if name in others:
                    logger.info("%s is used for the split %s", self.metadata_dir / name, split)
                return name
        raise AnnotationError(
            f"{self.metadata_dir}: holds none of the annotation files {', '.join(names)}; correct "
            "data_loader.args.data_dir or metadata_dir"
        )

    def say_what_is_not_used(self, validation_file: str) -> None:
        """Log that a part of the training set takes the place of a validation file."""
        if self.options.held_out and (self.metadata_dir / validation_file).is_file():
            logger.info(
                "%s is not used: data_loader.args.val_share holds a part of training out instead",
                self.metadata_dir / validation_file,
            )

    def load_entries(self) -> list[VideoEntry]:
        """Read the entries of the split; raises ``AnnotationError``."""
        file = self.annotation_file
        has_one_split = file.stem.endswith(("_train", "_val", "_test"))
        cut = None if has_one_split else self.cut or DEFAULT_CUT
        splits = SUBSTITUTES[self.options.split]
        return read_textvr_entries(file, self.find_video_dir(), self.ocr_dir, cut, splits)

    def find_video_dir(self, hint: str = "correct data_loader.args.data_dir") -> Path:
        """Return the folder of the videos; ``hint`` says what to do where there is none."""
        for name in VIDEO_FOLDERS:
            if (self.data_dir / name).is_dir():
                return self.data_dir / name
        raise AnnotationError(
            f"{self.data_dir}: holds no folder {' or '.join(VIDEO_FOLDERS)}; {hint}"
        )


@DATASETS.register("TextVR")
class TextVR(AnnotatedVideos):
    """TextVR: 10.5k videos of eight categories with captions and OCR documents."""

    def name_annotation_file(self) -> str:
        """Return the split's file; without a validation set the test set is it, as published."""
        self.say_what_is_not_used(VALIDATION)
        if self.options.split == "train":
            return "TextVR_train.json"
        has_own = self.options.split == "val" and (self.metadata_dir / VALIDATION).is_file()
        return VALIDATION if has_own else UNSHUFFLED

    def load_entries(self) -> list[VideoEntry]:
        """Read the annotations; raises ``AnnotationError``."""
        file = self.annotation_file
        if not file.is_file():
            shuffled = file.with_name(SHUFFLED)
            hint = ""
            if shuffled.is_file():
                hint = (
                    f"; {shuffled.name} lies beside it, but its videos are shuffled: every metric "
                    "on it is chance. Name it as data_loader.args.annotation_file only to make a "
                    "matrix for the challenge server"
                )
            raise AnnotationError(f"{file}: no such annotation file; {README_HINT}{hint}")
        reason = explain_shuffled(file)
        self.shuffled = reason is not None
        if reason is not None:
            logger.warning(
                "%s: this is the SHUFFLED test file (%s). Metrics on it are chance, however good "
                "the model; only the similarity matrix has a meaning",
                file,
                reason,
            )
        return read_textvr_entries(file, self.find_video_dir(README_HINT), self.ocr_dir)


@DATASETS.register("MSVD")
class MSVD(AnnotatedVideos):
    """MSVD: 1,970 short clips of about 40 captions each."""

    stem = "MSVD"
    test_captions = "first"


@DATASETS.register("DiDeMo")
class DiDeMo(AnnotatedVideos):
    """DiDeMo: 10k unedited videos, their captions joined to a paragraph."""

    stem = "DiDeMo"
    test_captions = "first"


@DATASETS.register("YouCook2")
class YouCook2(AnnotatedVideos):
    """YouCook2: cooking videos; tested on the validation set, for the test set has no captions."""

    stem = "YouCook2"
    test_captions = "first"
