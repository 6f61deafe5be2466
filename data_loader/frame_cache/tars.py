"""Frame caches as webdataset tars, one sample a video, and back.

    000000012.frames.npy     raw: (K, height, width, 3) uint8, the stored frames
    000000012.000.jpg …      JPEG: the stored frames, one file each
    000000012.json           name, id, captions, words; numbers and times of the frames; the cache
    000000012.txt            the first caption, where there is one
    000000012.ocr.json       the OCR document, where there is one

What is read of such tars goes through ``data_loader/tar_samples.py``: nothing in them is executed.
"""

import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from base.base_dataset import VideoEntry
from data_loader.frame_cache.frames import SHARD_BYTES, FrameCache
from data_loader.frame_cache.store import CachedVideo, FrameSpec, StorageFormat, Store, name_video
from data_loader.ocr.ocr_words import MAX_BYTES
from data_loader.tar_samples import TarReadError, TarSample, read_tar_samples
from utils.errors import UserError
from utils.files import FileStamp, atomic_write, read_bytes
from utils.optional import import_optional

# What wrong values of JSON raise where they are taken for others.
_WRONG = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass
class TarResult:
    """What was written of a cache, or read into one.

    Attributes:
        folder: that was written to.
        num_videos: that were written.
        num_known: that were there before.
        errors: of what was left out, a line each.
    """

    folder: Path
    num_videos: int = 0
    num_known: int = 0
    errors: list[str] = field(default_factory=list)


def export_tars(dataset: Any, root: Path, shard_bytes: int = SHARD_BYTES) -> TarResult:
    """Write a data set's cached frames, captions and OCR documents as ``NAME/00000.tar`` and so on.

    A tar takes its name when it is complete; those of a former export are written over.

    Args:
        dataset: a ``TextVideoDataset`` that reads a frame cache.
        shard_bytes: how large a tar becomes.

    Raises:
        UserError: frames can't be had, or webdataset is not installed.
    """
    cache: FrameCache = dataset.frame_cache
    writer = import_optional("webdataset", "writing webdataset tars").TarWriter
    result = TarResult(root / cache.store.spec.name)
    result.folder.mkdir(parents=True, exist_ok=True)
    samples = _make_samples(dataset, cache, result)
    first, number = next(samples, None), 0
    while first is not None:
        with atomic_write(result.folder / f"{number:05d}.tar") as temporary:
            with temporary.open("wb") as file, writer(file, encoder=False, mtime=0) as tar:
                tar.write(first)
                result.num_videos += 1
                for first in samples:  # the one that opens the next tar
                    size = sum(map(len, first.values()))
                    if file.tell() + size > shard_bytes:
                        break
                    tar.write(first)
                    result.num_videos += 1
                else:
                    first = None
        number += 1
    return result


def _make_samples(dataset: Any, cache: FrameCache, result: TarResult) -> Iterator[dict[str, Any]]:
    for index, entry in enumerate(dataset.entries):
        cached = cache.videos[name_video(entry.video, cache.data_dir)]
        if cached.error is not None:
            result.errors.append(f"{entry.video}: {cached.error}")
            continue
        yield _make_sample(f"{index:09d}", dataset, index, entry, cache, cached)


def _make_sample(
    key: str, dataset: Any, index: int, entry: VideoEntry, cache: FrameCache, cached: CachedVideo
) -> dict[str, Any]:
    store, name = cache.store, name_video(entry.video, cache.data_dir)
    parts = store.read_frames(cached, range(len(cached.candidates)), str(entry.video))
    sample: dict[str, Any] = {"__key__": key}
    if store.storage.format == "raw":
        frames = np.stack(parts).reshape(-1, 3, *cached.shape).transpose(0, 2, 3, 1)
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(frames), allow_pickle=False)
        sample["frames.npy"] = buffer.getvalue()
    else:
        sample |= {f"{number:03d}.jpg": part.tobytes() for number, part in enumerate(parts)}
    facts = {
        "name": name,
        "id": entry.id,
        "captions": list(entry.captions),
        "category": entry.category,
        "words": dataset.get_words(index),
        "num_frames": cached.num_frames,
        "width": cached.width,
        "height": cached.height,
        "frames": cached.candidates.tolist(),
        "times": cached.times,
        "stamp": [cached.stamp.size, cached.stamp.mtime_ns],
        "cache": {"wanted": asdict(store.spec), "kept": asdict(store.storage)},
    }
    sample["json"] = json.dumps(facts).encode()
    if entry.captions:
        sample["txt"] = entry.captions[0].encode("utf-8", "replace")
    if entry.ocr is not None and entry.ocr.is_file():
        sample["ocr.json"] = read_bytes(entry.ocr, MAX_BYTES)
    return sample


def import_tars(
    spec: FrameSpec, tars: Sequence[str], root: Path, shard_bytes: int = SHARD_BYTES
) -> TarResult:
    """Read tars of ``export_tars`` into a frame cache; what it holds already stays.

    Samples that can't be used are left out and told; of a tar that is cut short, what comes after.

    Args:
        spec: of the frames that are wanted; samples of others are left out.
        tars: files or URLs.

    Raises:
        UserError: the cache is of another kind or in use, or none of the samples can be used.
    """
    result = TarResult(root / spec.name)
    videos = _read_videos(spec, tars, result)
    first = next(videos, None)
    if first is None:
        listed = "\n  ".join(result.errors[:10])
        raise UserError(f"{tars[0]}: no sample holds {spec.name}\n  {listed}")
    store = Store.create(root, spec, first.storage)
    with store.lock():
        known = store.read_videos()
        new = _skip_known(chain([first], videos), known, store.storage, result)
        shard = max(store.list_shards(), default=-1) + 1
        video = next(new, None)
        try:
            while video is not None:
                with store.write_shard(shard) as writer:
                    while video is not None and writer.has_room(video.parts, shard_bytes):
                        writer.add(video.name, video.parts, **video.facts)
                        result.num_videos += 1
                        video = next(new, None)
                shard += 1
        finally:
            store.write_shard_list()
    return result


@dataclass
class _Video:
    """A sample of a tar that can be stored."""

    name: str
    storage: StorageFormat
    parts: list[bytes]
    facts: dict[str, Any]


def _skip_known(
    videos: Iterable[_Video],
    known: dict[str, CachedVideo],
    storage: StorageFormat,
    result: TarResult,
) -> Iterator[_Video]:
    for video in videos:
        if video.storage != storage:
            result.errors.append(f"{video.name}: is kept as {video.storage}, not {storage}")
        elif video.name in known and known[video.name].stamp == video.facts["stamp"]:
            result.num_known += 1
        else:
            yield video


def _read_videos(spec: FrameSpec, tars: Sequence[str], result: TarResult) -> Iterator[_Video]:
    for tar in tars:
        try:
            for sample in read_tar_samples(tar):
                try:
                    yield _parse_sample(spec, sample)
                except _WRONG as error:
                    reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
                    result.errors.append(f"{tar}, {sample.key}: {reason}")
        except TarReadError as error:
            result.errors.append(str(error))


def _parse_sample(spec: FrameSpec, sample: TarSample) -> _Video:
    """Read a sample; raises one of ``_WRONG``."""
    if sample.problem is not None:
        raise ValueError(sample.problem)
    facts = json.loads(sample.fields["json"])
    wanted, kept = (facts["cache"][name] for name in ("wanted", "kept"))
    found = FrameSpec(**wanted | {"size": tuple(wanted["size"])})
    if found != spec:
        raise ValueError(f"holds {found.name}, not {spec.name}")
    storage = StorageFormat(**kept | {"size": tuple(kept["size"])})
    candidates = np.array(facts["frames"], np.int64)
    if storage.format == "raw":
        frames = parse_frames(sample.fields["frames.npy"], len(candidates))
        shape, parts = frames.shape[1:3], [frame.transpose(2, 0, 1).tobytes() for frame in frames]
    else:
        parts = [sample.fields[f"{number:03d}.jpg"] for number in range(len(candidates))]
        shape = _read_jpeg_shape(parts)
    values = {
        "stamp": FileStamp(*map(int, facts["stamp"])),
        "num_frames": int(facts["num_frames"]),
        "width": int(facts["width"]),
        "height": int(facts["height"]),
        "shape": tuple(map(int, shape)),
        "candidates": candidates,
        "times": None if facts["times"] is None else tuple(map(float, facts["times"])),
    }
    in_order = (np.diff(candidates) > 0).all() and 0 <= candidates[0]
    if not in_order or candidates[-1] >= values["num_frames"]:
        raise ValueError("its frames' numbers do not ascend within the video")
    if values["times"] is not None and len(values["times"]) != len(candidates):
        raise ValueError("its frames and times differ in number")
    return _Video(str(facts["name"]), storage, parts, values)


def parse_frames(content: bytes, count: int) -> np.ndarray:
    """Read a .npy file of frames, (count, height, width, 3) uint8; raises ``ValueError``."""
    buffer = io.BytesIO(content)
    version = np.lib.format.read_magic(buffer)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(version)
    if read is None:
        raise ValueError(f"its frames.npy is of version {version}, not (1, 0)")
    shape, is_fortran, dtype = read(buffer)
    size = len(content) - buffer.tell()
    fits = len(shape) == 4 and (shape[0], shape[3]) == (count, 3) and math.prod(shape) == size
    if is_fortran or dtype != np.uint8 or not fits or count < 1:
        raise ValueError(f"its frames.npy holds {dtype} {shape}, not {count} uint8 RGB images")
    return np.frombuffer(content, np.uint8, offset=buffer.tell()).reshape(shape)


def _read_jpeg_shape(parts: Sequence[bytes]) -> tuple[int, int]:
    from PIL import Image, UnidentifiedImageError

    try:
        images = [Image.open(io.BytesIO(part), formats=["JPEG"]) for part in parts]
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"its frames are no JPEG images ({error})") from error
    sizes = {image.size for image in images}
    if len(sizes) != 1:
        raise ValueError("its frames are not all of one size")
    ((width, height),) = sizes
    return height, width
