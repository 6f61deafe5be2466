"""Measure training steps of the demo's model on a made-up batch, in this fresh process.

    python -m benchmarks.one_step --batch 512 --chunk 64 --device cpu

Writes one line of JSON. ``benchmarks/chunks.py`` calls it. No data files are needed: the model has
the sizes of configs/demo/fusion.json, frames are noise, words and queries are random tokens.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from base.batch import Batch, Tokens
from base.config import Config
from base.registry import OPTIMIZERS
from data_loader.collate import TRACK_SIZE, distinct_words
from data_loader.synthetic.text_model import write_text_model
from parse_config import load_config
from trainer.build import build_model, build_passes
from utils.cli import run_cli
from utils.errors import UserError
from utils.precision import Precision

CONFIG = Path(__file__).parents[1] / "configs/demo/fusion.json"
MIB = 2**20
QUERY_TOKENS, VIDEO_WORDS, DISTINCT_WORDS = 12, 4, 500


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, required=True, help="videos of the batch")
    parser.add_argument("--chunk", type=int, help="trainer.chunk_size")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, default=3, help="the first one is not timed")
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps: at least 2, the first one is not timed")
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        config = made_config(Path(folder), arguments.chunk)
        found = measure(config, arguments.batch, device, arguments.steps)
    sys.stdout.write(json.dumps(found) + "\n")


def made_config(folder: Path, chunk: int | None) -> Config:
    """The demo's configuration with a text model of its sizes, written into ``folder``."""
    write_text_model(folder, [f"w{number}" for number in range(DISTINCT_WORDS)])
    size = "null" if chunk is None else chunk
    return load_config(
        CONFIG, [f"arch.args.text_params.model={folder}", f"trainer.chunk_size={size}"]
    )


def measure(config: Config, size: int, device: torch.device, steps: int) -> dict[str, float]:
    """Return MiB before and at the peak of the steps, and seconds of a step, the first left out."""
    model = build_model(config, device).train()
    for weight in model.without_gradient():
        weight.requires_grad_(False)
    precision = Precision(config.trainer.precision, device)
    passes = build_passes(config, model, precision)
    optimizer = config.optimizer.build(OPTIMIZERS, params=model.parameters())
    batch = made_batch(config, size).to(device)
    before, seconds = memory(device)[0], []
    for _ in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        passes(batch)
        precision.step(optimizer, None)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {
        "before": before,
        "peak": memory(device)[1],
        "seconds": statistics.median(seconds[1:]),
    }


def made_batch(config: Config, size: int) -> Batch:
    """A random batch of the configuration's frame size: 12 tokens a query, 4 words a video."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    video = config.arch.kwargs()["video_params"]
    words = {
        str(word): rng.integers(5, 100, 3 + word % 4).tolist() for word in range(DISTINCT_WORDS)
    }
    texts = [rng.choice(list(words), VIDEO_WORDS, replace=False).tolist() for _ in range(size)]
    used = {word: words[word] for shown in texts for word in shown}
    tracks = [rng.random((VIDEO_WORDS, TRACK_SIZE), dtype=np.float32) for _ in texts]
    ids = torch.randint(5, 100, (size, QUERY_TOKENS), generator=generator)
    shape = (size, video.num_frames, 3, video.input_res, video.input_res)
    return Batch(
        ids=[str(number) for number in range(size)],
        video_index=torch.arange(size),
        query=Tokens(ids, torch.ones_like(ids)),
        query_row=torch.arange(size),
        video=torch.randn(shape, generator=generator),
        words=distinct_words(used, texts, tracks, pad_id=0),
    )


def memory(device: torch.device) -> tuple[float, float]:
    """Return the MiB in use now and at most: of CUDA's tensors, else resident in this process."""
    if device.type == "cuda":
        used = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        return used[0] / MIB, used[1] / MIB
    status = Path("/proc/self/status")
    if not status.exists():
        raise UserError(f"{status}: not there; resident memory is measured on Linux only")
    sizes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status.read_text(), re.MULTILINE))
    return int(sizes["VmRSS"]) / 1024, int(sizes["VmHWM"]) / 1024


if __name__ == "__main__":
    run_cli(main)
