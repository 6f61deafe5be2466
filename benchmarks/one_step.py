"""Training steps on a synthetic batch, in this fresh process.

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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from base.batch import Batch
from base.config import Config
from benchmarks.inputs import NUM_PIECES, load_base_config, load_texts, make_batch
from benchmarks.measuring import MIB, ROOT, get_memory, time_call
from benchmarks.step import build_plain_path
from data_loader.synthetic.text_model import write_text_model
from evaluation.evaluator import Evaluator
from model.frozen_in_time import FrozenInTime
from parse_config import load_config
from trainer.build import build_criterion, build_model, build_optimizer
from trainer.parallel import Parallel
from trainer.tracking import Tracker
from trainer.trainer import Trainer
from utils.cli import positive_int, run_cli
from utils.launch import configure_cuda, keep_freed_memory
from utils.precision import Precision

DEMO = ROOT / "configs/demo/published_recipe.json"  # every step encodes the frames
FLOAT32 = 4  # bytes


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, or ``words`` in its place."""
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
    asked = parser.parse_args(words)
    if asked.steps < 2:
        parser.error("--steps: at least 2, the first one is not timed")
    if asked.path == "plain" and asked.chunk:
        parser.error("--chunk: the plain path takes whole batches")
    return asked


def main() -> None:
    """Run the command."""
    asked = parse_arguments()
    keep_freed_memory()
    configure_cuda()
    with tempfile.TemporaryDirectory() as folder:
        found = measure_steps(make_config(Path(folder), asked), asked)
    sys.stdout.write(json.dumps(found) + "\n")


def make_config(folder: Path, asked: argparse.Namespace) -> Config:
    """The configuration; the demo's has a text model of its sizes, written into ``folder``."""
    changes = [f"trainer.chunk_size={'null' if asked.chunk is None else asked.chunk}"]
    if asked.frames is not None:
        blocks = "arch.args", "data_loader.args"
        changes += [f"{block}.video_params.num_frames={asked.frames}" for block in blocks]
    if asked.model == "base":
        return load_base_config(*changes, *asked.set)
    write_text_model(folder, [f"w{number}" for number in range(NUM_PIECES)])
    changes.append(f"arch.args.text_params.model={folder}")
    return load_config(DEMO, [*changes, *asked.set])


def measure_steps(config: Config, asked: argparse.Namespace) -> dict[str, float]:
    """Measure the steps that the command line asks for.

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
    batch = make_batch(load_texts(None), *sizes, device)
    take_step = build_step(config, model, batch, asked.path)
    before = get_memory(device)[0]
    seconds = [time_call(take_step, device) for _ in range(asked.steps)]
    return {
        "before": before,
        "peak": get_memory(device)[1],
        "state": 3 * FLOAT32 * model.num_parameters() / MIB,
        "seconds": statistics.median(seconds[1:]),
    }


def build_step(
    config: Config, model: FrozenInTime, batch: Batch, path: str = "ours"
) -> Callable[[], Any]:
    """Return the step of the plain reference path, or that of the trainer, without its files."""
    device = batch.video.device
    criterion = build_criterion(config, device)
    if path == "plain":
        return partial(build_plain_path(model, config, criterion).take_step, batch, criterion)
    parallel = Parallel(model, criterion, device)
    trainer = Trainer(
        parallel=parallel,
        precision=Precision(config.trainer.precision, device),
        optimizer=build_optimizer(config, parallel),
        schedule=None,
        loaders=[],
        valid_loaders=[],
        evaluator=Evaluator([], criterion, Precision("fp32", device)),
        tracker=Tracker(Path()),
        run_dir=Path(),
        config={},
        settings=config.trainer,
        epochs=1,
        save_period=1,
        monitor=None,
        validate_first=False,
    )
    return partial(trainer.train_step, batch)


if __name__ == "__main__":
    run_cli(main)
