"""From a configuration to the parts of a run: the same for train.py and test.py."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from base.base_dataset import BaseTextVideoDataset
from base.base_model import RetrievalModel
from base.base_trainer import BestValue
from base.config import Config, parse_monitor
from base.registry import ARCHITECTURES, DATA_LOADERS, LOSSES, OPTIMIZERS
from trainer.evaluator.encode import Evaluator
from trainer.loading import Loader
from trainer.optim import build_schedule
from trainer.passes import Chunked, WholeBatch
from trainer.recorder import build_recorder
from trainer.trainer import Trainer, plan_epoch
from utils.distributed import ranks
from utils.errors import UserError
from utils.precision import Precision
from utils.seed import seed_everything


def build_model(
    config: Config, device: torch.device, initial_weights: bool = True
) -> RetrievalModel:
    """Build the model, freshly seeded, on ``device``.

    Args:
        config: the configuration.
        device: where the model goes.
        initial_weights: load the weights that training starts from; False where a checkpoint's
            replace them anyway, so that they need not be there.
    """
    seed_everything(config.seed)
    arguments = config.arch.kwargs()
    if not initial_weights:
        arguments = without_initial_weights(arguments)
    return ARCHITECTURES.get(config.arch.type)(**arguments).to(device)


def without_initial_weights(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return an architecture's arguments with everything pretrained turned off."""
    off = {
        name: value.model_copy(update={"pretrained": False})
        for name, value in arguments.items()
        if hasattr(value, "pretrained")
    }
    checkpoint = {"load_checkpoint": "", "load_parts": None}  # parts without a file are an error
    return arguments | off | {key: v for key, v in checkpoint.items() if key in arguments}


def build_loss(config: Config) -> nn.Module:
    """Build the loss."""
    return config.loss.build(LOSSES)


def build_evaluator(config: Config, device: torch.device) -> Evaluator:
    """Build the evaluator of the configuration's metrics."""
    return Evaluator(config.metrics, build_loss(config), device)


def build_loader(config: Config, number: int, training: bool, **changes: Any) -> Loader:
    """Build a loader of the configuration.

    Args:
        config: also gives the tokenizer's name, what of a video is used, and the seed.
        number: which of ``config.data_loader``.
        training: shuffle, draw and augment; otherwise everything is fixed.
        changes: replace arguments of the block, such as ``split``.

    Raises:
        UserError: there is no such loader, or its data can't be opened.
    """
    tokenizer_name = config.arch.kwargs()["text_params"].model
    return _loader(config, number, training=training, tokenizer_name=tokenizer_name, **changes)


def build_dataset(
    config: Config, number: int, training: bool, **changes: Any
) -> BaseTextVideoDataset:
    """Build the data set of a loader without what batches need, such as the tokenizer.

    Arguments and errors are those of ``build_loader``.
    """
    loader = _loader(config, number, training=training, tokenizer_name=None, **changes)
    return loader.dataset


def _loader(config: Config, number: int, **changes: Any) -> Loader:
    if not 0 <= number < len(config.data_loader):
        raise UserError(f"the configuration has data loaders 0 … {len(config.data_loader) - 1}")
    block = config.data_loader[number]
    provided = {"modalities": config.arch.kwargs()["modalities"], "seed": config.seed}
    return DATA_LOADERS.get(block.type)(**block.kwargs() | provided | changes)


def build_trainer(
    config: Config,
    run_dir: Path,
    device: torch.device,
    resolved: dict,
    allow_shuffled: bool = False,
) -> Trainer:
    """Build everything that training needs.

    Args:
        config: the configuration.
        run_dir: where checkpoints and numbers go.
        device: where the model is.
        resolved: the configuration as plain values, kept in checkpoints.
        allow_shuffled: choose the best checkpoint by a shuffled validation set all the same.

    Raises:
        UserError: a part can't be built, or ``trainer.monitor`` looks at a shuffled validation set.
    """
    settings = config.trainer
    numbers = range(len(config.data_loader))
    loaders = [build_loader(config, number, training=True) for number in numbers]
    whole = {"split": "val", "sliding_window_stride": -1}  # windows are for test.py
    valid_loaders = [build_loader(config, number, training=False, **whole) for number in numbers]
    if not allow_shuffled:
        check_monitored(settings.monitor, valid_loaders)
    model = build_model(config, device)
    for weight in model.without_gradient():
        weight.requires_grad_(False)
    if settings.activation_checkpointing:
        model.recompute_activations()
    if settings.compile:
        model.compile_encoders()
    precision = Precision(settings.precision, device)
    optimizer = config.optimizer.build(OPTIMIZERS, params=model.parameters())
    schedule = None
    if config.lr_scheduler is not None:
        steps = len(plan_epoch(loaders, settings.max_samples_per_epoch)) * settings.epochs
        block = config.lr_scheduler
        schedule = build_schedule(block.type, block.kwargs(), optimizer, steps)
    monitor = parse_monitor(settings.monitor)
    return Trainer(
        model=model,
        passes=build_passes(config, model, precision),
        precision=precision,
        optimizer=optimizer,
        schedule=schedule,
        loaders=loaders,
        valid_loaders=valid_loaders,
        evaluator=build_evaluator(config, device),
        recorder=build_recorder(settings.tracker, run_dir, resolved),
        run_dir=run_dir,
        config=resolved,
        settings=settings,
        epochs=settings.epochs,
        save_period=settings.save_period,
        best=BestValue(*monitor, patience=settings.early_stop) if monitor else None,
        validate_first=settings.init_val,
    )


def build_passes(config: Config, model: RetrievalModel, precision: Precision) -> WholeBatch:
    """Build what computes a batch's gradients, over all processes; each then draws for itself."""
    place, encoder = ranks(), model
    if place.size > 1:
        gpu = [precision.device] if precision.device.type == "cuda" else None
        encoder = DistributedDataParallel(model, device_ids=gpu, gradient_as_bucket_view=True)
        seed_everything(config.seed + place.rank)
    parts = encoder, build_loss(config), model.video_key, precision
    size = config.trainer.chunk_size
    return WholeBatch(*parts) if size is None else Chunked(size, *parts)


def check_monitored(monitor: str, valid_loaders: Sequence[Loader]) -> None:
    """Raise a ``UserError`` where the best checkpoint would be chosen by a shuffled set."""
    parsed = parse_monitor(monitor)
    number = re.match(r"val_(?:loss_)?(\d+)", parsed[1]) if parsed else None
    if number is None:
        return
    dataset = valid_loaders[int(number[1])].dataset
    if dataset.shuffled:
        raise UserError(
            f"{dataset.annotation_file}: its captions and videos are shuffled, so trainer.monitor "
            f'"{monitor}" would choose the best checkpoint by chance. Name the right file as '
            "data_loader.args.annotation_file (without one it is TextVR_test.json), set "
            "trainer.monitor to off, or give --allow-shuffled"
        )
