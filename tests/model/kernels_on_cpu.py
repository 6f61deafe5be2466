"""The attention kernels on the CPU: interpreted, or stand-ins that give the right sizes."""

import functools
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import model
from model import grouped_attention, packed_distilbert
from tests.conftest import ROOT


def _is_python_part_of_triton(name: str) -> bool:
    return name.partition(".")[0] == "triton" and not name.startswith("triton._C")


@functools.cache
def load_interpreted_kernels() -> ModuleType:
    """Return a copy of ``model.attention_kernels`` whose kernels are run by Triton's interpreter.

    Whether they are is decided as they are defined, Triton's own functions too: so Triton is
    imported once more for it, and what other tests use stays as it was.
    """
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    others = {name: sys.modules[name] for name in sys.modules if _is_python_part_of_triton(name)}
    spec = importlib.util.spec_from_file_location(
        "interpreted_attention_kernels", ROOT / "model/attention_kernels.py"
    )
    kernels = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in others:
            del sys.modules[name]
        try:
            spec.loader.exec_module(kernels)
        finally:
            for name in [*filter(_is_python_part_of_triton, sys.modules)]:
                del sys.modules[name]
            sys.modules.update(others)
    _multiply_bfloat16_as_numbers(kernels.triton.runtime.interpreter)
    _loop_over_sizes(kernels.triton.runtime.interpreter)
    return kernels


def _multiply_bfloat16_as_numbers(interpreter: ModuleType) -> None:
    """Mend matrix products: the interpreter multiplies bfloat16's bits as if they were integers."""
    builder, multiply = interpreter.InterpreterBuilder, interpreter.InterpreterBuilder.create_dot
    language = interpreter.tl

    def to_float32(handle):
        if handle.dtype.scalar != language.bfloat16 or handle.data.dtype != np.uint16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), language.float32)

    builder.create_dot = lambda own, a, b, *others: multiply(
        own, to_float32(a), to_float32(b), *others
    )


def _loop_over_sizes(interpreter: ModuleType) -> None:
    """Mend loops: numpy 2.4 no longer takes the interpreter's sizes of Triton 3.6 for numbers."""
    change_tensors = interpreter._patch_lang_tensor

    def change_and_mend(tensor, *others):
        change_tensors(tensor, *others)
        tensor.__index__ = lambda own: int(own.handle.data.squeeze())

    interpreter._patch_lang_tensor = change_and_mend


def use_kernels_on_cpu(monkeypatch: pytest.MonkeyPatch, kernels: object) -> None:
    """Let models on the CPU compute attention as on a GPU, by these kernels."""
    _register_cpu_kernels()
    monkeypatch.setattr(model, "attention_kernels", kernels, raising=False)
    for module in (grouped_attention, packed_distilbert):
        monkeypatch.setattr(module, "is_kernel_usable", lambda *kind: True)


@functools.cache
def _register_cpu_kernels() -> None:
    """Give the custom operations a form on the CPU, which no model asks for by itself."""

    @grouped_attention.attend_in_groups.register_kernel("cpu")
    def _(qkv, num_frames, over_time):
        return model.attention_kernels.attend(qkv.contiguous(), num_frames, over_time)

    @grouped_attention._attend_in_groups_backward.register_kernel("cpu")
    def _(grad, qkv, out, lse, num_frames, over_time):
        tensors = grad.contiguous(), qkv.contiguous(), out, lse
        return model.attention_kernels.attend_backward(*tensors, num_frames, over_time)


def make_stand_ins() -> SimpleNamespace:
    """Return kernels that return tensors of the right sizes; ``calls`` counts them."""
    calls = {"groups": 0, "texts": 0}

    def attend(qkv, num_frames, over_time):
        calls["groups"] += 1
        batch, num_tokens, _, heads, channels = qkv.shape
        lse = torch.zeros(batch, heads, num_tokens)
        return qkv.new_zeros(batch, num_tokens, heads, channels), lse

    def attend_in_texts(q, k, v, bounds, dropout, seed):
        calls["texts"] += 1
        return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)

    return SimpleNamespace(attend=attend, attend_in_texts=attend_in_texts, calls=calls)
