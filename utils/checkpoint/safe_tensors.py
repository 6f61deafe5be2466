"""Weights as ``.safetensors``: tensors and texts only, with the configuration in a file beside."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from utils.checkpoint.errors import CheckpointError
from utils.run_dir import CONFIG_NAME


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read weights, ``epoch``, ``arch`` and ``monitor_best``, and the configuration beside.

    Other texts of the file are in ``metadata``.

    Raises:
        CheckpointError: damaged, or the configuration beside is no JSON object.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged or no checkpoint ({error})") from error
    state: dict[str, Any] = {"state_dict": weights}
    kinds = {"arch": str, "epoch": int, "monitor_best": float}
    for name in kinds.keys() & metadata.keys():
        try:
            state[name] = kinds[name](metadata.pop(name))
        except ValueError as error:
            raise CheckpointError(f"{path}: its {name} is no number ({error})") from error
    config = config_beside(path)
    if config is not None:
        state["config"] = read_config(config)
    return state | ({"metadata": metadata} if metadata else {})


def config_beside(path: Path) -> Path | None:
    """Return the configuration beside weights: ``NAME.json``, or ``config.json``, or None."""
    candidates = path.with_suffix(".json"), path.with_name(CONFIG_NAME)
    return next((file for file in candidates if file.is_file()), None)


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ``CheckpointError`` where it is none."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: can't be read ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
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
