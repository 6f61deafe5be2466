"""Decode every video once, and train and test from the stored frames.

    python -m tools.cache_frames -c CONFIG                      what train.py reads
    python -m tools.cache_frames -c CONFIG --split test         what test.py reads
    python -m tools.cache_frames -c CONFIG --ray                on a Ray cluster, see docs/ray.md
    python -m tools.cache_frames -c CONFIG --verify             compare with the checksums
    python -m tools.cache_frames -c CONFIG --to_tars DIR        write webdataset tars of the cache
    python -m tools.cache_frames -c CONFIG --from_tars TAR ...  read such tars, files or URLs

The frames go to the folder that data_loader.args.frame_cache names (or --out); from then on
training, validation and test read them in place of the videos; a valid_data_loader names its own
folder. Training draws among candidates,
which stand evenly in each interval of a video; validation and test get the frames they had. Frames
are stored at the size that the transforms first resize to, raw (exact) or as JPEG (about a sixth of
the space). The command can be stopped at any moment and run again: it makes what is missing, and
what was changed since. A copy of the folder can be read from a URL, see configs/README.md.

Exit code 0: all is well; 1: videos or samples can't be read, or shards are damaged, all of them
listed; 2: the configuration can't be used.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from base.base_model import describe_model_input
from base.config import Config
from data_loader.datasets.text_video_dataset import TextVideoDataset
from data_loader.frame_cache.frames import SHARD_BYTES, fill_cache
from data_loader.frame_cache.store import FrameSpec, ShardError, StorageFormat, Store
from data_loader.frame_cache.tars import TarResult, export_tars, import_tars
from data_loader.tar_samples import expand_tars
from parse_config import add_config_arguments, load_config
from trainer.build import build_dataset, list_valid_loaders
from utils.cli import positive_int, run_cli
from utils.distributed import show_progress
from utils.errors import UserError, escape_unprintable
from utils.processes import count_cpus
from utils.ray_pool import RayPool, add_ray_arguments, open_pool
from utils.remote_files import Location, RemoteError, expand_location, join_location

PER_INTERVAL = 4  # candidates of training


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.cache_frames",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    add_place_arguments(parser)
    parser.add_argument("--out", type=Path, help="folder, in place of data_loader.args.frame_cache")
    parser.add_argument("--format", choices=("raw", "jpeg"), default="raw", help="(default: raw)")
    parser.add_argument("--quality", type=positive_int, default=95, help="of JPEG (default: 95)")
    parser.add_argument(
        "--candidates", type=positive_int, metavar="N",
        help="frames stored of a training video, a multiple of num_frames (default: "
        f"{PER_INTERVAL} times num_frames); of validation and test num_frames are stored",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=positive_int,
        help="of the stored frames, pixels; other than the default they are resized once more, "
        "which changes them",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=positive_int, metavar="N",
        help=f"processes (default: {count_cpus()}, or as many as a cluster has room for)",
    )  # fmt: skip
    add_ray_arguments(parser)
    parser.add_argument(
        "--shard_mb", type=positive_int, default=SHARD_BYTES // 10**6, metavar="MB",
        help="size of the files of frames (default: %(default)s)",
    )  # fmt: skip
    job = parser.add_mutually_exclusive_group()
    job.add_argument("--verify", action="store_true", help="make nothing, check what is there")
    job.add_argument(
        "--to_tars", type=Path, metavar="DIR",
        help="make nothing, write webdataset tars of what is there",
    )  # fmt: skip
    job.add_argument(
        "--from_tars", nargs="+", metavar="TAR",
        help="decode nothing, read tars that --to_tars wrote: files or URLs, {000..012} counts",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.quality > 100:
        parser.error("--quality: 1 to 100")
    return arguments


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``list_places``."""
    parser.add_argument("--loader", type=int, help="which data loader of a list (default: all)")
    parser.add_argument(
        "--split", nargs="+", choices=("train", "val", "test"), default=("train", "val"),
        help="train: what training reads, whatever its split (default: train val)",
    )  # fmt: skip


def choose_format(spec: FrameSpec, arguments: argparse.Namespace) -> StorageFormat:
    """Return how frames are stored."""
    per_interval = 1
    if spec.use == "train":
        candidates = arguments.candidates or PER_INTERVAL * spec.num_frames
        per_interval, rest = divmod(candidates, spec.num_frames)
        if rest:
            raise UserError(
                f"--candidates {candidates} is no multiple of num_frames, {spec.num_frames}"
            )
    size = (arguments.size,) * len(spec.size) if arguments.size else spec.size
    quality = arguments.quality if arguments.format == "jpeg" else None
    return StorageFormat(arguments.format, quality, per_interval, size)


def fill(
    dataset: TextVideoDataset, root: Path, arguments: argparse.Namespace, pool: RayPool | None
) -> int:
    """Make what a data set's cache lacks; returns the number of unreadable videos."""
    storage = choose_format(FrameSpec.of(dataset), arguments)
    if pool is None:
        workers, run = arguments.workers or count_cpus(), None
    else:
        workers, run = pool.count_workers(), pool.run_tasks
    result = fill_cache(dataset, root, storage, workers, get_shard_bytes(arguments), run)
    readable = result.num_videos - len(result.errors)
    sys.stdout.write(
        f"{result.store.folder}: {readable} of {result.num_videos} videos, {result.num_read} of "
        "them read now\n"
    )
    for path, error in result.errors.items():
        sys.stdout.write(f"  can't be read: {path}: {error}\n")
    return len(result.errors)


def tell(result: TarResult) -> int:
    """Say what was written of tars, or read from them; returns the number of errors."""
    known = f", {result.num_known} were there" if result.num_known else ""
    sys.stdout.write(f"{result.folder}: {result.num_videos} videos written{known}\n")
    for error in result.errors:
        sys.stdout.write(f"  left out: {escape_unprintable(error)}\n")
    return len(result.errors)


def get_shard_bytes(arguments: argparse.Namespace) -> int:
    """Return how large a file of frames becomes."""
    return arguments.shard_mb * 10**6


def verify(dataset: TextVideoDataset, root: Location) -> int:
    """Compare a data set's cache with its checksums; returns the number of damaged shards."""
    name = FrameSpec.of(dataset).name
    folder = join_location(root, name)
    try:
        store = Store(folder)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no such frame cache; run the command without --verify first"
        ) from error
    shards, num_damaged = store.list_shards(), 0
    for shard in show_progress(shards, name, " shards"):
        try:
            store.verify(shard)
        except (ShardError, RemoteError) as error:
            sys.stdout.write(f"{error}\n")
            num_damaged += 1
    sys.stdout.write(f"{folder}: {num_damaged} of {len(shards)} shards are damaged\n")
    return num_damaged


def main() -> int:
    """Run the command."""
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.overrides)
    if not describe_model_input(config.arch).uses_vision:
        raise UserError(f"{arguments.config}: its model uses no frames, so none are cached")
    with open_pool(arguments, arguments.workers) as pool:
        return 1 if do_splits(config, arguments, pool) else 0


def do_splits(config: Config, arguments: argparse.Namespace, pool: RayPool | None) -> int:
    """Do what the command line asks for with each split; returns the number of errors."""
    num_errors = 0
    for split, place in list_places(config, arguments):
        key = place["key"]
        named = getattr(config, key)[place["number"]].kwargs()["frame_cache"]
        if arguments.out is None and named is None:
            if key == "valid_data_loader":
                continue  # its videos are decoded
            raise UserError(
                "where do the frames go? Set data_loader.args.frame_cache to a folder, or give "
                "--out"
            )
        root = arguments.out or expand_location(named)
        cache = str(root) if arguments.to_tars else None
        dataset = build_dataset(config, training=split == "train", frame_cache=cache, **place)
        if arguments.verify:
            num_errors += verify(dataset, root)
        elif arguments.to_tars:
            num_errors += tell(export_tars(dataset, arguments.to_tars, get_shard_bytes(arguments)))
        elif isinstance(root, str):
            raise UserError(
                f"{root}: frames are written to a folder here; give --out, and copy it there"
            )
        elif arguments.from_tars:
            tars, spec = expand_tars(arguments.from_tars), FrameSpec.of(dataset)
            num_errors += tell(import_tars(spec, tars, root, get_shard_bytes(arguments)))
        else:
            num_errors += fill(dataset, root, arguments, pool)
    return num_errors


def list_places(
    config: Config, arguments: argparse.Namespace
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each split that is wanted, and what ``build_dataset`` takes for it.

    Raises:
        UserError: there is no such loader.
    """
    numbers, splits = range(len(config.data_loader)), dict.fromkeys(arguments.split)
    if arguments.loader is not None:
        if arguments.loader not in numbers:
            raise UserError(
                f"--loader {arguments.loader}: {arguments.config} has the loaders 0 to "
                f"{numbers[-1]}"
            )
        numbers = [arguments.loader]
    own = [split for split in splits if split != "val" or config.valid_data_loader is None]
    for number in numbers:
        for split in own:
            place = {"number": number, "key": "data_loader"}
            yield split, place | ({} if split == "train" else {"split": split})
    if "val" in splits and config.valid_data_loader is not None and arguments.loader is None:
        yield from (("val", place) for place in list_valid_loaders(config))


if __name__ == "__main__":
    run_cli(main)
