"""16-bit numbers under autocast, where autocast would go back to float32 or cast too often."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.LayerNorm):
    """Layer norm whose output has its input's dtype; mean and variance are float32 inside.

    Autocast would give float32, of a float32 copy of the input that the backward pass keeps, and
    the next product would cast it back.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> the same."""
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


def cast_for_autocast(x: Tensor) -> Tensor:
    """Return ``x`` in the dtype of autocast's products, or as it is without autocast."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def cast_together(weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """Do with one operation for all weights, on one device, what autocast does with one for each.

    In a layer of few tokens the time goes into launching operations.
    """
    device = weights[0].device.type
    if not torch.is_autocast_enabled(device):
        return weights
    return _CastTogether.apply(torch.get_autocast_dtype(device), *weights)


class _CastTogether(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return tuple(_cast(tensors, [dtype] * len(tensors)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_cast(grads, ctx.dtypes))


def _cast(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    cast = [
        torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
        for tensor, dtype in zip(tensors, dtypes, strict=True)
    ]
    torch._foreach_copy_(cast, list(tensors))
    return cast
