"""Whether a data set's videos are there, whole and, on demand, can be decoded."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.base_dataset import BaseTextVideoDataset
from data_loader.frame_sampling import frame_indices
from data_loader.image_reader import open_image
from data_loader.inspection.documents import Spread
from data_loader.inspection.pool import run_all
from data_loader.video_container import container_fault, file_fault
from data_loader.video_reader import VideoError, VideoReader, open_video

MISSING = "is missing"  # what the container's check says of a file that is not there
_THREADS = 16  # they wait for the disk, or for the network behind it


@dataclass
class VideoFacts:
    """The distinct video files of one split.

    Attributes:
        files: number of them.
        sizes: bytes of each file that is there.
        missing: paths.
        unreadable: path -> what is wrong.
        decoded: what decoding them gave; None: it was not asked for, or could not be done.
    """

    files: int
    sizes: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    decoded: "DecodeFacts | None" = None


@dataclass
class DecodeFacts:
    """What decoding the videos gave.

    Attributes:
        videos: number of those that decode.
        num_frames: of a video.
        width: pixels.
        height: pixels.
        shorter: videos with fewer frames than a clip has.
    """

    videos: int
    num_frames: Spread | None
    width: Spread | None
    height: Spread | None
    shorter: int


class DecodeTask(NamedTuple):
    """A file, the reader to open it with (None: it is an image), and the frames of a clip."""

    path: str
    reader: str | None
    num_frames: int


class Decoded(NamedTuple):
    """A file's number of frames and size, or what is wrong with it."""

    path: str
    num_frames: int = 0
    width: int = 0
    height: int = 0
    fault: str | None = None


def shows_images(dataset: BaseTextVideoDataset) -> bool:
    """Whether clips are single images, in files that are no video containers."""
    return getattr(dataset, "images", False)


def inspect_files(paths: Iterable[Path], images: bool) -> VideoFacts:
    """Look for every file and, unless they are images, at its container."""
    names = sorted(set(map(str, paths)))
    facts = VideoFacts(files=len(names))
    with ThreadPoolExecutor(_THREADS) as pool:
        checked = pool.map(file_fault if images else container_fault, names)
        for name, fault in zip(names, checked, strict=True):
            if fault and fault[0] == MISSING:
                facts.missing.append(name)
                continue
            facts.sizes[name] = _size(name)
            if fault:
                facts.unreadable[name] = fault[0]
    return facts


def decode_videos(
    facts: VideoFacts, reader: str | None, num_frames: int, workers: int, label: str
) -> None:
    """Decode every video that looks whole, and add to ``facts`` what that gives.

    Raises:
        UserError: the reader's library is not installed, or a process died.
    """
    names = [name for name in facts.sizes if name not in facts.unreadable]
    tasks = [DecodeTask(name, reader, num_frames) for name in names]
    results = run_all(decode, tasks, workers, f"{label}: decoding")
    facts.unreadable |= {result.path: result.fault for result in results if result.fault}
    good = [result for result in results if not result.fault]
    facts.decoded = DecodeFacts(
        videos=len(good),
        num_frames=Spread.of(result.num_frames for result in good),
        width=Spread.of(result.width for result in good),
        height=Spread.of(result.height for result in good),
        shorter=sum(result.num_frames < num_frames for result in good),
    )


def decode(task: DecodeTask) -> Decoded:
    """Decode the frames of a clip as validation has them, and the video's first and last frame.

    The last one because training may draw it; most damage shows on the way to it.
    """
    try:
        with _open(task) as video:
            length = video.num_frames
            clip = frame_indices(task.num_frames, length)
            video.frames(np.unique([0, *clip, length - 1]))
            return Decoded(task.path, length, video.width, video.height)
    except VideoError as error:
        return Decoded(task.path, fault=error.reason)


def _open(task: DecodeTask) -> AbstractContextManager[VideoReader]:
    return open_image(task.path) if task.reader is None else open_video(task.path, task.reader)


def _size(name: str) -> int:
    """Bytes of a file; 0 where it is not to be seen."""
    try:
        return os.stat(name).st_size
    except OSError:  # told by its fault
        return 0
