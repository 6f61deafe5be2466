"""Checks of values against each other: names, values that appear twice, the monitored metric."""

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from base.base_model import describe_model_input
from base.config import LOADER_KEYS, Block, Config, TrainerConfig, parse_monitor
from base.registry import (
    ARCHITECTURES,
    DATA_LOADERS,
    DATASETS,
    FUSIONS,
    LOSSES,
    LR_SCHEDULERS,
    METRICS,
    OPTIMIZERS,
    VIDEO_ENCODERS,
    VIDEO_READERS,
    Direction,
    Registry,
    UnknownNameError,
    nearest,
)
from parsing.problems import Path, Problem, join_path
from utils.errors import UserError

BLOCKS: dict[str, Registry] = {
    "arch": ARCHITECTURES,
    "data_loader": DATA_LOADERS,
    "valid_data_loader": DATA_LOADERS,
    "optimizer": OPTIMIZERS,
    "lr_scheduler": LR_SCHEDULERS,
    "loss": LOSSES,
}
# Arguments of blocks that are themselves registered names; those of nested objects with a dot.
LOADER_NAMES = {"dataset_name": DATASETS, "reader": VIDEO_READERS}
NAMED_ARGS: dict[str, dict[str, Registry]] = {
    **dict.fromkeys(LOADER_KEYS, LOADER_NAMES),
    "arch": {"fusion": FUSIONS, "video_params.model": VIDEO_ENCODERS},
}


def list_logged_names(num_loaders: int, metrics: tuple[str, ...]) -> dict[str, Direction | None]:
    """Return the names that ``trainer.monitor`` may give, and which value of each is best."""
    names: dict[str, Direction | None] = {f"val_loss_{i}": "min" for i in range(num_loaders)}
    for i in range(num_loaders):
        for metric in metrics:
            found = _get_keys(metric).items()
            names |= {f"val_{i}_{metric}_{key}": direction for key, direction in found}
    return names


def _get_keys(metric: str) -> dict[str, Direction | None]:
    if metric not in METRICS.names():
        return {}
    entry = METRICS.entry(metric)
    return dict(zip_longest(entry.keys, entry.directions))


def check_monitor(
    monitor: Any, num_loaders: int, metrics: tuple[str, ...], accepted: Any = None
) -> tuple[list[Problem], list[str]]:
    """Check that the monitored value is logged, and its best kept; the form is checked elsewhere.

    Args:
        monitor: ``trainer.monitor``.
        num_loaders: data loaders of the configuration.
        metrics: names of its metrics.
        accepted: the text that an earlier run was made with, which is only warned about: what it
            has left can still be tested and searched.

    Returns:
        Problems and warnings.
    """
    text = TrainerConfig.model_fields["monitor"].default if monitor is None else monitor
    try:
        parsed = parse_monitor(text) if isinstance(text, str) else None
    except UserError:
        return [], []
    names = list_logged_names(num_loaders, metrics)
    if parsed is None or not names:
        return [], []
    mode, name = parsed
    if name in names:
        best = names[name]
        if best in (None, mode):
            return [], []
        less = "less" if best == "min" else "more"
        said = (
            f'"{text}" would keep the worst epoch as the best, for {less} is better; '
            f'write "{best} {name}"'
        )
        if text == accepted:
            return [], [f"trainer.monitor: {said}; model_best.pth of this run is its worst epoch"]
        return [(("trainer", "monitor"), said)], []
    remedy = nearest(name, names)
    silent = [metric for metric in metrics if not _get_keys(metric)]
    if any(re.match(rf"val_\d+_{re.escape(metric)}_", name) for metric in silent):
        remedy = "; its metric declares no keys: METRICS.register(NAME, keys=(…))"
    return [(("trainer", "monitor"), f'"{name}" is never logged{remedy}')], []


def check_metrics(metrics: Any) -> list[Problem]:
    """Check the names of the metrics; what is no name is left to the shape's check."""
    problems: list[Problem] = []
    before: set[str] = set()
    for index, name in enumerate(metrics if isinstance(metrics, list) else []):
        if not isinstance(name, str):
            continue
        if name in before:
            problems.append((("metrics", index), f'"{name}" stands there twice; remove one'))
        else:
            problems += _name_problems(METRICS, name, ("metrics", index))
        before.add(name)
    return problems


def check_named_args(block: str, args: Any, path: Path) -> list[Problem]:
    """Check the arguments of a block that are registered names."""
    problems: list[Problem] = []
    for key, registry in NAMED_ARGS.get(block, {}).items():
        value, where = args, path
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
            where = (*where, part)
        if isinstance(value, str):
            problems += _name_problems(registry, value, where)
    return problems


def _name_problems(registry: Registry, name: str, path: Path) -> list[Problem]:
    try:
        registry.entry(name)
    except UnknownNameError as error:
        return [(path, str(error))]
    return []


def check_model_input(
    arch: Block | None,
    loaders: Sequence[Block | None],
    paths: Sequence[Path],
    training: bool = False,
) -> tuple[list[Problem], list[str]]:
    """Compare what the model takes with what each loader gives; returns problems and warnings.

    A loader that has a class method ``find_problems(args, wanted, training)`` is asked, too.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    if arch is None:
        return problems, warnings
    try:
        wanted = describe_model_input(arch)
    except UserError as error:
        return [(("arch", "args"), str(error))], warnings
    for loader, path in zip(loaders, paths, strict=True):
        ask = getattr(DATA_LOADERS.get(loader.type), "find_problems", None) if loader else None
        if ask is not None:
            is_trained_on = training and path[0] == "data_loader"
            problems += [
                ((*path, "args", *where), text)
                for where, text in ask(loader.args, wanted, is_trained_on)
            ]
        video = getattr(loader.args, "video_params", None) if loader else None
        here = (*path, "args", "video_params")
        size, frames = (getattr(video, name, None) for name in ("input_res", "num_frames"))
        # A model that says how its frames are made says their size, too; what a base file or a
        # resolved configuration has as the default is then not meant.
        accepts_default = wanted.resize is not None and size == _get_default(video, "input_res")
        fits = accepts_default or size == wanted.frame_size
        if None not in (size, wanted.frame_size) and not fits:
            text = f"{size}, but the model of arch takes frames of {wanted.frame_size}"
            problems.append(((*here, "input_res"), text + "; make them equal"))
        if None in (frames, wanted.max_frames) or frames == wanted.max_frames:
            continue
        text = f"{frames}, but the model of arch takes clips of {wanted.max_frames}"
        if frames > wanted.max_frames:
            remedy = "; it can't take a longer clip: raise its number or lower this one"
            problems.append(((*here, "num_frames"), text + remedy))
        else:
            # The published CC3M + WebVid-2M run trains a 4-frame model on single frames so.
            warnings.append(f"{join_path(here)}.num_frames: {text}; its later frames go unused")
    return problems, warnings


def _get_default(params: Any, name: str) -> Any:
    """Return the default of a member of a block's object."""
    field = getattr(type(params), "model_fields", {}).get(name)
    return None if field is None else field.default


def check_architecture(config: Config) -> list[str]:
    """Ask the architecture, where it has a classmethod ``check_config(config)``."""
    ask = getattr(ARCHITECTURES.get(config.arch.type), "check_config", None)
    return ask(config) if ask else []
