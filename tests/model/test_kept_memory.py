"""What a block of base width keeps for the backward pass, in 16 bits and with the kernels.

Sizes of the published run: 4 frames of 196 patches.
"""

import pytest
import torch

from model.space_time_vit import SpaceTimeBlock, SpaceTimeTransformer
from tests.model.kernels_on_cpu import make_stand_ins, use_kernels_on_cpu
from tests.model.small_models import SavedBytes

DIM, HEADS, FRAMES, PATCHES = 768, 12, 4, 196
TOKENS = 1 + FRAMES * PATCHES
MIB = 2**20
AXES = ("time", "space")


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    kernels = make_stand_ins()
    use_kernels_on_cpu(monkeypatch, kernels)
    return kernels


def measure_growth(model, run, monkeypatch) -> float:
    """MiB that a clip more keeps: so weights in 16 bits do not count.

    ``run`` takes a number of clips.
    """
    sizes = []
    for clips in (1, 2):
        with (
            monkeypatch.context() as patch,
            torch.autocast("cpu", torch.bfloat16),
            SavedBytes(model, patch) as saved,
        ):
            out = run(clips, saved)
        assert out.dtype == torch.bfloat16
        for tensor in saved.kept:
            assert tensor.dtype != torch.float32 or tensor.numel() < FRAMES * PATCHES * DIM
        sizes.append(saved.bytes)
    return (sizes[1] - sizes[0]) / MIB


def test_a_block_keeps_at_most_20_mib_a_clip(monkeypatch, kernels):
    block = SpaceTimeBlock(DIM, HEADS, 4.0)

    def run(clips, saved):
        x = torch.randn(clips, TOKENS, DIM, dtype=torch.bfloat16, requires_grad=True)
        return block(x, FRAMES, True, AXES)

    assert 10 < measure_growth(block, run, monkeypatch) <= 20
    assert kernels.calls["groups"] == 2 * 2


def test_a_recomputed_block_keeps_at_most_4_mib_a_clip(monkeypatch, kernels):
    grown = {}
    for depth in (2, 3):
        model = SpaceTimeTransformer(depth=depth)
        model.recompute_activations()

        def run(clips, saved, model=model):
            def keep_input(_, args) -> None:  # which passes by the hooks of saved tensors
                saved.keep(args[0])

            hooks = [block.register_forward_pre_hook(keep_input) for block in model.blocks]
            out = model(torch.randn(clips, FRAMES, 3, 224, 224))
            for hook in hooks:
                hook.remove()
            return out

        grown[depth] = measure_growth(model, run, monkeypatch)
    assert 1 < grown[3] - grown[2] <= 4, grown
    assert grown[2] <= 3 * 4, grown
    assert kernels.calls["groups"] == (2 * 2 - 1 + 2 * 3 - 1) * 2  # the last block: only over time
