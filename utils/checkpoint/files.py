"""Checkpoints: tensors and plain values, written so that a crash never costs the last good one."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.checkpoint.errors import CheckpointError
from utils.checkpoint.foreign import plain_state
from utils.checkpoint.inert import format_of, read_inert
from utils.checkpoint.safe_tensors import read_safetensors

__all__ = [
    "CheckpointError",
    "check_whole",
    "copy_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]


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


def check_whole(path: Path) -> None:
    """Compare every part of a checkpoint with the checksum that was written with it.

    Raises:
        CheckpointError: it is damaged, or no torch file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: is damaged ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: is damaged (the checksum of {damaged} does not fit)")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, ours or from elsewhere, on the CPU; nothing in the file is executed.

    ``.safetensors`` give ``state_dict``, and ``config`` where there is one beside them. Objects of
    classes that are no data come back as ``InertRecord``, which do nothing; a
    configuration object, as the published code pickled, as the plain values inside it.

    Raises:
        CheckpointError: missing, damaged, no dict, or wants to run something (what, is said).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if format_of(path) == "safetensors":
        return read_safetensors(path)
    # Not torch.load: its reader of weights alone can be made to crash, and does not say what a
    # file wanted.
    state = read_inert(path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a checkpoint")
    return plain_state(state, path)
