"""AdamW as the library transformers had it in 2021, which the published runs used.

It adds eps before the bias correction, torch's AdamW after it. While the running mean of squares is
young that weighs: the first step of a gradient of 2.6e-5 has 0.47 of the size that torch gives it.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# The parameters of a step, and what says whether it was skipped; None: it was not.
Step = tuple[list[Tensor], Callable[[], bool] | None]
NO_STEP: Step = [], None


class TransformersAdamW(torch.optim.AdamW):
    """transformers' own AdamW by torch's step, so by its fused kernel where there is one.

    With the running means m and v after t steps::

        p <- p - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps)
        p <- p - lr * weight_decay * p

    That is torch's rule with ``eps / sqrt(1 - beta2^t)`` and, as torch decays before the step, with
    ``lr * (1 - lr * weight_decay)`` and ``weight_decay / (1 - lr * weight_decay)``. These stand in
    copies of the parameter groups, for the time of a step.

    A fused step leaves t where it was if ``found_inf`` is set, which only the GPU knows. The host
    counts for itself and looks at the flag of a step when the next one is due: by then the GPU has
    the next forward and backward pass to do, so that it is not kept waiting.
    """

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        super().__init__(params, **options)
        self._counts: dict[Tensor, int] = {}  # t of each parameter before the last step
        self._last: Step = NO_STEP

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, as ``load_state_dict`` does, and how often it has stepped."""
        super().__setstate__(state)
        self._counts = {weight: int(kept["step"]) for weight, kept in self.state.items()}
        self._last = NO_STEP

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step with every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._count_last_step()
        groups, flag = self.param_groups, getattr(self, "found_inf", None)
        stepping = [w for group in groups for w in group["params"] if w.grad is not None]
        self.param_groups = [part for group in groups for part in self._convert_group(group)]
        try:
            super().step()
        finally:
            self.param_groups = groups
        self._last = stepping, None if flag is None else _copy_flag(flag)
        return loss

    def _count_last_step(self) -> None:
        (weights, was_skipped), self._last = self._last, NO_STEP
        if was_skipped is not None and was_skipped():
            return
        for weight in weights:
            self._counts[weight] = self._counts.get(weight, 0) + 1

    def _convert_group(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a group with torch's settings for this step, in parts of equal t."""
        parts: dict[int, list[Tensor]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                parts.setdefault(self._counts.get(weight, 0) + 1, []).append(weight)
        kept = 1 - group["lr"] * group["weight_decay"]  # share of a weight that decay leaves
        settings = {"lr": group["lr"] * kept, "weight_decay": group["weight_decay"] / kept}
        beta2 = group["betas"][1]
        return [
            group | settings | {"params": weights, "eps": group["eps"] / math.sqrt(1 - beta2**t)}
            for t, weights in parts.items()
        ]


def _copy_flag(flag: Tensor) -> Callable[[], bool]:
    """Copy a flag to the host without waiting; the function returned waits for the copy."""
    if not flag.is_cuda:
        copied = flag.detach().clone()
        return lambda: bool(copied)
    # Into pinned memory: a copy into any other holds the host up until it is done.
    copied = torch.empty(flag.shape, dtype=flag.dtype, pin_memory=True)
    copied.copy_(flag.detach(), non_blocking=True)
    event = torch.cuda.current_stream(flag.device).record_event()

    def read() -> bool:
        event.synchronize()
        return bool(copied)

    return read
