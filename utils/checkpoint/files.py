"""Checkpoints: tensors and plain values, written so that a crash never costs the last good one."""

import json
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError

logger = logging.getLogger(__name__)

# Buffers of old library versions that hold no weight.
IGNORED_SUFFIXES = (".position_ids",)


class CheckpointError(UserError):
    """A checkpoint that can't be read, does not fit, or can't be written."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path``: to a temporary name first, synced, then renamed.

    Raises:
        CheckpointError: the file can't be written; what stood at ``path`` before still does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        kept = "the one written before is kept" if path.exists() else "there is none before it"
        raise CheckpointError(
            f"{path}: the checkpoint can't be written ({error}); {kept}. "
            "Free disk space or set trainer.save_dir, then resume with -r"
        ) from error


def copy_checkpoint(source: Path, target: Path) -> None:
    """Let ``target`` name what ``source`` holds; a second link to the file where there are links.

    Safe because checkpoints are only ever replaced, never written in place.

    Raises:
        CheckpointError: it can't be written; what stood at ``target`` before still does.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{target}: can't be written ({error}); {source} is good") from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU; nothing in the file is executed.

    Raises:
        CheckpointError: missing, damaged, or holding other objects than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: is damaged, or holds objects that are not tensors or plain values, which "
            f"are never executed ({_first_line(error)})"
        ) from error
    except Exception as error:  # damaged bytes end in KeyError, struct.error, AttributeError …
        raise CheckpointError(
            f"{path}: is damaged or no checkpoint ({_first_line(error)})"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a checkpoint")
    return state


def _first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def weights_of(state: dict[str, Any], source: str | Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, or of a plain state dict, without ``module.`` prefixes.

    Raises:
        CheckpointError: there are none.
    """
    weights = state.get("state_dict", state)
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{source}: holds no weights (no state_dict)")
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{source}: its state_dict holds values that are not tensors")
    if not all(isinstance(name, str) for name in weights):
        raise CheckpointError(f"{source}: its state_dict has names that are not text")
    return {
        name.removeprefix("module."): value
        for name, value in weights.items()
        if not name.endswith(IGNORED_SUFFIXES)
    }


def fit_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Load weights strictly.

    Raises:
        CheckpointError: names are missing or left over, or shapes differ; all are listed.
    """
    own = model.state_dict()
    faults = [f"missing: {name}" for name in own.keys() - weights.keys()]
    faults += [f"left over: {name}" for name in weights.keys() - own.keys()]
    faults += [
        f"{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if faults:
        raise CheckpointError(
            f"{source}: its weights do not fit the model of this configuration\n  "
            + "\n  ".join(sorted(faults))
        )
    model.load_state_dict(weights)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a checkpoint file strictly; raises ``CheckpointError``."""
    fit_weights(model, weights_of(load_checkpoint(path), path), path)
    logger.info("weights of %s loaded", path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a temporary name, then rename; raises ``OSError``, and the old file stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
