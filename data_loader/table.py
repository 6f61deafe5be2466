"""Large annotations as tables: csv files of millions of rows, entries made when they are read."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from base.base_dataset import VideoEntry
from data_loader.annotations import AnnotationError, inside, raise_faults

if TYPE_CHECKING:
    from pandas import DataFrame, Series

logger = logging.getLogger(__name__)

VAL_ROWS = 1000


def read_table(path: Path, columns: Sequence[str], draw: bool) -> "DataFrame":
    """Read a csv file as text; rows with an empty field are left out and counted.

    Args:
        path: the file.
        columns: those it must have.
        draw: keep 1000 rows of a longer file, in the order drawn: those that pandas draws with
            the seed 0, as the published validation sets of WebVid and CC3M are.

    Raises:
        AnnotationError: the file can't be read, lacks a column, or has no whole row.
    """
    import pandas

    try:
        table = pandas.read_csv(path, dtype=str)
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such annotation file") from error
    except OSError as error:
        raise AnnotationError(f"{path}: can't be read ({error.strerror})") from error
    except ValueError as error:  # pandas' own errors and those of UTF-8 are of this kind
        raise AnnotationError(f"{path}: is no csv file ({' '.join(str(error).split())})") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns))[:200]
        raise AnnotationError(f"{path}: has no column {', '.join(missing)}; it has {found}")
    if draw and len(table) > VAL_ROWS:
        logger.info("%s: %d of its %d rows are drawn, as published", path, VAL_ROWS, len(table))
        table = table.sample(VAL_ROWS, random_state=0)
    blank = table.isna().any(axis=1)
    for name in columns:
        blank |= table[name].str.strip().eq("")
    if blank.any():
        logger.warning("%s: %d rows have an empty field and are left out", path, blank.sum())
    table = table.loc[~blank, list(columns)]
    if table.empty:
        raise AnnotationError(f"{path}: holds no row without an empty field")
    return table


def table_entries(
    path: Path, names: "Series", captions: "Series", video_dir: Path, ocr_dir: Path | None
) -> "TableEntries":
    """Turn two columns into entries; rows of the same file become one entry of several captions.

    Args:
        path: the annotation file, for messages.
        names: of the files, within ``video_dir``.
        captions: of the same rows.
        video_dir: folder of the files.
        ocr_dir: folder of the OCR documents that mirror the files; None: there are none.

    Raises:
        AnnotationError: names lead out of the folder; the first ten are named.
    """
    odd = names.str.contains(r"^/|\\|:|\x00|(?:^|/)\.\.(?:/|$)", regex=True)
    suspects = names[odd].tolist()
    faults = [f"the path {name!r} leads out of the data folder"
              for name in suspects if inside(video_dir, name) is None]  # fmt: skip
    raise_faults(path, faults)
    again = names.duplicated()
    files = names[~again].tolist()
    texts = [(text,) for text in captions[~again]]
    if again.any():
        logger.warning(
            "%s: %d rows name a file that an earlier row names; their captions join that row's",
            path,
            again.sum(),
        )
        shared = set(names[again])
        place = {name: number for number, name in enumerate(files) if name in shared}
        for name, text in zip(names[again], captions[again], strict=True):
            if text not in texts[place[name]]:
                texts[place[name]] += (text,)
    return TableEntries(files, texts, video_dir, ocr_dir)


class TableEntries(Sequence[VideoEntry]):
    """Entries of a table, made when they are asked for: millions of paths take gigabytes.

    Args:
        names: of the files, within ``video_dir``; they are the ids.
        captions: of each file.
        video_dir: folder of the files.
        ocr_dir: folder of the OCR documents that mirror the files; None: there are none.
    """

    def __init__(
        self,
        names: list[str],
        captions: list[tuple[str, ...]],
        video_dir: Path,
        ocr_dir: Path | None,
    ) -> None:
        self.names = names
        self.captions = captions
        self.video_dir = video_dir
        self.ocr_dir = ocr_dir

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> VideoEntry: ...

    @overload
    def __getitem__(self, index: slice) -> "TableEntries": ...

    def __getitem__(self, index: "int | slice") -> "VideoEntry | TableEntries":
        if isinstance(index, slice):
            parts = self.names[index], self.captions[index]
            return TableEntries(*parts, self.video_dir, self.ocr_dir)
        name = self.names[index]
        ocr = (self.ocr_dir / name).with_suffix(".json") if self.ocr_dir else None
        return VideoEntry(name, self.video_dir / name, self.captions[index], ocr)
