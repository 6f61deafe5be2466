"""Base class of the data sets: an entry becomes a sample of frames, words and captions."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from base.base_dataset import BaseTextVideoDataset, DatasetForm, VideoEntry, hash_unordered
from base.batch import Sample, SampleKey, Unreadable
from base.config import NO_EFFECT, ConfigModel
from data_loader.color_jitter import IDENTITY_COLOR
from data_loader.datasets.annotations import (
    ONE_CAPTION,
    AnnotationError,
    EntryBuilder,
    EntryError,
    describe_captions,
    is_held_out,
    keep_first_captions,
    raise_entry_errors,
)
from data_loader.frame_cache.frames import FrameCache
from data_loader.frame_sampling import list_window_starts, sample_frame_indices
from data_loader.ocr.ocr_noise import disturb_words
from data_loader.ocr.ocr_reader import ALL_WORDS, OcrReader, flag_captions_that_need_reading
from data_loader.ocr.ocr_words import OcrParams, normalise_tracks
from data_loader.ocr.paths import find_documents
from data_loader.readers.base_reader import VideoError, VideoReader
from data_loader.readers.image_reader import encode_jpeg, open_image
from data_loader.readers.video_readers import open_video
from data_loader.transforms import ClipTransform, Recipe
from utils.distributed import show_progress
from utils.remote_files import Location

logger = logging.getLogger(__name__)

OCR_FOLDER = "Kwai_VideoOCR"
MAX_SIZES = 20_000  # files that are asked for their size: on a network disk a millisecond each
FROZEN_IN_TIME = DatasetForm(
    "in the form of Frozen in Time, whose models read no text", "frozen_in_time", ("vision",)
)
TEXTVR = DatasetForm(
    "in the form of TextVR, which names OCR documents", "textvr", ("vision", "ocr")
)


class LoaderVideoParams(ConfigModel):
    """Which frames are read, and at what size."""

    input_res: int = Field(
        224,
        ge=1,
        description="Side of the frames given to the model, pixels. The default gives way to the "
        "size of a model that says how its frames are made (image-text towers).",
    )
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
    caption_sample: Literal["rand", "first", "all"] = Field(
        "rand",
        description="Captions that are queries. rand: in training a random one of the video, in "
        "validation and test those of the data set's published protocol; first: always its first; "
        "all: in training a random one, in validation and test all of them.",
    )
    max_tokens: int | None = Field(
        None, ge=3, description="Queries are cut to this many tokens; null: the tokenizer's limit."
    )


@dataclass(frozen=True)
class DatasetOptions:
    """Settings of a data set, apart from its annotations."""

    split: str  # train, val or test; names the annotation file, of a held-out part train
    training: bool  # random frames, captions and augmentation; otherwise everything is fixed
    video: LoaderVideoParams
    text: LoaderTextParams
    ocr: OcrParams
    reader: str  # registered name of the video reader
    uses_vision: bool
    uses_ocr: bool
    seed: int = 0
    sliding_window_stride: int = -1  # frames between the windows of a video; -1: one clip a video
    frame_cache: Location | None = None  # of the frames that are read in place of the videos
    val_share: float | None = None  # of the split train: held out for validation; None: nothing
    held_out: bool = False  # whether the held-out part is read, not the rest

    @property
    def use(self) -> str:
        """What the samples are for: ``train``, ``val`` or ``test``."""
        return "train" if self.training else "val" if self.held_out else self.split


class TextVideoDataset(BaseTextVideoDataset):
    """Videos with captions and, where there are any, OCR documents.

    A subclass implements ``name_annotation_file`` and ``load_entries`` and is registered in
    ``DATASETS``. It may set its ``recipe`` of transforms, and ``images`` where its files are
    images, which are clips of one frame. Published ones override ``get_form`` instead.

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

    recipe: Recipe = "frozen_in_time"  # where the data set has no published form
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
        entries = self._keep_part(self.load_entries())
        self.entries = self._choose_captions(entries[: max(1, round(len(entries) * subsample))])
        self._ocr = OcrReader(self.entries, options.ocr, self.ocr_dir)
        cached = options.frame_cache and options.uses_vision
        self.frame_cache = FrameCache(self) if cached else None
        if options.uses_ocr and not (
            self.has_ocr_dir and any(entry.ocr is not None for entry in self.entries)
        ):
            logger.warning(
                "%s %s: the model reads OCR words, but no video has an OCR document (the folder "
                "is %s; data_loader.args.ocr_dir names another): each counts as having no words",
                type(self).__name__,
                options.use,
                self.ocr_dir,
            )

    @classmethod
    def get_recipe(cls, cut: str | None) -> Recipe:
        """Return the transforms of a cut where ``tsfm_params`` names none."""
        form = cls.get_form(cut)
        return cls.recipe if form is None else form.recipe

    def _choose_captions(self, entries: Sequence[VideoEntry]) -> Sequence[VideoEntry]:
        """Keep the captions that are queries: in training all of them, to draw from."""
        if self.options.training:
            return entries
        form, key = self.get_form(self.cut), self.options.text.caption_sample
        reason = ""
        if key == "first":
            reason = 'caption_sample "first"'
        elif key == "rand" and form is not None and form.test_captions == "first":
            reason = "as published"
        self.caption_protocol = describe_captions(entries, reason)
        if self.caption_protocol not in ("", ONE_CAPTION):
            name = type(self).__name__
            logger.info("%s %s: queries: %s", name, self.options.split, self.caption_protocol)
        return keep_first_captions(entries) if reason else entries

    def _keep_part(self, entries: Sequence[VideoEntry]) -> Sequence[VideoEntry]:
        """Return the held-out part of a training set, or the rest of it; else all entries."""
        share, held_out = self.options.val_share, self.options.held_out
        if share is None:
            return entries

        def is_wanted(name: str) -> bool:
            return is_held_out(name, share) is held_out

        if hasattr(entries, "select"):  # of a table, whose entries are made when asked for
            part = entries.select(is_wanted)
        else:
            part = [entry for entry in entries if is_wanted(entry.id)]
        if not 0 < len(part) < len(entries):
            num_held_out = len(part) if held_out else len(entries) - len(part)
            raise AnnotationError(
                f"{self.annotation_file}: data_loader.args.val_share {share:g} holds "
                f"{num_held_out} of its {len(entries)} videos out for validation; give another "
                "share, or more videos"
            )
        return part

    @abstractmethod
    def name_annotation_file(self) -> str:
        """Return the name of the split's annotation file, within ``metadata_dir``."""

    @abstractmethod
    def load_entries(self) -> Sequence[VideoEntry]:
        """Read ``annotation_file``; raises ``AnnotationError``."""

    def build_entries(
        self,
        folder: Path,
        rows: Sequence[tuple[str, str, tuple[str, ...]]],
        source: Path | None = None,
        errors: Sequence[str] = (),
    ) -> list[VideoEntry]:
        """Build the entries of (id, POSIX path within ``folder``, captions).

        OCR documents, where there are any, mirror the paths, see ``data_loader/ocr/paths.py``.

        Args:
            source: the file that names the videos; None: the annotation file.
            errors: what is wrong with other entries of it.

        Raises:
            AnnotationError: there are errors, or rows can't be used.
        """
        builder, entries, wrong = EntryBuilder(folder), [], list(errors)
        for name, file, captions in rows:
            try:
                entries.append(builder.build(name, file, captions))
            except EntryError as error:
                wrong.append(f"{name}: {error}")
        raise_entry_errors(source or self.annotation_file, wrong)
        if not self.has_ocr_dir:
            return entries
        documents = find_documents(self.ocr_dir, [file for _, file, _ in rows])
        return [
            replace(entry, ocr=document) for entry, document in zip(entries, documents, strict=True)
        ]

    @cached_property
    def has_ocr_dir(self) -> bool:
        """Whether there is a folder of OCR documents."""
        return self.ocr_dir.is_dir()

    def needs_reading(self) -> list[bool] | None:
        """Return for each caption whether it shares a word with its video's OCR document.

        None where no video has a document; raises ``UserError`` where one can't be read.
        """
        if all(entry.ocr is None for entry in self.entries):
            return None
        return flag_captions_that_need_reading(self.entries, self.ocr_dir, self._ocr.cache_dir)

    def list_texts(self) -> Iterable[tuple[str, Sequence[str]]]:
        """Return id and captions of each video, in order."""
        if hasattr(self.entries, "list_texts"):  # of a table, whose entries are made one by one
            return self.entries.list_texts()
        return super().list_texts()

    def describe_content(self) -> dict[str, Any]:
        """Add the OCR documents, and how large the files of the videos are, to ids and captions."""
        found = super().describe_content()
        if self.options.uses_ocr:
            found["OCR documents"] = self._ocr.hash_documents()
        if self.options.uses_vision and self.frame_cache is None and len(self.entries) <= MAX_SIZES:
            sizes = [(entry.id, _get_size(entry.video)) for entry in self.entries]
            found["sizes of the videos' files"] = hash_unordered(sizes)
        return found

    def prepare(self, cache_dir: Location | None) -> None:
        """Read the words of all documents, or take them from the store in ``cache_dir``."""
        self._ocr.cache_dir = cache_dir
        if self.options.uses_ocr:
            self._ocr.open_store()

    def list_word_readers(self) -> list[OcrReader]:
        """Return readers of the words that samples hold, and of all words."""
        readers = [OcrReader(self.entries, p, self.ocr_dir) for p in (self.options.ocr, ALL_WORDS)]
        for reader in readers:
            reader.cache_dir = self._ocr.cache_dir
            reader.open_store()
        return readers

    @property
    def draws_words(self) -> bool:
        """Whether samples hold other words than ``get_words`` returns, drawn for each."""
        return self.options.training and self.options.ocr.disturbs_words

    def get_words(self, entry_index: int) -> list[str]:
        """Return the OCR words of a video as samples hold them: best first, lower-cased.

        Raises ``UserError`` where the document can't be read.
        """
        read = self._ocr.read(entry_index) if self.options.uses_ocr else None
        return [] if read is None else read.words

    def __len__(self) -> int:
        return len(self.entries) if self._windows is None else len(self._windows)

    def get_entry(self, sample: int) -> VideoEntry:
        """Return the video that a sample is a clip of."""
        return self.entries[self._locate_sample(sample)[0]]

    def _locate_sample(self, sample: int) -> tuple[int, int | None]:
        """Return the number of a sample's entry and its window's first frame; None: no window."""
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
            # An unreadable video is reported when its sample is made.
            with suppress(VideoError), self.open_frames(entry) as reader:
                starts = list_window_starts(
                    options.video.num_frames, reader.num_frames, options.sliding_window_stride
                )
            windows += [(index, start) for start in starts]
        return windows

    def open_frames(self, entry: VideoEntry) -> AbstractContextManager[VideoReader]:
        """Open a video's frames, wherever they are kept; raises ``VideoError``."""
        return self.open_video(entry) if self.frame_cache is None else self.frame_cache.open(entry)

    def open_video(self, entry: VideoEntry) -> AbstractContextManager[VideoReader]:
        """Open the file of a video; raises ``VideoError``."""
        if self.images:
            return open_image(entry.video)
        return open_video(entry.video, self.options.reader)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return a sample; the draws of a training sample are a function of seed and key.

        Raises:
            VideoError: the video can't be read (``loading: strict``).
            UserError: the OCR document can't be read.
        """
        index, start = self._locate_sample(key.index)
        entry, options = self.entries[index], self.options
        rng = None
        if options.training:
            rng = np.random.default_rng((options.seed, key.epoch, key.index))
        if rng is None:
            captions = [] if start else list(entry.captions)  # with the first window only
        elif options.text.caption_sample == "first":
            captions = [entry.captions[0]]
        else:
            captions = [entry.captions[rng.integers(len(entry.captions))]]
        sample = Sample(entry.id, index, captions, is_filler=key.is_filler)
        size = self._add_clip(sample, entry, rng, start) if options.uses_vision else None
        if not options.uses_ocr:
            return sample
        read = self._ocr.read(index)
        if read is None:
            document = entry.ocr or f"{entry.video} (its entry has no OCR document)"
            sample.ocr_missing = str(document)
            return sample
        if rng is not None:  # drawn last, so that frames and captions are as without
            read = disturb_words(read, options.ocr, rng)
        sample.words, sample.ocr_skipped = read.words, read.num_skipped
        if size is not None:
            sample.tracks = normalise_tracks(read.tracks, *size)
        return sample

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
            sample.unreadable = Unreadable(error.path, error.reason)
            side = self.transform.params.input_res
            shape = video.num_frames, 3, side, side
            sample.frames = torch.zeros(shape, dtype=torch.uint8)
            sample.num_frames = video.num_frames
            sample.color = None if rng is None else IDENTITY_COLOR.copy()
            return None
        frames, sample.color = self.transform(frames, rng)
        sample.frames = frames.new_zeros(video.num_frames, *frames.shape[1:])  # (F, 3, R, R)
        sample.frames[: len(frames)] = frames
        sample.num_frames = len(frames)
        return size


def _get_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # it is an error, or a black clip, where it is read
        return None


def make_thumbnail(dataset: TextVideoDataset, entry: VideoEntry) -> bytes | None:
    """Return the middle frame of a video as a small JPEG; None: the video can't be read."""
    try:
        with dataset.open_video(entry) as video:
            frame = video.frames([video.num_frames // 2])[0]
    except VideoError:
        return None
    return encode_jpeg(frame, width=160, max_height=240)
