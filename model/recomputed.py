"""Values that are cheaper to compute once more than to keep for the backward pass."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Layout = tuple[torch.Size, tuple[int, ...], int]  # size, stride, offset of a view


class Recomputed(saved_tensors_hooks):
    """Within it, operations do not keep ``value``: the backward pass computes it again.

    The gradients are the same to the bit. What ``compute`` reads has to be kept anyway, and must
    not change in between.

    Args:
        value: what ``compute`` gave.
        compute: gives it again.
    """

    def __init__(self, value: Tensor, compute: Callable[[], Tensor]) -> None:
        self._storage = value.untyped_storage().data_ptr()
        self._compute = compute
        self._uses = self._left = 0
        self._again: Tensor | None = None
        super().__init__(self._pack, self._unpack)

    def _pack(self, kept: Tensor) -> Tensor | Layout:
        if kept.untyped_storage().data_ptr() != self._storage:
            return kept
        self._uses += 1
        return kept.size(), kept.stride(), kept.storage_offset()

    def _unpack(self, kept: Tensor | Layout) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        if self._again is None:
            with torch.no_grad():
                self._again = self._compute()
            self._left = self._uses
        value = self._again.as_strided(*kept)
        self._left -= 1
        if not self._left:
            self._again = None  # the last of its uses
        return value


def kept_unless(lean: bool, value: Tensor, compute: Callable[[], Tensor]) -> AbstractContextManager:
    """Return the context of the operations on ``value``; see ``Recomputed``.

    A compiler decides for itself what it keeps.
    """
    if not lean or torch.compiler.is_compiling():
        return nullcontext()
    return Recomputed(value, compute)
