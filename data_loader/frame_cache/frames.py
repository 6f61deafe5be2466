"""Frames of videos, decoded once and read in the videos' place.

A shard's data take their name when they are complete, and its index is written after that: a
process that is killed while it fills a cache loses the shard that it was at, and nothing of it is
ever read.

Validation and test get the very frames of "uniform": where the cache holds them raw and at the size
of the test's transforms (the default), bit for bit what the video gives. Training draws as from the
video, with the same numbers, and gets of each interval the candidate nearest to the frame drawn.
The crops of Frozen in Time are drawn from frames whose shorter side is ``center_crop``.

The files of the frames are memory-mapped, so that processes on one machine share them, or read from
a URL by ranges of bytes. The videos need not be there; one that is, and differs from the one that
was cached, is an error.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from base.base_dataset import VideoEntry
from data_loader.frame_cache.store import (
    MANIFEST,
    CachedVideo,
    FrameSource,
    FrameSpec,
    StorageFormat,
    Store,
    name_video,
    stamp_video,
)
from data_loader.frame_sampling import choose_candidates, find_nearest_candidates
from data_loader.readers.base_reader import VideoError, VideoReader
from data_loader.readers.video_readers import open_video
from data_loader.transforms import resize
from utils.errors import UserError
from utils.processes import RunTasks, map_tasks
from utils.ray_pool import check_shared
from utils.remote_files import Location, join_location

COMMAND = "python -m tools.cache_frames -c CONFIG"
SHARD_BYTES = 10**9  # of a shard, about


@dataclass(frozen=True)
class FillResult:
    """What a cache holds of a data set."""

    store: Store
    num_videos: int
    num_read: int  # videos that were decoded now
    errors: dict[Path, str]  # file -> why it can't be read


def fill_cache(
    dataset: FrameSource,
    root: Path,
    storage: StorageFormat,
    workers: int,
    shard_bytes: int = SHARD_BYTES,
    run: RunTasks | None = None,
) -> FillResult:
    """Store the frames of a data set's videos that a cache lacks, or that were changed since.

    Args:
        workers: processes; as many parts are made of what is missing, at least.
        shard_bytes: how large a shard becomes; a video's frames are never in two of them.
        run: does the work in the place of processes of this machine.

    Raises:
        UserError: the cache is of another kind, or in use; a process died, or the reader's library
            is not installed.
    """
    spec = FrameSpec.of(dataset)
    store = Store.create(root, spec, storage)
    videos = {name_video(entry.video, dataset.data_dir): entry.video for entry in dataset.entries}
    with store.lock():
        store.add_checksums()
        cached = store.read_videos()
        missing = [
            (name, path)
            for name, path in videos.items()
            if name not in cached or not cached[name].is_up_to_date(stamp_video(path))
        ]
        fitting = max(1, shard_bytes // storage.estimate_bytes(spec.num_frames))
        size = min(fitting, -(-len(missing) // workers)) or 1
        parts = [missing[start : start + size] for start in range(0, len(missing), size)]
        first = max(store.list_shards(), default=-1) + 1
        tasks = list(enumerate(parts, first))
        write = partial(
            _write_shards, store, dataset.options.reader, _Shards(shard_bytes, step=len(parts))
        )
        try:
            if run is not None:
                write = partial(_write_elsewhere, [store.folder, dataset.data_dir], write)
            map_tasks(write, tasks, workers, spec.name, unit=" shards", run=run)
        finally:
            store.write_shard_list()
    cached = store.read_videos()
    errors = {path: cached[name].error for name, path in videos.items() if cached[name].error}
    return FillResult(store, len(videos), len(missing), errors)


class _Shards(NamedTuple):
    """How a task's videos become shards: one, or more where they turn out larger than thought."""

    max_bytes: int  # of a shard of more than one video
    step: int  # from the number of one of a task's shards to the next


def _write_elsewhere(paths: list[Path], write: Callable[[Any], None], task: Any) -> None:
    check_shared(paths)  # a machine without the videos would take them all for unreadable
    write(task)


def _write_shards(
    store: Store, reader: str, shards: _Shards, task: tuple[int, list[tuple[str, Path]]]
) -> None:
    """Decode the videos, (name, file), of a task and write them, the first under its number."""
    torch.set_num_threads(1)  # the processes are the parallelism
    number, videos = task
    while videos:
        videos = _write_shard(store, reader, number, shards.max_bytes, videos)
        number += shards.step


def _write_shard(
    store: Store, reader: str, shard: int, max_bytes: int, paths: list[tuple[str, Path]]
) -> list[tuple[str, Path]]:
    """Write the first of some videos, until a shard is full; returns the others."""
    with store.write_shard(shard) as writer:
        for name, path in paths:
            stamp = stamp_video(path)  # before it is read: a change meanwhile is noticed later
            try:
                parts, video = _encode_video(store, reader, path)
            except VideoError as error:
                writer.videos[name] = CachedVideo(shard, stamp, error.reason)
                continue
            if not writer.has_room(parts, max_bytes):
                break  # it is decoded once more, for the next shard
            writer.add(name, parts, stamp=stamp, **video)
    return paths[len(writer.videos) :]


def _encode_video(store: Store, reader: str, path: Path) -> tuple[list[bytes], dict[str, Any]]:
    """The candidates of a video as they are stored, and what ``CachedVideo`` says of them."""
    spec, storage, times = store.spec, store.storage, None
    with open_video(path, reader) as video:
        candidates = choose_candidates(storage.per_interval, spec.num_frames, video.num_frames)
        frames = torch.from_numpy(video.frames(candidates)).permute(0, 3, 1, 2)
        facts = {name: getattr(video, name) for name in ("num_frames", "width", "height")}
        with suppress(VideoError):  # a file may show frames and not tell their times
            times = tuple(video.times()[candidates].tolist())
    frames = resize(frames, storage.size, spec.antialias, spec.interpolation)  # (K, 3, h, w)
    frames = frames.contiguous()
    if storage.format == "jpeg":
        encoded = [encode_jpeg(frame, storage.quality) for frame in frames]
    else:
        encoded = list(frames)
    parts = [part.numpy().tobytes() for part in encoded]
    shape = tuple(frames.shape[2:])
    return parts, facts | {"shape": shape, "candidates": candidates, "times": times}


class FrameCache:
    """The frames of a data set's videos, from the cache that its options name.

    Raises:
        UserError: no cache can hold such frames, or this one does not; they are damaged, or a video
            is not among them.
    """

    def __init__(self, dataset: FrameSource) -> None:
        options = dataset.options
        self.command = f"{COMMAND} --split {options.use}"
        self.data_dir = dataset.data_dir
        self.store = _open_store(options.frame_cache, FrameSpec.of(dataset), self.command)
        self.videos = self.store.read_videos()
        entries = dataset.entries
        missing = [
            entry for entry in entries if name_video(entry.video, self.data_dir) not in self.videos
        ]
        if missing:
            raise UserError(
                f"{self.store.folder}: {len(missing)} of {len(entries)} videos are not in this "
                f"frame cache, the first is {missing[0].video}; add them with: {self.command}"
            )

    @contextmanager
    def open(self, entry: VideoEntry) -> Iterator[VideoReader]:
        """Give the stored frames of a video in the way of a reader.

        Raises:
            VideoError: the video could not be read when the cache was made.
            UserError: the video was changed since.
        """
        cached = self.videos[name_video(entry.video, self.data_dir)]
        stamp = stamp_video(entry.video)
        if stamp != cached.stamp and stamp.size >= 0:
            raise UserError(
                f"{entry.video}: was changed after its frames were cached in "
                f"{self.store.folder}; cache them anew with: {self.command}"
            )
        if cached.error is not None:
            remedy = f"replace or re-encode the file, then run: {self.command}"
            raise VideoError(entry.video, cached.error, remedy)
        yield CachedReader(self, entry.video, cached)


class CachedReader(VideoReader):
    """One video's stored frames, in the contract of a reader but for what ``frames`` takes.

    ``width`` and ``height`` are those of the video, not of the stored frames.
    """

    name = "frame cache"

    def __init__(self, cache: FrameCache, path: Path, cached: CachedVideo) -> None:
        self.path = str(path)
        self.num_frames, self._size = cached.num_frames, (cached.height, cached.width)
        self._cache = cache
        self._cached = cached

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return stored frames, (F, h, w, 3) uint8: of each interval the nearest to its index.

        Args:
            indices: one frame of each interval, as ``frame_indices`` gives them for clips of the
                cache's ``num_frames``.

        Raises:
            VideoError: a stored frame is damaged.
            UserError: at a URL: frames can't be had, or differ from their checksums.
        """
        cached, store = self._cached, self._cache.store
        places = find_nearest_candidates(
            cached.candidates, np.asarray(indices), store.spec.num_frames, cached.num_frames
        )
        parts = store.read_frames(cached, places, self.path)
        if store.storage.format == "raw":
            return np.concatenate(parts).reshape(-1, 3, *cached.shape).transpose(0, 2, 3, 1)
        return torch.stack(list(map(self._decode_jpeg, parts))).permute(0, 2, 3, 1).numpy()

    def _decode_jpeg(self, part: np.ndarray) -> torch.Tensor:
        """(3, h, w) uint8 of a JPEG file."""
        try:
            return decode_jpeg(torch.from_numpy(np.array(part)), ImageReadMode.RGB)
        except RuntimeError as error:
            path = self._cache.store.data_path(self._cached.shard)
            reason = f"its frames in {path} are damaged"
            raise VideoError(self.path, reason, f"run: {self._cache.command} --verify") from error


def _open_store(root: Location, spec: FrameSpec, command: str) -> Store:
    is_remote = isinstance(root, str)
    folder = join_location(root, spec.name)
    try:
        store = Store(folder)
    except FileNotFoundError as error:
        others, remedy = "", f"Make it with: {command}"
        if is_remote:
            remedy += " --out FOLDER, and copy it there"
        else:
            names = sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}"))
            others = f"; it has {', '.join(names) or 'nothing'}"
        raise UserError(
            f"{root}: this frame cache has no {spec.name} (data set, use, size, frames a clip)"
            f"{others}. {remedy}, or set data_loader.args.frame_cache to null"
        ) from error
    if store.spec != spec:
        raise UserError(f"{folder}: holds other frames than its name says; delete it")
    return store
