"""Which device is chosen; machines with GPUs are made up."""

import pytest
import torch

from utils.device import choose_device
from utils.errors import UserError


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that sets how many GPUs there seem to be."""

    def have(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Model {'XYZ'[i]}")

    return have


@pytest.mark.parametrize(
    ("n_gpu", "available", "device", "said"),
    [
        (0, 0, "cpu", None),
        (0, 2, "cpu", None),
        (1, 1, "cuda:0", None),
        (1, 2, "cuda:0", None),
        (1, 0, "cpu", "n_gpu is 1, but this machine has 0: using the CPU"),
        (8, 0, "cpu", "n_gpu is 8, but this machine has 0: using the CPU"),
        (8, 1, "cuda:0", "n_gpu is 8, but this machine has 1: using GPU 0"),
        (8, 2, "cuda:0", "n_gpu is 8, but this machine has 2: using GPU 0"),
        (2, 2, "cuda:0", "several GPUs"),
    ],
)
def test_more_gpus_than_there_are_is_one_warning(n_gpu, available, device, said, gpus, caplog):
    gpus(available)
    assert choose_device(n_gpu) == torch.device(device)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == (said is not None)
    assert said is None or said in texts[0]


@pytest.mark.parametrize(("requested", "device"), [("1", "cuda:1"), ("0", "cuda:0")])
def test_a_requested_gpu_wins_over_the_configuration(requested, device, gpus, caplog):
    gpus(2)
    assert choose_device(8, requested) == torch.device(device)
    assert not caplog.records


def test_several_requested_gpus(gpus, caplog):
    gpus(3)
    assert choose_device(0, "2, 1") == torch.device("cuda:2")
    assert "using GPU 2" in caplog.text


@pytest.mark.parametrize("requested", ["7", "2", "0,2", "-1", "x", "", "0,", "1.0", "²"])
def test_a_gpu_that_is_not_there_is_an_error_that_lists_those_that_are(requested, gpus):
    gpus(2)
    with pytest.raises(UserError) as caught:
        choose_device(1, requested)
    assert str(caught.value) == (
        f"-d {requested}: no such GPU; this machine has 0 (Model X), 1 (Model Y)"
    )


def test_a_requested_gpu_on_a_machine_without(gpus):
    gpus(0)
    with pytest.raises(UserError, match="-d 7: no such GPU; this machine has none"):
        choose_device(0, "7")
