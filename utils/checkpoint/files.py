"""Checkpoints: tensors and plain values, written so that a crash never costs the last good one."""

import functools
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from utils.checkpoint.closed_unpickler import MAX_BITS
from utils.checkpoint.unpickling import (
    CheckpointError,
    InertRecord,
    check_dtype,
    check_shape,
    count_with_empty,
    detect_format,
    find_damaged_part,
    read_torch_file,
    read_torch_values,
)
from utils.errors import UserError
from utils.files import atomic_write, sync_file
from utils.run_dir import CONFIG_NAME

T = TypeVar("T")
MAX_CONFIG_VALUES = 100_000  # of a configuration; so many letters of a text count as another:
LETTERS_PER_VALUE = 100
MAX_CONFIG_TENSOR = 1_000  # numbers of a tensor in a configuration
MAX_HEADER = 2**25  # bytes of a safetensors file's header: 300,000 tensors
MAX_CONFIG_FILE = 2**24  # bytes


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path``: to a temporary name first, synced, then renamed.

    Raises:
        CheckpointError: the file can't be written; what stood at ``path`` before still does.
    """
    try:
        with atomic_write(path, durable=True) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        kept = "the one written before is kept" if path.exists() else "there is none before it"
        raise CheckpointError(
            f"{path}: the checkpoint can't be written ({error}); {kept}. "
            "Free disk space or set trainer.save_dir, then resume with -r"
        ) from error


def explain_damaged_state(restore: Callable[..., T]) -> Callable[..., T]:
    """Let a method ``(self, path, …)``, which restores what a file holds, say what is wrong there.

    What a training state should be its parts know, torch's among them, each by errors of its own.
    """

    @functools.wraps(restore)
    def explain(self: Any, path: Path, *args: Any, **keywords: Any) -> T:
        try:
            return restore(self, path, *args, **keywords)
        except UserError:
            raise
        except (
            ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError
        ) as error:  # fmt: skip
            text = (str(error).splitlines() or [""])[0]
            raise CheckpointError(
                f"{path}: can't be resumed, its training state is damaged ({type(error).__name__}: "
                f"{text}); to start from its weights alone, set arch.args.load_checkpoint"
            ) from error

    return explain


def copy_checkpoint(source: Path, target: Path) -> None:
    """Let ``target`` name what ``source`` holds; a second link to the file where there are links.

    Safe because checkpoints are only ever replaced, never written in place.

    Raises:
        CheckpointError: it can't be written; what stood at ``target`` before still does.
    """
    try:
        with atomic_write(target) as temporary:
            temporary.unlink(missing_ok=True)
            try:
                os.link(source, temporary)
            except OSError:  # a file system without links
                shutil.copyfile(source, temporary)
                sync_file(temporary)
    except OSError as error:
        raise CheckpointError(f"{target}: can't be written ({error}); {source} is good") from error


def hold_equal(path: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same, by the checksums in them; their parts are not read.

    One that is damaged or not there equals no other.
    """
    try:
        if path.samefile(other):
            return True
        return _list_parts(path) == _list_parts(other)
    except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def _list_parts(path: Path) -> list[tuple[str, int, int]]:
    with zipfile.ZipFile(path) as file:
        return [(part.filename, part.CRC, part.file_size) for part in file.infolist()]


def make_folder(path: Path) -> None:
    """Make a folder, and those above it.

    Raises:
        CheckpointError: it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path}: the folder can't be made ({error.strerror})") from error


def verify_checkpoint(path: Path) -> None:
    """Compare every part of a checkpoint with the checksum that was written with it.

    Raises:
        CheckpointError: it is damaged, or no torch file.
    """
    if not path.is_file() or detect_format(path) != "zip":
        raise CheckpointError(f"{path}: is damaged (it is no zip archive)")
    damaged = find_damaged_part(path)
    if damaged is not None:
        raise CheckpointError(f"{path}: is damaged (the checksum of {damaged} does not fit)")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, ours or from elsewhere, on the CPU; nothing in the file is executed.

    ``.safetensors`` give ``state_dict``, and ``config`` where there is one beside them. Objects of
    classes that are no data come back as ``InertRecord``, which do nothing; the configuration, and
    that inside a configuration object, as the published code pickled, as plain JSON values.

    Raises:
        CheckpointError: missing, damaged, no dict, or wants to run something (what, is said).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if detect_format(path) == "safetensors":
        return read_safetensors(path)
    state = read_torch_file(path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a checkpoint")
    config = state.get("config")
    if isinstance(config, InertRecord) and isinstance(config.state, dict):
        config = config.state.get("_config")
    if isinstance(config, dict):
        try:
            state["config"] = _ConfigReader().to_json(config)
        except ValueError as error:
            raise CheckpointError(f"{path}: is no checkpoint (its config: {error})") from error
    return state


def load_values(path: Path) -> dict[str, Any]:
    """Read the plain values of a checkpoint of ``save_checkpoint``; its tensors come as None.

    Raises:
        CheckpointError: missing, damaged, or no such checkpoint.
    """
    state = read_torch_values(path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a checkpoint")
    return state


class _ConfigReader:
    """Counts what it turns into JSON, so that shared values can't grow without end."""

    def __init__(self) -> None:
        self.left = MAX_CONFIG_VALUES

    def to_json(self, value: Any) -> Any:
        """Return a value as JSON has them: what JSON has no word for becomes text."""
        self._count(1)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            self._count(len(value) // LETTERS_PER_VALUE)
            return value
        if isinstance(value, InertRecord) and value.items is not None:
            value = value.items  # a kind of dict or list
        if isinstance(value, dict):
            return {self.to_json(str(key)): self.to_json(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset | range):
            return [self.to_json(item) for item in value]
        if isinstance(value, Tensor) and count_with_empty(value.shape) <= MAX_CONFIG_TENSOR:
            return self.to_json(value.tolist())
        return describe_value(value)

    def _count(self, number: int) -> None:
        self.left -= number
        if self.left < 0:
            raise ValueError("there are too many values")


def describe_value(value: Any) -> str:
    """Return a short text for a value of any kind."""
    if isinstance(value, InertRecord):
        return f"<{value.class_name}>"
    if isinstance(value, Tensor):
        return f"<{value.dtype} {tuple(value.shape)}>".replace("torch.", "")
    return f"<{type(value).__name__}>"


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read weights, ``epoch``, ``arch`` and ``monitor_best``, and the configuration beside.

    Other texts of the file are in ``metadata``.

    Raises:
        CheckpointError: damaged, or the configuration beside is no JSON object.
    """
    try:
        with path.open("rb") as header:
            if int.from_bytes(header.read(8), "little") > MAX_HEADER:
                raise ValueError("its header is too long")
        with safe_open(path, framework="pt", device="cpu") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
        for weight in weights.values():
            check_dtype(weight.dtype)
            check_shape(weight.shape)
    # What it raises depends on what is damaged: RuntimeError and OverflowError, too.
    except Exception as error:
        raise CheckpointError(f"{path}: is damaged or no checkpoint ({error})") from error
    state: dict[str, Any] = {"state_dict": weights}
    kinds = {"arch": str, "epoch": _read_integer, "monitor_best": float}
    for name in kinds.keys() & metadata.keys():
        try:
            state[name] = kinds[name](metadata.pop(name))
        except ValueError as error:
            raise CheckpointError(f"{path}: its {name} is no number ({error})") from error
    config = read_config_beside(path)
    state |= {} if config is None else {"config": config}
    return state | ({"metadata": metadata} if metadata else {})


def _read_integer(text: str) -> int:
    value = int(text)
    if value.bit_length() > MAX_BITS:
        raise ValueError(f"it has {len(text)} digits")
    return value


def read_config_beside(path: Path) -> dict[str, Any] | None:
    """Read the configuration beside weights, ``NAME.json`` or ``config.json``, where there is one.

    Raises:
        CheckpointError: it is no JSON object.
    """
    candidates = path.with_suffix(".json"), path.with_name(CONFIG_NAME)
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        return None
    try:
        if file.stat().st_size > MAX_CONFIG_FILE:
            raise ValueError(f"it has more than {MAX_CONFIG_FILE >> 20} MiB")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: can't be read ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds no JSON object")
    return config


def write_safetensors(path: Path, weights: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write weights, each with memory of its own, and plain values as texts.

    Raises:
        SafetensorError: a kind of number that the format does not have.
        OSError: the disk.
    """
    try:
        save_file(weights, path, {name: str(value) for name, value in values.items()})
    except KeyError as error:  # how it says that
        raise SafetensorError(f"the format has no {error}") from error
