"""Check a configuration's data before anything is trained on it.

    python check_data.py -c configs/TextVR_fusion.json             annotations, files, OCR documents
    python check_data.py -c configs/TextVR_fusion.json --decode    also decode every video

Prints one page: what each split holds, what is missing, unreadable, duplicate or in training and
test, and what the run will need. The whole lists of files are written to data_check.json (--out).
Exit code 0: nothing is wrong; 1: something is, see the end of the page; 2: the configuration can't
be used.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from base.base_model import describe_model_input
from base.config import Config
from data_loader.data_check.needs import estimate_disk, estimate_loader, estimate_model
from data_loader.data_check.splits import (
    USES,
    Split,
    check_split,
    compare_splits,
    merge_equal_splits,
)
from data_loader.data_check.text_page import Report
from parse_config import add_config_arguments, load_config
from trainer.build import build_dataset, list_valid_loaders
from utils.cli import positive_int, run_cli
from utils.errors import UserError
from utils.files import write_json
from utils.processes import count_cpus


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--decode", action="store_true", help="decode every video")
    parser.add_argument(
        "--workers", type=positive_int, default=count_cpus(), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default="data_check.json",
        help="what is wrong, with the whole lists of files (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write everything that was found")
    arguments = parser.parse_args()
    for path in filter(None, (arguments.out, arguments.json)):
        if not path.parent.is_dir():
            parser.error(f"{path}: there is no folder {path.parent}")
    return arguments


def list_uses(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what each loader is used for, and what ``build_dataset`` takes for it."""
    for number in range(len(config.data_loader)):
        for use in USES:
            if use == "val" and config.valid_data_loader is not None:
                continue
            yield use, {"number": number} | ({} if use == "train" else {"split": use})
    if config.valid_data_loader is not None:
        yield from (("val", place) for place in list_valid_loaders(config))


def open_splits(config: Config) -> tuple[list[Split], dict[str, str]]:
    """Open what training, validation and test read; returns it, and what can't be opened."""
    splits: list[Split] = []
    closed: dict[tuple[str, str], list[str]] = {}
    for use, place in list_uses(config):
        key, number = place.get("key", "data_loader"), place["number"]
        loader = f"{'loader' if key == 'data_loader' else 'validation loader'} {number}"
        try:
            dataset = build_dataset(config, training=use == "train", **place)
        except UserError as error:
            closed.setdefault((loader, str(error)), []).append(use)
            continue
        splits.append(Split(loader, (use,), dataset, getattr(config, key)[number].kwargs()))
    reasons = {f"{loader}, {' and '.join(uses)}": text for (loader, text), uses in closed.items()}
    return merge_equal_splits(splits), reasons


def main() -> int:
    """Run the command."""
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.overrides, training=True)
    model_input = describe_model_input(config.arch)
    splits, closed = open_splits(config)
    facts = [
        check_split(split, model_input, arguments.workers, arguments.decode) for split in splits
    ]
    compare_splits(splits, facts, content=arguments.decode)
    model = estimate_model(config)
    report = Report(
        config=arguments.config,
        model_input=model_input,
        splits=facts,
        closed=closed,
        model=model,
        disk=estimate_disk(config.trainer, model.checkpoint_bytes),
        loaders=[
            estimate_loader(block.kwargs(), model_input.frame_size) for block in config.data_loader
        ],
    )
    sys.stdout.write(report.to_text() + "\n")
    write_json(arguments.out, report.list_files())
    sys.stdout.write(f"\nThe whole lists are in {arguments.out}\n")
    if arguments.json is not None:
        write_json(arguments.json, report.to_json())
    return 1 if report.wrong else 0


if __name__ == "__main__":
    run_cli(main)
