"""The files of a frame cache. In its folder there is one store for each use and size of frames:

    TextVR-train-242x242-4f/
      cache.json     which frames these are, and how they are stored
      00000.bin      a shard: the frames of some videos, as JPEG files or as uint8 (3, h, w)
      00000.json     its index, with checksums; written last, so a shard counts once it is there

What a store holds of a video is that of the last shard that names it.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from base.base_dataset import VideoEntry
from data_loader.transforms import ClipTransform
from utils.errors import UserError
from utils.files import (
    FileLockedError,
    FileStamp,
    hash_file,
    lock_file,
    remove_temporary_files,
    write_json,
)

MANIFEST = "cache.json"
_VERSION = 1
_LOCK = ".lock"
_WAIT_S = 5.0  # for what a killed command's processes still write
_MISSING = FileStamp(-1, -1)
_NO_CACHE = "set data_loader.args.frame_cache to null"


class FrameSource(Protocol):
    """What a frame cache asks of a data set."""

    entries: Sequence[VideoEntry]
    data_dir: Path
    options: Any  # DatasetOptions, whose module stands above this one
    transform: ClipTransform
    images: bool


@dataclass(frozen=True)
class FrameSpec:
    """The frames that a loader asks for: they decide which store is of use to it."""

    dataset: str
    use: Literal["train", "test"]  # candidates to draw from, or the frames of "uniform" alone
    size: tuple[int, ...]  # after the first resizing: (height, width), or the shorter side alone
    antialias: bool  # of that resizing
    num_frames: int  # of a clip
    interpolation: str = "bilinear"  # of that resizing; manifests of former releases lack it

    @classmethod
    def of(cls, dataset: FrameSource) -> "FrameSpec":
        """Return the frames of a data set; raises ``UserError`` where no cache can hold them."""
        name, options = type(dataset).__name__, dataset.options
        if dataset.images:
            raise UserError(f"{name}: reads images, of which no frames are cached; {_NO_CACHE}")
        if not options.training and options.use == "train":
            raise UserError(
                f"{name} train: frames of this split are cached for training alone; {_NO_CACHE}"
            )
        if options.sliding_window_stride > 0:
            raise UserError(
                f"{name}: a sliding window shows frames that no frame cache holds; {_NO_CACHE}, "
                "or sliding_window_stride to -1"
            )
        geometry = dataset.transform.geometry
        return cls(
            dataset=name,
            use="train" if options.training else "test",
            size=tuple(geometry.first_size),
            antialias=geometry.params.antialias,
            num_frames=options.video.num_frames,
            interpolation=geometry.params.interpolation,
        )

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        size = "x".join(map(str, self.size)) + "-antialias" * self.antialias
        size += "" if self.interpolation == "bilinear" else f"-{self.interpolation}"
        return f"{self.dataset}-{self.use}-{size}-{self.num_frames}f"


@dataclass(frozen=True)
class StorageFormat:
    """How a store holds frames."""

    format: Literal["jpeg", "raw"]  # raw: uint8
    quality: int | None  # of JPEG, 1 to 100
    per_interval: int  # most candidates of an interval of a video
    size: tuple[int, ...]  # as in FrameSpec; another one is resized once more when it is read

    def __str__(self) -> str:
        quality = "" if self.quality is None else f" of quality {self.quality}"
        size = "x".join(map(str, self.size))
        return f"{self.format}{quality}, {self.per_interval} candidates an interval, size {size}"


class CachedVideo(NamedTuple):
    """What a store holds of one video."""

    shard: int
    stamp: FileStamp  # of the video's file when it was read
    error: str | None  # why it could not be read; the rest is empty then
    num_frames: int = 0  # of the video, as the next two
    width: int = 0  # pixels
    height: int = 0
    shape: tuple[int, int] = (0, 0)  # (height, width) of the stored frames
    candidates: np.ndarray = np.zeros(0, np.int64)  # (K,) numbers of the stored frames, ascending
    offsets: np.ndarray = np.zeros(1, np.int64)  # (K + 1,) where each begins in the shard; the end

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the shard's index; ``fault`` is the file format's word."""
        stamp = [self.stamp.size, self.stamp.mtime_ns]
        if self.error is not None:
            return {"stamp": stamp, "fault": self.error}
        return {
            "stamp": stamp,
            "video": [self.num_frames, self.width, self.height],
            "shape": self.shape,
            "candidates": self.candidates.tolist(),
            "offsets": self.offsets.tolist(),
        }

    @classmethod
    def from_json(cls, shard: int, values: dict[str, Any]) -> "CachedVideo":
        """Read what ``to_json`` wrote."""
        stamp = FileStamp(*values["stamp"])
        if "fault" in values:
            return cls(shard, stamp, values["fault"])
        arrays = (np.array(values[name], np.int64) for name in ("candidates", "offsets"))
        return cls(shard, stamp, None, *values["video"], tuple(values["shape"]), *arrays)

    def is_up_to_date(self, stamp: FileStamp) -> bool:
        """Whether a video that has this stamp now needs no reading; one that is gone needs none."""
        return stamp == self.stamp or (stamp == _MISSING and self.error is None)


class ShardError(UserError):
    """A shard that can't be used; the message names it and the remedy."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}; delete {path.with_suffix('.*')} and run the command that made the "
            "cache again"
        )


class Store:
    """A store that is there.

    Attributes:
        folder: of the store.
        spec: which frames it holds.
        storage: how it holds them.

    Raises:
        UserError: its ``cache.json`` can't be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            version = manifest["version"]
            spec, stored = manifest["wanted"], manifest["kept"]
            self.spec = FrameSpec(**spec | {"size": tuple(spec["size"])})
            self.storage = StorageFormat(**stored | {"size": tuple(stored["size"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}: is damaged; delete the folder and make the cache again"
            ) from error
        if version != _VERSION:
            raise UserError(f"{path}: is of version {version}; delete the folder, make it again")

    @classmethod
    def create(cls, root: Path, spec: FrameSpec, storage: StorageFormat) -> "Store":
        """Make a store's folder, or return the one that is there.

        Raises:
            UserError: it is there, and holds frames in another way.
        """
        folder = root / spec.name
        if not (folder / MANIFEST).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            parts = {"wanted": asdict(spec), "kept": asdict(storage)}
            write_json(folder / MANIFEST, {"version": _VERSION} | parts)
        store = cls(folder)
        if store.storage != storage:
            raise UserError(
                f"{folder}: keeps its frames as {store.storage}, and {storage} are asked for; give "
                "the same options or another folder, or delete this one"
            )
        return store

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other commands from writing, and clear what a killed one left half-done.

        Raises:
            UserError: another command is at work.
        """
        deadline = time.monotonic() + _WAIT_S
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(lock_file(self.folder / _LOCK, wait=False))
                    break
                except FileLockedError as error:
                    if time.monotonic() > deadline:
                        raise UserError(
                            f"{self.folder}: another command is making this cache; wait for its end"
                        ) from error
                    time.sleep(0.1)
            remove_temporary_files(self.folder)
            complete = set(map(self.data_path, self.list_shards()))
            for path in set(self.folder.glob("*.bin")) - complete:
                path.unlink()
            yield

    def list_shards(self) -> list[int]:
        """Return the numbers of the shards that count."""
        names = (path.stem for path in self.folder.glob("*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def data_path(self, shard: int) -> Path:
        """Return the file of a shard's frames."""
        return self.folder / f"{shard:05d}.bin"

    def index_path(self, shard: int) -> Path:
        """Return the file of a shard's index."""
        return self.folder / f"{shard:05d}.json"

    def write_index(
        self, shard: int, videos: dict[str, CachedVideo], size: int, sha256: str
    ) -> None:
        """Write the index of a shard, whose data have a size (bytes): from now on it counts."""
        contents = {name: video.to_json() for name, video in videos.items()}
        index = {"bytes": size, "sha256": sha256, "videos": contents}
        write_json(self.index_path(shard), {"index": index, "sha256": _hash_index(index)})

    def read_videos(self) -> dict[str, CachedVideo]:
        """Return what is held of each video; raises ``ShardError``."""
        return {
            name: CachedVideo.from_json(shard, values)
            for shard in self.list_shards()
            for name, values in self._read_index(shard)["videos"].items()
        }

    def _read_index(self, shard: int) -> dict[str, Any]:
        """The index of a shard whose files look whole."""
        path, data = self.index_path(shard), self.data_path(shard)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            index = found["index"]
            is_right = found["sha256"] == _hash_index(index)
        except (ValueError, TypeError, KeyError) as error:
            raise ShardError(path, "is no index of a shard") from error
        if not is_right:
            raise ShardError(path, "differs from its checksum")
        size = data.stat().st_size if data.is_file() else -1
        if size != index["bytes"]:
            reason = "is missing" if size < 0 else f"has {size} bytes, not {index['bytes']}"
            raise ShardError(data, reason)
        return index

    def verify(self, shard: int) -> None:
        """Compare a shard with its checksums; raises ``ShardError``."""
        index = self._read_index(shard)
        if hash_file(self.data_path(shard)) != index["sha256"]:
            raise ShardError(self.data_path(shard), "differs from its checksum")


def name_video(path: Path, data_dir: Path) -> str:
    """Return how a cache names a video: by its path within the data set's folder."""
    return path.relative_to(data_dir).as_posix() if path.is_relative_to(data_dir) else str(path)


def stamp_video(path: Path) -> FileStamp:
    """Return a video's stamp, also of one that is missing; raises ``OSError``."""
    try:
        return FileStamp.of(path)
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING


def _hash_index(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()
