"""Frames of a cache in the place of the videos'.

Validation and test get the very frames of "uniform": where the cache keeps them raw and at the size
of the test's transforms (the default), bit for bit what the video gives. Training draws as from the
video, with the same numbers, and gets of each interval the candidate nearest to the frame drawn.
The crops of Frozen in Time are drawn from frames whose shorter side is ``center_crop``.

The files of the frames are memory-mapped, so that processes on one machine share them. The videos
need not be there; one that is, and differs from the one that was cached, is an error.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from base.base_dataset import VideoEntry
from data_loader.frame_cache.store import MANIFEST, Cached, Stamp, Store, Wanted
from data_loader.frame_sampling import nearest_candidates
from data_loader.video_base import VideoError, VideoReader
from utils.errors import UserError

if TYPE_CHECKING:
    from data_loader.text_video_dataset import TextVideoDataset

COMMAND = "python -m data_loader.frame_cache -c CONFIG"
_MOST_MAPS = 256  # shards that a process keeps open; each takes a file handle


def video_name(path: Path, data_dir: Path) -> str:
    """Return how a cache names a video: by its path within the data set's folder."""
    return path.relative_to(data_dir).as_posix() if path.is_relative_to(data_dir) else str(path)


def wanted_frames(dataset: "TextVideoDataset") -> Wanted:
    """Return which frames a cache is to hold for a data set.

    Raises:
        UserError: no cache can be of use to it.
    """
    name, options, geometry = type(dataset).__name__, dataset.options, dataset.transform.geometry
    if dataset.images:
        raise UserError(
            f"{name}: reads images, of which no frames are cached; set "
            "data_loader.args.frame_cache to null"
        )
    if not options.training and options.split == "train":
        raise UserError(
            f"{name} train: frames of this split are cached for training alone; set "
            "data_loader.args.frame_cache to null"
        )
    if options.sliding_window_stride > 0:
        raise UserError(
            f"{name}: a sliding window shows frames that no frame cache holds; set "
            "data_loader.args.frame_cache to null, or sliding_window_stride to -1"
        )
    return Wanted(
        dataset=name,
        use="train" if options.training else "test",
        size=tuple(geometry.first_size),
        antialias=geometry.params.antialias,
        num_frames=options.video.num_frames,
    )


def open_frame_cache(dataset: "TextVideoDataset") -> "FrameCache":
    """Open the cache that a data set's options name; errors are those of ``FrameCache``."""
    options = dataset.options
    command = f"{COMMAND} --split {'train' if options.training else options.split}"
    wanted = wanted_frames(dataset)
    return FrameCache(options.frame_cache, wanted, dataset.data_dir, dataset.entries, command)


class FrameCache:
    """The frames of a data set's videos.

    Args:
        root: folder of the cache.
        wanted: which frames.
        data_dir: folder of the data set.
        entries: the videos that will be asked for.
        command: what makes the cache, for messages.

    Raises:
        UserError: there are no such frames, they are damaged, or a video is not among them.
    """

    def __init__(
        self,
        root: Path,
        wanted: Wanted,
        data_dir: Path,
        entries: Sequence[VideoEntry],
        command: str = COMMAND,
    ) -> None:
        self.store = _store(root, wanted, command)
        self.command = command
        self.data_dir = data_dir
        self.num_frames = wanted.num_frames
        self.videos = self.store.videos()
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()
        missing = [entry for entry in entries if self._name(entry) not in self.videos]
        if missing:
            raise UserError(
                f"{self.store.folder}: {len(missing)} of {len(entries)} videos are not in this "
                f"frame cache, the first is {missing[0].video}; add them with: {command}"
            )

    def __getstate__(self) -> dict[str, Any]:
        # To a spawned process: it maps the files itself.
        return self.__dict__ | {"_maps": OrderedDict()}

    @contextmanager
    def open(self, entry: VideoEntry) -> Iterator[VideoReader]:
        """Give the kept frames of a video in the way of a reader.

        Raises:
            VideoError: the video could not be read when the cache was made.
            UserError: the video was changed since.
        """
        held = self.videos[self._name(entry)]
        found = Stamp.of(entry.video)
        if found != held.stamp and found.size >= 0:
            raise UserError(
                f"{entry.video}: was changed after its frames were cached in "
                f"{self.store.folder}; cache them anew with: {self.command}"
            )
        if held.fault is not None:
            remedy = f"replace or re-encode the file, then run: {self.command}"
            raise VideoError(entry.video, held.fault, remedy)
        yield CachedVideo(self, entry.video, held)

    def data(self, shard: int) -> np.ndarray:
        """Return the bytes of a shard's file, memory-mapped."""
        if shard in self._maps:
            self._maps.move_to_end(shard)
        else:
            self._maps[shard] = np.memmap(self.store.data(shard), np.uint8, "r")
            if len(self._maps) > _MOST_MAPS:
                self._maps.popitem(last=False)
        return self._maps[shard]

    def _name(self, entry: VideoEntry) -> str:
        return video_name(entry.video, self.data_dir)


class CachedVideo(VideoReader):
    """One video's kept frames, in the contract of a reader but for what ``frames`` takes.

    ``width`` and ``height`` are those of the video, not of the kept frames.
    """

    name = "frame cache"

    def __init__(self, cache: FrameCache, path: Path, held: Cached) -> None:
        self.path = str(path)
        self.num_frames, self._size = held.num_frames, (held.height, held.width)
        self._cache = cache
        self._held = held

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return kept frames, (F, h, w, 3) uint8: of each interval the nearest to its index.

        Args:
            indices: one frame of each interval, as ``frame_indices`` gives them for clips of the
                cache's ``num_frames``.

        Raises:
            VideoError: a kept frame is damaged.
        """
        held, cache = self._held, self._cache
        indices = np.asarray(indices)
        places = nearest_candidates(held.candidates, indices, cache.num_frames, held.num_frames)
        data = cache.data(held.shard)
        if cache.store.kept.format == "raw":
            block = data[held.offsets[0] : held.offsets[-1]].reshape(-1, 3, *held.shape)
            return block[places].transpose(0, 2, 3, 1)
        parts = [data[held.offsets[place] : held.offsets[place + 1]] for place in places]
        return torch.stack([self._decoded(part) for part in parts]).permute(0, 2, 3, 1).numpy()

    def _decoded(self, part: np.ndarray) -> torch.Tensor:
        """(3, h, w) uint8 of a JPEG file."""
        try:
            return decode_jpeg(torch.from_numpy(np.array(part)), ImageReadMode.RGB)
        except RuntimeError as error:
            path = self._cache.store.data(self._held.shard)
            reason = f"its frames in {path} are damaged"
            raise VideoError(self.path, reason, f"run: {self._cache.command} --verify") from error


def _store(root: Path, wanted: Wanted, command: str) -> Store:
    folder = root / wanted.name
    if not (folder / MANIFEST).is_file():
        others = sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}"))
        raise UserError(
            f"{root}: this frame cache has no {wanted.name} (data set, use, size, frames a clip); "
            f"it has {', '.join(others) or 'nothing'}. Make it with: {command}, or set "
            "data_loader.args.frame_cache to null"
        )
    store = Store(folder)
    if store.wanted != wanted:
        raise UserError(f"{folder}: holds other frames than its name says; delete it")
    return store
