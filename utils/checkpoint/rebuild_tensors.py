"""Tensors out of what a torch file says: a view of stored bytes, checked by torch to lie inside."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from utils.checkpoint.records import InertName, RefusedError, kind_of

STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}
# A tensor may show a number many times (a stride of 0), but not so often that a copy is a trap.
MAX_REPEATED = 2**26
_DTYPES = {f"torch.{name}": value for name, value in vars(torch).items()
           if isinstance(value, torch.dtype)}  # fmt: skip


def storage_dtype(name: Any) -> torch.dtype:
    """Return what a class of storages holds; bytes for storages without a type.

    Raises:
        RefusedError: it is no class of storages.
    """
    if type(name) is InertName:
        module, _, kind = name.class_name.rpartition(".")
        if module in ("torch", "torch.storage") and kind in STORAGES:
            return STORAGES[kind]
    raise RefusedError(f"wants to use {kind_of(name)} as a storage")


def storage_request(value: Any) -> tuple[torch.dtype, str, int, Any]:
    """Return dtype, key, number of elements and view of a persistent id of torch.

    Raises:
        RefusedError: it names something else.
        ValueError: it is none.
    """
    if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
        raise ValueError("a stored value is no storage")
    _, kind, key, _, count, *view = value
    if type(key) is not str or type(count) is not int or count < 0:
        raise ValueError("a stored value is no storage")
    return storage_dtype(kind), key, count, view[0] if view else None


def typed(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Return bytes as numbers of a dtype; both share memory."""
    return data if dtype == data.dtype else data.view(dtype)


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """The tensor of a storage; torch raises RuntimeError where it would reach outside."""
    if not isinstance(storage, Tensor):
        raise ValueError("a tensor has no storage")
    view = torch.as_strided(storage, tuple(size), tuple(stride), offset)
    if view.numel() > max(storage.numel(), MAX_REPEATED):
        raise ValueError("a tensor repeats its numbers without end")
    return view


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    if metadata:
        raise ValueError("a conjugated or negated view of a tensor")
    return _view(storage, offset, size, stride)


def _tensor_of_dtype(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    """For dtypes that have no class of storages; size and stride count their elements."""
    if type(dtype) is not InertName or dtype.class_name not in _DTYPES:
        raise ValueError("a tensor has no dtype")
    return _view(typed(storage, _DTYPES[dtype.class_name]), offset, size, stride)


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> Any:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter is no tensor")
    return data


def _typed_tensor(function: Any, cls: Any, args: Any, state: Any) -> Tensor:
    """A tensor of a subclass, or with attributes: the tensor alone."""
    name = kind_of(function)
    if type(function) is not InertName or name not in _PLAIN_TENSORS:
        raise RefusedError(f"wants to call {name}")
    return _PLAIN_TENSORS[name](*args)


_PLAIN_TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
TENSOR_REBUILDERS: dict[str, Callable[..., Any]] = {
    **_PLAIN_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda kind, *index: ":".join(map(str, (kind, *index))),
}
