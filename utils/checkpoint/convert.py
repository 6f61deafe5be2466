"""Checkpoints from elsewhere, written anew as tensors and plain values."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from utils.checkpoint.files import (
    CheckpointError,
    load_checkpoint,
    read_config_beside,
    write_safetensors,
)
from utils.checkpoint.weights import get_weights
from utils.errors import UserError
from utils.files import atomic_write, write_json
from utils.run_dir import CONFIG_NAME

SUFFIXES = (".pth", ".safetensors")
KEPT = {"arch": str, "epoch": int, "monitor_best": int | float}  # beside weights and config


def convert_checkpoint(source: Path, target: Path, force: bool = False) -> list[str]:
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
    weights = copy_weights(get_weights(state, source), keep_tied=target.suffix == ".pth")
    if "state_dict" not in state:
        state = {"state_dict": state}  # a plain state dict
    values = {name: state[name] for name, kind in KEPT.items() if isinstance(state.get(name), kind)}
    config = state.get("config")
    if not isinstance(config, dict):
        config = read_config_beside(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target, durable=True) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # safetensors would let nobody else read
            if target.suffix == ".pth":
                written = values | {"state_dict": weights} | ({"config": config} if config else {})
                torch.save(written, temporary)
            else:
                write_safetensors(temporary, weights, values)
            temporary.chmod(mode)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch: a full disk
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{target}: can't be written ({text}); name another place, or free disk space"
        ) from error
    count = sum(weight.numel() for weight in weights.values())
    lines = [f"{target}: {len(weights)} tensors, {count:,} numbers"]
    lines += [f"{name}: {value}" for name, value in values.items()]
    known = values.keys() | {"state_dict"} | ({"config"} if config else set())
    left_out = sorted(map(str, state.keys() - known))
    if left_out:
        end = "; training can't be resumed from it" if "optimizer" in left_out else ""
        lines.append(f"left out: {', '.join(left_out)}{end}")
    beside = target.with_name(CONFIG_NAME)
    if config is None:
        return [*lines, "no configuration is in it or beside it"]
    if beside.exists():
        return [*lines, f"{beside}: is there already and was left as it is"]
    write_json(beside, config)
    return [*lines, f"{beside}: its configuration"]


def copy_weights(weights: dict[str, Tensor], keep_tied: bool) -> dict[str, Tensor]:
    """Return weights that are contiguous and hold no more memory than they show.

    Args:
        weights: the weights.
        keep_tied: let names that show the same numbers go on sharing them.
    """
    copies: dict[tuple, Tensor] = {}
    result = {}
    for name, weight in weights.items():
        weight = weight.detach()
        place = (weight.data_ptr(), weight.dtype, weight.shape, weight.stride())
        if not keep_tied or place not in copies or not weight.numel():
            copies[place] = weight.clone(memory_format=torch.contiguous_format)
        result[name] = copies[place]
    return result
