"""Data sets' common part: an entry becomes a sample of frames, words and captions."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from base.base_dataset import BaseTextVideoDataset, VideoEntry
from base.batch import Sample, SampleKey, Unreadable
from base.config import NO_EFFECT, ConfigModel
from data_loader.color_jitter import IDENTITY_COLOR
from data_loader.datasets.annotations import AnnotationError
from data_loader.frame_cache.frames import FrameCache
from data_loader.frame_sampling import list_window_starts, sample_frame_indices
from data_loader.ocr.needs_reading import flag_captions_that_need_reading
from data_loader.ocr.ocr_reader import OcrReader
from data_loader.ocr.ocr_words import OcrParams, normalise_tracks
from data_loader.ocr.paths import find_documents
from data_loader.readers.base_reader import VideoError, VideoReader
from data_loader.readers.image_reader import encode_jpeg, open_image
from data_loader.readers.video_readers import open_video
from data_loader.transforms import ClipTransform
from utils.distributed import show_progress

logger = logging.getLogger(__name__)

OCR_FOLDER = "Kwai_VideoOCR"
THUMBNAIL_WIDTH, THUMBNAIL_MAX_HEIGHT = 160, 240  # pixels


class LoaderVideoParams(ConfigModel):
    """Which frames are read, and at what size."""

    input_res: int = Field(224, ge=1, description="Side of the frames given to the model, pixels.")
    num_frames: int = Field(4, ge=1, description="Frames of a clip.")
    loading: Literal["strict", "lax"] = Field(
        "strict",
        description="strict: an unreadable video stops the run; lax: a black clip stands in, "
        "listed in the run's report and counted in the metrics file.",
    )
    extraction_fps: Annotated[int | None, NO_EFFECT] = Field(None, description="Published key.")
    extraction_res: Annotated[int | None, NO_EFFECT] = Field(None, description="Published key.")
    stride: Annotated[int | None, NO_EFFECT] = Field(None, description="Published key.")


class LoaderTextParams(ConfigModel):
    """Which caption of a video is the query."""

    input: Literal["text"] = Field("text", description="Published key; queries are texts.")
    caption_sample: Literal["rand", "first"] = Field(
        "rand",
        description="Training: a random caption of the video, or its first. "
        "Validation and test always use all captions.",
    )
    max_tokens: int | None = Field(
        None, ge=3, description="Queries are cut to this many tokens; null: the tokenizer's limit."
    )


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
        uses_vision: whether frames are wanted.
        uses_ocr: whether OCR words are wanted.
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
    uses_vision: bool
    uses_ocr: bool
    seed: int = 0
    sliding_window_stride: int = -1
    frame_cache: Path | None = None


class TextVideoDataset(BaseTextVideoDataset):
    """Videos with captions and, where there are any, OCR documents.

    A data set of its own gives ``load_entries`` and is registered in ``DATASETS``. Its class says
    which ``recipe`` of transforms is its own, and whether its files are ``images``, which are
    clips of one frame.

    Args:
        data_dir: folder of the data set.
        options: see ``DatasetOptions``.
        transform: turns decoded frames into a clip.
        metadata_dir: folder of the annotations, where it is another than ``data_dir``.
        cut: which cut of the data set, where it has several.
        annotation_file: replaces the split's own file.
        subsample: share of the entries to keep, from the first; 1 keeps all.
        ocr_dir: folder of the OCR documents; None: ``Kwai_VideoOCR`` in ``data_dir``, where there
            is one.

    Raises:
        AnnotationError: the annotations can't be used, or ``ocr_dir`` is given and not there.
        UserError: the frame cache does not hold what is wanted.
    """

    recipe = "frozen_in_time"
    images = False

    def __init__(
        self,
        data_dir: Path,
        options: DatasetOptions,
        transform: ClipTransform,
        metadata_dir: Path | None = None,
        cut: str | None = None,
        annotation_file: str | None = None,
        subsample: float = 1.0,
        ocr_dir: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.metadata_dir = metadata_dir or data_dir
        self.options = options
        self.transform = transform
        self.cut = cut
        self.subsample = subsample
        if ocr_dir is not None and not ocr_dir.is_dir():
            raise AnnotationError(f"{ocr_dir}: no such folder; correct data_loader.args.ocr_dir")
        self.ocr_dir = ocr_dir or data_dir / OCR_FOLDER
        self.annotation_file = self.metadata_dir / (annotation_file or self.name_annotation_file())
        entries = self.load_entries()
        self.entries = entries[: max(1, round(len(entries) * subsample))]
        self._ocr = OcrReader(self.entries, options.ocr, self.ocr_dir)
        cached = options.frame_cache and options.uses_vision
        self._cache = FrameCache(self) if cached else None
        if options.uses_ocr:
            self._warn_without_documents()

    @abstractmethod
    def name_annotation_file(self) -> str:
        """Return the name of the split's annotation file, within ``metadata_dir``."""

    @abstractmethod
    def load_entries(self) -> Sequence[VideoEntry]:
        """Read ``annotation_file``; raises ``AnnotationError``."""

    def find_documents(self, videos: Sequence[str]) -> list[Path | None]:
        """Return the OCR documents of all videos where the annotations name none.

        They mirror the videos' paths within their folder, see ``data_loader/ocr/paths.py``; None
        for each where there is no ``ocr_dir``.
        """
        return find_documents(self.ocr_dir, videos) if self.has_ocr_dir else [None] * len(videos)

    @cached_property
    def has_ocr_dir(self) -> bool:
        """Whether there is a folder of OCR documents."""
        return self.ocr_dir.is_dir()

    def _warn_without_documents(self) -> None:
        if not self.has_ocr_dir or all(entry.ocr is None for entry in self.entries):
            logger.warning(
                "%s %s: the model reads OCR words, but no video has an OCR document (the folder "
                "is %s; data_loader.args.ocr_dir names another): each counts as having no words",
                type(self).__name__,
                self.options.split,
                self.ocr_dir,
            )

    def needs_reading(self) -> list[bool] | None:
        """Say of each caption, in order, whether it shares a word with its video's OCR document.

        None where no video has a document. Raises ``UserError`` where one can't be read.
        """
        if all(entry.ocr is None for entry in self.entries):
            return None
        return flag_captions_that_need_reading(self.entries, self.ocr_dir, self._ocr.cache_dir)

    def prepare(self, cache_dir: Path | None) -> None:
        """Have the words of all documents at hand, read once and kept in ``cache_dir``."""
        self._ocr.cache_dir = cache_dir
        if self.options.uses_ocr:
            self._ocr.open_store()

    def get_words(self, entry_index: int) -> list[str]:
        """Return the OCR words that the samples of a video hold: best first, lower-cased.

        None where there is no document or the model reads no words; raises ``UserError`` where the
        document can't be read.
        """
        read = self._ocr.read(entry_index) if self.options.uses_ocr else None
        return [] if read is None else read.words

    def __len__(self) -> int:
        return len(self.entries) if self._windows is None else len(self._windows)

    def get_entry(self, sample: int) -> VideoEntry:
        """Return the video that a sample is a clip of."""
        return self.entries[self._locate(sample)[0]]

    def _locate(self, sample: int) -> tuple[int, int | None]:
        """(entry, first frame of the window or None) of a sample."""
        return (sample, None) if self._windows is None else self._windows[sample]

    @cached_property
    def _windows(self) -> list[tuple[int, int]] | None:
        """(entry, first frame of the window) of each sample; None: one clip a video."""
        options = self.options
        if options.training or not options.uses_vision or self.images:
            return None
        if options.sliding_window_stride < 1:
            return None
        windows = []
        for index, entry in enumerate(show_progress(self.entries, "counting windows", " videos")):
            starts = [0]
            # One that is unreadable is read again, and reported, where the sample is made.
            with suppress(VideoError), self.open_frames(entry) as reader:
                starts = list_window_starts(
                    options.video.num_frames, reader.num_frames, options.sliding_window_stride
                )
            windows += [(index, start) for start in starts]
        return windows

    def open_frames(self, entry: VideoEntry) -> AbstractContextManager[VideoReader]:
        """Open a video's frames, wherever they are kept; raises ``VideoError``."""
        return self.open_video(entry) if self._cache is None else self._cache.open(entry)

    def open_video(self, entry: VideoEntry) -> AbstractContextManager[VideoReader]:
        """Open a video's own file; raises ``VideoError``."""
        if self.images:
            return open_image(entry.video)
        return open_video(entry.video, self.options.reader)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return a sample; the draws of a training sample are a function of seed and key.

        Raises:
            VideoError: the video can't be read (``loading: strict``).
            UserError: the OCR document can't be read.
        """
        index, start = self._locate(key.index)
        entry = self.entries[index]
        options = self.options
        rng = None
        if options.training:
            rng = np.random.default_rng((options.seed, key.epoch, key.index))
        sample = Sample(entry.id, index, self._choose_captions(entry, rng, first=not start))
        sample.is_filler = key.is_filler
        size = self._add_clip(sample, entry, rng, start) if options.uses_vision else None
        if options.uses_ocr:
            self._add_words(sample, entry, size)
        return sample

    def _choose_captions(
        self, entry: VideoEntry, rng: np.random.Generator | None, first: bool
    ) -> list[str]:
        """One caption for training; otherwise all, with the first window of a video only."""
        if rng is None:
            return list(entry.captions) if first else []
        if self.options.text.caption_sample == "first":
            return [entry.captions[0]]
        return [entry.captions[rng.integers(len(entry.captions))]]

    def _add_clip(
        self, sample: Sample, entry: VideoEntry, rng: np.random.Generator | None, start: int | None
    ) -> tuple[int, int, int] | None:
        """Read, resize and pad the frames of a sample.

        Returns:
            Frames, width and height of the video; None where it is unreadable.
        """
        video = self.options.video
        try:
            with self.open_frames(entry) as reader:
                indices = sample_frame_indices(
                    video.num_frames, reader.num_frames, rng=rng, fix_start=start
                )
                frames = torch.from_numpy(reader.frames(indices)).permute(0, 3, 1, 2)
                size = (reader.num_frames, reader.width, reader.height)
        except VideoError as error:
            if video.loading == "strict":
                raise
            sample.unreadable = Unreadable(str(error.path), error.reason)
            shape = video.num_frames, 3, video.input_res, video.input_res
            sample.frames = torch.zeros(shape, dtype=torch.uint8)
            sample.num_frames = video.num_frames
            sample.color = None if rng is None else IDENTITY_COLOR.copy()
            return None
        frames, sample.color = self.transform(frames, rng)
        sample.frames = frames.new_zeros(video.num_frames, *frames.shape[1:])  # (F, 3, R, R)
        sample.frames[: len(frames)] = frames
        sample.num_frames = len(frames)
        return size

    def _add_words(
        self, sample: Sample, entry: VideoEntry, size: tuple[int, int, int] | None
    ) -> None:
        """Add the words of the sample's video; their tracks are shares of its length and size."""
        read = self._ocr.read(sample.video_index)
        if read is None:
            unnamed = f"{entry.video} (its entry has no OCR document)"
            sample.ocr_missing = unnamed if entry.ocr is None else str(entry.ocr)
            return
        sample.words, sample.ocr_skipped = read.words, read.num_skipped
        if size is not None:
            sample.tracks = normalise_tracks(read.tracks, *size)


def make_thumbnail(dataset: TextVideoDataset, entry: VideoEntry) -> bytes | None:
    """Return the middle frame of a video as a small JPEG; None: the video can't be read."""
    try:
        with dataset.open_video(entry) as video:
            frame = video.frames([video.num_frames // 2])[0]
    except VideoError:
        return None
    return encode_jpeg(frame, THUMBNAIL_WIDTH, THUMBNAIL_MAX_HEIGHT)
