"""Out of GPU memory: which chunk size fits, from the measured memory of small chunks."""

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from base.base_model import RetrievalModel
from base.batch import Batch
from utils.distributed import get_dist_info
from utils.errors import UserError
from utils.precision import Precision

GIB = 2**30
# Of the free memory. Blocks leave gaps between them, and other videos have more words.
USABLE = 0.9
SHARE = 16  # the chunk that is measured is such a part of what did not fit
MULTIPLE = 8  # of chunk sizes from 16 on
# Bytes that no tensor gets: torch takes memory by pages of 20 MiB, which do not all fill up, and
# for a tensor of 1 MiB, too, a page has to be left.
PAGES = 64 * 2**20


class OutOfMemoryError(UserError):
    """A training step needs more GPU memory than there is."""


class GpuMemory:
    """The memory of this process's GPU in bytes; tests put a model of one in its place."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def release_unused(self) -> None:
        """Give back what no tensor uses."""
        gc.collect()
        torch.cuda.empty_cache()

    def measure_peak(self, work: Callable[[], object]) -> int:
        """Return the most that a call uses at a time, beyond what was in use before it."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device) - before

    def get_free(self) -> int:
        """Return how much more tensors can use, other processes and a limit to this one counted.

        After ``release_unused``: what is then left beside the tensors are gaps between them.
        """
        free, total = torch.cuda.mem_get_info(self.device)
        limit = int(total * torch.cuda.get_per_process_memory_fraction(self.device))
        return min(free, limit - torch.cuda.memory_reserved(self.device)) - PAGES


class ChunkSizeFinder:
    """Turns torch's error in a training step into one that says which ``trainer.chunk_size`` fits.

    The step that failed isn't run again. The forward and backward passes of two small chunks of its
    batch are, without loss and without other processes: what they take beyond each other is that
    of a video, the rest stays the same for every chunk.

    Args:
        model: not DistributedDataParallel around it.
        optimizer: of the model, whose first step may be still to come.
        chunk_size: that the steps use; None: whole batches.
        memory: of the GPU that the model is on; None: no size is looked for, since a process can't
            run the model without the others.
    """

    def __init__(
        self,
        model: RetrievalModel,
        precision: Precision,
        optimizer: torch.optim.Optimizer,
        chunk_size: int | None,
        memory: GpuMemory | None,
    ) -> None:
        self.model = model
        self.precision = precision
        self.optimizer = optimizer
        self.chunk_size = chunk_size
        self.memory = memory

    @contextmanager
    def explain_out_of_memory(self, batch: Batch) -> Iterator[None]:
        """Watch a step, which has to be one call: what is left of a call can be freed.

        Raises:
            OutOfMemoryError: with the size to set, or without where not even one video fits.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            free_frames(error)  # they hold the step's activations
        else:
            return
        used = min(len(batch), self.chunk_size or len(batch))
        total = len(batch) * get_dist_info().world_size
        text = f"out of GPU memory in a step with a batch of {total} videos"
        if used < len(batch):
            text += f" in chunks of {used}"
        if self.memory is None:
            raise OutOfMemoryError(
                f"{text}: set trainer.chunk_size below {used}, with which the loss stays that of "
                "the whole batch, trainer.activation_checkpointing to true, or lower "
                "data_loader.args.batch_size"
            )
        peaks = self._measure_peaks(batch, used)
        self.memory.release_unused()
        free = self.memory.get_free() - self._count_optimizer_state()
        size = choose_chunk_size(peaks, free, used)
        if size == 0:
            raise OutOfMemoryError(
                f"{text}, and not even one video fits: lower num_frames or input_res, set "
                "trainer.precision to bf16, or free the GPU of other processes"
            )
        measured = max(peaks)
        raise OutOfMemoryError(
            f"{text}: a chunk of {measured} video{'s' if measured > 1 else ''} takes "
            f"{peaks[measured] / GIB:.3g} GiB and {free / GIB:.3g} GiB are free: set "
            f"trainer.chunk_size to {size}, with which the loss stays that of the whole batch, or "
            "lower data_loader.args.batch_size"
        )

    def _measure_peaks(self, batch: Batch, used: int) -> dict[int, int]:
        """Return videos of a chunk -> bytes, of two chunks smaller than ``used``.

        Of one where there is no second or it does not fit; of none where one video does not.
        """
        size = min(max(1, used // SHARE), used - 1)
        # The first time is not measured: it also makes what libraries keep for the next.
        while size and self._measure_peak(batch, size) is None:
            size //= 2
        sizes = [size, 2 * size] if size else []
        peaks = {size: self._measure_peak(batch, size) for size in sizes if size < used}
        return {size: peak for size, peak in peaks.items() if peak is not None}

    def _measure_peak(self, batch: Batch, size: int) -> int | None:
        """Return what a chunk of the batch takes at its peak, bytes; None: more than there is."""
        self.optimizer.zero_grad(set_to_none=True)
        self.memory.release_unused()
        try:
            chunk = batch.rows(0, size)
            return self.memory.measure_peak(partial(self._compute_gradients_twice, chunk))
        except torch.OutOfMemoryError as error:
            free_frames(error)
            return None

    def _compute_gradients_twice(self, chunk: Batch) -> None:
        """Compute gradients beside others, as a step has those of the chunks before."""
        standing = self._compute_gradients(chunk)
        self._compute_gradients(chunk)
        del standing

    def _compute_gradients(self, chunk: Batch) -> tuple[Tensor | None, ...]:
        """Return gradients of the sum of a chunk's embeddings; the parameters' stay as they are.

        ``backward`` would have DistributedDataParallel exchange them, and wait for processes that
        have not run out of memory.
        """
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        with self.precision.set_tf32():
            with self.precision.autocast():
                embeds = self.model(chunk)
            sums = [embeds["text"].sum(), embeds[self.model.video_key].sum()]
            return torch.autograd.grad(sums, weights, allow_unused=True)

    def _count_optimizer_state(self) -> int:
        """Return the bytes that the optimizer's first step adds; 0 after it."""
        count = 0
        for group in self.optimizer.param_groups:
            # Adam keeps two running means of each weight, SGD one where it has momentum.
            means = 2 if "betas" in group else int(group.get("momentum", 0) > 0)
            fresh = [weight for weight in group["params"] if not self.optimizer.state.get(weight)]
            count += means * sum(weight.nbytes for weight in fresh if weight.requires_grad)
        return count


def free_frames(error: BaseException) -> None:
    """Free what the calls hold that an error came through, while it is still being handled.

    A frame that is cleared still has its function, and so the variables of functions around it,
    such as the inputs of a module with hooks: it has to go, too.
    """
    place = error.__traceback__
    traceback.clear_frames(place)
    while place is not None:
        following, place.tb_next = place.tb_next, None
        place = following


def choose_chunk_size(peaks: dict[int, int], free: int, used: int) -> int:
    """Return the largest chunk size that fits, 0 where not even one video does.

    Args:
        peaks: videos of a chunk -> bytes that it takes, of one or two chunks, or of none.
        free: bytes that there are.
        used: size that did not fit; what is returned is smaller.
    """
    if not peaks:
        return 0
    (size, peak), *second = peaks.items()
    each, constant = peak / size, 0.0
    for larger, more in second:
        each = max((more - peak) / (larger - size), 1.0)
        constant = peak - each * size
    if constant + each > free:
        return 0
    fitting = max(1, int((USABLE * free - constant) / each))
    if fitting >= used:  # it did not, so the line does not hold up to there
        fitting = used // 2
    return fitting - fitting % MULTIPLE if fitting >= 2 * MULTIPLE else fitting
