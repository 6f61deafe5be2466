"""Needs of a run: parameters, memory and disk. Estimates, with how they are made."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from base.config import Config, TrainerConfig
from base.registry import ARCHITECTURES
from utils.errors import UserError

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class ModelNeeds:
    """What the model's weights need, as float32; None: not known."""

    parameters: int | None = None
    trainable: int | None = None
    reason: str | None = None  # why they are not known
    moments: int = 2  # values that the optimizer holds for a trainable parameter
    training_bytes: int | None = None  # weights, gradients, optimizer state; no activations
    checkpoint_bytes: int | None = None  # weights and optimizer state


@dataclass(frozen=True)
class DiskNeeds:
    """What the checkpoints need."""

    folder: str  # trainer.save_dir
    free: int  # bytes
    checkpoints: int  # files of a whole run, and one that is being written; links counted once
    needed: int | None = None  # bytes; None: not known


@dataclass(frozen=True)
class LoaderNeeds:
    """The frames of one loader's batches."""

    shape: tuple[int, ...]  # videos, frames, channels, height, width
    uint8_bytes: int  # a batch as it is loaded
    float32_bytes: int  # a batch as the model has it
    ahead: int  # batches that the loading processes hold at once


def estimate_model(config: Config) -> ModelNeeds:
    """Count the parameters of the model and what training holds for each."""
    architecture = ARCHITECTURES.get(config.arch.type)
    try:
        arguments = architecture.without_initial_weights(**config.arch.kwargs())
        with torch.device("meta"):
            model = architecture(**arguments)
    except UserError as error:
        return ModelNeeds(reason=str(error))
    weights = list(model.parameters())
    total = sum(weight.numel() for weight in weights)
    trainable = sum(weight.numel() for weight in weights if weight.requires_grad)
    moments = count_moments(config.optimizer.type, config.optimizer.kwargs())
    return ModelNeeds(
        parameters=total,
        trainable=trainable,
        moments=moments,
        training_bytes=FLOAT32 * (total + (1 + moments) * trainable),
        checkpoint_bytes=FLOAT32 * (total + moments * trainable),
    )


def count_moments(optimizer: str, arguments: Mapping[str, Any]) -> int:
    """Return the values that an optimizer holds for a parameter: as Adam two, unless it is SGD."""
    if optimizer != "SGD":
        return 2
    return 1 if arguments["momentum"] else 0


def estimate_disk(settings: TrainerConfig, checkpoint_bytes: int | None) -> DiskNeeds:
    """Compare the checkpoints of a run that is not stopped early with the free disk."""
    count = count_checkpoints(settings)
    existing = Path(settings.save_dir).absolute()
    while not existing.exists():
        existing = existing.parent
    needed = None if checkpoint_bytes is None else count * checkpoint_bytes
    return DiskNeeds(settings.save_dir, shutil.disk_usage(existing).free, count, needed)


def count_checkpoints(settings: TrainerConfig) -> int:
    """Return the most checkpoint files that there are at once.

    Numbered, last and best are links to one file where they are of the same epoch. The last one
    is written beside what is there before it takes its name.
    """
    numbered, rest = divmod(settings.epochs, settings.save_period)
    if settings.save_period == 1:
        return numbered
    last_and_next = 2 if rest else 1  # at the end the next one is a numbered one, without a rest
    return numbered + last_and_next + (settings.monitor != "off")


def estimate_loader(arguments: Mapping[str, Any], frame_size: int | None = None) -> LoaderNeeds:
    """Return the size of a loader's batches.

    Args:
        arguments: those of its block.
        frame_size: of the model; None: any.
    """
    video = arguments["video_params"]
    side = frame_size or video.input_res
    videos = arguments["batch_size"] or arguments["per_gpu_batch_size"] or 1
    shape = (videos, video.num_frames, 3, side, side)
    count = math.prod(shape)
    ahead = arguments["num_workers"] * arguments["prefetch_factor"]
    return LoaderNeeds(shape, count, FLOAT32 * count, max(1, ahead))
