"""Precision of a model's numbers while it computes: ``trainer.precision``.

Weights, their gradients, the similarity and the loss are float32 in each of them.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The forward and backward pass and the optimizer step in one precision.

    Args:
        name: ``fp32``; ``tf32``: matrix products in TensorFloat-32 on GPUs that have it;
            ``bf16``, ``fp16``: autocast, the second with a scaled loss.
        device: where the model is.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        self.device = device
        self.half = _HALF.get(name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager:
        """Return the context that forward passes run in."""
        if self.half is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.half)

    def to_full(self, embeds: Tensor) -> Tensor:
        """Return embeddings in float32 (float64 stays)."""
        return embeds.float() if embeds.dtype in _HALF.values() else embeds

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, of a scaled loss in ``fp16``."""
        self.scaler.scale(loss).backward()

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        max_norm: float | None,
        unless: Tensor | None = None,
    ) -> Tensor:
        """Clip the gradients and let the optimizer step; returns their norm before clipping.

        In ``fp16`` a step whose gradients overflowed is left out and the scale is lowered.

        Args:
            optimizer: of the parameters that have gradients.
            max_norm: of all gradients together; None: they are not clipped.
            unless: () float, 1 where a fused optimizer shall leave everything as it is; not looked
                at by the host. Not in ``fp16``.
        """
        self.scaler.unscale_(optimizer)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        limit = float("inf") if max_norm is None else max_norm
        norm = torch.nn.utils.clip_grad_norm_(weights, limit)
        if unless is not None:
            optimizer.grad_scale, optimizer.found_inf = None, unless  # as torch's scaler does
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm
