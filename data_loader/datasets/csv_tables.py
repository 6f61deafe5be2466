"""Data sets of large csv files, WebVid and Conceptual Captions 3M.

Both are in the layouts of Frozen in Time (arXiv 2104.00650), whose code draws 1000 rows of a longer
validation file.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from zlib import crc32

from base.base_dataset import DatasetForm, VideoEntry
from base.registry import DATASETS
from data_loader.datasets.annotations import (
    MAX_CHARACTERS,
    AnnotationError,
    EntryBuilder,
    EntryError,
    find_caption_problem,
    raise_entry_errors,
    read_annotation_text,
)
from data_loader.datasets.text_video_dataset import FROZEN_IN_TIME, TextVideoDataset
from data_loader.datasets.textvr import DEFAULT_CUT, AnnotatedVideos
from data_loader.ocr.paths import find_document
from utils.files import FileFinder, find_encoding

if TYPE_CHECKING:
    from pandas import DataFrame, Series

logger = logging.getLogger(__name__)

ROWS = replace(FROZEN_IN_TIME, test_captions="all")  # each row of a file is a query
VAL_ROWS = 1000
MAX_NUMBERS = 10  # of rows, in a message
# Of millions of names few need to be looked at: . and .., backslashes, accents, long ones.
_UNUSUAL = r"^/|//|\\|:|[^\x01-\x7f]|(?:^|/)\.{1,2}(?:/|$)|[^/]{64}|.{1000}"
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

    A field that says NA, null or nan is a text. Rows with an empty field are left out, and are
    named by their numbers, the first after the header being 1. Of a longer validation file, unless
    a share of it is asked for, 1000 rows are kept, in the order that pandas draws them with the
    seed 0, as the published code does.

    Raises:
        AnnotationError: the file can't be read, lacks a column, or has no complete row.
    """
    path = dataset.annotation_file
    table = _read_csv(path)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        found = " ".join(", ".join(map(str, table.columns)).split())[:200]
        raise AnnotationError(f"{path}: has no column {', '.join(missing)}; it has {found}")
    twice = [name for name in columns if f"{name}.1" in table.columns]  # as pandas renames it
    if twice:
        raise AnnotationError(f"{path}: has two columns {', '.join(twice)}; keep one of them")
    if dataset.options.split == "val" and dataset.subsample == 1 and len(table) > VAL_ROWS:
        logger.info("%s: %d of its %d rows are drawn, as published", path, VAL_ROWS, len(table))
        table = table.sample(VAL_ROWS, random_state=0)
    empty = table[list(columns)].apply(lambda texts: texts.str.strip().eq("")).any(axis=1)
    # Of a column that isn't read likewise, as the published code has it.
    blank = table.isna().any(axis=1) | table.eq("").any(axis=1) | empty
    if blank.any():
        logger.warning(
            "%s: %d rows have an empty field and are left out: %s",
            path, blank.sum(), _list_numbers(sorted(table.index[blank] + 1)),
        )  # fmt: skip
    table = table.loc[~blank, list(columns)]
    if table.empty:
        raise AnnotationError(f"{path}: holds no row without an empty field")
    return table


def _read_csv(path: Path) -> "DataFrame":
    """Read all columns of a csv file as text; raises ``AnnotationError``."""
    import pandas

    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # pandas would take the first column of rows that are too long for their names.
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            mark, encoding = find_encoding(file.read(4))
            file.seek(len(mark))
            table = pandas.read_csv(
                file, dtype=str, encoding=encoding, keep_default_na=False, index_col=False
            )
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such annotation file") from error
    except OSError as error:
        raise AnnotationError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeError:
        read_annotation_text(path)  # says where
        raise
    except (ValueError, pandas.errors.ParserWarning) as error:  # pandas' errors are ValueErrors
        raise AnnotationError(f"{path}: is no csv file ({' '.join(str(error).split())})") from error
    return table


def _list_numbers(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - MAX_NUMBERS:,} more" if len(numbers) > MAX_NUMBERS else ""
    return ", ".join(map(str, numbers[:MAX_NUMBERS])) + more


def make_entries(
    dataset: TextVideoDataset, names: "Series", captions: "Series", video_dir: Path
) -> "TableEntries":
    """Turn columns of files within ``video_dir`` and of captions into entries.

    Rows of the same file become one entry of several captions. Raises ``AnnotationError`` where
    names lead out of the folder.
    """
    path, builder = dataset.annotation_file, EntryBuilder(video_dir)
    names, errors = names.copy(), []
    for row in names.index[names.str.contains(_UNUSUAL, regex=True)]:
        try:
            builder.locate(video_dir, names[row])
            names[row] = str(PurePosixPath(names[row]))
        except EntryError as error:
            errors.append(f"row {row + 1}: {error}")
    for row in captions.index[captions.str.len() > MAX_CHARACTERS]:
        errors.append(f"row {row + 1}: its caption {find_caption_problem(captions[row])}")
    raise_entry_errors(path, errors)
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
    finder: FileFinder = field(default_factory=FileFinder, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: "int | slice") -> "VideoEntry | TableEntries":
        if isinstance(index, slice):
            parts = self.names[index], self.captions[index]
            return TableEntries(*parts, self.video_dir, self.ocr_dir)
        name = self.names[index]
        ocr = find_document(self.ocr_dir, name, None, self.finder) if self.ocr_dir else None
        video = self.finder.locate(self.video_dir, name)
        return VideoEntry(name, video, self.captions[index], ocr)

    def list_texts(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Return id and captions of each entry."""
        return zip(self.names, self.captions, strict=True)

    def select(self, is_wanted: Callable[[str], bool]) -> "TableEntries":
        """Return the entries whose ids are wanted, in their order."""
        rows = [row for row, name in enumerate(self.names) if is_wanted(name)]
        names, captions = [self.names[row] for row in rows], [self.captions[row] for row in rows]
        return TableEntries(names, captions, self.video_dir, self.ocr_dir)
