"""Out of GPU memory: the message names a chunk size that fits."""

import pytest
import torch

from tests.trainer.test_resume import made
from trainer.grad_cache import OutOfMemoryError


def limited(trainer, most: int):
    """Let the model run out of memory with more than ``most`` videos; returns the sizes tried."""
    forward, sizes = trainer.model.forward, []

    def limiting(batch):
        sizes.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(batch)

    trainer.model.forward = limiting
    return sizes


@pytest.mark.parametrize(
    ("most", "chunk", "tried", "said"),
    [
        (3, "null", [8, 4, 2], "a batch of 8 videos: set trainer.chunk_size to 2,"),
        (4, "null", [8, 4], "a batch of 8 videos: set trainer.chunk_size to 4,"),
        (1, "3", [3, 1], "8 videos in chunks of 3: set trainer.chunk_size to 1,"),
        (0, "null", [8, 4, 2, 1], "a batch of 8 videos, and not even one video fits: lower"),
    ],
)
def test_the_largest_that_fits_is_named(most, chunk, tried, said, make_config, tmp_path):
    change = [f"trainer.chunk_size={chunk}", "data_loader.args.batch_size=8"]
    trainer = made(make_config(*change, kind="ocr"), tmp_path / "run")
    sizes = limited(trainer, most)
    with pytest.raises(OutOfMemoryError) as caught:
        trainer.fit()
    text = str(caught.value)
    assert text.startswith("out of GPU memory in a step with") and said in text
    assert "\n" not in text
    assert list(dict.fromkeys(sizes)) == tried


def test_several_processes_are_told_half(make_config, tmp_path, monkeypatch):
    trainer = made(make_config("data_loader.args.batch_size=8", kind="ocr"), tmp_path / "run")
    sizes = limited(trainer, 3)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OutOfMemoryError, match="batch of 16 videos: set trainer.chunk_size to 4,"):
        trainer.fit()
    assert sizes == [8]
