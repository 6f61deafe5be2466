"""Which device is chosen, and how GPUs are used; machines with GPUs are made up."""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from utils.distributed import DistInfo
from utils.errors import UserError
from utils.launch import choose_devices, select_device


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that sets how many GPUs there seem to be."""

    def have(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Model {'XYZ'[i]}")

    return have


def names(devices):
    return [str(device) for device in devices]


@pytest.mark.parametrize(
    ("n_gpu", "available", "devices", "said"),
    [
        (0, 0, ["cpu"], None),
        (0, 2, ["cpu"], None),
        (1, 1, ["cuda:0"], None),
        (1, 2, ["cuda:0"], None),
        (2, 3, ["cuda:0", "cuda:1"], None),
        (1, 0, ["cpu"], "n_gpu is 1, but this machine has 0: using the CPU"),
        (8, 0, ["cpu"], "n_gpu is 8, but this machine has 0: using the CPU"),
        (8, 1, ["cuda:0"], "n_gpu is 8, but this machine has 1: using GPU 0"),
        (8, 2, ["cuda:0", "cuda:1"], "n_gpu is 8, but this machine has 2: using GPUs 0 to 1"),
    ],
)
def test_more_gpus_than_there_are_is_one_warning(n_gpu, available, devices, said, gpus, caplog):
    gpus(available)
    assert names(choose_devices(n_gpu)) == devices
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == (said is not None)
    assert said is None or said in texts[0]


@pytest.mark.parametrize(
    ("requested", "devices"),
    [("1", ["cuda:1"]), ("0", ["cuda:0"]), ("2, 1", ["cuda:2", "cuda:1"])],
)
def test_requested_gpus_win_over_the_configuration(requested, devices, gpus, caplog):
    gpus(3)
    assert names(choose_devices(8, requested)) == devices
    assert not caplog.records


def test_each_process_has_its_own(gpus, monkeypatch):
    gpus(3)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    devices = choose_devices(0, "2,1")
    own = [select_device(devices, DistInfo(rank, 2, rank)) for rank in range(2)]
    assert names(own) == names(chosen) == ["cuda:2", "cuda:1"]
    with pytest.raises(UserError, match="process 2 of this machine has no GPU: 2 are to be used"):
        select_device(devices, DistInfo(2, 3, 2))
    assert select_device(choose_devices(0), DistInfo(5, 8, 5)) == torch.device("cpu")


def test_a_gpu_named_twice(gpus):
    gpus(2)
    with pytest.raises(UserError, match="-d 1,1: names a GPU twice"):
        choose_devices(1, "1,1")


@pytest.mark.parametrize("requested", ["7", "2", "0,2", "-1", "x", "", "0,", "1.0", "²"])
def test_a_gpu_that_is_not_there_is_an_error_that_lists_those_that_are(requested, gpus):
    gpus(2)
    with pytest.raises(UserError) as caught:
        choose_devices(1, requested)
    assert str(caught.value) == (
        f"-d {requested}: no such GPU; this machine has 0 (Model X), 1 (Model Y)"
    )


def test_a_requested_gpu_on_a_machine_without(gpus):
    gpus(0)
    with pytest.raises(UserError, match="-d 7: no such GPU; this machine has none"):
        choose_devices(0, "7")


# What a fresh process and one that it starts have of a variable, and whether cuDNN may attend.
PROGRAM = """
import os, sys, torch
from utils.launch import choose_devices, launch
choose_devices(0)
show = "import os; print({k: v for k, v in os.environ.items() if 'ALLOC_CONF' in k}, flush=True)"
exec(show)
launch([sys.executable, "-c", show], 1)
print(torch.backends.cuda.cudnn_sdp_enabled())
"""
EXPANDABLE = "expandable_segments:True"
OTHER = "max_split_size_mb:64"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": EXPANDABLE}),
        ({"PYTORCH_ALLOC_CONF": OTHER}, {"PYTORCH_ALLOC_CONF": OTHER}),
        ({"PYTORCH_CUDA_ALLOC_CONF": OTHER}, {"PYTORCH_CUDA_ALLOC_CONF": OTHER}),
        ({"PYTORCH_CUDA_ALLOC_CONF": ""}, {"PYTORCH_CUDA_ALLOC_CONF": ""}),
    ],
)
def test_how_a_process_and_those_it_starts_use_gpus(given, found):
    assert run(PROGRAM, given) == [str(found), str(found), "False"]


def run(program: str, given: dict[str, str]) -> list[str]:
    """Run a program in a process without settings of memory but those given; returns its lines."""
    kept = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=kept | given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


READ_BY_TORCH = """
import torch
from utils.launch import choose_devices
choose_devices(0)
print(torch._C._accelerator_getAllocatorSettings())
"""


def test_torch_reads_the_setting_after_it_was_imported():
    assert run(READ_BY_TORCH, {}) == [EXPANDABLE]
    assert run(READ_BY_TORCH, {"PYTORCH_CUDA_ALLOC_CONF": OTHER}) == [OTHER]


ON_A_GPU = """
import torch
from utils.launch import choose_devices, select_device
from utils.distributed import DistInfo
device = select_device(choose_devices(1, "0"), DistInfo())
torch.ones(1, device=device)
print(torch.cuda.memory._snapshot()["allocator_settings"]["expandable_segments"])
"""


@pytest.mark.gpu
def test_the_memory_of_a_fresh_process_on_a_gpu():
    assert run(ON_A_GPU, {}) == ["True"]
    assert run(ON_A_GPU, {"PYTORCH_ALLOC_CONF": OTHER}) == ["False"]
