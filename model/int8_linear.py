"""Linear layers in 8-bit integers on the CPU, for inference.

Weights are rounded once, with a scale for each output; inputs at each call, with a scale for each
token, so that a text's result does not depend on its batch. A few channels of a transformer's
inputs are far larger than the others, and with a scale that holds them little would be left of
those. So each channel is divided, and its weights multiplied, by a power of how large it is in some
samples (SmoothQuant, Xiao et al., ICML 2023, section 4).

Shapes: M tokens, O outputs and I inputs of a layer.
"""

import platform
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMOOTHING = 0.75  # the power; 0: not at all, 1: all channels become alike
_LEAST_TYPICAL = 0.01  # of the largest channel: what a layer's typical channel has at least
_INPUT_LEVELS = 127
_Result = TypeVar("_Result")


def is_int8_usable() -> bool:
    """Whether this machine's CPU and this torch have a fast product of 8-bit integers."""
    return platform.machine().lower() in ("x86_64", "amd64") and hasattr(torch, "_int_mm")


def quantize_linears(module: nn.Module, run_samples: Callable[[], _Result]) -> _Result:
    """Round the weights of all linear layers that some samples go through.

    Weights may be given in half precision; never are all of them in float32 at the same time.

    Args:
        module: in evaluation mode; all but the weights of its linear layers is float32.
        run_samples: runs it, so that each layer is shown typical inputs.

    Returns:
        What ``run_samples`` returns, computed in float32.
    """
    linears = find_linears(module)
    for linear in linears:
        weight = linear.weight.detach()
        del linear.weight  # the parameter
        linear.weight = Int8Weight(weight)
    with torch.inference_mode():
        result = run_samples()
        for linear in linears:
            if linear.weight.largest is not None:
                linear.weight.quantize()
                continue
            weight = linear.weight.source.float()
            del linear.weight
            linear.weight = nn.Parameter(weight, requires_grad=False)
    return result


def find_linears(module: nn.Module) -> list[nn.Linear]:
    """Return the linear layers whose weights only ``F.linear`` reads."""
    inside = [part for part in module.modules() if isinstance(part, nn.MultiheadAttention)]
    others = {id(part) for attention in inside for part in attention.modules()}
    parts = (part for part in module.modules() if isinstance(part, nn.Linear))
    return [part for part in parts if id(part) not in others]


class Int8Weight(Tensor):
    """A weight (O, I) that ``F.linear`` multiplies with in 8-bit integers.

    Until ``quantize`` it multiplies in float32 and notes how large the inputs are. A subclass of
    ``Tensor``, because models pass weights to ``F.linear`` themselves: so no model knows of it.

    Attributes:
        source: the weight as it was given; None once it is rounded.
        largest: (I,) input of each channel in all samples, absolute; None before the first.
    """

    source: Tensor | None
    largest: Tensor | None
    shrink: Tensor  # (I,), what inputs are multiplied by
    rounded: Tensor  # (O, I) int8
    scales: Tensor  # (O,)

    @staticmethod
    def __new__(cls, source: Tensor) -> "Int8Weight":
        """Return a tensor with the shape of the weight, and without its memory."""
        return Tensor._make_subclass(cls, torch.empty(1).expand(source.shape), False)

    def __init__(self, source: Tensor) -> None:
        self.source, self.largest = source, None

    def quantize(self) -> None:
        """Round the weight, for inputs as they were so far."""
        with torch._C.DisableTorchFunctionSubclass():
            typical = self.largest.quantile(0.75).clamp_min(_LEAST_TYPICAL * self.largest.max())
            # Only large channels shrink: what the samples left at zero may be anything later.
            factors = (self.largest / typical.clamp_min(1e-12)).clamp_min(1) ** SMOOTHING
            # Made before what is large and soon given back, which else would lie below it for good.
            self.rounded = torch.empty(self.source.shape, dtype=torch.int8)
            weight = self.source.to(torch.float32, copy=True).mul_(factors)
            least, most = torch.aminmax(weight, dim=1)
            self.scales = torch.maximum(-least, most).clamp_min_(1e-12).div_(_count_weight_levels())
            self.rounded.copy_(weight.div_(self.scales[:, None]).round_())
            self.shrink, self.source = 1 / factors, None

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(..., I) -> (..., O)."""
        if self.source is not None:
            largest = x.reshape(-1, x.shape[-1]).abs().amax(0)
            self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
            return F.linear(x, self.source.float(), bias)
        rows = x.reshape(-1, x.shape[-1]) * self.shrink  # (M, I)
        scales = rows.abs().amax(1, keepdim=True).clamp_min_(1e-12).div_(_INPUT_LEVELS)
        rows = rows.div_(scales).round_().to(torch.int8)
        out = torch._int_mm(rows, self.rounded.t()).float().mul_(scales)  # (M, O)
        out = out.mul_(self.scales) if bias is None else torch.addcmul(bias, out, self.scales)
        return out.view(*x.shape[:-1], out.shape[-1])

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let ``F.linear`` multiply; everything else sees a float32 tensor of the same shape."""
        with torch._C.DisableTorchFunctionSubclass():
            call = _apply_linear if func is F.linear else func
            return call(*args, **(kwargs or {}))


def _apply_linear(input: Tensor, weight: Int8Weight, bias: Tensor | None = None) -> Tensor:
    return weight.multiply(input, bias)


def _count_weight_levels() -> int:
    """Return the largest rounded weight that the CPU multiplies without overflow.

    Where it can't sum products in 32 bits at once (VNNI), pairs of them are summed in 16, inputs
    counted from 0 to 255.
    """
    return 127 if getattr(torch.cpu, "_is_vnni_supported", lambda: False)() else 63
