"""What a checkpoint holds, as lines of text, and how its weights differ from a model's."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.checkpoint.errors import CheckpointError
from utils.checkpoint.foreign import described, plain_json
from utils.checkpoint.inert import format_of
from utils.checkpoint.records import InertRecord
from utils.checkpoint.weights import weights_of

Shapes = dict[str, tuple[int, ...]]
FORMATS = {
    "zip": "torch (zip)",
    "legacy": "torch (before 1.6)",
    "safetensors": "safetensors",
}
SHOWN = ("arch", "epoch", "state_dict", "config")  # in lines of their own
MAX_NAMES = 8  # names, or shapes, of a line


@dataclass(frozen=True)
class Difference:
    """How weights differ from those of a model."""

    missing: int
    left_over: int
    reshaped: int

    def __str__(self) -> str:
        return (
            f"{self.missing} missing, {self.left_over} left over, "
            f"{self.reshaped} of another shape"
        )

    @property
    def homeless(self) -> int:
        """Weights of the file that the model has no place for."""
        return self.left_over + self.reshaped

    @property
    def total(self) -> int:
        """All that differs; 0 where the weights fit."""
        return self.missing + self.homeless


def shapes_of(weights: dict[str, Tensor]) -> Shapes:
    """Return the shape of each weight."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def difference(weights: Shapes, model: Shapes) -> Difference:
    """Compare weights with those of a model by name and shape."""
    common = weights.keys() & model.keys()
    return Difference(
        missing=len(model.keys() - weights.keys()),
        left_over=len(weights.keys() - model.keys()),
        reshaped=sum(weights[name] != model[name] for name in common),
    )


def describe_checkpoint(path: Path, state: dict[str, Any], whole_config: bool) -> list[str]:
    """Return the lines about a checkpoint that ``load_checkpoint`` has read.

    Args:
        path: its file.
        state: what is in it.
        whole_config: show all of the configuration inside, not its name alone.
    """
    lines = [f"file: {path}", f"format: {FORMATS[format_of(path)]}"]
    bare = "state_dict" not in state
    lines += [f"{key}: {summary(state[key])}" for key in ("arch", "epoch") if key in state]
    try:
        lines += _weight_lines(weights_of(state, path))
    except CheckpointError as error:
        lines.append(f"weights: none ({str(error).removeprefix(f'{path}: ')})")
        bare = False
    others = [] if bare else [key for key in state if key not in SHOWN]
    lines += [f"{key}: {summary(state[key])}" for key in others]
    if "config" in state and not bare:
        lines += _config_lines(state["config"], whole_config)
    return lines


def _weight_lines(weights: dict[str, Tensor]) -> list[str]:
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
        lines.append(f"  {part:{width}}  {len(tensors):4}  {numbers:>12,}  {_shapes(tensors)}")
    return lines


def _shapes(tensors: list[Tensor]) -> str:
    """The shapes of tensors, the most common first: ``768 (40), 768×768 (24), …``."""
    counted = Counter("×".join(map(str, tensor.shape)) or "scalar" for tensor in tensors)
    texts = [shape if n == 1 else f"{shape} ({n})" for shape, n in counted.most_common(MAX_NAMES)]
    return ", ".join(texts + ["…"] * (len(counted) > MAX_NAMES))


def summary(value: Any) -> str:
    """Return one line about a value, with the classes of the inert records in it."""
    records = Counter(record.class_name for record in _records(value))
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
    return described(value) + (inert if isinstance(value, InertRecord) else "")


def _records(value: Any) -> Iterator[InertRecord]:
    """Every inert record in a value, once."""
    left, seen = [value], set()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        if isinstance(value, InertRecord):
            seen.add(id(value))
            yield value
            left += [value.args, value.state, value.items]
        elif isinstance(value, dict):
            seen.add(id(value))
            left += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            seen.add(id(value))
            left += value


def _config_lines(config: Any, whole: bool) -> list[str]:
    """The name of a configuration, or all of it."""
    if not isinstance(config, dict):
        return [f"config: {summary(config)}"]
    if whole:
        return ["config:", json.dumps(plain_json(config), indent=2)]
    return [f"config: {config.get('name', 'without a name')} (--config shows it)"]


def fit_lines(weights: Shapes, models: dict[str, Shapes], skipped: dict[str, str]) -> list[str]:
    """Return which configuration's model the weights fit, or come nearest to.

    Args:
        weights: shapes of the weights.
        models: configuration -> shapes of its model.
        skipped: configuration -> why its model can't be built.
    """
    found = {name: difference(weights, model) for name, model in models.items()}
    fitting = [name for name, diff in found.items() if not diff.total]
    if fitting:
        lines = [f"fits: {', '.join(fitting)}"]
    elif found:
        # The one that has a place for most of the file; among equals, the one that lacks least.
        least = min(found.values(), key=lambda diff: (diff.homeless, diff.missing))
        nearest = ", ".join(name for name, diff in found.items() if diff == least)
        lines = [f"fits: none; nearest: {nearest} ({least})"]
    else:
        lines = ["fits: no configuration's model can be built"]
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(textwrap.shorten(reason, 120, placeholder=" …"), []).append(name)
    reasons = [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]
    return lines + ([f"not tried: {'; '.join(reasons)}"] if skipped else [])


def model_shapes(model: torch.nn.Module) -> Shapes:
    """Return the shapes of a model's weights, by name."""
    return shapes_of(model.state_dict())
