"""The files of a frame cache. In its folder there is one store for each use and size of frames:

    TextVR-train-242x242-4f/
      cache.json     which frames these are, and how they are kept
      00000.bin      a shard: the frames of some videos, as JPEG files or as uint8 (3, h, w)
      00000.json     its index, with checksums; written last, so a shard counts once it is there

What a store holds of a video is that of the last shard that names it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from utils.errors import UserError
from utils.files import write_json

MANIFEST = "cache.json"
_VERSION = 1
_BLOCK = 1 << 20  # bytes read at a time

Use = Literal["train", "test"]


@dataclass(frozen=True)
class Wanted:
    """Which frames a loader wants: what decides whether a store is of use to it.

    Attributes:
        dataset: name of the data set.
        use: train: candidates to draw from; test: the frames of "uniform" alone.
        size: what frames are first resized to: (height, width), or the shorter side alone.
        antialias: of that resizing.
        num_frames: frames of a clip.
    """

    dataset: str
    use: Use
    size: tuple[int, ...]
    antialias: bool
    num_frames: int

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        size = "x".join(map(str, self.size)) + "-antialias" * self.antialias
        return f"{self.dataset}-{self.use}-{size}-{self.num_frames}f"


@dataclass(frozen=True)
class Kept:
    """How a store keeps frames.

    Attributes:
        format: jpeg, or raw for uint8.
        quality: of JPEG, 1 to 100; None for raw.
        per_interval: most candidates of an interval of a video.
        size: as in ``Wanted``; another one is resized once more when it is read.
    """

    format: Literal["jpeg", "raw"]
    quality: int | None
    per_interval: int
    size: tuple[int, ...]

    def __str__(self) -> str:
        quality = "" if self.quality is None else f" of quality {self.quality}"
        size = "x".join(map(str, self.size))
        return f"{self.format}{quality}, {self.per_interval} candidates an interval, size {size}"


class Stamp(NamedTuple):
    """What tells that a file was changed; -1 where it is missing."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Look at a file; raises ``OSError`` where that can't be done."""
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return cls(-1, -1)
        return cls(found.st_size, found.st_mtime_ns)


class Cached(NamedTuple):
    """What a store holds of one video.

    Attributes:
        shard: the number of the shard.
        stamp: of the video's file when it was read.
        fault: why it could not be read; the rest is empty then.
        num_frames: of the video.
        width: of the video, pixels.
        height: of the video, pixels.
        shape: (height, width) of the kept frames.
        candidates: (K,) int64, the numbers of the kept frames, ascending.
        offsets: (K + 1,) int64, where each begins in the shard; the last one is the end.
    """

    shard: int
    stamp: Stamp
    fault: str | None
    num_frames: int = 0
    width: int = 0
    height: int = 0
    shape: tuple[int, int] = (0, 0)
    candidates: np.ndarray = np.zeros(0, np.int64)
    offsets: np.ndarray = np.zeros(1, np.int64)


class ShardError(UserError):
    """A shard that can't be used; the message names it and the remedy."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}; delete {path.with_suffix('.*')} and run the command that made the "
            "cache again"
        )


class Store:
    """A store that is there.

    Args:
        folder: of the store.

    Attributes:
        wanted: whom it is for.
        kept: how it keeps frames.

    Raises:
        UserError: its ``cache.json`` can't be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            version = found["version"]
            wanted, kept = found["wanted"], found["kept"]
            self.wanted = Wanted(**wanted | {"size": tuple(wanted["size"])})
            self.kept = Kept(**kept | {"size": tuple(kept["size"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}: is damaged; delete the folder and make the cache again"
            ) from error
        if version != _VERSION:
            raise UserError(f"{path}: is of version {version}; delete the folder, make it again")

    @classmethod
    def create(cls, root: Path, wanted: Wanted, kept: Kept) -> "Store":
        """Make a store's folder, or return the one that is there.

        Raises:
            UserError: it is there, and keeps frames in another way.
        """
        folder = root / wanted.name
        if not (folder / MANIFEST).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            parts = {"wanted": asdict(wanted), "kept": asdict(kept)}
            write_json(folder / MANIFEST, {"version": _VERSION} | parts)
        store = cls(folder)
        if store.kept != kept:
            raise UserError(
                f"{folder}: keeps its frames as {store.kept}, and {kept} are asked for; give the "
                "same options or another folder, or delete this one"
            )
        return store

    def shards(self) -> list[int]:
        """Return the numbers of the shards that count."""
        names = (path.stem for path in self.folder.glob("*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def data(self, shard: int) -> Path:
        """Return the file of a shard's frames."""
        return self.folder / f"{shard:05d}.bin"

    def index(self, shard: int) -> Path:
        """Return the file of a shard's index."""
        return self.folder / f"{shard:05d}.json"

    def write_index(self, shard: int, videos: dict[str, Cached], size: int, digest: str) -> None:
        """Write a shard's index: from now on the shard counts.

        Args:
            shard: its number.
            videos: name -> what it holds.
            size: bytes of its data.
            digest: SHA-256 of its data.
        """
        held = {name: _plain(video) for name, video in videos.items()}
        index = {"bytes": size, "sha256": digest, "videos": held}
        write_json(self.index(shard), {"index": index, "sha256": _digest(index)})

    def videos(self) -> dict[str, Cached]:
        """Return what is held of each video; raises ``ShardError``."""
        return {name: held for shard in self.shards() for name, held in self._read(shard)}

    def _read(self, shard: int) -> Iterator[tuple[str, Cached]]:
        index = self._checked_index(shard)
        yield from ((name, _cached(shard, values)) for name, values in index["videos"].items())

    def _checked_index(self, shard: int) -> dict[str, Any]:
        """The index of a shard whose files look whole."""
        path, data = self.index(shard), self.data(shard)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            index = found["index"]
            is_right = found["sha256"] == _digest(index)
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
        index = self._checked_index(shard)
        digest = hashlib.sha256()
        with self.data(shard).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != index["sha256"]:
            raise ShardError(self.data(shard), "differs from its checksum")


def _digest(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()


def _plain(video: Cached) -> dict[str, Any]:
    if video.fault is not None:
        return {"stamp": video.stamp, "fault": video.fault}
    return {
        "stamp": video.stamp,
        "video": [video.num_frames, video.width, video.height],
        "shape": video.shape,
        "candidates": video.candidates.tolist(),
        "offsets": video.offsets.tolist(),
    }


def _cached(shard: int, values: dict[str, Any]) -> Cached:
    stamp = Stamp(*values["stamp"])
    if "fault" in values:
        return Cached(shard, stamp, values["fault"])
    num_frames, width, height = values["video"]
    candidates, offsets = (np.array(values[name], np.int64) for name in ("candidates", "offsets"))
    shape = tuple(values["shape"])
    return Cached(shard, stamp, None, num_frames, width, height, shape, candidates, offsets)
