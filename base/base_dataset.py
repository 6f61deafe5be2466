"""Interface of data sets: a list of videos with captions, and how one becomes a sample."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from base.batch import Sample, SampleKey


@dataclass(frozen=True)
class VideoEntry:
    """One video of an annotation file.

    Attributes:
        id: how the annotation names the video, unique in the file.
        video: the file.
        captions: none where the data set is only embedded, such as a folder of videos.
        ocr: the OCR document, or None where the data set has none for this video.
        category: what kind of video it is, where the data set says so.
    """

    id: str
    video: Path
    captions: tuple[str, ...]
    ocr: Path | None = None
    category: str | None = None


@dataclass(frozen=True)
class DatasetForm:
    """What published code does with a data set, where a configuration does not say it.

    Attributes:
        origin: a clause that says whose data set it is, for messages.
        recipe: of transforms, by its name in ``tsfm_params``.
        modalities: what its models are given of a video: ``vision`` and/or ``ocr``.
        test_captions: which captions of a video are queries in validation and test.
    """

    origin: str
    recipe: str
    modalities: tuple[str, ...]
    test_captions: Literal["first", "all"] = "first"


def hash_unordered(values: Iterable[Any]) -> str:
    """Return a digest of JSON values in any order: a changed order is no changed value."""
    digests = (hashlib.blake2b(json.dumps(value).encode(), digest_size=8) for value in values)
    total = sum(int.from_bytes(digest.digest(), "big") for digest in digests)
    return f"{total % 2**64:016x}"


class BaseTextVideoDataset(Dataset[Sample], ABC):
    """Videos with captions, in the annotation file's order.

    Attributes:
        entries: the videos.
        annotation_file: where they come from, for messages and reports.
        caption_protocol: which captions are the queries, said beside every metric; "" where there
            are none.
        shuffled: whether captions and videos are known not to belong together; every metric is
            chance then.
        draws_words: whether a training sample's OCR words are drawn, and so may be others than
            ``get_words`` returns.
    """

    entries: Sequence[VideoEntry]
    annotation_file: Path
    caption_protocol: str = ""
    shuffled: bool = False
    draws_words: bool = False

    @classmethod
    def get_form(cls, cut: str | None) -> DatasetForm | None:
        """Return the published form of a cut of this data set; None: it has none."""
        return None

    def needs_reading(self) -> list[bool] | None:
        """Say of each caption, in order, whether it speaks of text in its video.

        None where that is not known.
        """
        return None

    def prepare(self, cache_dir: Path | str | None) -> None:
        """Do once what would be done for every sample, before the loading processes start.

        Args:
            cache_dir: folder of what is kept for later runs, or its URL; None: nothing is.
        """

    def list_texts(self) -> Iterable[tuple[str, Sequence[str]]]:
        """Return id and captions of each video, in order."""
        return ((entry.id, entry.captions) for entry in self.entries)

    def describe_content(self) -> dict[str, Any]:
        """Return what tells these videos, captions and words from others.

        No video is opened, so that it takes no longer than reading the annotations did.

        Returns:
            JSON values by what they are of: counts, and digests of what is too long to list.
        """
        order, captions = hashlib.blake2b(digest_size=8), []
        for name, texts in self.list_texts():
            order.update(json.dumps(name).encode())
            captions.append((name, texts))
        return {
            "number of videos": len(captions),
            "order of the videos": order.hexdigest(),
            "captions": hash_unordered(captions),
        }

    def get_words(self, entry_index: int) -> list[str]:
        """Return the OCR words that the model is given of a video, an index into ``entries``.

        An empty list where there are none.
        """
        return []

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples of one epoch."""

    @abstractmethod
    def get_entry(self, sample: int) -> VideoEntry:
        """Return the video that sample number ``sample`` is made of."""

    @abstractmethod
    def __getitem__(self, key: SampleKey) -> Sample:
        """Return a sample; a training sample's random draws are a function of ``key``."""
