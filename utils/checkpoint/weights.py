"""The weights of a checkpoint, and how they get into a model: strictly, by name and shape."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from utils.checkpoint.files import CheckpointError, load_checkpoint
from utils.checkpoint.unpickling import MAX_SHOWN, MORE_SHOWN, make_printable

logger = logging.getLogger(__name__)

# Buffers of old library versions that hold no weight.
IGNORED_SUFFIXES = (".position_ids",)
MAX_LISTED = 20  # problems of an error
MAX_NAME = 500  # letters of a weight's name


def get_weights(state: dict[str, Any], source: str | Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, or of a plain state dict, without ``module.`` prefixes.

    Raises:
        CheckpointError: there are none, or no model has such.
    """
    weights = state.get("state_dict", state)
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{source}: holds no weights (no state_dict)")
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{source}: its state_dict holds values that are not tensors")
    if not all(isinstance(name, str) for name in weights):
        raise CheckpointError(f"{source}: its state_dict has names that are not text")
    if max(map(len, weights)) > MAX_NAME:
        raise CheckpointError(f"{source}: its state_dict has names of more than {MAX_NAME} letters")
    if count_bytes(weights.values()) > MAX_SHOWN * _count_stored(weights.values()) + MORE_SHOWN:
        raise CheckpointError(f"{source}: its weights show the same numbers again without end")
    return {
        name.removeprefix("module."): value
        for name, value in weights.items()
        if not name.endswith(IGNORED_SUFFIXES)
    }


def count_bytes(weights: Iterable[Tensor]) -> int:
    """Return the memory that copies of tensors would take."""
    return sum(weight.nbytes for weight in weights)


def _count_stored(weights: Iterable[Tensor]) -> int:
    """The memory that tensors take; what two of them show, once."""
    storages = [weight.untyped_storage() for weight in weights]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors and their names, in hexadecimal."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        # A single number may have any stride, and bytes are only seen along one of 1.
        row = weight.cpu().contiguous().as_strided((weight.numel(),), (1,))
        digest.update(row.view(torch.uint8).numpy())
    return digest.hexdigest()


def fit_weights(
    model: nn.Module, weights: dict[str, Tensor], source: str | Path, assign: bool = False
) -> None:
    """Load weights strictly.

    Args:
        assign: the model gets the tensors themselves, with their dtypes, and not their values.

    Raises:
        CheckpointError: keys are missing or unexpected, or shapes differ; 20 of them are
            listed.
    """
    own = {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith(IGNORED_SUFFIXES)
    }
    problems = [f"missing key: {name}" for name in own.keys() - weights.keys()]
    problems += [f"unexpected key: {name}" for name in weights.keys() - own.keys()]
    problems += [
        f"{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    problems += [
        f"{name}: complex numbers in the file, real ones in the model"
        for name in own.keys() & weights.keys()
        if weights[name].is_complex() and not own[name].is_complex()
    ]
    if problems:
        lines = [make_printable(problem, 200) for problem in sorted(problems)[:MAX_LISTED]]
        if len(problems) > MAX_LISTED:
            lines.append(f"… and {len(problems) - MAX_LISTED} more")
        raise CheckpointError(
            f"{source}: its weights do not fit the model of this configuration\n  "
            + "\n  ".join(lines)
        )
    # But for what is no weight, all are there.
    model.load_state_dict(weights, strict=False, assign=assign)


def load_weights(model: nn.Module, path: str | Path, state: dict[str, Any] | None = None) -> None:
    """Load the weights of a checkpoint file strictly by name.

    A model with a method ``adapt_weights(weights, source) -> (weights, notes)`` may first bring
    weights of other sizes to its own (``base.base_model.RetrievalModel``); what it changed is a
    warning.

    Args:
        path: the file.
        state: its content, where it has been read already.

    Raises:
        CheckpointError: the file can't be read, or does not fit.
    """
    state = load_checkpoint(path) if state is None else state
    weights, notes = get_weights(state, path), []
    if hasattr(model, "adapt_weights"):
        weights, notes = model.adapt_weights(weights, path)
    fit_weights(model, weights, path)
    logger.info("weights of %s loaded", path)
    for note in notes:
        logger.warning("weights of %s: %s", path, note)


def build_with_weights(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    """Build a module that has the weights of a file, in the file's dtypes.

    No memory is taken for weights that would be replaced at once, and nothing is drawn for them.

    Raises:
        CheckpointError: the file can't be read, or does not fit.
    """
    weights = get_weights(load_checkpoint(path), path)
    with _LeaveOutWeights():
        module = build()
    fit_weights(module, weights, path, assign=True)
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        module = build()  # it begins with something that the file does not hold
        fit_weights(module, weights, path, assign=True)
    return module


class _LeaveOutWeights(TorchFunctionMode):
    """Lets what begins with ``torch.empty``, as layers' weights do, have a shape and no memory."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"device": "meta"} if func is torch.empty else kwargs))
