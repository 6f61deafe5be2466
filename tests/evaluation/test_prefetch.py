"""Batches on their way to the device: when they are read, and what arrives."""

from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.evaluator import Evaluator
from evaluation.prefetch import move_to_device, prefetch_to_device
from trainer.build import build_criterion, build_loader, build_model
from utils.precision import Precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def tensors(part) -> dict[str, Tensor]:
    """Every tensor of a batch by its place in it."""
    found = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif hasattr(value, "to"):
            found |= {f"{field.name}.{name}": inner for name, inner in tensors(value).items()}
    return found


def noted(loader, read: list[int]):
    for batch in loader:
        read.append(int(batch.video_index[0]))
        yield batch


def test_on_the_cpu_a_batch_is_read_when_it_is_asked_for(make_config):
    loader = build_loader(make_config("data_loader.args.batch_size=2"), 0, training=True)
    expected = [loader.to_device(batch, CPU) for batch in loader]
    read: list[int] = []
    moved = partial(move_to_device, loader=loader, words=None, device=CPU)
    for number, (batch, found) in enumerate(prefetch_to_device(noted(loader, read), moved, CPU)):
        assert len(read) == number + 1 and batch.video.dtype == torch.uint8
        mine, others = tensors(found), tensors(expected[number])
        assert mine.keys() == others.keys() and {"video", "words.tracks"} <= mine.keys()
        assert all(torch.equal(value, others[name]) for name, value in mine.items())
    assert len(read) == 4


@pytest.mark.gpu
def test_on_a_gpu_the_next_batch_arrives_while_one_is_used(make_config):
    loader = build_loader(make_config("data_loader.args.batch_size=2"), 0, training=True)
    expected = [tensors(loader.to_device(batch, GPU)) for batch in loader]
    torch.cuda.synchronize()
    read: list[int] = []
    moved = partial(move_to_device, loader=loader, words=None, device=GPU)
    for number, (batch, found) in enumerate(prefetch_to_device(noted(loader, read), moved, GPU)):
        assert len(read) == min(number + 2, 4) and batch.video.is_pinned()
        torch.cuda._sleep(100_000_000)  # a step that has not begun to read the batch
        for name, value in tensors(found).items():
            assert torch.equal(value, expected[number][name]), name
            if value.is_floating_point():
                value.fill_(float("nan"))  # memory that is given back too early would show
    assert number == 3


@pytest.mark.gpu
def test_on_a_gpu_an_evaluation_is_that_on_the_cpu(make_config):
    config, found = make_config("data_loader.args.batch_size=3"), []
    for device in (CPU, GPU):
        loader = build_loader(config, 0, training=False, split="test")
        precision = Precision("fp32", device)
        evaluator = Evaluator(config.metrics, build_criterion(config, device), precision)
        found.append(evaluator.run(build_model(config, device), loader))
    np.testing.assert_allclose(found[1].similarity, found[0].similarity, atol=1e-4)
    assert found[1].loss == pytest.approx(found[0].loss, abs=1e-3)
