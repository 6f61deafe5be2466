"""Tracking of a run: ``metrics.jsonl``, TensorBoard or Weights & Biases, the log, the summary."""

import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from base.base_data_loader import BaseDataLoader
from base.base_trainer import Monitor
from base.batch import Batch
from evaluation.evaluator import Evaluation
from trainer.checkpoint_folder import BEST, LAST, read_epoch
from trainer.checkpointing import Progress
from utils.distributed import get_dist_info
from utils.errors import UserError
from utils.files import write_bytes, write_text
from utils.ranking import compute_t2v_ranks, compute_v2t_ranks

logger = logging.getLogger(__name__)

Axis = Literal["step", "epoch"]
Kind = Literal["scalar", "histogram", "image", "text"]

NUM_CLIPS = 4
CLIPS_EVERY = 10  # epochs
MAX_CLIP_FRAMES = 8  # side by side
# Values of a line of metrics.jsonl that differ between equal runs.
TIMINGS = ("seconds", "timing")
METRICS_FILE = "metrics.jsonl"
GIB = 2**30


class Tracker:
    """Appends one JSON line an epoch, and hands the same numbers and more to a writer.

    A line of ``metrics.jsonl`` holds an epoch's log; ``seconds`` since the run was started and
    ``timing``, both of this process, are the only values that differ between equal runs.

    Args:
        run_dir: folder of the run.
        writer: takes curves and pictures. When it fails, that is said, and it shows no more of the
            run, which goes on. None: this process writes nothing at all.
    """

    def __init__(self, run_dir: Path, writer: "Writer | None" = None) -> None:
        self._file = run_dir / METRICS_FILE
        self._not_finite = run_dir / "not_finite.jsonl"
        self._writer = writer
        self._throughput = ThroughputMeter()
        self._start = time.monotonic()

    def resume(self, progress: Progress | None) -> None:
        """Drop what was written of epochs, batches and steps that are run again.

        Args:
            progress: what is done; None: nothing, as where a run has no checkpoint yet.
        """
        if self._writer is None:
            return
        done = Progress(epoch=-1, batches=0, step=-1) if progress is None else progress
        _keep_lines(self._file, lambda line: line["epoch"] <= done.epoch)
        position = done.epoch + 1, done.batches
        # Those of earlier releases have no number of their batch.
        _keep_lines(self._not_finite, lambda n: (n["epoch"], n.get("batch", 0)) <= position)
        self._try_writer(lambda: self._writer.resume(done))

    def begin_epoch(self) -> None:
        """Start measuring an epoch's batches, or those that are left of it."""
        self._throughput.begin_epoch()

    def wait_for_data(self) -> AbstractContextManager[None]:
        """Return the context in which the run waits for data."""
        return self._throughput.wait_for_data()

    def log_clips(self, loader: BaseDataLoader, batch: Batch, epoch: int) -> None:
        """Show clips of an epoch's first batch, in one of every ``CLIPS_EVERY`` epochs."""
        if self._writer is None or epoch % CLIPS_EVERY != 1:
            return
        for row in range(min(NUM_CLIPS, len(batch) - batch.num_fillers)):
            text = format_clip_text(batch.ids[row], *loader.get_texts(batch, row))
            self._write("text", f"clips/{row}", text, "epoch", epoch)
            if batch.video is not None:
                strip = make_filmstrip(batch.video[row], int(batch.num_frames[row]))
                self._write("image", f"clips/{row}", strip, "epoch", epoch)

    def finish_batch(self, num_samples: int) -> None:
        """Take in that a batch of all processes is done."""
        self._throughput.finish_batch(num_samples)

    def log_step(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show the numbers of one step, and the throughput since the last one that was shown."""
        for name, value in {**numbers, **self._throughput.read_interval()}.items():
            self._write("scalar", f"step/{name}", value, "step", step)

    def log_evaluation(self, epoch: int, number: int, evaluation: Evaluation) -> None:
        """Show the distribution of the ranks, from captions to videos and back."""
        video = evaluation.video_of_query
        if self._writer is None or not len(video):
            return
        for name, rank in (("t2v", compute_t2v_ranks), ("v2t", compute_v2t_ranks)):
            found = rank(evaluation.similarity, np.arange(len(video)), video)
            found = found[np.isfinite(found)]  # a video without a caption has no rank
            self._write("histogram", f"val_{number}_{name}_ranks", found, "epoch", epoch)

    def log_epoch(self, epoch: int, log: dict[str, float]) -> None:
        """Write the log of an epoch."""
        if self._writer is None:
            return
        seconds = round(time.monotonic() - self._start, 2)
        timing = {name: round(value, 4) for name, value in self._throughput.read_epoch().items()}
        line = {"epoch": epoch, "seconds": seconds} | log
        _append_json(self._file, line | {"timing": timing} if timing else line)
        for name, value in (log | {f"timing/{name}": v for name, v in timing.items()}).items():
            self._write("scalar", name, value, "epoch", epoch)
        self.flush()
        logger.info("epoch %d: %s", epoch, ", ".join(f"{k} {v:.4g}" for k, v in log.items()))

    def log_not_finite(self, where: dict[str, Any]) -> Path:
        """Append a batch whose loss was not finite to a file; returns the file."""
        if self._writer is not None:
            _append_json(self._not_finite, where)
        return self._not_finite

    def flush(self) -> None:
        """Let what was shown be on the disk."""
        if self._writer is not None:
            self._try_writer(self._writer.flush)

    def close(self) -> None:
        """Finish writing."""
        if self._writer is not None:
            self._try_writer(self._writer.close)

    def _write(self, kind: Kind, name: str, value: Any, axis: Axis, position: int) -> None:
        if self._writer is not None:
            self._try_writer(lambda: self._writer.write(kind, name, value, axis, position))

    def _try_writer(self, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:  # of an earlier call, too: writers work in a thread
            name = type(self._writer).__name__
            logger.error("NOT WRITTEN: %s (%s); it shows no more of this run", name, error)
            self._writer = Writer()


class ThroughputMeter:
    """Measures batches: samples a second, and the share of time spent waiting for data.

    What it says of an epoch covers the batches since the epoch's start, or since the run was
    resumed within it. Validation and checkpoints between epochs do not count.
    """

    def __init__(self) -> None:
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Start measuring anew."""
        self._epoch = self._interval = (0, 0.0, 0.0)  # samples, seconds, seconds of waiting
        self._since = time.perf_counter()
        self._waiting = 0.0

    @contextmanager
    def wait_for_data(self) -> Iterator[None]:
        """Count the time of a ``with`` block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waiting += time.perf_counter() - start

    def finish_batch(self, num_samples: int) -> None:
        """Take in a batch of all processes."""
        now = time.perf_counter()
        batch = (num_samples, now - self._since, self._waiting)
        self._since, self._waiting = now, 0.0
        self._epoch = tuple(map(sum, zip(self._epoch, batch, strict=True)))
        self._interval = tuple(map(sum, zip(self._interval, batch, strict=True)))

    def read_interval(self) -> dict[str, float]:
        """Return the numbers of the batches since the last call; none where there was no batch."""
        interval, self._interval = self._interval, (0, 0.0, 0.0)
        return _compute_rates(*interval)

    def read_epoch(self) -> dict[str, float]:
        """Return the epoch's numbers; none where no batch was done."""
        return _compute_rates(*self._epoch)


def _compute_rates(num_samples: int, seconds: float, waiting: float) -> dict[str, float]:
    if not num_samples:
        return {}
    rates = {"samples_per_second": num_samples / seconds, "waiting_share": waiting / seconds}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        rates["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / GIB  # most so far
    return rates


class Writer:
    """Shows what is looked at while a run goes on; this one shows nothing."""

    def write(self, kind: Kind, name: str, value: Any, axis: Axis, position: int) -> None:
        """Add to what is shown.

        Args:
            kind: scalar; histogram, of (n,) numbers; image, (3, H, W) uint8; text, in Markdown.
            name: of the curve or picture.
            value: see ``kind``.
            axis: what ``position`` counts.
            position: steps or epochs.
        """

    def resume(self, done: Progress) -> None:
        """Take back what earlier processes have shown of what is run again."""

    def flush(self) -> None:
        """Let what was added be seen."""

    def close(self) -> None:
        """Finish writing."""


class TensorBoard(Writer):
    """Writes event files to ``tensorboard/`` in the run's folder."""

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run_dir / "tensorboard"
        self._earlier = sorted(folder.glob("events.out.tfevents.*"))  # of processes before this one
        self._writer = SummaryWriter(str(folder))
        self.flush, self.close = self._writer.flush, self._writer.close

    def resume(self, done: Progress) -> None:
        """Take back what earlier processes have shown of what is run again."""
        for file in self._earlier:
            _keep_events(file, done)

    def write(self, kind: Kind, name: str, value: Any, axis: Axis, position: int) -> None:
        """Add to what is shown."""
        getattr(self._writer, f"add_{kind}")(name, value, position)


def _keep_events(file: Path, done: Progress) -> None:
    """Drop the events of an event file that are run again, and one that was cut short.

    A file that says nothing else is removed. Records are a length (8 bytes), its checksum (4), a
    message and its checksum (4), as tensorboard/summary/writer/record_writer.py has them.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    data, start = file.read_bytes(), 0
    kept: list[bytes] = []
    while (end := start + 16 + int.from_bytes(data[start : start + 8], "little")) <= len(data):
        try:
            event = Event.FromString(data[start + 12 : end - 4])
        except DecodeError:
            break
        if all(_is_done(value.tag, event.step, done) for value in event.summary.value):
            kept.append(data[start:end])
        start = end
    if len(kept) <= 1:  # the first one has the file's version alone
        file.unlink()
    elif sum(map(len, kept)) < len(data):
        write_bytes(file, b"".join(kept))


def _is_done(tag: str, position: int, done: Progress) -> bool:
    if tag.startswith("step/"):
        return position <= done.step
    if tag.startswith("clips/"):  # shown when their epoch begins
        return position <= done.epoch + (done.batches > 0)
    return position <= done.epoch


class WeightsAndBiases(Writer):
    """Sends a run to Weights & Biases, or keeps it in ``wandb/`` with ``WANDB_MODE=offline``.

    A resumed run goes on under the id that it keeps in ``wandb_id``.

    Raises:
        UserError: the package is not there, or the run can't be begun.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self._wandb = _import_wandb()
        try:
            self._run = self._wandb.init(
                project=str(config["name"]),
                name=run_dir.name,
                id=_read_or_make_id(run_dir / "wandb_id"),
                resume="allow",
                dir=str(run_dir),
                config=dict(config),
                # stderr has the progress bars, and train.log the rest.
                settings=self._wandb.Settings(console="off", silent=True),
            )
        except self._wandb.Error as error:
            raise UserError(
                f"trainer.tracker: Weights & Biases can't begin the run ({error}); log in with "
                "wandb login, or set WANDB_MODE=offline and send it later with wandb sync"
            ) from error
        # Both axes grow on their own; its single step would have to grow with every line.
        self._run.define_metric("epoch")
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="epoch")
        self._run.define_metric("step/*", step_metric="step")
        self.close = self._run.finish

    def write(self, kind: Kind, name: str, value: Any, axis: Axis, position: int) -> None:
        """Add to what is shown; a text is a table of one cell, which shows it as it is written."""
        if kind == "histogram":
            value = self._wandb.Histogram(value)
        elif kind == "image":
            value = self._wandb.Image(np.ascontiguousarray(value.transpose(1, 2, 0)))
        elif kind == "text":
            name, value = f"{name}/text", self._wandb.Table(columns=["text"], data=[[value]])
        self._run.log({axis: position, name: value})


def _import_wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            'trainer.tracker: "wandb" needs a package that is not installed; run '
            "pip install wandb, or set trainer.tracker to tensorboard"
        ) from error
    return wandb


def _read_or_make_id(file: Path) -> str:
    """Return the run's id, drawn by the system: the seeds of the run know nothing of it."""
    if not file.exists():
        write_text(file, secrets.token_hex(8))
    return file.read_text(encoding="utf-8").strip()


def build_tracker(tracker: str, run_dir: Path, config: Mapping[str, Any]) -> Tracker:
    """Build the tracker of this process: the first one writes; see ``open_writer``."""
    if not get_dist_info().is_main:
        return Tracker(run_dir)
    return Tracker(run_dir, open_writer(tracker, run_dir, config))


def open_writer(tracker: str, run_dir: Path, config: Mapping[str, Any]) -> Writer:
    """Open what ``trainer.tracker`` names.

    Args:
        tracker: ``tensorboard``, ``wandb`` or ``none``.
        run_dir: folder of the run; each writer keeps its files in a folder of its own there.
        config: resolved; Weights & Biases shows it, and calls the project by its name.

    Raises:
        UserError: the writer can't be had.
    """
    writers = {
        "tensorboard": lambda: TensorBoard(run_dir),
        "wandb": lambda: WeightsAndBiases(run_dir, config),
        "none": Writer,
    }
    return writers[tracker]()


def make_filmstrip(frames: Tensor, num_frames: int) -> NDArray:
    """Lay frames side by side.

    Args:
        frames: (F, 3, H, W) uint8.
        num_frames: how many of them are real.

    Returns:
        (3, H, n * W) uint8, n at most ``MAX_CLIP_FRAMES``.
    """
    count = min(num_frames, MAX_CLIP_FRAMES)
    chosen = np.linspace(0, num_frames - 1, count).round().astype(int)
    return np.concatenate([frames[index].numpy() for index in chosen], axis=2)


def format_clip_text(name: str, captions: list[str], words: list[str] | None) -> str:
    """Return a video's id, captions and OCR words in Markdown."""

    def quote(text: str) -> str:
        return f"`{text.replace('`', chr(39))}`"  # nothing of the data is taken for Markdown

    lines = [f"video: {quote(name)}", *(f"caption: {quote(caption)}" for caption in captions)]
    if words is not None:
        lines.append("OCR words: " + (" ".join(map(quote, words)) or "none"))
    return "  \n".join(lines)


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``; one that was cut short is left out."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if _parse_epoch(line) < math.inf]


def _append_json(path: Path, value: dict[str, Any]) -> None:
    """Append a JSON line; what can't be written is said, and the run goes on."""
    line = json.dumps(value) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        logger.error("NOT WRITTEN to %s (%s): %s", path, error.strerror, line.strip())


def _keep_lines(file: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Drop lines of a file of JSON lines, and those that were cut short."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = (line for line in lines if _parse_epoch(line) < math.inf)
    kept = [line.rstrip("\n") + "\n" for line in whole if is_kept(json.loads(line))]
    if not kept:
        file.unlink()
    elif kept != lines:
        write_text(file, "".join(kept))


def _parse_epoch(line: str) -> float:
    """Return the epoch of a line; a line that was cut short belongs to none that is kept."""
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def summarize_run(run_dir: Path, epochs: int, monitor: Monitor | None) -> str:
    """Return what a run comes to: the best epoch, its numbers, the files, the next command.

    The heart of it is logged, too.
    """
    best_epoch = monitor.epoch if monitor is not None else None
    shown = epochs if best_epoch is None else best_epoch
    best, command = _describe_best(monitor, run_dir / BEST), name_next_command(run_dir)
    written = {line["epoch"]: line for line in read_metrics(run_dir / METRICS_FILE)}
    lines = [f"epochs done: {epochs}", best, f"epoch {shown}:"]
    lines += _format_numbers(written[shown]) if shown in written else ["  not in metrics.jsonl"]
    lines += ["files:", *_list_files(run_dir), "next:", f"  {command}"]
    logger.info("the run is done; %s; next: %s", best, command)
    return "\n".join(lines) + "\n"


def name_next_command(run_dir: Path) -> str:
    """Return the command that tests the run's best checkpoint, or its last where there is none."""
    checkpoint = run_dir / (BEST if (run_dir / BEST).exists() else LAST)
    return f"python test.py -r {checkpoint} --sim_path {run_dir / 'test' / 'sim_matrix.npy'}"


def _describe_best(monitor: Monitor | None, file: Path) -> str:
    if monitor is None:
        return "best epoch: none, trainer.monitor is off"
    if monitor.value is None:
        return f"best epoch: none, {monitor.name} was never finite"
    epoch = "unknown, it was before this code noted it" if monitor.epoch is None else monitor.epoch
    text = f"best epoch: {epoch} ({monitor.mode} {monitor.name} = {monitor.value:.6g})"
    found = read_epoch(file)
    if found in (None, monitor.epoch):
        return text
    return f"{text}; it could not be written, {file.name} holds epoch {found}"


def _format_numbers(log: dict[str, Any]) -> list[str]:
    """Return one line a number."""
    numbers = {name: value for name, value in log.items() if name not in ("epoch", *TIMINGS)}
    width = max(map(len, numbers), default=0)
    return [f"  {name:<{width}} {value:>10.4g}" for name, value in numbers.items()]


def _list_files(run_dir: Path) -> list[str]:
    """Return the files and folders of the run that are there, each with what it holds."""
    holds = {
        BEST: "weights of the best epoch",
        LAST: "everything to go on with: train.py -r",
        METRICS_FILE: "numbers of every epoch",
        "tensorboard": f"curves and clips: tensorboard --logdir {run_dir}",
        "wandb": f"curves and clips: Weights & Biases; offline ones: wandb sync {run_dir}/wandb/*",
        "data_report.json": "what of the data could not be used",
        "train.log": "the log",
    }
    there = {name: text for name, text in holds.items() if (run_dir / name).exists()}
    width = len(str(run_dir)) + 1 + max(map(len, there), default=0)
    return [f"  {str(run_dir / name):<{width}}  {text}" for name, text in there.items()]
