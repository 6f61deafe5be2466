"""Several processes that train one model: who is who, and what is gathered from all of them.

torchrun starts the processes and tells each its place (RANK, LOCAL_RANK, WORLD_SIZE). Without it
there is one process, and every function here gives back what it was given.
"""

import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from utils.dist_info import DistInfo, get_dist_info
from utils.running_time import Stopwatch, is_suspended

T = TypeVar("T")
BAR_DELAY_S = 1.0  # what is done before that needs no bar
_POLL_S, _SECOND_S = 0.5, 30.0
_DAY = timedelta(days=1)
_STALLED = 2  # exit code


def show_progress(items: Sequence[T], text: str, unit: str) -> Iterable[T]:
    """Iterate with a bar on stderr, in the first process, where it takes more than a moment."""
    return tqdm(
        items, desc=text, unit=unit, delay=BAR_DELAY_S, dynamic_ncols=True,
        disable=not get_dist_info().is_main,
    )  # fmt: skip


@contextmanager
def process_group(device: torch.device, timeout_s: float) -> Iterator[DistInfo]:
    """Join the run's other processes for the time of a ``with`` block.

    Args:
        device: where this process computes; NCCL joins GPUs, gloo CPUs.
        timeout_s: after which a process that waits for others names them and ends, seconds.
    """
    info = get_dist_info()
    if info.world_size == 1:
        yield info
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    # The backend's own time-out, which can't tell for whom it waited, comes second.
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s + _SECOND_S))
    if backend == "gloo" and hasattr(dist, "set_timeout"):
        # It would end a run that was suspended for longer. On CPUs a process waits in the
        # collectives of this module for those that hang; one that is lost gloo notices. On GPUs the
        # host runs ahead and waits elsewhere, where only NCCL's time-out finds one that hangs.
        dist.set_timeout(_DAY)
    _get_store().set(f"place/{info.rank}", f"{os.getpid()} {socket.gethostname()}")
    done = threading.Event()
    watchdog = threading.Thread(target=_watch, args=(info, timeout_s, done), daemon=True)
    watchdog.start()
    yield info
    # Not after an error: the others may be waiting, and leaving together would be one more wait.
    done.set()
    watchdog.join()
    dist.destroy_process_group()


def _get_store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


_waiting_since: float | None = None  # since when this process has been in a collective


@contextmanager
def _collective() -> Iterator[None]:
    """Tell the watchdogs that this process has come to the next collective, and is in it."""
    global _waiting_since
    _get_store().add(f"arrived/{dist.get_rank()}", 1)
    _waiting_since = time.monotonic()
    try:
        yield
    finally:
        _waiting_since = None


def _watch(info: DistInfo, timeout_s: float, done: threading.Event) -> None:
    """End this process when it has waited too long for others, and name these.

    From a thread, since the main one hangs in the backend or in the GPU. It looks at this process
    alone, and asks the store for the others only when the time is over. Time in which this process
    was suspended does not count, nor that of others of this machine that are suspended.
    """
    interval = min(_POLL_S, timeout_s / 4)
    watch, here = Stopwatch(interval), socket.gethostname()
    while not done.wait(interval):
        since = _waiting_since
        if watch.look(since) < timeout_s or since is None:
            continue
        try:
            store = _get_store()
            arrived = [store.add(f"arrived/{rank}", 0) for rank in range(info.world_size)]
            late = [rank for rank, count in enumerate(arrived) if count < arrived[info.rank]]
            places = [store.get(f"place/{rank}").decode().split(" ", 1) for rank in late]
        except RuntimeError:  # the process that keeps the store is gone: the backend says so, too
            return
        if not late:
            continue
        if any(host == here and is_suspended(int(pid)) for pid, host in places):
            watch = Stopwatch(interval)
            continue
        names = ", ".join(f"{rank} on {place[1]}" for rank, place in zip(late, places, strict=True))
        text = (
            f"process {info.rank} has waited {timeout_s:g} s (trainer.rank_timeout) for process "
            f"{names}: it hangs or is too slow; see what it says, then resume with -r auto\n"
        )
        os.write(2, text.encode())
        os._exit(_STALLED)


# Its name before torch 2.14 is deprecated since.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes, rank by rank, with the gradient of the own ones.

    Every process computes the same loss of the same rows. The gradient that reaches the own rows is
    therefore already that of the whole loss; it is multiplied by the number of processes, because
    DistributedDataParallel and FSDP2 take the mean over them of what is a sum.

    Args:
        rows: (n, …), n may differ from process to process, 0 included.
    """
    if not _is_joined():
        return rows
    with _collective():
        return _Gather.apply(rows)


def gather_objects(value: T) -> list[T]:
    """Return what every process gave, rank by rank."""
    if not _is_joined():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    with _collective():
        dist.all_gather_object(values, value)
    return values


def all_reduce_max(flag: int, device: torch.device) -> int:
    """Return the largest of what the processes gave, so that all do the same after it."""
    if not _is_joined():
        return flag
    with _collective():
        shared = torch.tensor(flag, device=device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the sum of what the processes gave, tensors of one shape."""
    if not _is_joined():
        return values
    with _collective():
        dist.all_reduce(values)
        return values


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give the parameters of a module that every process runs alike the mean of their gradients.

    Each process computes the same loss of the same rows, so the gradients differ by rounding at
    most; after this they are equal, and the parameters stay so.
    """
    if not _is_joined():
        return
    for parameter in parameters:
        if parameter.grad is not None:
            with _collective():
                dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def broadcast_parameters(module: nn.Module) -> None:
    """Give every process the first one's parameters and buffers."""
    _broadcast(module.state_dict().values())


def broadcast_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers."""
    _broadcast(module.buffers())


def _broadcast(values: Iterable[Tensor]) -> None:
    if not _is_joined():
        return
    for value in values:
        with _collective():
            dist.broadcast(value, 0)


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        size, rank = dist.get_world_size(), dist.get_rank()
        counts = rows.new_empty(size, dtype=torch.int64)
        _all_gather(counts, counts.new_tensor([len(rows)]))
        lengths = counts.tolist()
        ctx.start, ctx.count, ctx.size = sum(lengths[:rank]), lengths[rank], size
        # Collectives want equal shapes: padded to the longest, cut again below.
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = rows.new_empty(size * len(padded), *rows.shape[1:])
        _all_gather(gathered, padded)
        parts = gathered.split(len(padded))
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad[ctx.start : ctx.start + ctx.count] * ctx.size
