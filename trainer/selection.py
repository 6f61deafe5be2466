"""The videos by which a run chooses its best epoch, and whether a test is made on these very ones.

The published protocol validates on the test set, and keeps the epoch that is best there. What is
then measured on the test set is the best of many tests, not a result on unseen videos.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.base_dataset import BaseTextVideoDataset
from base.config import Config, parse_monitor
from evaluation.results import Selection
from trainer.checkpoint_folder import LAST
from utils.errors import UserError

logger = logging.getLogger(__name__)

TEST, VAL, VAL_SHARE = "test", "val", "val_share"
OpenSplit = Callable[..., BaseTextVideoDataset]  # of number, split and key of a loader
REMEDY = (
    "a validation set, or data_loader.args.val_share, which holds a part of the training set out, "
    "selects on other videos"
)


@dataclass(frozen=True)
class SelectingSet:
    """The validation set that ``trainer.monitor`` looks at.

    Attributes:
        kind: ``test``: it shares videos with the test set; ``val_share``: it is held out of the
            training set; ``val``: it is neither.
        dataset: opened.
    """

    kind: str
    dataset: BaseTextVideoDataset

    def describe(self) -> str:
        """Say which videos they are."""
        count, file = f"{len(self.dataset.entries):,} videos", self.dataset.annotation_file
        if self.kind == VAL_SHARE:
            return f"{count} held out of {file} (val_share), which are not trained on"
        if self.kind == VAL:
            return f"{count} of {file}"
        return f"{count} of {file}, which is the test set, as in the published protocol: {REMEDY}"


def get_monitored_loader(monitor: str) -> int | None:
    """Return the number of the loader whose validation ``trainer.monitor`` looks at, or None."""
    parsed = parse_monitor(monitor)
    found = re.match(r"val_(?:loss_)?(\d+)", parsed[1]) if parsed else None
    return None if found is None else int(found[1])


def list_valid_loaders(config: Config) -> list[dict[str, Any]]:
    """Return what training validates on: arguments of ``build_loader`` beside ``training``."""
    if config.valid_data_loader is None:
        splits, key = ["val"] * len(config.data_loader), "data_loader"
    else:
        named = (block.kwargs().get("split") for block in config.valid_data_loader)
        splits, key = ["test" if s == "test" else "val" for s in named], "valid_data_loader"
    return [{"number": n, "key": key, "split": split} for n, split in enumerate(splits)]


def find_selecting_set(config: Config, number: int, open_split: OpenSplit) -> SelectingSet:
    """Return the validation set of a number, as ``trainer.monitor`` counts them.

    Args:
        config: of the run.
        number: of the validation loader.
        open_split: opens the data set of a loader and split.

    Raises:
        UserError: it has no validation set, or that can't be opened.
    """
    with _quiet("data_loader"):  # the loaders have said, or will say, the same
        place = list_valid_loaders(config)[number]
        dataset = open_split(**place)
        share = getattr(config, place["key"])[number].kwargs().get("val_share")
        if share is not None and place["split"] == VAL:
            return SelectingSet(VAL_SHARE, dataset)
        try:
            tested = open_split(**place | {"split": TEST})
        except UserError:  # there is none yet
            return SelectingSet(VAL, dataset)
    known = {entry.id for entry in tested.entries}
    is_tested = any(entry.id in known for entry in dataset.entries)
    return SelectingSet(TEST if is_tested else VAL, dataset)


def find_selection(
    state: dict[str, Any],
    path: Path,
    config: Config,
    place: dict[str, Any],
    split: str,
    open_split: OpenSplit,
) -> Selection:
    """Return what a checkpoint was selected on, and what that means for a test of it.

    Checkpoints of this release keep the kind of their selecting set. For those before, and
    published ones, the configuration is asked.

    Args:
        state: the content of the checkpoint.
        path: its file.
        config: that of the test.
        place: ``key`` and ``number`` of the loader that is tested.
        split: of the test.
        open_split: opens the data set of a loader and split.
    """
    best = state.get("best")
    is_best = isinstance(best, dict) and best.get("value") is not None
    is_best = is_best and best.get("epoch") in (None, state.get("epoch"))
    is_published = "monitor_best" in state
    by_number = path.stem.startswith((Path(LAST).stem, "checkpoint-epoch"))
    if by_number or not (is_best or is_published):
        return Selection()
    monitor = f"{best['mode']} {best['name']}" if is_best else config.trainer.monitor
    monitored = get_monitored_loader(monitor)
    if monitored is None or monitored >= len(list_valid_loaders(config)):
        return Selection()
    kind = best.get("selected_on") if is_best else None
    if kind is None:
        try:
            kind = find_selecting_set(config, monitored, open_split).kind
        except UserError as error:
            logger.info("what the checkpoint was selected on is not known: %s", error)
            return Selection()
    own = state.get("config")
    key = list_valid_loaders(config)[monitored]["key"]
    data = _name_data(own, key, monitored) or _name_data(config, key, monitored)
    if data != _name_data(config, place["key"], place["number"]):
        return Selection(" ".join([*filter(None, data[:2]), kind]))
    if split != VAL and (split, kind) != (TEST, TEST):
        return Selection(kind)
    return Selection(
        kind,
        f"SELECTED ON THESE VIDEOS: {path.name} is the epoch that was best ({monitor}) on the very "
        f"set that it is tested on, as in the published protocol; {REMEDY}",
    )


def _name_data(config: Any, key: str, number: int) -> tuple[str | None, ...] | None:
    """Return data set, cut and annotation file of a loader, also of a config in JSON values."""
    if isinstance(config, Config):
        arguments = getattr(config, key)[number].kwargs()
    else:
        loaders = config.get(key) if isinstance(config, dict) else None
        loaders = loaders if isinstance(loaders, list) else [loaders]
        block = loaders[number] if number < len(loaders) else None
        arguments = block.get("args") if isinstance(block, dict) else None
    if not isinstance(arguments, dict) or not arguments.get("dataset_name"):
        return None
    return tuple(arguments.get(name) for name in ("dataset_name", "cut", "annotation_file"))


@contextmanager
def _quiet(package: str) -> Iterator[None]:
    """Let a package log nothing but errors."""
    log = logging.getLogger(package)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
