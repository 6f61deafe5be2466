"""What a data set is told beside its annotations."""

from dataclasses import dataclass
from pathlib import Path

from data_loader.ocr_words import OcrParams
from data_loader.params import LoaderTextParams, LoaderVideoParams


@dataclass(frozen=True)
class DatasetOptions:
    """What a data set is told beside its annotations.

    Attributes:
        split: ``train``, ``val`` or ``test``; names the annotation file.
        training: random frames, captions and augmentation; otherwise everything is fixed.
        video: which frames are read.
        text: which caption is the query.
        ocr: which OCR words are kept.
        reader: name of the video reader.
        sees: whether frames are wanted.
        reads: whether OCR words are wanted.
        seed: of the random draws.
        sliding_window_stride: frames between the windows of a video; -1: one clip a video.
        frame_cache: folder of the frames that are read in place of the videos, or None.
    """

    split: str
    training: bool
    video: LoaderVideoParams
    text: LoaderTextParams
    ocr: OcrParams
    reader: str
    sees: bool
    reads: bool
    seed: int = 0
    sliding_window_stride: int = -1
    frame_cache: Path | None = None
