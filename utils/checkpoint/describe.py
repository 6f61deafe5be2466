"""Descriptions of checkpoints as lines of text: what one holds, and which model its weights fit."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from utils.checkpoint.files import CheckpointError, describe_value
from utils.checkpoint.unpickling import InertRecord, detect_format
from utils.checkpoint.weights import get_weights

Shapes = dict[str, tuple[int, ...]]
FORMATS = {"zip": "torch (zip)", "legacy": "torch (before 1.6)", "safetensors": "safetensors"}
SHOWN = ("arch", "epoch", "state_dict", "config")  # in lines of their own
MAX_NAMES = 8  # names, or shapes, of a line


class Difference(NamedTuple):
    """How weights differ from those of a model, in numbers of keys."""

    missing: int
    unexpected: int
    reshaped: int

    def __str__(self) -> str:
        return (
            f"{self.missing} missing keys, {self.unexpected} unexpected keys, "
            f"{self.reshaped} of another shape"
        )


def get_shapes(weights: dict[str, Tensor]) -> Shapes:
    """Return the shape of each weight."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def compare_shapes(weights: Shapes, model: Shapes) -> Difference:
    """Compare weights with those of a model by name and shape."""
    common = weights.keys() & model.keys()
    return Difference(
        missing=len(model.keys() - weights.keys()),
        unexpected=len(weights.keys() - model.keys()),
        reshaped=sum(weights[name] != model[name] for name in common),
    )


def describe_checkpoint(path: Path, state: dict[str, Any], whole_config: bool) -> list[str]:
    """Return the lines about a checkpoint that ``load_checkpoint`` has read.

    Args:
        path: its file.
        state: what is in it.
        whole_config: show all of the configuration inside, not its name alone.
    """
    lines = [f"file: {path}", f"format: {FORMATS[detect_format(path)]}"]
    lines += [f"{key}: {summarize(state[key])}" for key in ("arch", "epoch") if key in state]
    try:
        lines += _describe_weights(get_weights(state, path))
        if "state_dict" not in state:
            return lines  # a plain state dict
    except CheckpointError as error:
        lines.append(f"weights: none ({str(error).removeprefix(f'{path}: ')})")
    lines += [f"{key}: {summarize(state[key])}" for key in state if key not in SHOWN]
    config = state.get("config", {})
    if not isinstance(config, dict):
        lines.append(f"config: {summarize(config)}")
    elif whole_config and "config" in state:
        lines += ["config:", json.dumps(config, indent=2)]
    elif "config" in state:
        lines.append(f"config: {config.get('name', 'without a name')} (--config shows it)")
    return lines


def _describe_weights(weights: dict[str, Tensor]) -> list[str]:
    """The number of weights, and a line for each of their parts."""
    parts: dict[str, list[Tensor]] = {}
    for name, weight in weights.items():
        parts.setdefault(name.split(".")[0], []).append(weight)
    count = sum(weight.numel() for weight in weights.values())
    kinds = Counter(str(weight.dtype).removeprefix("torch.") for weight in weights.values())
    lines = [f"weights: {len(weights)} tensors, {count:,} numbers, {', '.join(kinds)}"]
    width = max(map(len, parts))
    for part, tensors in parts.items():
        numbers = sum(tensor.numel() for tensor in tensors)
        lines.append(f"  {part:{width}}  {len(tensors):4}  {numbers:>12,}  {_list_shapes(tensors)}")
    return lines


def _list_shapes(tensors: list[Tensor]) -> str:
    """The shapes of tensors, the most common first: ``768 (40), 768×768 (24), …``."""
    counted = Counter("×".join(map(str, tensor.shape)) or "scalar" for tensor in tensors)
    texts = [shape if n == 1 else f"{shape} ({n})" for shape, n in counted.most_common(MAX_NAMES)]
    return ", ".join(texts + ["…"] * (len(counted) > MAX_NAMES))


def summarize(value: Any) -> str:
    """Return one line about a value, with the classes of the inert records in it."""
    records = Counter(record.class_name for record in _find_records(value))
    inert = "".join(f"; inert: {name} ({n})" for name, n in records.most_common(MAX_NAMES))
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return value if len(value) <= 80 and value.isprintable() else f"text of {len(value)}"
    if isinstance(value, dict):
        names = [str(key)[:40] for key in list(value)[:MAX_NAMES]]
        return f"dict of {len(value)}: {', '.join(names + ['…'] * (len(value) > MAX_NAMES))}{inert}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"{type(value).__name__} of {len(value)}{inert}"
    return describe_value(value) + (inert if isinstance(value, InertRecord) else "")


def _find_records(value: Any) -> Iterator[InertRecord]:
    """Every inert record in a value, once."""
    left, seen = [value], set()
    while left:
        value = left.pop()
        if id(value) in seen or not isinstance(
            value, InertRecord | dict | list | tuple | set | frozenset
        ):
            continue
        seen.add(id(value))
        if isinstance(value, InertRecord):
            yield value
            left += [value.args, value.state, value.items]
        else:
            left += [*value, *value.values()] if isinstance(value, dict) else value


def describe_fit(weights: Shapes, models: dict[str, Shapes], skipped: dict[str, str]) -> list[str]:
    """Return which configuration's model the weights fit, or come nearest to.

    Args:
        weights: shapes of the weights.
        models: configuration -> shapes of its model.
        skipped: configuration -> why its model can't be built.
    """
    found = {name: compare_shapes(weights, model) for name, model in models.items()}
    fitting = [name for name, difference in found.items() if not any(difference)]
    if fitting:
        lines = [f"fits: {', '.join(fitting)}"]
    elif found:
        # The one that has a place for most of the file; among equals, the one that lacks least.
        least = min(found.values(), key=lambda diff: (diff.unexpected + diff.reshaped, diff))
        nearest = ", ".join(name for name, difference in found.items() if difference == least)
        lines = [f"fits: none; nearest: {nearest} ({least})"]
    else:
        lines = ["fits: no configuration's model can be built"]
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(textwrap.shorten(reason, 120, placeholder=" …"), []).append(name)
    reasons = [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]
    return lines + ([f"not tried: {'; '.join(reasons)}"] if skipped else [])
