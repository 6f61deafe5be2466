"""Shared memory: how many batches loading processes may have ahead, and what is said of a lack.

What a loading process has read reaches the main one through files of ``/dev/shm``, a disk in memory
that containers often limit to 64 MB. Where it is full, PyTorch loses a batch and waits for it
without end. So the batches are counted before the start, and each is put there where it is made.
"""

import logging
import os
from pathlib import Path

from base.batch import Batch
from utils.errors import UserError

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
BATCHES_HELD = 2  # by the main process: the one that it works on, and the next as it arrives
OTHERS = 2**20  # bytes of a batch beside its frames, more or less: tokens and tracks
REMEDY = (
    "give it more (docker run --shm-size=8g, or --ipc=host), or load less ahead: a smaller "
    "data_loader.args.batch_size, or data_loader.args.num_workers 0, which needs none"
)


def get_free_shared_memory() -> int | None:
    """Return the bytes that this process may take; None where there is no such limit.

    Processes of a run on one machine have equal shares.
    """
    try:
        status = os.statvfs(FOLDER)
    except (AttributeError, OSError):  # another system
        return None
    return status.f_bavail * status.f_frsize // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def plan_loading(num_workers: int, prefetch_factor: int, frame_bytes: int) -> tuple[int, int]:
    """Return the loading processes, and the batches ahead of each, that shared memory has room for.

    Args:
        num_workers: loading processes that are wanted.
        prefetch_factor: batches ahead that are wanted of each.
        frame_bytes: of a batch's frames.

    Raises:
        UserError: there is no room for the batches of one process.
    """
    free, batch = get_free_shared_memory(), frame_bytes + OTHERS
    if free is None or not num_workers:
        return num_workers, prefetch_factor
    ahead = free // batch - BATCHES_HELD
    if ahead >= num_workers * prefetch_factor:
        return num_workers, prefetch_factor
    wanted = (num_workers * prefetch_factor + BATCHES_HELD) * batch
    text = (
        f"{FOLDER} has {format_mib(free)} free, but {num_workers} loading processes with "
        f"{prefetch_factor} batches ahead of {format_mib(batch)} each take {format_mib(wanted)}"
    )
    if ahead < 1:
        least = format_mib((1 + BATCHES_HELD) * batch)
        raise UserError(f"{text}, and one with one batch {least}; {REMEDY}")
    workers = min(num_workers, ahead)
    prefetch_factor = ahead // workers
    logger.warning(
        "%s; data is loaded by %d with %d, perhaps slower; %s",
        text, workers, prefetch_factor, REMEDY,
    )  # fmt: skip
    return workers, prefetch_factor


def share_batch(batch: Batch) -> Batch | UserError:
    """Put a batch where the main process can read it, or return why there is no room."""
    try:
        return batch.share_memory_()
    except RuntimeError as error:  # what torch raises where the disk in memory is full
        reason = (str(error).splitlines() or [""])[0]
        return UserError(f"a batch finds no room in shared memory, {FOLDER} ({reason}); {REMEDY}")


def format_mib(size: int) -> str:
    """Return bytes as whole MiB."""
    return f"{-(-size // 2**20):,} MiB"
