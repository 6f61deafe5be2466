"""Out of GPU memory: what would have fitted."""

import gc
import traceback

import torch

from base.batch import Batch
from trainer.passes import Chunked, WholeBatch
from utils.distributed import ranks
from utils.errors import UserError


class OutOfMemoryError(UserError):
    """A training step needs more GPU memory than there is."""


def out_of_memory(
    error: torch.OutOfMemoryError, passes: WholeBatch, batch: Batch
) -> OutOfMemoryError:
    """Return an error that says what to change; chunks of half the size are tried, and so on.

    Args:
        error: of the step.
        passes: what ran out of memory.
        batch: on which.
    """
    traceback.clear_frames(error.__traceback__)  # they hold the step's activations
    used = passes.size if isinstance(passes, Chunked) else len(batch)
    joint = len(batch) * ranks().size
    text = f"out of GPU memory in a step with a batch of {joint} videos"
    if used < len(batch):
        text += f" in chunks of {used}"
    # With several processes none can try alone: the loss is that of all.
    size = used // 2 if ranks().size > 1 else _fitting(passes, batch, used // 2)
    if size:
        return OutOfMemoryError(
            f"{text}: set trainer.chunk_size to {size}, with which the loss stays that of the "
            f"whole batch, or lower data_loader.args.batch_size"
        )
    return OutOfMemoryError(
        f"{text}, and not even one video fits: lower num_frames or input_res, set "
        "trainer.precision to bf16, or free the GPU of other processes"
    )


def _fitting(passes: WholeBatch, batch: Batch, size: int) -> int:
    """The largest of size, size / 2, … that fits; 0 where none does."""
    while size:
        _free(passes)
        try:
            Chunked(size, passes.model, passes.loss, passes.video_key, passes.precision)(batch)
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)
            size //= 2
        else:
            break
    return size


def _free(passes: WholeBatch) -> None:
    passes.model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
