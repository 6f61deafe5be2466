"""Clips a second of one core's time, from H.264 files to what goes to the device.

    python -m benchmarks.data            # tables
    python -m benchmarks.data --json     # the same as JSON, each round's numbers included

Videos are made on the spot (x264, preset medium, GOP 250, B-frames), then read in turn, in one
process, by the plain path (benchmarks/baseline_data.py: decord, float32 transforms of torchvision),
by ours from the video, and by ours from frame caches, raw and JPEG. Ours ends with uint8 frames and
a colour draw; colours and normalisation are the device's. "video, device part here" does that part
on the same core, too, so ends where the plain path does. Seconds are the processor's, of all
threads (decord decodes in one of its own); the files are in memory. Before anything is timed the
clips are compared: the same to one level of 255, and the same crop for the same draw.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import decord
import numpy as np
import torch

from base.base_model import ModelInput
from base.batch import SampleKey
from benchmarks import baseline_data as plain
from benchmarks import measuring
from benchmarks.inputs import make_video_folder
from data_loader import registrations  # noqa: F401
from data_loader.datasets.text_video_dataset import LoaderVideoParams, TextVideoDataset
from data_loader.frame_cache.frames import fill_cache
from data_loader.frame_cache.store import FrameSpec, StorageFormat
from data_loader.frame_sampling import sample_frame_indices
from data_loader.loader import TextVideoDataLoader
from utils.cli import positive_int, run_cli

VIDEOS = ((640, 360, 0), (640, 360, 3), (320, 180, 0))  # width, height, cuts
NUM_FRAMES, PER_INTERVAL = 4, 4
PLAIN, DECODED, WITH_DEVICE = "plain", "video", "video, device part here"
CACHES = {"cache, raw": ("raw", None), "cache, JPEG": ("jpeg", 95)}  # format, quality
PARTS = ("open", "decode", "transform", "copy")
_LEVEL = 1 / 255

ReadClip = Callable[[int, int], object]  # epoch, video -> a clip
ReadParts = Callable[[int, int], Iterator[None]]  # stops after each of PARTS


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--rounds", type=positive_int, default=7, help="of each path, in turn")
    parser.add_argument("--videos", type=positive_int, default=3, help="of each kind")
    parser.add_argument("--seconds", type=positive_int, default=10, help="of each video")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of the plain path's draws
    decord.logging.set_level(decord.logging.QUIET)
    cases = []
    for width, height, cuts in VIDEOS:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "TextVR"
            make_video_folder(root, width, height, asked.seconds, cuts, asked.videos)
            num_bytes = sum(path.stat().st_size for path in root.glob("Videos/*"))
            rate = num_bytes * 8 / 1000 / (asked.seconds * asked.videos)
            for train in (False, True):
                case = {"video": f"{width}x{height}, {cuts} cuts", "kbit_s": rate}
                case["transforms"] = "training" if train else "test"
                cases.append(case | measure_case(root, train, asked.rounds))
    measuring.write_result(measuring.describe_machine() | {"cases": cases}, asked.json, make_table)


def build_loader(folder: Path, train: bool, cache: Path | None = None) -> TextVideoDataLoader:
    """Build our loader of a folder of ``make_video_folder``."""
    return TextVideoDataLoader(
        "TextVR",
        str(folder),
        video_params=LoaderVideoParams(num_frames=NUM_FRAMES, input_res=plain.RES),
        split="train" if train else "test",
        frame_cache=None if cache is None else str(cache),
        model_input=ModelInput(modalities=("vision",), tokenizer_name=""),
        seed=0,
        training=train,
        only_dataset=True,
    )


def measure_case(folder: Path, train: bool, rounds: int) -> measuring.Result:
    """Compare every path with the plain one, and time it; returns seconds a clip, of each round."""
    ours = build_loader(folder, train)
    assert_equal_frames(ours.dataset, train)
    datasets, spec = {DECODED: ours.dataset}, FrameSpec.of(ours.dataset)
    for name, (kind, quality) in CACHES.items():
        cache = folder.parent / f"{kind}-{train}"
        storage = StorageFormat(kind, quality, PER_INTERVAL if train else 1, spec.size)
        fill_cache(ours.dataset, cache, storage, workers=1)
        datasets[name] = build_loader(folder, train, cache).dataset
    transform, entries = plain.build_transform(train), ours.dataset.entries

    def read_plain(epoch: int, index: int) -> object:
        rng = _make_rng(train, epoch, index)
        return plain.read_clip(entries[index].video, NUM_FRAMES, transform, rng)

    def read_with_device_part(epoch: int, index: int) -> object:
        sample = ours.dataset[SampleKey(epoch, index)]
        color = None if sample.color is None else torch.from_numpy(sample.color)[None]
        return ours.device_transform(sample.frames[None], color, torch.tensor([NUM_FRAMES]))

    def read_from(dataset: TextVideoDataset) -> ReadClip:
        return lambda epoch, index: dataset[SampleKey(epoch, index)]

    reads = {name: read_from(dataset) for name, dataset in datasets.items()}
    reads = {PLAIN: read_plain, DECODED: reads[DECODED], WITH_DEVICE: read_with_device_part} | reads
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    for epoch in range(1, rounds + 2):
        for name, read in reads.items():
            begin = time.process_time()
            for index in range(len(entries)):
                read(epoch, index)
            if epoch > 1:  # the first round warms up
                seconds[name].append((time.process_time() - begin) / len(entries))
    parts = {PLAIN: _time_parts(_read_plain_parts(ours.dataset, train), len(entries), rounds)}
    for name, dataset in datasets.items():
        parts[name] = _time_parts(_read_our_parts(dataset, train), len(entries), rounds)
    return {"seconds": seconds, "parts": parts}


def _make_rng(train: bool, epoch: int, index: int) -> np.random.Generator | None:
    """The generator of a training sample; None in test."""
    return np.random.default_rng((0, epoch, index)) if train else None


def assert_equal_frames(dataset: TextVideoDataset, train: bool) -> None:
    """Assert that the plain path and ours give the same frames, resized and cropped alike."""
    for index, entry in enumerate(dataset.entries):
        rng = _make_rng(train, 1, index)
        if rng is not None:
            rng.integers(len(entry.captions))
        decoded = plain.decode_clip(plain.open_video(entry.video), NUM_FRAMES, rng)
        frames = plain.build_resize(train)(plain.convert_to_float(decoded))
        if rng is not None:
            free = plain.RESIZE_TRAIN - plain.RES
            top, left = rng.integers(0, [free, free], endpoint=True)
            frames = frames[..., top : top + plain.RES, left : left + plain.RES]
        found = dataset[SampleKey(1, index)].frames.float() / 255
        away = float((found - frames).abs().max())
        assert away < 1.01 * _LEVEL, f"{entry.video}: frames differ by {away / _LEVEL} levels"


def _read_plain_parts(dataset: TextVideoDataset, train: bool) -> ReadParts:
    transform = plain.build_transform(train)

    def read(epoch: int, index: int) -> Iterator[None]:
        video = plain.open_video(dataset.entries[index].video)
        yield
        frames = plain.decode_clip(video, NUM_FRAMES, _make_rng(train, epoch, index))
        yield
        transform(plain.convert_to_float(frames))
        yield
        yield  # nothing is copied

    return read


def _read_our_parts(dataset: TextVideoDataset, train: bool) -> ReadParts:
    """Step by step as the data set does it."""

    def read(epoch: int, index: int) -> Iterator[None]:
        rng = _make_rng(train, epoch, index)
        with dataset.open_frames(dataset.entries[index]) as reader:
            yield
            frames = reader.frames(sample_frame_indices(NUM_FRAMES, reader.num_frames, rng=rng))
        yield
        frames, _ = dataset.transform(torch.from_numpy(frames).permute(0, 3, 1, 2), rng)
        yield
        frames.new_zeros(frames.shape)[:] = frames
        yield

    return read


def _time_parts(read: ReadParts, count: int, rounds: int) -> dict[str, list[float]]:
    """The seconds of each part in each round, a clip."""
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for epoch in range(1, rounds + 1):
        points = [
            [time.process_time(), *(time.process_time() for _ in read(epoch, index))]
            for index in range(count)
        ]
        for part, seconds in zip(PARTS, np.diff(points).mean(axis=0).tolist(), strict=True):
            found[part].append(seconds)
    return found


def make_table(result: measuring.Result) -> str:
    """Return clips a second and the ratio to the plain path, then where the time goes."""
    speed, share = [], []
    for case in result["cases"]:
        names = [f"{case['video']}, {case['kbit_s']:.0f} kbit/s", case["transforms"]]
        base = case["seconds"][PLAIN]
        for path, seconds in case["seconds"].items():
            ratios = [b / s for b, s in zip(base, seconds, strict=True)]
            numbers = ([1 / s for s in seconds], 1), (ratios, 2)
            speed.append([*names, path, *(measuring.format_spread(*pair) for pair in numbers)])
        for path, parts in case["parts"].items():
            share.append([*names, path, *(f"{1000 * median(parts[p]):.2f}" for p in PARTS)])
    columns = ["video", "transforms", "path"]
    speed_columns = [*columns, "clips a core second", "times the plain path"]
    speeds = measuring.format_table(speed_columns, speed, len(columns))
    shares = measuring.format_table([*columns, *(f"ms {p}" for p in PARTS)], share, len(columns))
    return f"{measuring.format_head(result)}\n\n{speeds}\n{shares}"


if __name__ == "__main__":
    run_cli(main)
