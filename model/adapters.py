"""Trained weights of a pretrained tower: all, some, none, or low-rank adapters (LoRA).

LoRA: Hu et al., arXiv 2106.09685. Shapes: a weight is (O, I), its adapter (O, r) and (r, I).
"""

import fnmatch
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from base.config import ConfigModel
from utils.errors import UserError

_ORIGINAL = ".parametrizations.{}.original"
_MARK = ".parametrizations."


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class LoraParams(ConfigModel):
    """Low-rank adapters of a tower; the weights that they adapt stay as they are."""

    rank: int = Field(16, ge=1, description="Rank r of an adapter.")
    alpha: float = Field(
        16.0, gt=0, description="An adapter counts alpha / rank times, so that rates fit each rank."
    )
    match: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_as_tuple)] = Field(
        ("*.q_proj.weight", "*.v_proj.weight"),
        description="Patterns (fnmatch) of the weights that get one, by their names in the tower; "
        "matrices only. open_clip's attention has *.in_proj_weight.",
    )


class LowRankUpdate(nn.Module):
    """A parametrization of a weight: W + alpha / r * up down, equal to W at its start."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.empty(rank, columns, dtype=weight.dtype))
        self.up = nn.Parameter(torch.zeros(rows, rank, dtype=weight.dtype))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        # A buffer, so that a checkpoint can be merged without its configuration.
        self.register_buffer("scale", torch.tensor(alpha / rank, dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight (O, I)."""
        return weight + self.scale * (self.up @ self.down)


def freeze_parameters(module: nn.Module, freeze: str | Sequence[str]) -> None:
    """Let training leave parameters as they are.

    Args:
        freeze: ``none``, ``all``, or patterns (fnmatch) of names within ``module``.

    Raises:
        UserError: a pattern matches none.
    """
    if freeze == "none":
        return
    patterns = ["*"] if freeze == "all" else [freeze] if isinstance(freeze, str) else freeze
    named = dict(module.named_parameters())
    for pattern in patterns:
        found = fnmatch.filter(named, pattern)
        if not found:
            raise UserError(
                f'arch.args.freeze: "{pattern}" matches no weight of the tower; give all, none, or '
                f"patterns of names such as {_name_some(named)}"
            )
        for name in found:
            named[name].requires_grad_(False)


def add_adapters(module: nn.Module, params: LoraParams) -> None:
    """Give each matched weight a low-rank adapter, and freeze the weight itself.

    Raises:
        UserError: a pattern matches no matrix.
    """
    matrices = {name: weight for name, weight in module.named_parameters() if weight.ndim == 2}
    matched: dict[str, Tensor] = {}
    for pattern in params.match:
        found = fnmatch.filter(matrices, pattern)
        if not found:
            raise UserError(
                f'arch.args.lora.match: "{pattern}" matches no matrix of the tower, which has '
                f"{_name_some(matrices)}"
            )
        matched |= {name: matrices[name] for name in found}
    for name, weight in matched.items():
        owner, _, leaf = name.rpartition(".")
        weight.requires_grad_(False)
        update = LowRankUpdate(weight.detach(), params.rank, params.alpha)
        parametrize.register_parametrization(module.get_submodule(owner), leaf, update)


def merge_adapters(module: nn.Module) -> None:
    """Add adapters to their weights, whose names are then as without them."""
    for part in list(module.modules()):
        for leaf in list(getattr(part, "parametrizations", {})):
            if any(isinstance(p, LowRankUpdate) for p in part.parametrizations[leaf]):
                parametrize.remove_parametrizations(part, leaf, leave_parametrized=True)


def merge_adapter_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's weights with adapters added to the weights that they adapt.

    Raises:
        UserError: an adapter is not complete, or does not fit its weight.
    """
    merged = {name: value for name, value in weights.items() if _MARK not in name}
    for name, original in _list_originals(weights):
        owner, _, leaf = name.rpartition(".")
        names = [f"{owner}{_MARK}{leaf}.0.{part}" for part in ("up", "down", "scale")]
        shapes = [tuple(weights[part].shape) for part in names if part in weights]
        fits = len(shapes) == 3 and [*map(len, shapes)][:2] == [2, 2] and shapes[2] in ((), (1,))
        fits = fits and shapes[0][1] == shapes[1][0]
        if not fits or (shapes[0][0], shapes[1][1]) != tuple(original.shape):
            raise UserError(f"the low-rank adapter of {name} does not fit it; save it anew")
        up, down, scale = (weights[part] for part in names)
        merged[name] = original + scale * (up @ down)
    return merged


def has_adapters(weights: dict[str, Tensor]) -> bool:
    """Whether a checkpoint's weights are adapted."""
    return any(_MARK in name for name in weights)


def name_as_adapted(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return plain weights under the names of an adapted model, whose fresh adapters they get.

    Args:
        own: ``state_dict`` of the adapted model.
    """
    renamed = dict(weights)
    for name, _ in _list_originals(own):
        owner, _, leaf = name.rpartition(".")
        if name in renamed:
            renamed[owner + _ORIGINAL.format(leaf)] = renamed.pop(name)
    adapters = {
        name: value
        for name, value in own.items()
        if _MARK in name and not name.endswith(".original")
    }
    return adapters | renamed


def _list_originals(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield each adapted weight under its name without adapters."""
    for name, value in weights.items():
        if _MARK in name and name.endswith(".original"):
            owner, _, leaf = name.removesuffix(".original").rpartition(_MARK)
            yield f"{owner}.{leaf}", value


def _name_some(names: dict[str, Any]) -> str:
    found = list(names)
    return ", ".join(dict.fromkeys([found[0], found[len(found) // 2], found[-1]])) if found else "-"
