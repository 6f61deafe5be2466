"""Checkpoints from elsewhere, written anew as tensors and plain values."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from utils.checkpoint.errors import CheckpointError
from utils.checkpoint.files import load_checkpoint
from utils.checkpoint.safe_tensors import config_beside, read_config, write_safetensors
from utils.checkpoint.weights import weights_of
from utils.errors import UserError
from utils.files import write_json
from utils.run_dir import CONFIG_NAME

SUFFIXES = (".pth", ".safetensors")
KEPT = {"arch": str, "epoch": int, "monitor_best": int | float}  # beside weights and config


def convert(source: Path, target: Path, force: bool = False) -> list[str]:
    """Write the weights, a few plain values and the configuration of ``source`` to ``target``.

    The configuration, where one is in ``source`` or beside it, also goes to ``config.json`` beside
    ``target``, unless such a file is there.

    Args:
        source: any checkpoint that ``load_checkpoint`` reads.
        target: a ``.pth`` or ``.safetensors`` file.
        force: replace ``target`` where it is there.

    Returns:
        What was done, and what was left out, a line each.

    Raises:
        UserError: ``target`` is of another kind, or is there.
        CheckpointError: ``source`` can't be read or ``target`` can't be written.
    """
    if target.suffix not in SUFFIXES:
        raise UserError(f"{target}: name a file that ends in {' or '.join(SUFFIXES)}")
    if target.exists() and not force:
        raise UserError(f"{target}: is there already; give another name, or --force to replace it")
    state = load_checkpoint(source)
    weights = own_memory(weights_of(state, source), tied=target.suffix == ".pth")
    if "state_dict" not in state:
        state = {"state_dict": state}  # a plain state dict
    values = {name: state[name] for name, kind in KEPT.items() if isinstance(state.get(name), kind)}
    config = _config_of(state, source)
    if target.suffix == ".pth":
        written = values | {"state_dict": weights} | ({"config": config} if config else {})
        _replace(target, lambda path: torch.save(written, path))
    else:
        _replace(target, lambda path: write_safetensors(path, weights, values))
    count = sum(weight.numel() for weight in weights.values())
    lines = [f"{target}: {len(weights)} tensors, {count:,} numbers"]
    lines += [f"{name}: {value}" for name, value in values.items()]
    known = values.keys() | {"state_dict"} | ({"config"} if config else set())
    left_out = sorted(map(str, state.keys() - known))
    if left_out:
        end = "; training can't be resumed from it" if "optimizer" in left_out else ""
        lines.append(f"left out: {', '.join(left_out)}{end}")
    return lines + _write_config(target.with_name(CONFIG_NAME), config)


def own_memory(weights: dict[str, Tensor], tied: bool) -> dict[str, Tensor]:
    """Return weights that are contiguous and hold no more memory than they show.

    Args:
        weights: the weights.
        tied: let names that show the same numbers go on sharing them.
    """
    seen: dict[tuple, Tensor] = {}
    result = {}
    for name, weight in weights.items():
        weight = weight.detach()
        place = (weight.data_ptr(), weight.dtype, weight.shape, weight.stride())
        if not tied or place not in seen or not weight.numel():
            seen[place] = weight.clone(memory_format=torch.contiguous_format)
        result[name] = seen[place]
    return result


def _config_of(state: dict[str, Any], source: Path) -> dict[str, Any] | None:
    """The configuration inside a checkpoint, or beside it."""
    if isinstance(state.get("config"), dict):
        return state["config"]
    beside = config_beside(source)
    return None if beside is None else read_config(beside)


def _write_config(path: Path, config: dict[str, Any] | None) -> list[str]:
    if config is None:
        return ["no configuration is in it or beside it"]
    if path.exists():
        return [f"{path}: is there already and was left as it is"]
    write_json(path, config)
    return [f"{path}: its configuration"]


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary name, synced, then renamed; makes the folder.

    Raises:
        CheckpointError: it can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(temporary, write)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch: a full disk
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: can't be written ({text}); name another place, or free disk space"
        ) from error


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write to ``path`` with the access rights of any new file, synced."""
    path.touch()
    mode = path.stat().st_mode  # safetensors would let nobody else read
    write(path)
    path.chmod(mode)
    with path.open("rb") as file:
        os.fsync(file.fileno())
