"""Ground truth of a similarity matrix: its captions, its videos and which belong together.

Shapes: Q captions, V videos, P right pairs.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.base_dataset import BaseTextVideoDataset, VideoEntry
from utils.errors import UserError

Pairs = tuple[NDArray, NDArray]  # (P,) rows and (P,) columns


@dataclass(frozen=True)
class GroundTruth:
    """The rows and columns of a similarity matrix.

    Attributes:
        captions: Q texts, the rows.
        video_of_query: (Q,) the column of each caption's video.
        ids: V annotation paths, the columns.
        categories: of the V videos, or None where the data set has none.
        reading: (Q,) bool, which captions speak of text in their video; None: see reading_note.
        reading_note: why ``reading`` is not known, or what has to be known about it; may be "".
        annotation_file: where the videos and captions come from.
        shuffled: whether that file's pairs are shuffled, so that every metric is chance.
        protocol: which captions of the videos are the rows; "" where that is not known.
    """

    captions: tuple[str, ...]
    video_of_query: NDArray
    ids: tuple[str, ...]
    categories: tuple[str | None, ...] | None
    reading: NDArray | None
    reading_note: str
    annotation_file: Path
    shuffled: bool
    protocol: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, V)."""
        return len(self.captions), len(self.ids)

    def get_positive_pairs(self) -> Pairs:
        """Each caption with its own video: the published truth."""
        return np.arange(len(self.captions)), self.video_of_query

    def get_equal_caption_pairs(self) -> Pairs:
        """Each caption with every video that has an equal caption."""
        videos_of: dict[str, dict[int, None]] = {}
        texts = [normalize_caption(caption) for caption in self.captions]
        for text, video in zip(texts, self.video_of_query.tolist(), strict=True):
            videos_of.setdefault(text, {})[video] = None
        pairs = [(row, video) for row, text in enumerate(texts) for video in videos_of[text]]
        rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return rows, columns

    def shared_captions(self) -> tuple[int, int]:
        """How many texts are captions of several videos, and of how many videos."""
        texts = Counter(text for text, _ in self._text_videos())
        shared = {text for text, count in texts.items() if count > 1}
        return len(shared), len({video for text, video in self._text_videos() if text in shared})

    def _text_videos(self) -> set[tuple[str, int]]:
        texts = map(normalize_caption, self.captions)
        return set(zip(texts, self.video_of_query.tolist(), strict=True))

    def reorder_columns(self, ids: Sequence[str], source: str) -> "GroundTruth":
        """Return the same for a matrix whose columns follow ``ids``, the order of ``source``.

        Raises:
            UserError: these are other videos.
        """
        place = {video: column for column, video in enumerate(ids)}
        if len(place) != len(self.ids) or place.keys() != set(self.ids):
            other = len(place.keys() ^ set(self.ids))
            raise UserError(
                f"{source}: its videos are not those of {self.annotation_file} ({other} are in one "
                "of the files only), so it can't give the order of the matrix' columns"
            )
        column_of = np.array([place[video] for video in self.ids])
        categories = None
        if self.categories is not None:
            category_of = dict(zip(self.ids, self.categories, strict=True))
            categories = tuple(category_of[video] for video in ids)
        return replace(
            self,
            ids=tuple(ids),
            video_of_query=column_of[self.video_of_query],
            categories=categories,
        )


def normalize_caption(caption: str) -> str:
    """The text by which captions are equal: lower-cased, as the query encoder has it, no ends."""
    return caption.strip().lower()


def build_ground_truth(dataset: BaseTextVideoDataset) -> GroundTruth:
    """Return the rows and columns of a data set's matrix, in the order of its entries."""
    reading, note = None, explain_missing_reading(dataset.entries)
    if not note:
        try:
            reading = dataset.needs_reading()
        except UserError as error:  # said in every table; a model that reads will raise it again
            note = str(error)
    return make_ground_truth(
        dataset.entries,
        dataset.annotation_file,
        dataset.shuffled,
        reading,
        note or "",
        dataset.caption_protocol,
    )


def make_ground_truth(
    entries: Sequence[VideoEntry],
    annotation_file: Path,
    shuffled: bool,
    reading: Sequence[bool] | None,
    note: str = "",
    protocol: str = "",
) -> GroundTruth:
    """Return the rows and columns of the matrix of ``entries``.

    Args:
        entries: the videos, in the order of the columns.
        annotation_file: where they come from.
        shuffled: whether captions and videos do not belong together.
        reading: of each caption, whether it speaks of text in its video; None: not known.
        note: why it is not known.
        protocol: which captions of the videos are the rows.
    """
    counts = [len(entry.captions) for entry in entries]
    categories = tuple(entry.category for entry in entries)
    if reading is not None:
        missing = sum(entry.ocr is None or not entry.ocr.is_file() for entry in entries)
        note = f"{missing} videos have no OCR document and count as not" if missing else ""
    return GroundTruth(
        captions=tuple(caption for entry in entries for caption in entry.captions),
        video_of_query=np.repeat(np.arange(len(entries)), counts),
        ids=tuple(entry.id for entry in entries),
        categories=categories if any(categories) else None,
        reading=None if reading is None else np.array(reading, dtype=bool),
        reading_note=note if reading is not None else note or "the data set does not say",
        annotation_file=annotation_file,
        shuffled=shuffled,
        protocol=protocol,
    )


def explain_missing_reading(entries: Sequence[VideoEntry]) -> str | None:
    """Say why the entries' OCR documents can't tell which captions need reading, or None."""
    documents = [entry.ocr for entry in entries if entry.ocr is not None]
    if not documents:
        return "the data set names no OCR documents"
    if not any(document.is_file() for document in documents):
        folder = os.path.commonpath([document.parent for document in documents])
        return f"no OCR documents at {folder}"
    return None
