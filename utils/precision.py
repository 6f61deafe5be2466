"""Precision of a model's numbers while it computes: that of ``trainer``, that of ``evaluation``.

Weights, their gradients, embeddings, the similarity and the loss are float32 in each of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from utils.errors import UserError

PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Parts of parameters -> (parts,) the norms of their gradients.
MeasureNorms = Callable[[Sequence[Sequence[nn.Parameter]]], Tensor]


class Precision:
    """The forward and backward pass and the optimizer step in one precision.

    Args:
        name: ``fp32``; ``tf32``: matrix products in TensorFloat-32 on GPUs that have it;
            ``bf16``, ``fp16``: autocast, the second with a scaled loss.
        device: where the model is.

    Raises:
        UserError: there is no such precision.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        if name not in get_args(PrecisionName):
            names = ", ".join(get_args(PrecisionName))
            raise UserError(f'there is no precision "{name}"; choose one of {names}')
        self.name = name
        self.device = device
        self.half = _HALF.get(name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    @contextmanager
    def set_tf32(self) -> Iterator[None]:
        """Say for the time of a ``with`` block whether float32 products may use TF32.

        torch has one such setting for the whole process. It is set back in the end, so that
        training and evaluation may differ.
        """
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        _set_tf32("high" if self.name == "tf32" else "highest", self.name == "tf32")
        try:
            yield
        finally:
            _set_tf32(*before)

    def autocast(self) -> AbstractContextManager:
        """Return the context that forward passes run in."""
        if self.half is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.half)

    def to_full(self, embeds: Tensor) -> Tensor:
        """Return embeddings in float32 (float64 stays)."""
        return embeds.float() if embeds.dtype in _HALF.values() else embeds

    def explain_overflow(self) -> str:
        """Say, for the end of a message, what else than bad weights makes numbers infinite."""
        if self.name != "fp16":
            return ""
        return "; or fp16 can't hold its numbers: try evaluation.precision bf16 first"

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, of a scaled loss in ``fp16``."""
        self.scaler.scale(loss).backward()

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        max_norm: float | None,
        unless: Tensor | None = None,
        branches: Sequence[Sequence[nn.Parameter]] = (),
        measure: MeasureNorms | None = None,
    ) -> Tensor:
        """Clip the gradients and let the optimizer step; returns their norms before clipping.

        In ``fp16`` a step whose gradients overflowed is left out and the scale is lowered.

        Args:
            optimizer: of the parameters that have gradients.
            max_norm: of all gradients together; None: they are not clipped.
            unless: () float, 1 where a fused optimizer shall leave everything as it is; not looked
                at by the host. Not in ``fp16``.
        """
        self.scaler.unscale_(optimizer)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        norms = (measure or measure_gradient_norms)([weights, *branches])
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(weights, max_norm, norms[0])
        if unless is not None:
            optimizer.grad_scale, optimizer.found_inf = None, unless  # as torch's scaler does
        self.scaler.step(optimizer)
        self.scaler.update()
        return norms


def measure_gradient_norms(parts: Sequence[Sequence[nn.Parameter]]) -> Tensor:
    """Return the norms (parts,) of the gradients of each part together; 0 where none has one."""
    grads = [[weight.grad for weight in part if weight.grad is not None] for part in parts]
    norm, *norms = map(nn.utils.get_total_norm, grads)
    return torch.stack([norm, *(other.to(norm) for other in norms)])


def _set_tf32(matmul: str, cudnn: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn
