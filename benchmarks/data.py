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

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import decord
import numpy as np
import torch
from data_loader.frame_cache.making import make
from data_loader.frame_cache.reading import video_name, wanted_frames

from base.batch import SampleKey
from benchmarks import baseline_data as plain
from benchmarks.made_videos import make_folder
from benchmarks.report import Result, head, machine, markdown, spread, write
from data_loader import registrations  # noqa: F401
from data_loader.datasets.text_video_dataset import LoaderVideoParams, TextVideoDataset
from data_loader.frame_cache.store import Kept, Store
from data_loader.frame_sampling import sample_frame_indices
from data_loader.loader import TextVideoDataLoader
from utils.cli import positive_int, run_cli

VIDEOS = ((640, 360, 0), (640, 360, 3), (320, 180, 0))  # width, height, cuts
NUM_FRAMES, PER_INTERVAL = 4, 4
PLAIN, DECODED, WITH_DEVICE = "plain", "video", "video, device part here"
CACHES = {"cache, raw": ("raw", None), "cache, JPEG": ("jpeg", 95)}  # format, quality
PARTS = ("open", "decode", "transform", "copy")
_LEVEL = 1 / 255

Read = Callable[[int, int], object]  # epoch, video -> a clip


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive_int, default=7, help="of each path, in turn")
    parser.add_argument("--videos", type=positive_int, default=3, help="of each kind")
    parser.add_argument("--seconds", type=positive_int, default=10, help="of each video")
    parser.add_argument("--json", action="store_true", help="write JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of the plain path's draws
    decord.logging.set_level(decord.logging.QUIET)
    cases = []
    for width, height, cuts in VIDEOS:
        with tempfile.TemporaryDirectory() as name:
            folder = make_folder(
                Path(name), width, height, arguments.seconds, cuts, arguments.videos
            )
            facts = {"video": f"{width}x{height}, {cuts} cuts", "kbit_s": rate(folder, arguments)}
            for train in (False, True):
                named = facts | {"transforms": "training" if train else "test"}
                cases.append(named | measured(folder, train, arguments.rounds))
    write(machine() | {"cases": cases}, arguments.json, table)


def rate(folder: Path, arguments: argparse.Namespace) -> float:
    """Return the videos' mean bit rate, in thousands a second."""
    sizes = [path.stat().st_size for path in folder.glob("Videos/*")]
    return sum(sizes) * 8 / 1000 / (arguments.seconds * len(sizes))


def loader(folder: Path, train: bool, cache: Path | None) -> TextVideoDataLoader:
    """Return our loader of a folder of ``make_folder``."""
    return TextVideoDataLoader(
        "TextVR",
        str(folder),
        video_params=LoaderVideoParams(num_frames=NUM_FRAMES, input_res=plain.RES),
        split="train" if train else "test",
        frame_cache=None if cache is None else str(cache),
        tokenizer_name=None,
        modalities=("vision",),
        seed=0,
        training=train,
    )


def cached(dataset: TextVideoDataset, kind: str, quality: int | None, root: Path) -> Path:
    """Make a frame cache of a data set; returns its folder."""
    wanted = wanted_frames(dataset)
    per_interval = PER_INTERVAL if wanted.use == "train" else 1
    store = Store.create(root, wanted, Kept(kind, quality, per_interval, wanted.size))
    videos = {video_name(e.video, dataset.data_dir): e.video for e in dataset.entries}
    make(store, videos, dataset.options.reader, 1, wanted.name)
    return root


def measured(folder: Path, train: bool, rounds: int) -> Result:
    """Compare every path with the plain one, and time it; returns seconds a clip, of each round."""
    ours = loader(folder, train, None)
    datasets = {DECODED: ours.dataset}
    for name, (kind, quality) in CACHES.items():
        root = cached(ours.dataset, kind, quality, folder / f"{kind}-{train}")
        datasets[name] = loader(folder, train, root).dataset
    check_equal(ours.dataset, train)
    count = len(ours.dataset)
    reads = paths(ours, datasets, train)
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    for epoch in range(1, rounds + 2):
        for name, read in reads.items():
            begin = time.process_time()
            for index in range(count):
                read(epoch, index)
            if epoch > 1:  # the first round warms up
                seconds[name].append((time.process_time() - begin) / count)
    parts = {PLAIN: plain_parts(ours.dataset, train, rounds)}
    parts |= {name: our_parts(dataset, rounds) for name, dataset in datasets.items()}
    return {"seconds": seconds, "parts": parts}


def paths(
    ours: TextVideoDataLoader, datasets: dict[str, TextVideoDataset], train: bool
) -> dict[str, Read]:
    """Return what is compared."""
    change, entries = plain.transform(train), ours.dataset.entries

    def by_plain(epoch: int, index: int) -> object:
        return plain.clip(entries[index].video, NUM_FRAMES, change, drawn(train, epoch, index))

    def by_ours(epoch: int, index: int) -> object:
        sample = ours.dataset[SampleKey(epoch, index)]
        color = None if sample.color is None else torch.from_numpy(sample.color)[None]
        return ours.device_transform(sample.frames[None], color, torch.tensor([NUM_FRAMES]))

    def of(dataset: TextVideoDataset) -> Read:
        return lambda epoch, index: dataset[SampleKey(epoch, index)]

    reads = {name: of(dataset) for name, dataset in datasets.items()}
    return {PLAIN: by_plain, DECODED: reads.pop(DECODED), WITH_DEVICE: by_ours} | reads


def drawn(train: bool, epoch: int, index: int) -> np.random.Generator | None:
    """Return the generator of a training sample; None in test."""
    return np.random.default_rng((0, epoch, index)) if train else None


def check_equal(dataset: TextVideoDataset, train: bool) -> None:
    """Assert that the plain path and ours give the same frames, resized and cropped alike."""
    for index, entry in enumerate(dataset.entries):
        rng = drawn(train, 1, index)
        if rng is not None:
            rng.integers(len(entry.captions))
        video = plain.opened(entry.video)
        indices = plain.chosen(len(video), NUM_FRAMES, rng)
        frames = plain.resized(train)(plain.as_float(plain.decoded(video, indices)))
        if rng is not None:
            free = plain.RESIZE_TRAIN - plain.RES
            top, left = rng.integers(0, [free, free], endpoint=True)
            frames = frames[..., top : top + plain.RES, left : left + plain.RES]
        found = dataset[SampleKey(1, index)].frames.float() / 255
        away = float((found - frames).abs().max())
        assert away < 1.01 * _LEVEL, f"{entry.video}: frames differ by {away / _LEVEL} levels"


def plain_parts(dataset: TextVideoDataset, train: bool, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each part of the plain path, a clip."""
    change = plain.transform(train)

    def once(epoch: int, index: int) -> list[float]:
        times = [time.process_time()]
        video = plain.opened(dataset.entries[index].video)
        times.append(time.process_time())
        frames = plain.decoded(
            video, plain.chosen(len(video), NUM_FRAMES, drawn(train, epoch, index))
        )
        times.append(time.process_time())
        change(plain.as_float(frames))
        times += [time.process_time()] * 2  # nothing is copied
        return times

    return by_part(once, len(dataset), rounds)


def our_parts(dataset: TextVideoDataset, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each part of our path, a clip, step by step as the data set does."""

    def once(epoch: int, index: int) -> list[float]:
        times = [time.process_time()]
        rng = drawn(dataset.options.training, epoch, index)
        with dataset.open_frames(dataset.entries[index]) as reader:
            times.append(time.process_time())
            frames = reader.frames(sample_frame_indices(NUM_FRAMES, reader.num_frames, rng=rng))
        times.append(time.process_time())
        frames, _ = dataset.transform(torch.from_numpy(frames).permute(0, 3, 1, 2), rng)
        times.append(time.process_time())
        frames.new_zeros(frames.shape)[:] = frames
        times.append(time.process_time())
        return times

    return by_part(once, len(dataset), rounds)


def by_part(
    once: Callable[[int, int], list[float]], count: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each part in each round, a clip; ``once`` gives points in time."""
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for epoch in range(1, rounds + 1):
        steps = np.mean([np.diff(once(epoch, index)) for index in range(count)], axis=0)
        for part, seconds in zip(PARTS, steps.tolist(), strict=True):
            found[part].append(seconds)
    return found


def table(result: Result) -> str:
    """Return clips a second and the ratio to the plain path, then where the time goes."""
    speed, share = [], []
    for case in result["cases"]:
        names = [f"{case['video']}, {case['kbit_s']:.0f} kbit/s", case["transforms"]]
        base = case["seconds"][PLAIN]
        for path, seconds in case["seconds"].items():
            ratios = [b / s for b, s in zip(base, seconds, strict=True)]
            rates = [1 / s for s in seconds]
            speed.append([*names, path, spread(rates, 1), spread(ratios, 2)])
        for path, parts in case["parts"].items():
            share.append([*names, path, *(f"{1000 * median(parts[p]):.2f}" for p in PARTS)])
    columns = ["video", "transforms", "path"]
    speeds = markdown(
        [*columns, "clips a core second", "times the plain path"], speed, len(columns)
    )
    shares = markdown([*columns, *(f"ms {part}" for part in PARTS)], share, len(columns))
    return f"{head(result)}\n\n{speeds}\n{shares}"


if __name__ == "__main__":
    run_cli(main)
