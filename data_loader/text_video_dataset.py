"""The work that every data set shares: an entry becomes a sample of frames, words and captions."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from base.base_dataset import BaseTextVideoDataset, VideoEntry
from base.batch import Sample, SampleKey, Unreadable
from data_loader.annotations import AnnotationError
from data_loader.bars import watched
from data_loader.frame_cache.reading import open_frame_cache
from data_loader.frame_sampling import frame_indices, sliding_window_starts
from data_loader.image_reader import open_image
from data_loader.ocr_reader import OcrReader
from data_loader.ocr_words import normalise_tracks
from data_loader.options import DatasetOptions
from data_loader.reading import captions_that_need_reading
from data_loader.transforms import ClipTransform
from data_loader.video_reader import VideoError, VideoReader, open_video

logger = logging.getLogger(__name__)

OCR_FOLDER = "Kwai_VideoOCR"


@dataclass
class _Clip:
    """The frames of one sample and the geometry of their video."""

    frames: torch.Tensor  # (F, 3, R, R) uint8
    num_frames: int
    color: np.ndarray | None
    size: tuple[int, int, int] | None  # frames, width, height; None: unreadable
    unreadable: Unreadable | None = None


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
        self.annotation_file = self.metadata_dir / (annotation_file or self.default_annotation())
        entries = self.load_entries()
        self.entries = entries[: max(1, round(len(entries) * subsample))]
        self._ocr = OcrReader(self.entries, options.ocr, self.ocr_dir)
        self._cache = open_frame_cache(self) if options.frame_cache and options.sees else None
        if options.reads:
            self._warn_without_documents()

    @abstractmethod
    def default_annotation(self) -> str:
        """Return the name of the split's annotation file, within ``metadata_dir``."""

    @abstractmethod
    def load_entries(self) -> Sequence[VideoEntry]:
        """Read ``annotation_file``; raises ``AnnotationError``."""

    def mirrored_ocr(self, name: str) -> Path | None:
        """Return the OCR document of a video where the annotations name none.

        It mirrors the video's path within its folder: ``a/b.mp4`` has ``ocr_dir/a/b.json``. None
        where there is no ``ocr_dir``.
        """
        return (self.ocr_dir / name).with_suffix(".json") if self._has_ocr_dir else None

    @cached_property
    def _has_ocr_dir(self) -> bool:
        return self.ocr_dir.is_dir()

    def _warn_without_documents(self) -> None:
        if not self._has_ocr_dir or all(entry.ocr is None for entry in self.entries):
            logger.warning(
                "%s %s: the model reads OCR words, but no video has an OCR document (the folder "
                "is %s; data_loader.args.ocr_dir names another): each counts as having no words",
                type(self).__name__,
                self.options.split,
                self.ocr_dir,
            )

    def needs_reading(self) -> list[bool] | None:
        """Say of each caption, in order, whether it shares a word with its video's OCR document.

        None where no video has a document.

        Raises:
            UserError: a document can't be read.
        """
        if all(entry.ocr is None for entry in self.entries):
            return None
        return captions_that_need_reading(self.entries, self.ocr_dir, self._ocr.cache_dir)

    def prepare(self, cache_dir: Path | None) -> None:
        """Have the words of all documents at hand, read once and kept in ``cache_dir``."""
        self._ocr.cache_dir = cache_dir
        if self.options.reads:
            self._ocr.open_store()

    def words_of(self, entry_index: int) -> list[str]:
        """Return the OCR words that the samples of a video hold, without decoding it.

        Best score first, lower-cased; none where the video has no document or the model reads no
        words.

        Raises:
            UserError: the document can't be read.
        """
        read = self._ocr.read(entry_index) if self.options.reads else None
        return [] if read is None else read.words

    def __len__(self) -> int:
        return len(self.entries) if self._windows is None else len(self._windows)

    def entry_of(self, sample: int) -> VideoEntry:
        """Return the video that a sample is a clip of."""
        return self.entries[self._place(sample)[0]]

    def _place(self, sample: int) -> tuple[int, int | None]:
        """(entry, first frame of the window or None) of a sample."""
        return (sample, None) if self._windows is None else self._windows[sample]

    @cached_property
    def _windows(self) -> list[tuple[int, int]] | None:
        """(entry, first frame of the window) of each sample; None: one clip a video."""
        options = self.options
        if options.training or not options.sees or self.images:
            return None
        if options.sliding_window_stride < 1:
            return None
        return [
            (index, start)
            for index, entry in enumerate(watched(self.entries, "counting windows", " videos"))
            for start in self._window_starts(entry)
        ]

    def _window_starts(self, entry: VideoEntry) -> list[int]:
        video = self.options.video
        try:
            with self.open_frames(entry) as reader:
                length = reader.num_frames
        except VideoError:
            return [0]  # read again, and reported, where the sample is made
        stride = self.options.sliding_window_stride
        return sliding_window_starts(video.num_frames, length, stride)

    def open_frames(self, entry: VideoEntry) -> AbstractContextManager[VideoReader]:
        """Open a video's frames, wherever they are kept; raises ``VideoError``."""
        if self._cache is not None:
            return self._cache.open(entry)
        if self.images:
            return open_image(entry.video)
        return open_video(entry.video, self.options.reader)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return a sample; the draws of a training sample are a function of seed and key.

        Raises:
            VideoError: the video can't be read (``loading: strict``).
            UserError: the OCR document can't be read.
        """
        index, start = self._place(key.index)
        entry = self.entries[index]
        options = self.options
        rng = None
        if options.training:
            rng = np.random.default_rng((options.seed, key.epoch, key.index))
        sample = Sample(entry.id, index, self._captions(entry, rng, first=not start))
        sample.is_filler = key.is_filler
        size = None
        if options.sees:
            clip = self._clip(entry, rng, start)
            size = clip.size
            sample.frames, sample.num_frames = clip.frames, clip.num_frames
            sample.color, sample.unreadable = clip.color, clip.unreadable
        if options.reads:
            self._add_words(sample, size)
        return sample

    def _captions(
        self, entry: VideoEntry, rng: np.random.Generator | None, first: bool
    ) -> list[str]:
        """One caption for training; otherwise all, with the first window of a video only."""
        if rng is None:
            return list(entry.captions) if first else []
        if self.options.text.caption_sample == "first":
            return [entry.captions[0]]
        return [entry.captions[rng.integers(len(entry.captions))]]

    def _clip(
        self, entry: VideoEntry, rng: np.random.Generator | None, start: int | None
    ) -> _Clip:
        """Read, resize and pad the frames of a sample."""
        wanted = self.options.video.num_frames
        try:
            with self.open_frames(entry) as reader:
                indices = frame_indices(wanted, reader.num_frames, rng=rng, fix_start=start)
                frames = torch.from_numpy(reader.frames(indices)).permute(0, 3, 1, 2)
                size = (reader.num_frames, reader.width, reader.height)
        except VideoError as error:
            if self.options.video.loading == "strict":
                raise
            res = self.options.video.input_res
            black = torch.zeros(wanted, 3, res, res, dtype=torch.uint8)
            color = self.transform.identity_color() if rng is not None else None
            reason = Unreadable(str(error.path), error.reason)
            return _Clip(black, wanted, color, None, reason)
        frames, color = self.transform(frames, rng)
        clip = frames.new_zeros(wanted, *frames.shape[1:])
        clip[: len(frames)] = frames
        return _Clip(clip, len(frames), color, size)

    def _add_words(self, sample: Sample, size: tuple[int, int, int] | None) -> None:
        """Add the words of the sample's video; their tracks are shares of its length and size."""
        read = self._ocr.read(sample.video_index)
        if read is None:
            entry = self.entries[sample.video_index]
            unnamed = f"{entry.video} (its entry has no OCR document)"
            sample.ocr_missing = unnamed if entry.ocr is None else str(entry.ocr)
            return
        sample.words, sample.ocr_skipped = read.words, read.num_skipped
        if size is not None:
            sample.tracks = normalise_tracks(read.tracks, *size)
