"""From a configuration to the parts of a run: the same for train.py, test.py and the index."""

import logging
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from base.base_data_loader import BaseDataLoader
from base.base_dataset import BaseTextVideoDataset
from base.base_model import RetrievalModel, describe_model_input
from base.base_trainer import Monitor
from base.config import Config, parse_monitor, resolve_config
from base.criterion import Criterion
from base.registry import ARCHITECTURES, DATA_LOADERS, LOSSES, OPTIMIZERS
from evaluation.evaluator import Evaluator
from trainer.changes import describe_inputs
from trainer.optim import build_schedule
from trainer.parallel import Parallel
from trainer.selection import find_selecting_set, get_monitored_loader, list_valid_loaders
from trainer.sharding import ShardedParallel, check_sharding
from trainer.tracking import build_tracker
from trainer.trainer import Trainer, plan_epoch
from utils.distributed import get_dist_info
from utils.errors import UserError
from utils.precision import Precision
from utils.seed import preserve_random_state, seed_everything, set_determinism

logger = logging.getLogger(__name__)


def build_model(
    config: Config, device: torch.device, initial_weights: bool = True
) -> RetrievalModel:
    """Build the model, freshly seeded, on ``device``.

    Args:
        initial_weights: load the weights that training starts from; False where a checkpoint's
            replace them anyway, so that they need not be there.
    """
    seed_everything(config.seed)
    architecture, arguments = ARCHITECTURES.get(config.arch.type), config.arch.kwargs()
    if not initial_weights:
        arguments = architecture.without_initial_weights(**arguments)
    return architecture(**arguments).to(device)


def find_tested_checkpoint(config: Config, given: Path | None) -> Path | None:
    """Return the checkpoint whose weights a test is of.

    None for a model without weights, and for one that can be used untrained (zero-shot).

    Raises:
        UserError: none is given and the configuration names none, or the model has no weights.
    """
    name, architecture = config.arch.type, ARCHITECTURES.get(config.arch.type)
    if not architecture.has_weights:
        if given is not None:
            raise UserError(f"{name}: has no weights, so {given} can't be its; leave out -r")
        return None
    arguments = config.arch.kwargs()
    found = given or architecture.get_initial_checkpoint(**arguments)
    if found is None and not architecture.is_usable_untrained(**arguments):
        raise UserError(
            f"{config.name}: the configuration names no checkpoint (arch.args.load_checkpoint), so "
            "there are no trained weights to test; give one with -r"
        )
    return found


@preserve_random_state()
def build_criterion(
    config: Config, device: torch.device, model: RetrievalModel | None = None
) -> Criterion:
    """Build the one criterion of a run, on ``device``.

    Args:
        model: what the criterion learns starts from its pretraining; None: from the loss's own
            start, as where a checkpoint's values replace it anyway.
    """
    criterion = config.loss.build(LOSSES)
    if not isinstance(criterion, Criterion):
        raise TypeError(f"{config.loss.type} is no Criterion (base/criterion.py)")
    if model is not None:
        criterion.start_from(model)
    return criterion.to(device)


def build_loader(
    config: Config, number: int, training: bool, key: str = "data_loader", **changes: Any
) -> BaseDataLoader:
    """Build a loader of the configuration.

    Args:
        number: which of ``config.data_loader``, or of what ``key`` names.
        key: ``data_loader`` or ``valid_data_loader``.
        changes: replace arguments of the block, such as ``split``.

    Raises:
        UserError: there is no such loader, or its data can't be opened.
    """
    blocks = getattr(config, key)
    if blocks is None:
        raise UserError(f"the configuration has no {key}")
    if not 0 <= number < len(blocks):
        what = "data loaders" if key == "data_loader" else f"loaders of {key}"
        raise UserError(f"the configuration has {what} 0 … {len(blocks) - 1}")
    block = blocks[number]
    provided = {
        "model_input": describe_model_input(config.arch),
        "seed": config.seed,
        "training": training,
        "only_dataset": False,
    }
    return DATA_LOADERS.get(block.type)(**block.kwargs() | provided | changes)


def build_dataset(
    config: Config, number: int, training: bool, **changes: Any
) -> BaseTextVideoDataset:
    """Build the data set of a loader without what batches need, such as the tokenizer.

    Arguments and errors are those of ``build_loader``.
    """
    return build_loader(config, number, training, only_dataset=True, **changes).dataset


def open_split(
    config: Config, number: int, split: str, key: str = "data_loader"
) -> BaseTextVideoDataset:
    """Open what a loader reads for validation or test, to know its videos.

    Arguments and errors are those of ``build_loader``.
    """
    only_entries = {"frame_cache": None, "sliding_window_stride": -1}
    return build_dataset(config, number, training=False, key=key, split=split, **only_entries)


def build_trainer(
    config: Config, run_dir: Path, device: torch.device, allow_shuffled: bool = False
) -> Trainer:
    """Build everything that training needs.

    Args:
        allow_shuffled: choose the best checkpoint by a shuffled validation set all the same.

    Raises:
        UserError: a part can't be built, or ``trainer.monitor`` looks at a shuffled validation set,
            or at a validation loss that there can't be, or the model has nothing to train, or
            settings don't go together with sharding.
    """
    check_sharding(config)
    if not ARCHITECTURES.get(config.arch.type).has_weights:
        raise UserError(f"{config.arch.type}: has no weights to train; python test.py -c tests it")
    settings, kept = config.trainer, resolve_config(config)
    set_determinism(settings.deterministic, device)
    numbers = range(len(config.data_loader))
    loaders = [build_loader(config, number, training=True) for number in numbers]
    whole = {"sliding_window_stride": -1}  # windows are for test.py
    places = list_valid_loaders(config)
    valid_loaders = [build_loader(config, training=False, **place, **whole) for place in places]
    check_monitored_set(settings.monitor, valid_loaders, allow_shuffled, places[0]["key"])
    monitor = build_monitor(config)
    model = build_model(config, device)
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    if not model.num_parameters():
        raise UserError(
            f"{config.arch.type}: there is nothing to train, each of its weights is frozen; free "
            "some (arch.args), or test it as it is with test.py -c"
        )
    if settings.activation_checkpointing:
        model.recompute_activations()
    # A compiler chooses among kernels by their time, so that runs of one seed may differ.
    may_compile = not settings.deterministic and settings.sharding == "none"
    compiles = may_compile and can_compile(model, device)
    if compiles if settings.compile is None else settings.compile:
        logger.info("the video encoder is compiled in the first step (trainer.compile)")
        model.compile_encoders()
    criterion = build_criterion(config, device, model)
    parallel = build_parallel(config, model, criterion, device)
    optimizer = build_optimizer(config, parallel)
    schedule = None
    if config.lr_scheduler is not None:
        steps = len(plan_epoch(loaders, settings.max_samples_per_epoch)) * settings.epochs
        block = config.lr_scheduler
        schedule = build_schedule(block.type, block.kwargs(), optimizer, steps)
    return Trainer(
        parallel=parallel,
        precision=Precision(settings.precision, device),
        optimizer=optimizer,
        schedule=schedule,
        loaders=loaders,
        valid_loaders=valid_loaders,
        evaluator=Evaluator(
            config.metrics, criterion, Precision(config.evaluation_precision, device)
        ),
        tracker=build_tracker(settings.tracker, run_dir, kept),
        run_dir=run_dir,
        config=kept,
        settings=settings,
        inputs=describe_inputs(kept, loaders, valid_loaders) if get_dist_info().is_main else None,
        epochs=settings.epochs,
        save_period=settings.save_period,
        monitor=monitor,
        validate_first=settings.init_val,
        validation_period=settings.validation_period,
    )


def build_monitor(config: Config) -> Monitor | None:
    """Build what says which epoch is best, and by which videos; None where nothing does."""
    settings = config.trainer
    parsed = parse_monitor(settings.monitor)
    if parsed is None:
        return None
    monitor, number = Monitor(*parsed, settings.early_stop), get_monitored_loader(settings.monitor)
    if number is not None:
        selecting = find_selecting_set(config, number, partial(open_split, config))
        monitor.selected_on, monitor.videos = selecting.kind, selecting.describe()
    return monitor


def can_compile(model: RetrievalModel, device: torch.device) -> bool:
    """Say whether a model is compiled where the configuration leaves it open: on a GPU.

    Triton, by which torch compiles for GPUs, calls a C compiler.
    """
    overridden = type(model).compile_encoders is not RetrievalModel.compile_encoders
    compilers = os.environ.get("CC", "cc"), "gcc", "clang"
    return device.type == "cuda" and overridden and any(map(shutil.which, compilers))


def build_optimizer(config: Config, parallel: Parallel) -> torch.optim.Optimizer:
    """Build the optimizer of the model's parameters, and of the criterion's behind them."""
    return config.optimizer.build(OPTIMIZERS, params=parallel.named_parameters())


def build_parallel(
    config: Config, model: RetrievalModel, criterion: Criterion, device: torch.device
) -> Parallel:
    """Build what lets the processes train one model; each then draws for itself."""
    info, settings, parts = get_dist_info(), config.trainer, (model, criterion, device)
    if info.world_size == 1:
        return Parallel(*parts)
    if settings.sharding == "none":
        parallel = Parallel(*parts)
    else:
        parallel = ShardedParallel(*parts, Precision(settings.precision, device))
    seed_everything(config.seed + info.rank)
    return parallel


def check_monitored_set(
    monitor: str,
    valid_loaders: Sequence[BaseDataLoader],
    allow_shuffled: bool,
    key: str = "data_loader",
) -> None:
    """Raise a ``UserError`` where a validation set can't say which epoch is best.

    Args:
        allow_shuffled: let a shuffled set choose the best checkpoint by chance.
        key: of the configuration, where the loaders are.
    """
    parsed, number = parse_monitor(monitor), get_monitored_loader(monitor)
    if number is None:
        return
    dataset = valid_loaders[number].dataset
    if dataset.shuffled and not allow_shuffled:
        raise UserError(
            f"{dataset.annotation_file}: its captions and videos are shuffled, so trainer.monitor "
            f'"{monitor}" would choose the best checkpoint by chance. Name the right file as '
            f"{key}.args.annotation_file (without one it is TextVR_test.json), set "
            "trainer.monitor to off, or give --allow-shuffled"
        )
    silent = next((entry.id for entry in dataset.entries if not entry.captions), None)
    if parsed[1].startswith("val_loss") and silent is not None:
        raise UserError(
            f'{dataset.annotation_file}: {silent} has no caption, so there is no "{parsed[1]}" for '
            "trainer.monitor; name a metric, such as max "
            f"val_{number}_t2v_metrics_R1, or set trainer.monitor to off"
        )
