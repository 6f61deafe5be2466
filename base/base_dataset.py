"""Interface of data sets: a list of videos with captions, and how one becomes a sample."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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

    def prepare(self, cache_dir: Path | None) -> None:
        """Do once what would be done for every sample, before the loading processes start.

        Args:
            cache_dir: folder of what is kept for later runs; None: nothing is.
        """

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
