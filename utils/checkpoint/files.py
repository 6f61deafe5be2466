"""Checkpoints: tensors and plain values, written so that a crash never costs the last good one."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError


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
