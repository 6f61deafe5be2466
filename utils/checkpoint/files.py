"""Checkpoints: tensors and plain values, written so that a crash never costs the last good one."""

import os
import re
import shutil
import zipfile
import zlib
from contextlib import suppress
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
    "make_folder",
    "remove_leftovers",
    "save_checkpoint",
]

_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # .NAME.PROCESS.tmp, as written below


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
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        _remove(temporary)
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
            _sync(temporary)
        temporary.replace(target)
        # Still there where both were names of one file: such a renaming does nothing.
        temporary.unlink(missing_ok=True)
    except OSError as error:
        _remove(temporary)
        raise CheckpointError(f"{target}: can't be written ({error}); {source} is good") from error


def make_folder(path: Path) -> None:
    """Make a folder, and those above it.

    Raises:
        CheckpointError: it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path}: the folder can't be made ({error.strerror})") from error


def remove_leftovers(folder: Path) -> list[str]:
    """Remove the temporary files of writers that were killed; returns their names."""
    found = [path for path in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(path.name)]
    for path in found:
        path.unlink(missing_ok=True)
    return sorted(path.name for path in found)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _remove(temporary: Path) -> None:
    """Remove what was written by half; where even that fails, the first error says why."""
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def check_whole(path: Path) -> None:
    """Compare every part of a checkpoint with the checksum that was written with it.

    Raises:
        CheckpointError: it is damaged, or no torch file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except _DAMAGED as error:
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
