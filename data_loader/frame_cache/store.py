"""The files of a frame cache. In its folder there is one store for each use and size of frames:

    TextVR-train-242x242-4f/
      cache.json     which frames these are, and how they are stored
      00000.bin      a shard: the frames of some videos, as JPEG files or as uint8 (3, h, w)
      00000.json     its index, with checksums; written last, so a shard counts once it is there
      shards.json    the shards that there are, for readers at a URL, where no folder can be listed

What a store holds of a video is that of the last shard that names it. A video's frames lie in one
shard, end to end. The files of a folder are memory-mapped; at a URL the frames that are wanted are
read by ranges of bytes and compared with their checksums.
"""

import hashlib
import json
import math
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import numpy as np

from base.base_dataset import VideoEntry
from data_loader.transforms import ClipTransform
from utils.errors import UserError
from utils.files import (
    FileLockedError,
    FileStamp,
    atomic_write,
    hash_file,
    lock_file,
    remove_temporary_files,
    write_json,
    write_text,
)
from utils.remote_files import Location, RemoteFolder

MANIFEST, SHARD_LIST = "cache.json", "shards.json"
_VERSION = 1
_LOCK = ".lock"
_WAIT_S = 5.0  # for what a killed command's processes still write
_MISSING = FileStamp(-1, -1)
_MAX_MAPS = 256  # shards that a process has open; each takes a file handle
_BLOCK = 16 << 20  # bytes of a shard that are read at a time
_JPEG_SHARE = 1 / 6  # of the bytes of raw frames, about
_WIDE = 16 / 9  # the longer side of a frame of which only the shorter one is set
_COMMAND = "python -m tools.cache_frames"
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

    def estimate_bytes(self, num_frames: int) -> int:
        """Return about how much is stored of a video, for clips of ``num_frames``."""
        area = math.prod(self.size) if len(self.size) == 2 else self.size[0] ** 2 * _WIDE
        share = _JPEG_SHARE if self.format == "jpeg" else 1
        return max(1, round(3 * area * share * self.per_interval * num_frames))


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
    checksums: tuple[int, ...] | None = None  # (K,) CRC-32 of each; None: of a former release
    times: tuple[float, ...] | None = None  # (K,) seconds from the first frame; None: unknown

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
            "crc32": self.checksums,
            "times": self.times,
        }

    @classmethod
    def from_json(cls, shard: int, values: dict[str, Any], is_raw: bool) -> "CachedVideo":
        """Read what ``to_json`` wrote; raises ``ValueError``, ``TypeError`` or ``KeyError``."""
        stamp = FileStamp(*values["stamp"])
        if "fault" in values:
            return cls(shard, stamp, values["fault"])
        candidates, offsets = (
            np.array(values[name], np.int64) for name in ("candidates", "offsets")
        )
        checksums, times = (
            None if values.get(name) is None else tuple(values[name]) for name in ("crc32", "times")
        )
        (height, width), (num_frames, *size) = values["shape"], values["video"]
        sizes = np.diff(offsets)
        counts = {len(part) for part in (candidates, sizes, checksums, times) if part is not None}
        wrong = (sizes != 3 * height * width) if is_raw else (sizes < 1)
        if len(counts) > 1 or 0 in counts or offsets[0] < 0 or wrong.any():
            raise ValueError("frames, their places and checksums do not fit together")
        facts = (num_frames, *size, (height, width), candidates, offsets, checksums, times)
        return cls(shard, stamp, None, *facts)

    def is_up_to_date(self, stamp: FileStamp) -> bool:
        """Whether a video that has this stamp now needs no reading; one that is gone needs none."""
        return stamp == self.stamp or (stamp == _MISSING and self.error is None)


class ShardError(UserError):
    """A shard that can't be used; the message names it and the remedy."""

    def __init__(self, path: Path | str, reason: str) -> None:
        files = str(path).rpartition(".")[0] + ".*"
        remedy = f"delete {files} and run the command that made the cache again"
        if isinstance(path, str):
            remedy = f"copy {files} there again"
        super().__init__(f"{path}: {reason}; {remedy}")


class LocalShards:
    """The files of a store in a folder; those of the frames are memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # To a spawned process: it maps the files itself.
        return self.__dict__ | {"_maps": OrderedDict()}

    def name_file(self, name: str) -> Path:
        """Return how messages call a file."""
        return self.folder / name

    def read_file(self, name: str) -> bytes:
        """Read a whole file."""
        return (self.folder / name).read_bytes()

    def read_files(self, names: Sequence[str]) -> Iterable[bytes]:
        """Read whole files."""
        return map(self.read_file, names)

    def list_shards(self) -> list[int]:
        """Return the numbers of the shards that count."""
        names = (path.stem for path in self.folder.glob("*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def check_data(self, sizes: dict[str, int]) -> None:
        """Raise ``ShardError`` where a file of frames has another size than its index says."""
        for name, size in sizes.items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else -1
            if found != size:
                reason = "is missing" if found < 0 else f"has {found} bytes, not {size}"
                raise ShardError(path, reason)

    def read_frames(
        self, name: str, cached: CachedVideo, places: Sequence[int], video: str
    ) -> list[np.ndarray]:
        """Return the bytes of some of a video's frames, each as (bytes,) uint8."""
        data, offsets = self._map(name), cached.offsets
        return [data[offsets[place] : offsets[place + 1]] for place in places]

    def hash_data(self, name: str, size: int) -> str:
        """Return the SHA-256 of a file of frames."""
        return hash_file(self.folder / name)

    def _map(self, name: str) -> np.ndarray:
        if name in self._maps:
            self._maps.move_to_end(name)
        else:
            mapped = np.memmap(self.folder / name, np.uint8, "r")
            self._maps[name] = mapped.view(np.ndarray)  # whose slices take less time
            if len(self._maps) > _MAX_MAPS:
                self._maps.popitem(last=False)
        return self._maps[name]


class RemoteShards(RemoteFolder):
    """The files of a store at a URL."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "a frame cache at a URL")

    def list_shards(self) -> list[int]:
        """Return the numbers of the shards that the list names."""
        url = self.name_file(SHARD_LIST)
        try:
            content = self.read_file(SHARD_LIST)
        except FileNotFoundError as error:
            raise UserError(
                f"{url}: is missing: this frame cache is not complete, or a former release made "
                f"it; run {_COMMAND} on it once more, and copy it there again"
            ) from error
        try:
            return [int(number) for number in json.loads(content)["shards"]]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{url}: is no list of shards; copy it there again") from error

    def check_data(self, sizes: dict[str, int]) -> None:
        """Check the first file of frames, and that ranges of it can be had.

        A look at each would be a request each; another that is cut short is seen when it is read.
        """
        for name, size in [item for item in sizes.items() if item[1]][:1]:
            self.check_ranges(name, size)

    def read_frames(
        self, name: str, cached: CachedVideo, places: Sequence[int], video: str
    ) -> list[np.ndarray]:
        """Return the bytes of some of a video's frames, each as (bytes,) uint8."""
        if cached.checksums is None:
            raise UserError(
                f"{self.name_file(name)}: its index has no checksums of frames, for a former "
                f"release made it; run {_COMMAND} on it once more, and copy it there again"
            )
        wanted = sorted({int(place) for place in places})
        spans = [(int(cached.offsets[k]), int(cached.offsets[k + 1])) for k in wanted]
        checksums = [cached.checksums[k] for k in wanted]
        parts = self.read_ranges(name, spans, checksums, f"the frames of {video}")
        found = {k: np.frombuffer(part, np.uint8) for k, part in zip(wanted, parts, strict=True)}
        return [found[int(place)] for place in places]

    def hash_data(self, name: str, size: int) -> str:
        """Return the SHA-256 of a file of frames, all of which is read."""
        digest = hashlib.sha256()
        for start in range(0, size, _BLOCK):
            digest.update(self.read_range(name, (start, min(start + _BLOCK, size))))
        return digest.hexdigest()


class ShardWriter:
    """A shard that is being written.

    Attributes:
        videos: what it holds so far.
        size: of its frames, bytes.
        sha256: of its frames.
    """

    def __init__(self, shard: int, file: BinaryIO) -> None:
        self.shard = shard
        self.videos: dict[str, CachedVideo] = {}
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._file = file

    def has_room(self, parts: Sequence[bytes], max_bytes: int) -> bool:
        """Whether frames fit; there is always room for the first video."""
        return self.size == 0 or self.size + sum(map(len, parts)) <= max_bytes

    def add(self, name: str, parts: Sequence[bytes], **facts: Any) -> None:
        """Add a video's frames; ``facts`` are fields of ``CachedVideo``."""
        offsets = self.size + np.cumsum([0, *map(len, parts)])
        for part in parts:
            self._file.write(part)
            self.sha256.update(part)
        self.size = int(offsets[-1])
        places = {"offsets": offsets, "checksums": tuple(map(zlib.crc32, parts))}
        self.videos[name] = CachedVideo(self.shard, error=None, **places, **facts)


class Store:
    """A store that is there.

    Attributes:
        folder: of the store, or its URL.
        spec: which frames it holds.
        storage: how it holds them.

    Raises:
        FileNotFoundError: there is none.
        UserError: its ``cache.json`` can't be used.
    """

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self.files = RemoteShards(folder) if isinstance(folder, str) else LocalShards(folder)
        path, content = self.files.name_file(MANIFEST), self.files.read_file(MANIFEST)
        try:
            manifest = json.loads(content)
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
        return self.files.list_shards()

    def data_path(self, shard: int) -> Path:
        """Return the file of a shard's frames."""
        return self.files.name_file(_name_data(shard))

    def index_path(self, shard: int) -> Path:
        """Return the file of a shard's index."""
        return self.files.name_file(_name_index(shard))

    @contextmanager
    def write_shard(self, shard: int) -> Iterator["ShardWriter"]:
        """Write a shard, which counts when the ``with`` block has succeeded, or not at all."""
        with atomic_write(self.data_path(shard), durable=True) as temporary:
            with temporary.open("wb") as file:
                writer = ShardWriter(shard, file)
                yield writer
        self.write_index(shard, writer.videos, writer.size, writer.sha256.hexdigest())

    def write_index(
        self, shard: int, videos: dict[str, CachedVideo], size: int, sha256: str
    ) -> None:
        """Write the index of a shard, whose data have a size (bytes): from now on it counts."""
        contents = {name: video.to_json() for name, video in videos.items()}
        index = {"bytes": size, "sha256": sha256, "videos": contents}
        text = json.dumps({"index": index, "sha256": _hash_index(index)})
        write_text(self.index_path(shard), f"{text}\n", durable=True)

    def write_shard_list(self) -> None:
        """Write which shards there are, for those who can't list the folder."""
        write_json(self.folder / SHARD_LIST, {"shards": self.list_shards()})

    def add_checksums(self) -> None:
        """Add the frames' checksums to indexes of a former release; raises ``ShardError``."""
        for shard, index in self._read_indexes(self.list_shards()):
            videos = self._parse_videos(shard, index)
            if all(video.checksums or video.error for video in videos.values()):
                continue
            self.verify(shard)
            for name, video in videos.items():
                if video.error is None:
                    parts = self.read_frames(video, range(len(video.candidates)), name)
                    videos[name] = video._replace(checksums=tuple(map(zlib.crc32, parts)))
            self.write_index(shard, videos, index["bytes"], index["sha256"])

    def read_videos(self) -> dict[str, CachedVideo]:
        """Return what is held of each video; raises ``ShardError`` or ``RemoteError``."""
        found, sizes = {}, {}
        for shard, index in self._read_indexes(self.list_shards()):
            sizes[_name_data(shard)] = index["bytes"]
            found |= self._parse_videos(shard, index)
        self.files.check_data(sizes)
        return found

    def read_frames(
        self, cached: CachedVideo, places: Sequence[int], video: str
    ) -> list[np.ndarray]:
        """Return the bytes of some of a video's frames, each as (bytes,) uint8.

        Args:
            places: in ``cached.candidates``.
            video: its name, for messages.

        Raises:
            UserError: at a URL: they can't be had, or differ from their checksums. Those in a
                folder are compared by ``verify``.
        """
        return self.files.read_frames(_name_data(cached.shard), cached, places, video)

    def verify(self, shard: int) -> None:
        """Compare a shard with its checksums; raises ``ShardError`` or ``RemoteError``."""
        ((_, index),) = self._read_indexes([shard])
        name = _name_data(shard)
        self.files.check_data({name: index["bytes"]})
        if self.files.hash_data(name, index["bytes"]) != index["sha256"]:
            raise ShardError(self.files.name_file(name), "differs from its checksum")

    def _read_indexes(self, shards: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each shard's number and its index."""
        try:
            contents = self.files.read_files(list(map(_name_index, shards)))
            for shard, content in zip(shards, contents, strict=True):
                yield shard, self._parse_index(shard, content)
        except FileNotFoundError as error:  # between the list and now, or of a copy
            raise UserError(
                f"{self.folder}: the index of a shard is missing ({error}); copy the cache again"
            ) from error

    def _parse_index(self, shard: int, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
            index = found["index"]
            is_right = found["sha256"] == _hash_index(index)
        except (ValueError, TypeError, KeyError) as error:
            raise ShardError(self.index_path(shard), "is no index of a shard") from error
        if not is_right:
            raise ShardError(self.index_path(shard), "differs from its checksum")
        return index

    def _parse_videos(self, shard: int, index: dict[str, Any]) -> dict[str, CachedVideo]:
        is_raw = self.storage.format == "raw"
        try:
            return {
                name: CachedVideo.from_json(shard, values, is_raw)
                for name, values in index["videos"].items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ShardError(self.index_path(shard), f"is no index ({error})") from error


def _name_data(shard: int) -> str:
    return f"{shard:05d}.bin"


def _name_index(shard: int) -> str:
    return f"{shard:05d}.json"


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
