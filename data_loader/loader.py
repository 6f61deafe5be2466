"""Data loader: batches of videos, queries and OCR words, their order and their processes."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from base.base_dataset import BaseTextVideoDataset
from base.base_model import ModelInput
from base.batch import Batch, Sample, SampleKey, TokenIds
from base.registry import DATA_LOADERS, DATASETS
from data_loader.collate import Collate
from data_loader.datasets.text_video_dataset import (
    DatasetOptions,
    LoaderTextParams,
    LoaderVideoParams,
)
from data_loader.ocr.ocr_words import OcrParams
from data_loader.sampler import EpochBatches
from data_loader.shared_memory import plan_loading, share_batch
from data_loader.transforms import TOWER, ClipTransform, DeviceTransform, TransformParams
from data_loader.worker_watch import (
    WorkerWatch,
    make_worker_context,
    obey_only_parent,
    record_sample,
)
from utils.distributed import get_dist_info, show_progress
from utils.errors import UserError
from utils.files import get_cache_folder
from utils.interrupt import wait_for
from utils.processes import end_with_parent
from utils.remote_files import expand_location, is_url

Split = Literal["train", "val", "test"]
Positive = Annotated[int, Field(ge=1)]
PROVIDED = ("model_input", "seed", "training", "only_dataset")
FLIP_PROBLEM = (
    "training clips are mirrored (as the recipe frozen_in_time has it where this key is null), but "
    "the model reads OCR words, whose letters and tracks are not; set it to false"
)


@DATA_LOADERS.register("MultiDistTextVideoDataLoader", provided=PROVIDED)
@DATA_LOADERS.register("TextVideoDataLoader", provided=PROVIDED)
class TextVideoDataLoader:
    """Batches of videos, queries and OCR words.

    Iterating gives the batches of one epoch on the CPU; ``to_device`` brings one to the model's
    device and runs the part of the transforms that belongs there. ``set_epoch`` chooses the epoch,
    of which order and draws are functions; the number of workers changes nothing.

    Args:
        dataset_name: Registered name of the data set.
        data_dir: Its folder; environment variables are expanded.
        text_params: Which caption is the query.
        video_params: Which frames are read, at what size.
        ocr_params: Which OCR words are kept.
        metadata_dir: Folder of the annotations; null: data_dir.
        annotation_file: Replaces the annotation file of the splits test and val.
        split: What training reads; validation and test read val and test.
        tsfm_params: Resizing and augmentation; null: the data set's own.
        tsfm_split: Training: transforms of another split; null: train.
        cut: Cut of the data set, where it has several.
        subsample: Share of the entries to use, from the first.
        sliding_window_stride: Test: frames between a video's clips, averaged; -1: one clip.
        reader: Video reader: av (the fastest), decord, torchcodec, cv2.
        batch_size: Videos a batch, over all GPUs; their number must divide it.
        per_gpu_batch_size: The same for each GPU, in place of batch_size.
        num_workers: Loading processes; 0: none beside the main one.
        shuffle: Shuffle the training set; validation and test never are.
        prefetch_factor: Batches ahead a worker; fewer where /dev/shm has no room for them.
        ocr_dir: Folder of OCR documents; null: Kwai_VideoOCR in data_dir, where there is one.
        item_timeout: Seconds that one video may take; then the run stops and names it.
        cache_dir: Folder of what is read once, the words of all OCR documents, to be used again by
            later runs; null: $TEXTVR_CACHE or ~/.cache/textvr; off: none. A URL: words that python
            -m tools.cache_words wrote are read there.
        val_share: Share of the training set, by videos, that is held out for validation and never
            trained on, in place of a validation set; null: none.
        frame_cache: Folder of frames made by python -m tools.cache_frames, or its URL (https://,
            s3://), read in place of the videos; null: the videos are decoded.
        model_input: What the model takes; what it does not use of a video is not read.
        seed: Of order and draws.
        training: Whether to shuffle, draw and augment.
        only_dataset: Whether ``dataset`` alone is wanted: no tokenizer is loaded, and there are no
            batches.

    Raises:
        UserError: the data set can't be opened, the tokenizer can't be had, or tsfm_params makes
            frames otherwise than the model takes them, or mirrors them where it reads words.
    """

    def __init__(
        self,
        dataset_name: str,
        data_dir: str,
        text_params: LoaderTextParams = LoaderTextParams(),
        video_params: LoaderVideoParams = LoaderVideoParams(),
        ocr_params: OcrParams = OcrParams(),
        metadata_dir: str | None = None,
        annotation_file: str | None = None,
        split: Split = "train",
        tsfm_params: TransformParams | None = None,
        tsfm_split: Split | None = None,
        cut: str | None = None,
        subsample: Annotated[float, Field(gt=0, le=1)] = 1.0,
        sliding_window_stride: Annotated[int, Field(ge=-1)] = -1,
        reader: str = "av",
        batch_size: Positive | None = None,
        per_gpu_batch_size: Positive | None = None,
        num_workers: Annotated[int, Field(ge=0)] = 1,
        shuffle: bool = True,
        prefetch_factor: Positive = 2,
        ocr_dir: str | None = None,
        item_timeout: Annotated[float, Field(gt=0)] = 300.0,
        cache_dir: str | None = None,
        frame_cache: str | None = None,
        val_share: Annotated[float, Field(gt=0, lt=1)] | None = None,
        *,
        model_input: ModelInput,
        seed: int,
        training: bool,
        only_dataset: bool = False,
    ) -> None:
        self.name = f"{dataset_name} {split}"
        dataset_class = DATASETS.get(dataset_name)
        augment = training and tsfm_split in (None, "train")
        recipe, tsfm_params = dataset_class.get_recipe(cut), tsfm_params or TransformParams()
        transforms = tsfm_params.resolve(recipe, video_params.input_res, model_input)
        split, held_out = find_held_out(split, val_share, training)
        options = DatasetOptions(
            split=split,
            training=training,
            video=video_params,
            text=text_params,
            ocr=ocr_params,
            reader=reader,
            uses_vision=model_input.uses_vision,
            uses_ocr=model_input.uses_ocr,
            seed=seed,
            sliding_window_stride=-1 if training else sliding_window_stride,
            frame_cache=expand_location(frame_cache) if frame_cache else None,
            val_share=val_share if split == "train" else None,
            held_out=held_out,
        )
        self.dataset: BaseTextVideoDataset = dataset_class(
            data_dir=expand_folder(data_dir),
            options=options,
            transform=ClipTransform(transforms, train=augment),
            metadata_dir=expand_folder(metadata_dir) if metadata_dir else None,
            cut=cut,
            annotation_file=None if training or held_out else annotation_file,
            subsample=subsample,
            ocr_dir=expand_folder(ocr_dir) if ocr_dir else None,
        )
        if augment and transforms.hflip and options.uses_vision and options.uses_ocr:
            raise UserError(f"data_loader.args.tsfm_params.hflip: {FLIP_PROBLEM}")
        self.device_transform = DeviceTransform(transforms)
        dist = get_dist_info()
        self.batch_size = compute_joint_batch_size(
            batch_size, per_gpu_batch_size, dist.world_size, training
        )
        self.sampler = EpochBatches(
            len(self.dataset),
            self.batch_size,
            shuffle and training,
            seed,
            rank=dist.rank,
            num_ranks=dist.world_size,
            share="batch" if training else "epoch",
        )
        if not only_dataset:
            self.collate = Collate.for_model(model_input, text_params.max_tokens, training)
            is_remote = cache_dir is not None and is_url(cache_dir)
            self.dataset.prepare((expand_location if is_remote else get_cache_folder)(cache_dir))
            clip_bytes = video_params.num_frames * 3 * transforms.input_res**2
            clip_bytes *= options.uses_vision
            self._start_loading(num_workers, prefetch_factor, item_timeout, clip_bytes)

    @classmethod
    def find_problems(
        cls, args: Any, wanted: ModelInput, training: bool
    ) -> list[tuple[tuple[str, ...], str]]:
        """Return what in the arguments of a configuration contradicts a model.

        Args:
            args: checked one by one, but not against each other.
            wanted: what the model takes.
            training: whether it is trained on what this loader gives.

        Returns:
            For each problem its place in ``args``, and what to mend.
        """
        name, params = args.dataset_name, args.tsfm_params or TransformParams()
        problems = [
            (("tsfm_params", key), text) for key, text in params.find_contradictions(wanted)
        ]
        augments = training and args.split != "test" and args.tsfm_split in (None, "train")
        if augments and wanted.uses_vision and wanted.uses_ocr and name in DATASETS.names():
            recipe = DATASETS.get(name).get_recipe(args.cut) if wanted.resize is None else TOWER
            if params.flips(recipe):
                problems.append((("tsfm_params", "hflip"), FLIP_PROBLEM))
        return problems

    def _start_loading(
        self, num_workers: int, prefetch_factor: int, item_timeout: float, clip_bytes: int
    ) -> None:
        ranks = get_dist_info().world_size if self.sampler.share == "batch" else 1
        batch_bytes = -(-self.batch_size // ranks) * clip_bytes
        num_workers, prefetch_factor = plan_loading(num_workers, prefetch_factor, batch_bytes)
        dataset = self.dataset  # with self in the lambda, a cycle would keep the loader alive
        self.watch = WorkerWatch(
            num_workers, item_timeout, lambda sample: str(dataset.get_entry(sample).video)
        )
        self.batches = DataLoader(
            _ErrorsAsValues(dataset, self.watch.rows),
            batch_sampler=self.sampler,
            num_workers=num_workers,
            collate_fn=_SharedCollate(self.collate),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            prefetch_factor=prefetch_factor if num_workers else None,
            worker_init_fn=_start_worker,
            multiprocessing_context=make_worker_context() if num_workers else None,
        )

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; raises ``UserError`` for an unreadable sample or a lost worker.

        A signal that asks the run to stop is answered while a batch is waited for.
        """
        with self.watch.guard():
            for batch in wait_for(iter(self.batches)):
                if isinstance(batch, UserError):
                    # A new error: the old one is held by its own traceback's frame, which would
                    # keep the workers alive until the garbage collector, 5 seconds for each.
                    raise UserError(str(batch))
                yield batch

    def set_epoch(self, epoch: int, num_batches: int, first: int = 0) -> None:
        """Choose the epoch that is read next, how many batches it has, and the first to read."""
        self.sampler.epoch, self.sampler.limit, self.sampler.first = epoch, num_batches, first

    @cached_property
    def query_tokens(self) -> list[TokenIds]:
        """The tokens of every caption, in the order of the data set's entries."""
        entries = self.dataset.entries
        return self.collate.tokenize_captions(text for entry in entries for text in entry.captions)

    @cached_property
    def word_tokens(self) -> list[TokenIds] | None:
        """The tokens of each distinct OCR word of all videos; None where the model reads none."""
        if not self.collate.with_words:
            return None
        numbers = show_progress(range(len(self.dataset.entries)), "reading OCR words", " videos")
        return self.collate.tokenize_distinct_words(map(self.dataset.get_words, numbers))

    def get_texts(self, batch: Batch, row: int) -> tuple[list[str], list[str] | None]:
        """Return the queries and the OCR words of a batch's video; see ``Collate.get_texts``."""
        return self.collate.get_texts(batch, row)

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """Return the batch on ``device``, its frames augmented, normalised and float32.

        On a GPU the work is only queued, on the current stream: this loader's batches lie in
        page-locked memory.
        """
        moved = batch.to(device, non_blocking=device.type == "cuda")
        if moved.video is not None:
            # Colours and lengths are read on the CPU: reading them from a GPU would wait for it.
            moved.video = self.device_transform(moved.video, batch.color, batch.num_frames)
        return moved


def find_held_out(split: Split, val_share: float | None, training: bool) -> tuple[Split, bool]:
    """Return the split whose files are read, and whether its held-out part is what is wanted.

    Raises:
        UserError: ``val_share`` with another training split than ``train``.
    """
    if training and val_share is not None and split != "train":
        raise UserError(
            f"data_loader.args.val_share holds a part of the split train out, but split is "
            f'"{split}"; set split to "train", or val_share to null'
        )
    held_out = val_share is not None and split == "val"
    return ("train" if held_out else split), held_out


def compute_joint_batch_size(
    batch_size: int | None, per_gpu: int | None, num_ranks: int, training: bool
) -> int:
    """Return the videos of a batch over all processes; 1 where neither number is given.

    In training the processes share a batch, otherwise each takes complete ones. Raises
    ``UserError`` where both numbers are given, or the processes can't have equal shares.
    """
    if batch_size is not None and per_gpu is not None:
        raise UserError(
            f"data_loader.args: batch_size {batch_size} and per_gpu_batch_size {per_gpu}: "
            "set one of them to null"
        )
    if per_gpu is not None:
        return per_gpu * num_ranks if training else per_gpu
    size = 1 if batch_size is None else batch_size
    if training and size % num_ranks:
        next_size = -(-size // num_ranks) * num_ranks
        raise UserError(
            f"data_loader.args.batch_size: {size} is the batch of all GPUs and does not divide by "
            f"{num_ranks}; take {next_size}, or set per_gpu_batch_size"
        )
    return size


class _ErrorsAsValues(Dataset):
    """Returns user errors as values; raised in a worker they would arrive as a traceback's text."""

    def __init__(self, dataset: BaseTextVideoDataset, rows: Tensor) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample | UserError:
        try:
            with record_sample(self.rows, key.index):
                return self.dataset[key]
        except UserError as error:
            return UserError(str(error))


class _SharedCollate:
    """Makes batches, and puts them where the main process can read them."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Sample | UserError]) -> Batch | UserError:
        batch = self.collate(samples)
        if get_worker_info() is None or isinstance(batch, UserError):
            return batch
        return share_batch(batch)


def expand_folder(name: str) -> Path:
    """Return the folder that a configuration names; environment variables are expanded."""
    return Path(os.path.expandvars(name)).expanduser()


def _start_worker(worker: int) -> None:
    """Keep a worker to one core, as the workers are the parallelism; the main process ends it."""
    torch.set_num_threads(1)
    obey_only_parent()
    end_with_parent()
