"""Video files of a data set: whether they are there, whole and, on demand, can be decoded."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_loader.data_check.documents import Spread
from data_loader.frame_sampling import sample_frame_indices
from data_loader.readers.base_reader import VideoError
from data_loader.readers.container import check_container, check_file
from data_loader.readers.image_reader import open_image
from data_loader.readers.video_readers import open_video
from utils.processes import map_tasks

MISSING = "is missing"  # what the container's check says of a file that is not there
_THREADS = 16  # they wait for the disk, or for the network behind it


@dataclass
class VideoFacts:
    """The distinct video files of one split."""

    files: int
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of each file that is there
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # path -> what is wrong
    decoded: "DecodeFacts | None" = None  # None: not asked for, or could not be done

    def get_readable_sizes(self) -> dict[str, int]:
        """Return the bytes of each file that can be opened."""
        return {name: size for name, size in self.sizes.items() if name not in self.unreadable}


@dataclass
class DecodeFacts:
    """What decoding the videos gave."""

    videos: int  # that decode
    num_frames: Spread | None
    width: Spread | None  # pixels
    height: Spread | None
    shorter: int  # videos with fewer frames than a clip has
    begun_before: int = 0  # videos that begin with pictures which can't be decoded: left out


class _Decoded(NamedTuple):
    """A file's number of frames and size, or what is wrong with it."""

    path: str
    num_frames: int = 0
    width: int = 0
    height: int = 0
    num_left_out: int = 0
    error: str | None = None


def check_files(paths: Iterable[Path], images: bool) -> VideoFacts:
    """Look for every file and, unless they are images, at its container."""
    names = sorted(set(map(str, paths)))
    facts = VideoFacts(files=len(names))
    with ThreadPoolExecutor(_THREADS) as pool:
        problems = pool.map(check_file if images else check_container, names)
        for name, problem in zip(names, problems, strict=True):
            if problem and problem[0] == MISSING:
                facts.missing.append(name)
                continue
            if problem:
                facts.unreadable[name] = problem[0]
            try:
                facts.sizes[name] = os.path.getsize(name)
            except OSError:  # said by its problem
                facts.sizes[name] = 0
    return facts


def decode_videos(
    facts: VideoFacts, reader: str | None, num_frames: int, workers: int, label: str
) -> None:
    """Decode every video that looks whole, and add to ``facts`` what that gives.

    Without a ``reader`` the files are images; ``num_frames`` are those of a clip.

    Raises:
        UserError: the reader's library is not installed, or a process died.
    """
    decode = partial(_decode_video, reader, num_frames)
    results = map_tasks(decode, list(facts.get_readable_sizes()), workers, f"{label}: decoding")
    facts.unreadable |= {result.path: result.error for result in results if result.error}
    good = [result for result in results if not result.error]
    facts.decoded = DecodeFacts(
        videos=len(good),
        num_frames=Spread.of(result.num_frames for result in good),
        width=Spread.of(result.width for result in good),
        height=Spread.of(result.height for result in good),
        shorter=sum(result.num_frames < num_frames for result in good),
        begun_before=sum(result.num_left_out > 0 for result in good),
    )


def _decode_video(reader: str | None, num_frames: int, path: str) -> _Decoded:
    """Decode the frames of a clip as validation has them, and the video's first and last frame.

    The last one because training may draw it; most damage shows on the way to it.
    """
    try:
        with open_image(path) if reader is None else open_video(path, reader) as video:
            length = video.num_frames
            video.frames(np.unique([0, *sample_frame_indices(num_frames, length), length - 1]))
            return _Decoded(path, length, video.width, video.height, video.num_left_out)
    except VideoError as error:
        return _Decoded(path, error=error.reason)
