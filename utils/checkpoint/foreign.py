"""What a checkpoint from elsewhere holds, as the plain values that ours hold."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.checkpoint.errors import CheckpointError
from utils.checkpoint.records import InertRecord

MAX_NODES = 100_000  # values of a configuration
MAX_LISTED = 1_000  # numbers of a tensor in a configuration


def plain_state(state: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """Return a state with arrays as tensors and ``config`` as plain JSON values.

    Raises:
        CheckpointError: it holds itself, or is nested beyond reading.
    """
    try:
        state = _Arrays().out_of(state)
        config = state.get("config")
        if isinstance(config, InertRecord) and isinstance(config.state, dict):
            inside = config.state.get("_config")
            if isinstance(inside, dict):
                state["config"] = plain_json(inside)
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"{source}: is no checkpoint (its values are nested: {error})") from (
            error
        )
    return state


class _Arrays:
    """Turns numpy arrays and scalars, wherever they are, to tensors and Python numbers.

    What holds none stays the same object, so that our own checkpoints pass unchanged.
    """

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Any]] = {}  # the original too: its id stays its own
        self.open: set[int] = set()

    def out_of(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return _tensor(value)
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, dict | list | tuple | InertRecord) or not value:
            return value
        if id(value) in self.known:
            return self.known[id(value)][1]
        if id(value) in self.open:
            raise ValueError("one holds itself")
        self.open.add(id(value))
        changed = self._inside(value)
        self.open.remove(id(value))
        self.known[id(value)] = value, changed
        return changed

    def _inside(self, value: Any) -> Any:
        if isinstance(value, InertRecord):
            for name in ("args", "state", "items"):
                setattr(value, name, self.out_of(getattr(value, name)))
            return value
        if isinstance(value, dict):
            items = {key: self.out_of(item) for key, item in value.items()}
            if any(items[key] is not value[key] for key in items):
                return OrderedDict(items) if isinstance(value, OrderedDict) else items
            return value
        items = [self.out_of(item) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            return tuple(items) if isinstance(value, tuple) else items
        return value


def _tensor(array: np.ndarray) -> Any:
    """An array of numbers as a tensor; one of texts as a list."""
    if array.dtype.kind in "biufc":
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    return array.tolist()


def plain_json(value: Any) -> Any:
    """Return a value as JSON has them: what JSON has no word for becomes text.

    Raises:
        ValueError: there is no end to it.
    """
    return _Json().of(value)


class _Json:
    """Counts what it turns into JSON, so that shared values can't grow without end."""

    def __init__(self) -> None:
        self.left = MAX_NODES

    def of(self, value: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("there are too many")
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, InertRecord) and value.items is not None:
            value = value.items  # a kind of dict or list
        if isinstance(value, dict):
            return {str(key): self.of(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset | range):
            return [self.of(item) for item in value]
        if isinstance(value, Tensor) and value.numel() <= MAX_LISTED:
            return self.of(value.tolist())
        return described(value)


def described(value: Any) -> str:
    """Return a short text for a value of any kind."""
    if isinstance(value, InertRecord):
        return f"<{value.class_name}>"
    if isinstance(value, Tensor):
        return f"<{value.dtype} {tuple(value.shape)}>".replace("torch.", "")
    return f"<{type(value).__name__}>"
