"""Changes of data and settings between a run and the checkpoint that it goes on from.

A resumed run equals one that was never stopped only where both are the same. Of the data a
checkpoint keeps digests, of the settings the resolved configuration.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from base.base_data_loader import BaseDataLoader
from base.registry import ARCHITECTURES
from trainer.optim import depends_on_length
from utils.changes import ABSENT, Change, find_changes, list_changes
from utils.errors import UserError
from utils.files import hash_file

logger = logging.getLogger(__name__)

# Settings that a run's weights do not depend on: how fast it is, what it writes and where, when it
# validates, which epoch is best, when it ends. Which files the data's paths lead to is compared by
# what they hold, batch_size and per_gpu_batch_size by the batch that they come to.
_TRAINER = (
    "activation_checkpointing early_stop init_val keep_last log_every monitor on_nan rank_timeout "
    "save_dir save_every_minutes save_every_steps save_period sharding tracker validation_period "
    "verbosity"
)
_LOADER = (
    "annotation_file batch_size cache_dir data_dir item_timeout metadata_dir num_workers ocr_dir "
    "per_gpu_batch_size prefetch_factor sliding_window_stride video_params.loading"
)
HARMLESS = frozenset(
    ["name", "n_gpu", *(f"trainer.{name}" for name in _TRAINER.split())]
    + [f"data_loader.args.{name}" for name in _LOADER.split()]
)
_SMALL = (".json", ".txt", ".model")  # of a folder with a model: what it is, without its weights
_MAX_SMALL = 64 << 20  # bytes
_FILES = "files of "


def describe_inputs(
    config: Mapping[str, Any],
    loaders: Sequence[BaseDataLoader],
    valid_loaders: Sequence[BaseDataLoader],
) -> dict[str, Any]:
    """Return what a run depends on beside its configuration, as JSON values by names.

    Args:
        config: resolved.
        loaders: of training.
        valid_loaders: of validation.
    """
    found: dict[str, Any] = {}
    for use, of_use in (("training", loaders), ("validation", valid_loaders)):
        for number, loader in enumerate(of_use):
            name = f"{use} data {number}: " if len(of_use) > 1 else f"{use} data: "
            content = loader.dataset.describe_content() | {"batch size": loader.batch_size}
            found |= {name + what: value for what, value in content.items()}
    for name, folder in _list_folders(config.get("arch"), "arch"):
        digest = hashlib.sha256()
        for path in sorted(folder.iterdir()):
            if path.suffix in _SMALL and path.is_file() and path.stat().st_size <= _MAX_SMALL:
                digest.update(f"{path.name} {hash_file(path)} ".encode("utf-8", "backslashreplace"))
        found[_FILES + name] = digest.hexdigest()[:16]
    return found


def _list_folders(value: Any, name: str) -> Iterator[tuple[str, Path]]:
    """Yield the values within a configuration that name a folder."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _list_folders(inner, f"{name}.{key}")
    elif isinstance(value, str) and os.path.isdir(value):
        yield name, Path(value)


def check_changes(
    checkpoint: Path,
    kept: Mapping[str, Any],
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    allowed: bool,
) -> None:
    """Say what has changed since a checkpoint was written.

    Args:
        checkpoint: its file.
        kept: what it holds.
        config: resolved, of the run that goes on.
        inputs: of that run; ``describe_inputs``.
        allowed: whether it may go on where it won't equal one that was never stopped.

    Raises:
        UserError: it would not, and that is not allowed.
    """
    before = kept.get("inputs"), kept.get("config")
    if not all(isinstance(value, Mapping) for value in before):
        logger.warning(
            "%s: an earlier release wrote it, without digests of its data: whether data and "
            "settings are still the same can't be compared",
            checkpoint,
        )
        return
    changes = [*find_changes(before[1], config), *find_changes(before[0], inputs)]
    moved = {
        name.removeprefix(_FILES)
        for name in before[0].keys() & inputs.keys()
        if name.startswith(_FILES) and before[0][name] == inputs[name]
    }
    breaking = [c for c in changes if _breaks_resume(c, config) and c.name not in moved]
    harmless = [change for change in changes if change not in breaking]
    if harmless:
        logger.info(
            "changed since %s was written, which the run's course does not depend on: %s",
            checkpoint, "; ".join(list_changes(harmless)),
        )  # fmt: skip
    if not breaking:
        return
    listed = "\n  ".join(["", *list_changes(breaking)])
    if not allowed:
        raise UserError(
            f"{checkpoint}: was written with other data or settings, so that the run would not "
            f"equal one that was never stopped:{listed}\nUndo that, or go on all the same with "
            "--allow-changes; a new run starts from these weights with arch.args.load_checkpoint"
        )
    logger.warning(
        "the run goes on with other data or settings than %s was written with (--allow-changes):%s",
        checkpoint, listed,
    )  # fmt: skip


def _breaks_resume(change: Change, config: Mapping[str, Any]) -> bool:
    name = change.name
    if ABSENT in (change.before, change.now):
        return False  # of another release, or of another type, which is a change of its own
    if None in (change.before, change.now) and name.endswith("OCR documents"):
        return False  # too many to be compared
    place = re.sub(r"^(?:valid_)?data_loader(?:\.\d+)?\.", "data_loader.", name)
    if place == "data_loader.args.frame_cache":
        return None in (change.before, change.now)  # frames from a cache are chosen otherwise
    if name == "trainer.epochs":
        schedule = config.get("lr_scheduler") or {"type": "", "args": {}}
        return depends_on_length(schedule["type"], schedule["args"])
    if name.startswith("arch.args."):
        start_only = ARCHITECTURES.get(config["arch"]["type"]).start_only
        return name.removeprefix("arch.args.") not in start_only
    return place not in HARMLESS
