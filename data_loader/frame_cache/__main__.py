"""Decode every video once, and train and test from the kept frames.

    python -m data_loader.frame_cache -c CONFIG                      what train.py reads
    python -m data_loader.frame_cache -c CONFIG --split test         what test.py reads
    python -m data_loader.frame_cache -c CONFIG --verify             compare with the checksums

The frames go to the folder that data_loader.args.frame_cache names (or --out); from then on
training, validation and test read them in place of the videos. Training draws among candidates,
which stand evenly in each interval of a video; validation and test get the frames they had. Frames
are kept at the size that the transforms first resize to, raw (exact) or as JPEG (about a sixth of
the room). The command can be stopped at any moment and run again: it makes what is missing, and
what was changed since.

Exit code 0: all is well; 1: videos can't be read, or shards are damaged, all of them listed; 2: the
configuration can't be used.
"""

import argparse
import sys
from pathlib import Path

from base.config import Config
from data_loader.bars import watched
from data_loader.frame_cache.making import due_videos, make, sole_maker
from data_loader.frame_cache.reading import video_name, wanted_frames
from data_loader.frame_cache.store import MANIFEST, Kept, ShardError, Store, Wanted
from data_loader.inspection.pool import default_workers
from data_loader.loader import folder_of
from data_loader.text_video_dataset import TextVideoDataset
from parse_config import add_config_arguments, load_config
from trainer.build import build_dataset
from utils.cli import positive, run_cli
from utils.errors import UserError

SPLITS = ("train", "val", "test")
PER_INTERVAL = 4  # candidates of training


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_loader.frame_cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument("--loader", type=int, help="which data loader of a list (default: all)")
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, default=("train", "val"),
        help="train: what training reads, whatever its split (default: train val)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder, in place of data_loader.args.frame_cache")
    parser.add_argument("--format", choices=("raw", "jpeg"), default="raw", help="(default: raw)")
    parser.add_argument("--quality", type=positive, default=95, help="of JPEG (default: 95)")
    parser.add_argument(
        "--candidates", type=positive, metavar="N",
        help="frames kept of a training video, a multiple of num_frames "
        f"(default: {PER_INTERVAL} times num_frames); of validation and test num_frames are kept",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=positive, help="of the kept frames, pixels; other than the default they are "
        "resized once more, which changes them",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=positive, default=default_workers(), help="(default: %(default)s)"
    )
    parser.add_argument("--verify", action="store_true", help="make nothing, check what is there")
    arguments = parser.parse_args()
    if arguments.quality > 100:
        parser.error("--quality: 1 to 100")
    return arguments


def open_dataset(config: Config, number: int, split: str) -> TextVideoDataset:
    """Open what training (``train``), validation or test reads of a loader, without a cache."""
    changes = {"frame_cache": None} | ({} if split == "train" else {"split": split})
    return build_dataset(config, number, training=split == "train", **changes)


def cache_folder(config: Config, number: int, out: Path | None) -> Path:
    """Return where a loader's frames go."""
    named = config.data_loader[number].kwargs()["frame_cache"]
    if out is None and named is None:
        raise UserError(
            "where do the frames go? Set data_loader.args.frame_cache to a folder, or give --out"
        )
    return out or folder_of(named)


def kept_frames(wanted: Wanted, arguments: argparse.Namespace) -> Kept:
    """Return how frames are kept."""
    per_interval = 1
    if wanted.use == "train":
        candidates = arguments.candidates or PER_INTERVAL * wanted.num_frames
        per_interval, rest = divmod(candidates, wanted.num_frames)
        if rest:
            raise UserError(
                f"--candidates {candidates} is no multiple of num_frames, {wanted.num_frames}"
            )
    size = (arguments.size,) * len(wanted.size) if arguments.size else wanted.size
    quality = arguments.quality if arguments.format == "jpeg" else None
    return Kept(arguments.format, quality, per_interval, size)


def fill(dataset: TextVideoDataset, root: Path, arguments: argparse.Namespace) -> int:
    """Make what a data set's cache lacks; returns the number of unreadable videos."""
    wanted = wanted_frames(dataset)
    store = Store.create(root, wanted, kept_frames(wanted, arguments))
    videos = {video_name(e.video, dataset.data_dir): e.video for e in dataset.entries}
    with sole_maker(store):
        due = due_videos(store, videos)
        make(store, due, dataset.options.reader, arguments.workers, wanted.name)
    held = store.videos()
    faults = {path: held[name].fault for name, path in videos.items() if held[name].fault}
    sys.stdout.write(
        f"{store.folder}: {len(videos) - len(faults)} of {len(videos)} videos, {len(due)} of them "
        f"read now\n"
    )
    for path, fault in faults.items():
        sys.stdout.write(f"  can't be read: {path}: {fault}\n")
    return len(faults)


def verify(dataset: TextVideoDataset, root: Path) -> int:
    """Compare a data set's cache with its checksums; returns the number of damaged shards."""
    folder = root / wanted_frames(dataset).name
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: no such frame cache; run the command without --verify first")
    store, damaged = Store(folder), 0
    for shard in watched(store.shards(), wanted_frames(dataset).name, " shards"):
        try:
            store.verify(shard)
        except ShardError as error:
            sys.stdout.write(f"{error}\n")
            damaged += 1
    sys.stdout.write(f"{folder}: {damaged} of {len(store.shards())} shards are damaged\n")
    return damaged


def main() -> int:
    """Run the command."""
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.overrides)
    if "vision" not in config.arch.kwargs()["modalities"]:
        raise UserError(f"{arguments.config}: its model sees no frames, so none are cached")
    numbers = range(len(config.data_loader)) if arguments.loader is None else [arguments.loader]
    faults = 0
    for number in numbers:
        for split in dict.fromkeys(arguments.split):
            dataset = open_dataset(config, number, split)
            root = cache_folder(config, number, arguments.out)
            faults += verify(dataset, root) if arguments.verify else fill(dataset, root, arguments)
    return 1 if faults else 0


if __name__ == "__main__":
    run_cli(main)
