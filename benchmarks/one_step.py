"""Measure training steps on a made-up batch, in this fresh process.

    python -m benchmarks.one_step --batch 512 --chunk 64
    python -m benchmarks.one_step --model base --path plain --batch 2 --words 50 --frames 4

Writes one line of JSON. Other benchmarks call it, for the most memory that a step takes is seen
only in a process that has done nothing else. No data files are needed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from base.batch import Batch
from base.config import Config
from base.registry import OPTIMIZERS
from benchmarks.counting import wait
from benchmarks.made import VOCABULARY, base_config, made_batch, texts_of
from benchmarks.memory import MIB, memory
from benchmarks.paths import plain_path
from data_loader.synthetic.text_model import write_text_model
from model.frozen_in_time import FrozenInTime
from parse_config import load_config
from trainer.build import build_loss, build_model, build_passes
from utils.cli import positive_int, run_cli
from utils.launch import keep_freed_memory
from utils.precision import Precision

DEMO = Path(__file__).parents[1] / "configs/demo/fusion.json"
FLOAT32 = 4  # bytes


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, or ``words`` in its place."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("demo", "base"), default="demo", help="its sizes")
    parser.add_argument("--path", choices=("ours", "plain"), default="ours", help="how to compute")
    parser.add_argument("--batch", type=positive_int, required=True, help="videos of the batch")
    parser.add_argument("--chunk", type=positive_int, help="trainer.chunk_size")
    parser.add_argument("--words", type=int, default=4, help="OCR words of a video")
    parser.add_argument("--frames", type=positive_int, help="of a clip; default: the model's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, default=3, help="the first one is not timed")
    parser.add_argument("--set", action="append", default=[], help="as for train.py")
    arguments = parser.parse_args(words)
    if arguments.steps < 2:
        parser.error("--steps: at least 2, the first one is not timed")
    if arguments.path == "plain" and arguments.chunk:
        parser.error("--chunk: the plain path takes whole batches")
    return arguments


def main() -> None:
    """Run the command."""
    arguments = read_options()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(made_config(Path(folder), arguments), arguments)
    sys.stdout.write(json.dumps(found) + "\n")


def made_config(folder: Path, asked: argparse.Namespace) -> Config:
    """The configuration; the demo's has a text model of its sizes, written into ``folder``."""
    changes = [f"trainer.chunk_size={'null' if asked.chunk is None else asked.chunk}"]
    if asked.frames is not None:
        blocks = "arch.args", "data_loader.args"
        changes += [f"{block}.video_params.num_frames={asked.frames}" for block in blocks]
    if asked.model == "base":
        return base_config(*changes, *asked.set)
    write_text_model(folder, [f"w{number}" for number in range(VOCABULARY)])
    changes.append(f"arch.args.text_params.model={folder}")
    return load_config(DEMO, [*changes, *asked.set])


def measure(config: Config, asked: argparse.Namespace) -> dict[str, float]:
    """Return what was measured.

    Returns:
        ``before``, ``peak``: MiB before the first step and at the peak; ``state``: MiB of gradients
        and of Adam's two moments; ``seconds`` of a step, the first one left out.
    """
    device = torch.device(asked.device)
    model = build_model(config, device).train()
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    vit = model.video_model
    sizes = asked.batch, asked.words, vit.num_frames, vit.input_res
    batch = made_batch(texts_of(None), *sizes, device)
    step = {"ours": our_step, "plain": plain_step}[asked.path](config, model, batch)
    before, seconds = memory(device)[0], []
    for _ in range(asked.steps):
        start = time.perf_counter()
        step()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return {
        "before": before,
        "peak": memory(device)[1],
        "state": 3 * FLOAT32 * model.num_parameters() / MIB,
        "seconds": statistics.median(seconds[1:]),
    }


def our_step(config: Config, model: FrozenInTime, batch: Batch) -> Callable[[], object]:
    """Return the step that the trainer takes."""
    precision = Precision(config.trainer.precision, batch.video.device)
    passes = build_passes(config, model, precision)
    optimizer = config.optimizer.build(OPTIMIZERS, params=model.parameters())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        passes(batch)
        precision.step(optimizer, None)

    return step


def plain_step(config: Config, model: FrozenInTime, batch: Batch) -> Callable[[], object]:
    """Return the step of the plain reference path."""
    path, loss = plain_path(model, config, batch.video.device), build_loss(config)
    return lambda: path.step(batch, loss)


if __name__ == "__main__":
    run_cli(main)
