"""Profile of a training step: ``train.py --profile``."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from base.batch import Batch
from trainer.tracking import Tracker
from trainer.trainer import Trainer, plan_epoch
from utils.distributed import get_dist_info
from utils.errors import UserError
from utils.seed import preserve_random_state

NUM_WARM, NUM_TIMED, NUM_TRACED = 3, 6, 4  # steps
WAITING, TRANSFER, OTHER = "waiting for data", "to device, transforms", "other"
EMBEDDING, LOSS = "forward: the rest", "similarity and loss"
BACKWARD, OPTIMIZER = "backward", "optimizer"
SMALL = 0.01
TRACE = "train.pt.trace.json.gz"  # the name that TensorBoard's profiler looks for


class Stopwatch:
    """Measures the parts of a step; the time of a part within another counts for itself alone.

    Args:
        device: waited for at both ends of a part while measuring, or a GPU's work would count
            where its result is first asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.is_measuring = False
        self._device = device
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a ``with`` block, and label it in the trace."""
        self.begin(name)
        try:
            with record_function(name):
                yield
        finally:
            self.end()

    def begin(self, name: str) -> None:
        """Enter a part; what is open pauses."""
        self._count_time()
        self._open.append(name)

    def end(self) -> None:
        """Leave the part that was entered last."""
        self._count_time()
        self._open.pop()

    def _count_time(self) -> None:
        if not self.is_measuring:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def profile_run(trainer: Trainer, run_dir: Path) -> str:
    """Train a few steps, write ``profile/`` into the run's folder, and return a table of times.

    First steps warm up, the next are measured part by part, the last are traced. Nothing else is
    written: no checkpoint, no metrics. Every process has to call this; the first one writes.

    Raises:
        UserError: the trace can't be written.
    """
    trainer.tracker.close()
    trainer.tracker = Tracker(run_dir)
    watch = Stopwatch(trainer.device)
    folder = run_dir / "profile"
    batches = _read_batches(trainer, watch)
    with _label_parts(trainer, watch):
        for _ in range(NUM_WARM):
            _run_step(trainer, watch, *next(batches))
        watch.is_measuring = True
        for _ in range(NUM_TIMED):
            with watch.part(OTHER):
                _run_step(trainer, watch, *next(batches))
        watch.is_measuring = False
        with _trace_steps(folder, trainer.device) as next_step:
            for _ in range(1 + NUM_TRACED):
                _run_step(trainer, watch, *next(batches))
                next_step()
    batches.close()
    text = format_times(watch.seconds, NUM_TIMED)
    if get_dist_info().is_main:
        (folder / "steps.txt").write_text(text, encoding="utf-8")
    return (
        f"{text}\nThe run ends after the profiled steps; no checkpoint was written.\n"
        f"Trace of {NUM_TRACED} steps: {folder / TRACE}\n"
        f"Open it at ui.perfetto.dev, or with tensorboard --logdir {folder} (torch-tb-profiler).\n"
    )


def format_times(seconds: dict[str, float], num_steps: int) -> str:
    """Return milliseconds a step and shares of the parts of ``num_steps`` steps, in their order."""
    total = sum(seconds.values())
    seconds = _merge_small_parts(seconds, total)
    forward = [name for name in seconds if name.startswith("forward")]
    order = [WAITING, TRANSFER, *forward, LOSS, BACKWARD, OPTIMIZER, OTHER]
    width = max(map(len, order))
    rows = [(name, seconds.get(name, 0.0)) for name in order] + [("a step", total)]
    lines = [f"{'part':<{width}}  {'ms a step':>10}  {'share':>6}"]
    for name, value in rows:
        lines.append(f"{name:<{width}}  {1e3 * value / num_steps:>10.2f}  {value / total:>6.1%}")
    return "\n".join(lines) + "\n"


def _merge_small_parts(seconds: dict[str, float], total: float) -> dict[str, float]:
    """Put the parts of the forward pass that take less than ``SMALL`` of a step together."""
    kept: dict[str, float] = {}
    for name, value in seconds.items():
        is_small = name.startswith("forward") and value < SMALL * total
        name = EMBEDDING if is_small else name
        kept[name] = kept.get(name, 0.0) + value
    return kept


def _read_batches(trainer: Trainer, watch: Stopwatch) -> Iterator[tuple[int, Batch]]:
    """Yield (loader, batch) of one epoch after the other, as training reads them.

    One after the other, though: on a GPU training has the next batch arrive while a step runs.
    """
    trainer.model.train()
    with trainer.parallel.gather_weights():
        for loader in trainer.loaders:
            trainer.word_vectors.encode(loader, trainer.precision)
    for epoch in itertools.count(trainer.epoch + 1):
        plan = plan_epoch(trainer.loaders, trainer.settings.max_samples_per_epoch)
        for number, loader in enumerate(trainer.loaders):
            loader.set_epoch(epoch, sum(turn == number for turn, _ in plan))
        sources = [iter(loader) for loader in trainer.loaders]
        for turn, _ in plan:
            with watch.part(WAITING), preserve_random_state():
                batch = next(sources[turn])
            yield turn, batch


def _run_step(trainer: Trainer, watch: Stopwatch, turn: int, batch: Batch) -> None:
    with watch.part(TRANSFER):
        batch = trainer.prepare_batch((trainer.loaders[turn], batch))
    with trainer.chunk_finder.explain_out_of_memory(batch):
        trainer.train_step(batch)


@contextmanager
def _label_parts(trainer: Trainer, watch: Stopwatch) -> Iterator[None]:
    """Label the parts of ``train_step`` for the time of a ``with`` block; it knows nothing of it.

    Encoders that compute their activations anew in the backward pass count as forward there too.
    """
    with ExitStack() as undo:
        for name, module in trainer.model.named_children():
            if next(module.parameters(), None) is not None:
                _hook(undo, module, f"forward: {name}", watch)
        _hook(undo, trainer.parallel.network, EMBEDDING, watch)
        parts = [
            (trainer, "compute_loss", LOSS),
            (trainer.precision, "step", OPTIMIZER),
            (torch.autograd, "backward", BACKWARD),  # which Tensor.backward calls, too
        ]
        for owner, name, label in parts:
            _wrap(undo, owner, name, label, watch)
        yield


def _hook(undo: ExitStack, module: nn.Module, label: str, watch: Stopwatch) -> None:
    """Label a module's forward pass."""
    labels: list[AbstractContextManager] = []

    @torch.compiler.disable
    def enter(*_: Any) -> None:
        labels.append(watch.part(label))
        labels[-1].__enter__()

    @torch.compiler.disable
    def leave(*_: Any) -> None:
        labels.pop().__exit__(None, None, None)

    undo.enter_context(_remove_later(module.register_forward_pre_hook(enter)))
    undo.enter_context(_remove_later(module.register_forward_hook(leave)))


@contextmanager
def _remove_later(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _wrap(undo: ExitStack, owner: Any, name: str, label: str, watch: Stopwatch) -> None:
    """Put a label around a function or method, until ``undo`` is left."""
    function, own = getattr(owner, name), name in vars(owner)

    @wraps(function)
    def labelled(*args: Any, **kwargs: Any) -> Any:
        with watch.part(label):
            return function(*args, **kwargs)

    setattr(owner, name, labelled)
    undo.callback(setattr, owner, name, function) if own else undo.callback(delattr, owner, name)


@contextmanager
def _trace_steps(folder: Path, device: torch.device) -> Iterator[Callable[[], None]]:
    """Trace a ``with`` block after its first step; gives the function that ends a step."""
    if not get_dist_info().is_main:
        yield lambda: None
        return
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the trace can't be written ({error.strerror})") from error
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=1, active=NUM_TRACED, repeat=1),
        on_trace_ready=lambda done: done.export_chrome_trace(str(folder / TRACE)),
    ) as profiler:
        yield profiler.step
