"""Checks of values against each other: names, values that appear twice, the monitored metric."""

from collections.abc import Sequence
from typing import Any

from base.config import Block, Config, TrainerConfig, parse_monitor
from base.registry import (
    ARCHITECTURES,
    DATA_LOADERS,
    DATASETS,
    LOSSES,
    LR_SCHEDULERS,
    METRICS,
    OPTIMIZERS,
    VIDEO_READERS,
    Registry,
    UnknownNameError,
    nearest,
)
from parsing.faults import Fault, Path, dotted
from utils.errors import UserError

BLOCKS: dict[str, Registry] = {
    "arch": ARCHITECTURES,
    "data_loader": DATA_LOADERS,
    "optimizer": OPTIMIZERS,
    "lr_scheduler": LR_SCHEDULERS,
    "loss": LOSSES,
}
# Arguments of loaders that are themselves registered names.
NAMED_ARGS: dict[str, Registry] = {"dataset_name": DATASETS, "reader": VIDEO_READERS}

METRIC_KEYS = ("R1", "R5", "R10", "R50", "MedR", "MeanR", "geometric_mean_R1-R5-R10")


def logged_names(num_loaders: int, metrics: tuple[str, ...]) -> list[str]:
    """Return the names that ``trainer.monitor`` may give."""
    losses = [f"val_loss_{i}" for i in range(num_loaders)]
    keys = [f"{metric}_{key}" for metric in metrics for key in METRIC_KEYS]
    return losses + [f"val_{i}_{key}" for i in range(num_loaders) for key in keys]


def monitor_faults(monitor: Any, num_loaders: int, metrics: tuple[str, ...]) -> list[Fault]:
    """Check that the monitored value will be logged; ill-formed text is left to the shape's check.

    Args:
        monitor: the file's value; None where the file has none.
        num_loaders: number of data loaders.
        metrics: names of the metrics.
    """
    text = TrainerConfig.model_fields["monitor"].default if monitor is None else monitor
    try:
        parsed = parse_monitor(text) if isinstance(text, str) else None
    except UserError:
        return []
    names = logged_names(num_loaders, metrics)
    if parsed is None or not names or parsed[1] in names:
        return []
    remedy = nearest(parsed[1], names)
    return [(("trainer", "monitor"), f'"{parsed[1]}" is never logged{remedy}')]


def metric_faults(metrics: Any) -> list[Fault]:
    """Check the names of the metrics; what is no name is left to the shape's check."""
    faults: list[Fault] = []
    for index, name in enumerate(metrics if isinstance(metrics, list) else []):
        if not isinstance(name, str):
            continue
        if name in metrics[:index]:
            faults.append((("metrics", index), f'"{name}" stands there twice; remove one'))
        else:
            faults += _name_faults(METRICS, name, ("metrics", index))
    return faults


def named_arg_faults(args: Any, path: Path) -> list[Fault]:
    """Check the arguments of a loader that are registered names; ``path`` is the arguments'."""
    if not isinstance(args, dict):
        return []
    return [
        fault
        for key, registry in NAMED_ARGS.items()
        if isinstance(args.get(key), str)
        for fault in _name_faults(registry, args[key], (*path, key))
    ]


def _name_faults(registry: Registry, name: str, path: Path) -> list[Fault]:
    try:
        registry.entry(name)
    except UnknownNameError as error:
        return [(path, str(error))]
    return []


def twice_faults(
    arch: Block | None, loaders: Sequence[Block | None], paths: Sequence[Path]
) -> tuple[list[Fault], list[str]]:
    """Compare what the model and each loader both say; returns faults and warnings.

    Args:
        arch: the model's block; None where it is too faulty to compare.
        loaders: the loaders' blocks, likewise.
        paths: where the loaders stand in the file.
    """
    faults: list[Fault] = []
    warnings: list[str] = []
    model = _video_params(arch)
    for loader, path in zip(loaders, paths, strict=True):
        video, here = _video_params(loader), (*path, "args", "video_params")
        size, model_size = (getattr(v, "input_res", None) for v in (video, model))
        if size is not None and model_size is not None and size != model_size:
            text = f"{size}, but arch.args.video_params.input_res is {model_size}"
            faults.append(((*here, "input_res"), text + "; make them equal"))
        frames, most = (getattr(v, "num_frames", None) for v in (video, model))
        if frames is None or most is None or frames == most:
            continue
        text = f"{frames}, but arch.args.video_params.num_frames is {most}"
        if frames > most:
            remedy = "; the model can't take a longer clip: raise its number or lower this one"
            faults.append(((*here, "num_frames"), text + remedy))
        else:
            # The published CC3M + WebVid-2M run trains a 4-frame model on single frames so.
            warnings.append(f"{dotted(here)}.num_frames: {text}; its later frames go unused")
    return faults, warnings


def _video_params(block: Block | None) -> Any:
    """Return the block's ``video_params``, or None: not every part has them."""
    return getattr(block.args, "video_params", None) if block else None


def architecture_faults(config: Config) -> list[str]:
    """Ask the architecture, where it has a classmethod ``config_faults(config)``."""
    ask = getattr(ARCHITECTURES.get(config.arch.type), "config_faults", None)
    return ask(config) if ask else []
