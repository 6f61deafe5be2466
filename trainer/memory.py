"""Out of GPU memory: the chunk size that would have fitted."""

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from base.batch import Batch
from utils.distributed import get_dist_info
from utils.errors import UserError


class OutOfMemoryError(UserError):
    """A training step needs more GPU memory than there is."""


@contextmanager
def explain_out_of_memory(
    batch: Batch, chunk_size: int | None, try_chunk_size: Callable[[int], None]
) -> Iterator[None]:
    """Turn torch's error in a step into one that says what to change.

    Args:
        batch: of the step.
        chunk_size: ``trainer.chunk_size``.
        try_chunk_size: computes the step's gradients in chunks of this size; it may run out of
            memory, too.

    Raises:
        OutOfMemoryError: chunks of half the size were tried, and so on.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold the step's activations
    else:
        return
    world_size = get_dist_info().world_size
    used = len(batch) if chunk_size is None else chunk_size
    text = f"out of GPU memory in a step with a batch of {len(batch) * world_size} videos"
    if used < len(batch):
        text += f" in chunks of {used}"
    # With several processes none can try alone: the loss is that of all.
    size = used // 2 if world_size > 1 else _find_fitting_size(used // 2, try_chunk_size)
    if size:
        raise OutOfMemoryError(
            f"{text}: set trainer.chunk_size to {size}, with which the loss stays that of the "
            f"whole batch, or lower data_loader.args.batch_size"
        )
    raise OutOfMemoryError(
        f"{text}, and not even one video fits: lower num_frames or input_res, set "
        "trainer.precision to bf16, or free the GPU of other processes"
    )


def _find_fitting_size(size: int, try_chunk_size: Callable[[int], None]) -> int:
    """Return the largest of size, size / 2, … that fits; 0 where none does."""
    while size:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            try_chunk_size(size)
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)
            size //= 2
        else:
            break
    return size
