"""What a run will need: parameters, memory and disk. Estimates, with how they are made."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from base.base_model import RetrievalModel
from base.config import Config, TrainerConfig
from base.registry import ARCHITECTURES
from utils.errors import UserError

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class ModelNeeds:
    """The model's share.

    Attributes:
        parameters: all of them; None: not known.
        trainable: those that are trained.
        reason: why they are not known.
        moments: values that the optimizer keeps a trainable parameter.
        training_bytes: weights, gradients and optimizer state, float32; activations not counted.
        checkpoint_bytes: weights and optimizer state.
    """

    parameters: int | None = None
    trainable: int | None = None
    reason: str | None = None
    moments: int = 2
    training_bytes: int | None = None
    checkpoint_bytes: int | None = None


@dataclass(frozen=True)
class DiskNeeds:
    """What the checkpoints need.

    Attributes:
        folder: ``trainer.save_dir``.
        free: bytes that are free there.
        checkpoints: files of a whole run, and one that is being written; links counted once.
        needed: their bytes; None: not known.
    """

    folder: str
    free: int
    checkpoints: int
    needed: int | None = None


@dataclass(frozen=True)
class LoaderNeeds:
    """The frames of one loader's batches.

    Attributes:
        shape: videos, frames, channels, height, width.
        uint8_bytes: a batch as it is loaded.
        float32_bytes: a batch as the model has it.
        ahead: batches that the loading processes hold at once.
    """

    shape: tuple[int, ...]
    uint8_bytes: int
    float32_bytes: int
    ahead: int


def model_needs(arguments: dict[str, Any], config: Config) -> ModelNeeds:
    """Count the parameters of the model and what training keeps of each.

    Args:
        arguments: of the architecture, with everything pretrained turned off.
        config: names the architecture and the optimizer.
    """
    try:
        with torch.device("meta"):
            model: RetrievalModel = ARCHITECTURES.get(config.arch.type)(**arguments)
    except UserError as error:
        return ModelNeeds(reason=str(error))
    counts = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    total = sum(count for count, _ in counts)
    trainable = sum(count for count, is_trained in counts if is_trained)
    moments = num_moments(config.optimizer.type, config.optimizer.kwargs())
    return ModelNeeds(
        parameters=total,
        trainable=trainable,
        moments=moments,
        training_bytes=FLOAT32 * (total + (1 + moments) * trainable),
        checkpoint_bytes=FLOAT32 * (total + moments * trainable),
    )


def num_moments(optimizer: str, arguments: Mapping[str, Any]) -> int:
    """Values that an optimizer keeps a parameter: two, as Adam, unless it is SGD."""
    if optimizer != "SGD":
        return 2
    return 1 if arguments["momentum"] else 0


def disk_needs(settings: TrainerConfig, checkpoint_bytes: int | None) -> DiskNeeds:
    """Compare the checkpoints of a run that is not stopped early with the free disk."""
    count = num_checkpoints(settings)
    existing = Path(settings.save_dir).absolute()
    while not existing.exists():
        existing = existing.parent
    needed = None if checkpoint_bytes is None else count * checkpoint_bytes
    return DiskNeeds(settings.save_dir, shutil.disk_usage(existing).free, count, needed)


def num_checkpoints(settings: TrainerConfig) -> int:
    """Most checkpoint files that there are at once.

    Numbered, last and best are links to one file where they are of the same epoch. The last one
    is written beside what is there before it takes its name.
    """
    numbered, rest = divmod(settings.epochs, settings.save_period)
    if settings.save_period == 1:
        return numbered
    last_and_next = 2 if rest else 1  # at the end the next one is a numbered one, without a rest
    return numbered + last_and_next + (settings.monitor != "off")


def loader_needs(arguments: Mapping[str, Any]) -> LoaderNeeds:
    """Return the size of a loader's batches; ``arguments`` are those of its block."""
    video = arguments["video_params"]
    videos = arguments["batch_size"] or arguments["per_gpu_batch_size"] or 1
    shape = (videos, video.num_frames, 3, video.input_res, video.input_res)
    count = 1
    for length in shape:
        count *= length
    ahead = arguments["num_workers"] * arguments["prefetch_factor"]
    return LoaderNeeds(shape, count, FLOAT32 * count, max(1, ahead))
