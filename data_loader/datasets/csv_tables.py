"""Data sets of large csv files, WebVid and Conceptual Captions 3M.

Both are in the layouts of Frozen in Time (arXiv 2104.00650), whose code draws 1000 rows of a longer
validation file.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from base.base_dataset import DatasetForm, VideoEntry
from base.registry import DATASETS
from data_loader.datasets.annotations import AnnotationError, join_inside, raise_entry_errors
from data_loader.datasets.text_video_dataset import FROZEN_IN_TIME, TextVideoDataset
from data_loader.datasets.textvr import DEFAULT_CUT, AnnotatedVideos
from data_loader.ocr.paths import find_document

if TYPE_CHECKING:
    from pandas import DataFrame, Series

logger = logging.getLogger(__name__)

ROWS = replace(FROZEN_IN_TIME, test_captions="all")  # each row of a file is a query
VAL_ROWS = 1000
MAX_CAPTION = 350  # characters of WebVid's, as published
CC3M_TRAIN = "Train_GCC-training-success-020321-VALIDIMG.csv"
CC3M_VAL = "Validation_GCC-1.1.0-Validation-success-020321-VALIDIMG.csv"


@DATASETS.register("WebVid")
class WebVid(AnnotatedVideos):
    """WebVid (arXiv 2104.00650): 2.5M or 10M web videos with alt texts.

    ``cut`` ``2M``, ``10M`` or that of another file: ``metadata/results_{cut}_{split}.csv`` with
    the columns videoid, page_dir and name (the caption), videos ``videos/PAGE_DIR/VIDEOID.mp4``,
    OCR documents, where there are any, mirror them in ``Kwai_VideoOCR/``. Of a longer validation
    file 1000 rows are drawn, those of the published code.
    ``cut`` ``split``, or an ``annotation_file`` in JSON: the form of TextVR, see
    ``AnnotatedVideos``.
    """

    stem = "WebVid"
    test_captions = "first"

    @classmethod
    def get_form(cls, cut: str | None) -> DatasetForm | None:
        """Return the form of the cut."""
        return super().get_form(cut) if cut == DEFAULT_CUT else ROWS

    def name_annotation_file(self) -> str:
        """Return the file of the cut and split."""
        if self.cut is None:
            raise AnnotationError(
                'WebVid has several cuts; set data_loader.args.cut to "2M" or "10M" for '
                'metadata/results_{cut}_{split}.csv, to "split" for the TextVR form'
            )
        if self.cut == DEFAULT_CUT:
            return super().name_annotation_file()
        return f"metadata/results_{self.cut}_{self.options.split}.csv"

    def load_entries(self) -> Sequence[VideoEntry]:
        """Read the annotations; raises ``AnnotationError``."""
        if self.annotation_file.suffix.lower() == ".json":
            return super().load_entries()
        table = read_table(self, ("videoid", "page_dir", "name"))
        names = table["page_dir"] + "/" + table["videoid"] + ".mp4"
        return make_entries(self, names, table["name"].str[:MAX_CAPTION], self.data_dir / "videos")


@DATASETS.register("ConceptualCaptions3M")
class ConceptualCaptions3M(TextVideoDataset):
    """Conceptual Captions 3M: 3.3M web images with alt texts, read as clips of one frame.

    The csv files have the columns caption and thumbnailUrl; an image is ``training/NUMBER`` or
    ``validation/NUMBER``, without extension, where the number is the CRC-32 of its URL. Of 3.3M
    URLs some thousand share a number, so a file: their captions become those of one entry. OCR
    documents, where there are any, are ``Kwai_VideoOCR/training/NUMBER.json``. Of the validation
    file 1000 rows are drawn, those of the published code; the test set is all of the file.
    """

    images = True

    @classmethod
    def get_form(cls, cut: str | None) -> DatasetForm:
        """Return Frozen in Time's."""
        return ROWS

    def name_annotation_file(self) -> str:
        """Return the split's csv file; validation and test have one file, as published."""
        return CC3M_TRAIN if self.options.split == "train" else CC3M_VAL

    def load_entries(self) -> Sequence[VideoEntry]:
        """Read the csv file; raises ``AnnotationError``."""
        table = read_table(self, ("caption", "thumbnailUrl"))
        folder = "training" if self.options.split == "train" else "validation"
        names = table["thumbnailUrl"].map(lambda url: f"{folder}/{crc32(url.encode())}")
        return make_entries(self, names, table["caption"], self.data_dir)


def read_table(dataset: TextVideoDataset, columns: Sequence[str]) -> "DataFrame":
    """Read a data set's csv file, which must have these columns, as text.

    Rows with an empty field are left out and counted. Of a longer validation file, unless a share
    of it is asked for, 1000 rows are kept, in the order that pandas draws them with the seed 0, as
    the published code does.

    Raises:
        AnnotationError: the file can't be read, lacks a column, or has no complete row.
    """
    import pandas

    path = dataset.annotation_file
    try:
        table = pandas.read_csv(path, dtype=str)
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such annotation file") from error
    except OSError as error:
        raise AnnotationError(f"{path}: can't be read ({error.strerror})") from error
    except ValueError as error:  # pandas' own errors and those of UTF-8 are ValueErrors
        raise AnnotationError(f"{path}: is no csv file ({' '.join(str(error).split())})") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns))[:200]
        raise AnnotationError(f"{path}: has no column {', '.join(missing)}; it has {found}")
    if dataset.options.split == "val" and dataset.subsample == 1 and len(table) > VAL_ROWS:
        logger.info("%s: %d of its %d rows are drawn, as published", path, VAL_ROWS, len(table))
        table = table.sample(VAL_ROWS, random_state=0)
    empty = table[list(columns)].apply(lambda texts: texts.str.strip().eq("")).any(axis=1)
    blank = table.isna().any(axis=1) | empty
    if blank.any():
        logger.warning("%s: %d rows have an empty field and are left out", path, blank.sum())
    table = table.loc[~blank, list(columns)]
    if table.empty:
        raise AnnotationError(f"{path}: holds no row without an empty field")
    return table


def make_entries(
    dataset: TextVideoDataset, names: "Series", captions: "Series", video_dir: Path
) -> "TableEntries":
    """Turn columns of files within ``video_dir`` and of captions into entries.

    Rows of the same file become one entry of several captions. Raises ``AnnotationError`` where
    names lead out of the folder.
    """
    path = dataset.annotation_file
    suspects = names[names.str.contains(r"^/|\\|:|\x00|(?:^|/)\.\.(?:/|$)", regex=True)].tolist()
    outside = [name for name in suspects if join_inside(video_dir, name) is None]
    raise_entry_errors(path, [f"the path {n!r} leads out of the data folder" for n in outside])
    again = names.duplicated()
    files = names[~again].tolist()
    texts = [(text,) for text in captions[~again]]
    if again.any():
        logger.warning(
            "%s: %d rows name a file that an earlier row names; their captions join that row's",
            path,
            again.sum(),
        )
        repeated = set(names[again])
        rows = {name: row for row, name in enumerate(files) if name in repeated}
        for name, text in zip(names[again], captions[again], strict=True):
            if text not in texts[rows[name]]:
                texts[rows[name]] += (text,)
    ocr_dir = dataset.ocr_dir if dataset.has_ocr_dir else None
    return TableEntries(files, texts, video_dir, ocr_dir)


@dataclass(eq=False)
class TableEntries(Sequence[VideoEntry]):
    """Entries of a table, made when they are asked for: millions of paths take gigabytes.

    The same holds for the paths of OCR documents; all names have the same suffix, so that no two
    files share a document.
    """

    names: list[str]  # of the files, within video_dir; they are the ids
    captions: list[tuple[str, ...]]  # of each file
    video_dir: Path
    ocr_dir: Path | None  # of the OCR documents that mirror the files; None: there are none

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: "int | slice") -> "VideoEntry | TableEntries":
        if isinstance(index, slice):
            parts = self.names[index], self.captions[index]
            return TableEntries(*parts, self.video_dir, self.ocr_dir)
        name = self.names[index]
        ocr = find_document(self.ocr_dir, name) if self.ocr_dir else None
        return VideoEntry(name, self.video_dir / name, self.captions[index], ocr)

    def select(self, is_wanted: Callable[[str], bool]) -> "TableEntries":
        """Return the entries whose ids are wanted, in their order."""
        rows = [row for row, name in enumerate(self.names) if is_wanted(name)]
        names, captions = [self.names[row] for row in rows], [self.captions[row] for row in rows]
        return TableEntries(names, captions, self.video_dir, self.ocr_dir)
