"""Decode videos once, and keep candidate frames of each in shards.

A shard's frames are written to a temporary file, which is renamed, and its index after that: a
process that is killed loses the shards that it was at, and nothing of them is ever read.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torchvision.io import encode_jpeg

from data_loader.frame_cache.store import Cached, Stamp, Store
from data_loader.frame_sampling import candidate_indices
from data_loader.inspection.pool import run_all
from data_loader.transforms import resize
from data_loader.video_reader import VideoError, open_video
from utils.errors import UserError

SHARD_VIDEOS = 64
_LOCK = ".lock"
_WAIT_S = 5.0  # for what a killed command's processes still write


@dataclass(frozen=True)
class ShardTask:
    """What one shard is to hold.

    Attributes:
        folder: of the store.
        shard: its number.
        videos: name and file.
        reader: name of the video reader.
    """

    folder: Path
    shard: int
    videos: tuple[tuple[str, Path], ...]
    reader: str


@contextmanager
def sole_maker(store: Store) -> Iterator[None]:
    """Keep other commands from writing to a store, and clear what a killed one left half-done.

    Raises:
        UserError: another command is at work.
    """
    import fcntl

    with (store.folder / _LOCK).open("w") as file:
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{store.folder}: another command is making this cache; wait for its end"
                    ) from error
                time.sleep(0.1)
        listed = set(map(store.data, store.shards()))
        for path in (*store.folder.glob(".*.tmp"), *store.folder.glob("*.bin")):
            if path not in listed:
                path.unlink()
        yield


def due_videos(store: Store, videos: dict[str, Path]) -> dict[str, Path]:
    """Return the videos that the store lacks, or that were changed since."""
    held = store.videos()
    return {
        name: path
        for name, path in videos.items()
        if name not in held or Stamp.of(path) not in (held[name].stamp, _if_kept(held[name]))
    }


def _if_kept(held: Cached) -> Stamp | None:
    """A video that is gone needs no new frames where the store has them."""
    return Stamp(-1, -1) if held.fault is None else None


def make(store: Store, videos: dict[str, Path], reader: str, workers: int, label: str) -> None:
    """Decode videos in several processes and add their frames to the store.

    Args:
        store: of a ``sole_maker``.
        videos: name -> file.
        reader: name of the video reader.
        workers: processes.
        label: the progress bar's title.

    Raises:
        UserError: a process died, or the reader's library is not installed.
    """
    items = list(videos.items())
    size = min(SHARD_VIDEOS, -(-len(items) // workers)) or 1
    number = max(store.shards(), default=-1) + 1
    tasks = [
        ShardTask(store.folder, number + place, tuple(items[start : start + size]), reader)
        for place, start in enumerate(range(0, len(items), size))
    ]
    run_all(make_shard, tasks, workers, label, unit=" shards")


def make_shard(task: ShardTask) -> None:
    """Decode the videos of a shard and write it."""
    torch.set_num_threads(1)  # the processes are the parallelism
    store = Store(task.folder)
    path = store.data(task.shard)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    digest = hashlib.sha256()
    videos = {}
    try:
        with temporary.open("wb") as file:
            for name, video in task.videos:
                videos[name] = _add(store, file, digest, task, video)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    store.write_index(task.shard, videos, size, digest.hexdigest())


def _add(
    store: Store, file: BinaryIO, digest: "hashlib._Hash", task: ShardTask, path: Path
) -> Cached:
    """Write a video's candidates behind the others."""
    stamp = Stamp.of(path)  # before it is read: a change meanwhile is noticed later
    try:
        with open_video(path, task.reader) as video:
            candidates = candidate_indices(
                store.kept.per_interval, store.wanted.num_frames, video.num_frames
            )
            frames = torch.from_numpy(video.frames(candidates)).permute(0, 3, 1, 2)
            facts = video.num_frames, video.width, video.height
    except VideoError as error:
        return Cached(task.shard, stamp, error.reason)
    frames = resize(frames, store.kept.size, store.wanted.antialias)
    parts = [_encoded(frame, store) for frame in frames]
    offsets = file.tell() + np.cumsum([0, *map(len, parts)])
    for part in parts:
        file.write(part)
        digest.update(part)
    return Cached(task.shard, stamp, None, *facts, tuple(frames.shape[2:]), candidates, offsets)


def _encoded(frame: torch.Tensor, store: Store) -> bytes:
    """A frame (3, h, w) as the store keeps it."""
    frame = frame.contiguous()
    if store.kept.format == "jpeg":
        frame = encode_jpeg(frame, store.kept.quality)
    return frame.numpy().tobytes()
