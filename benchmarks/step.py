"""A forward pass by parts, and training steps: this project beside the plain reference path.

    python -m benchmarks.step                                  # base sizes, batch 4; minutes
    python -m benchmarks.step --annotations TextVR_test.json   # words of real captions
    python -m benchmarks.step --precision bf16 --batch 64      # on a GPU; the plain path stays fp32
    python -m benchmarks.step --json

Both paths have the same weights and the same batch, are first asked for the same numbers, and run
in turn. Beside the seconds stand the operations by count, what share of the machine's rate for
large matrices they reach, and the matmul-only time: that of the very same matrix products, one
after the other, with nothing between them.

Shapes: B videos, Q queries, E width of the common space, D width of the ViT.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from base.batch import Batch
from base.config import Config
from base.criterion import Criterion
from benchmarks import measuring
from benchmarks.baseline import PlainFrozenInTime, assert_equal
from benchmarks.inputs import Texts, load_base_config, load_texts, make_batch
from model.frozen_in_time import FrozenInTime
from trainer.build import build_criterion, build_model, build_optimizer
from trainer.parallel import Parallel
from utils.cli import positive_int, run_cli
from utils.launch import configure_cuda, keep_freed_memory
from utils.precision import Precision, PrecisionName

TERA = 1e12
PARTS = ("query", "video", "ocr", "loss", "backward", "optimizer")
PATHS = ("ours", "plain")
COLUMNS = (*PATHS, "plain / ours")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--annotations", type=Path, help="draw words and queries from its captions")
    parser.add_argument("--batch", type=positive_int, default=4, help="videos of a batch")
    parser.add_argument("--frames", type=positive_int, default=4, help="of a clip")
    parser.add_argument("--words", type=int, nargs="+", default=[50, 200], help="of a video")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32", help="of ours")
    parser.add_argument("--runs", type=positive_int, default=3, help="of each; the median counts")
    parser.add_argument("--set", action="append", default=[], help="as for train.py: another model")
    asked = parser.parse_args()
    keep_freed_memory()  # as train.py does; both paths gain by it
    configure_cuda()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    blocks = ("arch.args", "data_loader.args")
    changes = [f"{block}.video_params.num_frames={asked.frames}" for block in blocks]
    config, texts = load_base_config(*changes, *asked.set), load_texts(asked.annotations)
    cases = [measure_case(config, texts, words, asked, device) for words in asked.words]
    result = measuring.describe_machine()
    result |= {name: getattr(asked, name) for name in ("batch", "frames", "precision", "runs")}
    with Precision(asked.precision, device).set_tf32():
        result["matrix_rate"] = measuring.measure_matmul_rate(device, DTYPES[asked.precision])
    measuring.write_result(result | {"cases": cases}, asked.json, make_table)


@dataclass
class OurEncoder:
    """The forward pass of ``FrozenInTime``, in the order of its own ``forward``."""

    model: FrozenInTime

    def embed_queries(self, batch: Batch) -> Tensor:
        """Return the queries' embeddings (Q, E)."""
        return self.model.embed_queries(batch.query)

    def encode_clips(self, batch: Batch) -> Tensor:
        """Return the features of the clips (B, D)."""
        return self.model.video_model(batch.video)

    def embed_videos(self, batch: Batch, features: Tensor) -> Tensor:
        """Return the fused embeddings (B, E)."""
        return self.model.fuse(batch.words, features)


@dataclass
class TrainingPath:
    """A way to compute training steps: this project's, or the plain one."""

    name: str
    encoder: OurEncoder | PlainFrozenInTime
    optimizer: torch.optim.Optimizer
    precision: PrecisionName
    device: torch.device

    def run(self, work: Callable[[], Any]) -> Any:
        """Compute a part of the forward pass in the path's precision."""
        precision = Precision(self.precision, self.device)
        with precision.set_tf32(), precision.autocast():
            return work()

    def take_step(self, batch: Batch, criterion: Criterion) -> dict[str, float]:
        """Take one step; returns the seconds of its parts."""
        precision = Precision(self.precision, self.device)
        found: dict[str, Any] = {}
        seconds: dict[str, float] = {}

        def time_part(name: str, work: Callable[[], Any]) -> None:
            seconds[name] = measuring.time_call(lambda: found.update({name: work()}), self.device)

        self.optimizer.zero_grad(set_to_none=True)
        with precision.set_tf32():
            with precision.autocast():
                time_part("query", lambda: self.encoder.embed_queries(batch))
                time_part("video", lambda: self.encoder.encode_clips(batch))
                time_part("ocr", lambda: self.encoder.embed_videos(batch, found.pop("video")))
            text, video = (precision.to_full(found.pop(name)) for name in ("query", "ocr"))
            time_part("loss", lambda: criterion(text, video, batch.query.hash_texts())[0])
            time_part("backward", lambda: precision.backward(found.pop("loss")))
            time_part("optimizer", lambda: precision.step(self.optimizer, None))
        return seconds


def build_plain_path(model: FrozenInTime, config: Config, criterion: Criterion) -> TrainingPath:
    """Return the plain step: float32, and an optimizer that goes from weight to weight."""
    device = next(model.parameters()).device
    optimizer = build_optimizer(config, Parallel(model, criterion, device))
    for group in optimizer.param_groups:
        group.update(foreach=False, fused=False)
    return TrainingPath("plain", PlainFrozenInTime(model), optimizer, "fp32", device)


def measure_case(
    config: Config, texts: Texts, words: int, asked: argparse.Namespace, device: torch.device
) -> measuring.Result:
    """Compare the paths on videos of ``words`` OCR words each."""
    model, criterion = build_model(config, device), build_criterion(config, device)
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    res = model.video_model.input_res
    batch = make_batch(texts, asked.batch, words, asked.frames, res, device)
    plain = build_plain_path(model.eval(), config, criterion)
    optimizer = build_optimizer(config, Parallel(model, criterion, device))
    ours = TrainingPath("ours", OurEncoder(model), optimizer, asked.precision, device)
    paths = ours, plain
    differences = compare_encoders(ours.encoder, plain.encoder, batch)
    forward = measure_forward(paths, batch, asked.runs)
    model.train()
    plain.encoder.train()
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in PATHS}
    for run in range(asked.runs + 1):
        for path in paths:
            seconds = path.take_step(batch, criterion)
            if run:  # the first one warms up
                steps[path.name].append(seconds)
    takes = {path.name: partial(path.take_step, batch, criterion) for path in paths}
    with measuring.MatmulRecorder() as matmuls:
        takes["ours"]()
    with Precision(asked.precision, device).set_tf32():
        products_alone = matmuls.measure_seconds(device)
    return {
        "words": words,
        "distinct_words": sum(count for _, count in batch.words.groups),
        "distinct_tokens": sum(length * count for length, count in batch.words.groups),
        "differences": differences,
        "forward": forward,
        "steps": steps,
        "flops": {name: measuring.count_flops(take) for name, take in takes.items()},
        "products_alone": products_alone,
    }


@torch.no_grad()
def compare_encoders(ours: OurEncoder, plain: PlainFrozenInTime, batch: Batch) -> dict[str, float]:
    """Return the greatest difference of each forward part; raises where it is too large."""
    features = ours.encode_clips(batch), plain.encode_clips(batch)
    pairs = {
        "query": (ours.embed_queries(batch), plain.embed_queries(batch)),
        "video": features,
        "ocr": (ours.embed_videos(batch, features[0]), plain.embed_videos(batch, features[0])),
    }
    return {name: assert_equal(*pair, name) for name, pair in pairs.items()}


@torch.no_grad()
def measure_forward(
    paths: tuple[TrainingPath, ...], batch: Batch, runs: int
) -> dict[str, dict[str, list[float]]]:
    """Time the parts of the forward pass as in evaluation: part -> path -> seconds."""
    parts: dict[str, dict[str, Callable[[], Any]]] = {"video": {}, "query": {}, "ocr": {}}
    for path in paths:
        encoder = path.encoder
        features = encoder.encode_clips(batch)
        parts["video"][path.name] = partial(path.run, partial(encoder.encode_clips, batch))
        parts["query"][path.name] = partial(path.run, partial(encoder.embed_queries, batch))
        parts["ocr"][path.name] = partial(path.run, partial(encoder.embed_videos, batch, features))
    return {
        part: measuring.time_in_turn(cases, runs, paths[0].device) for part, cases in parts.items()
    }


def make_table(result: measuring.Result) -> str:
    """Return the results as Markdown."""
    lines = [measuring.format_head(result), ""]
    lines.append(
        f"batch {result['batch']}, {result['frames']} frames, ours in {result['precision']}, "
        f"median of {result['runs']} runs (range); large matrices: "
        f"{result['matrix_rate'] / TERA:.3f} TFLOP/s"
    )
    for case in result["cases"]:
        lines += ["", (
            f"**{case['words']} words a video** ({case['distinct_words']} distinct ones of "
            f"{case['distinct_tokens']} tokens in the batch; outputs equal within "
            f"{max(case['differences'].values()):.1e})"
        )]  # fmt: skip
        rows = [_make_row(part, found, 3) for part, found in case["forward"].items()]
        lines += [
            "",
            measuring.format_table(("forward, seconds", "ours", "plain", "plain / ours"), rows),
        ]
        lines.append(_make_step_table(case, result))
    return "\n".join(lines)


def _make_row(name: str, seconds: dict[str, list[float]], digits: int) -> list[str]:
    spreads = [measuring.format_spread(seconds[path], digits) for path in PATHS]
    return [name, *spreads, f"{measuring.compute_ratio(seconds):.2f}"]


def _make_step_table(case: measuring.Result, result: measuring.Result) -> str:
    steps = case["steps"]
    parts = {
        part: {name: [run[part] for run in runs] for name, runs in steps.items()} for part in PARTS
    }
    whole = {name: [sum(run.values()) for run in runs] for name, runs in steps.items()}
    rows = [_make_row(part, found, 3) for part, found in parts.items()]
    rows.append(_make_row("**step**", whole, 2))
    rows[-1][-1] = f"**{rows[-1][-1]}**"
    seconds = [statistics.median(whole[name]) for name in PATHS]
    flops = [case["flops"][name] for name in PATHS]
    rows.append(["samples a second", *(f"{result['batch'] / s:.3f}" for s in seconds), ""])
    rows.append(["TFLOP of products", *(f"{count / TERA:.3f}" for count in flops), ""])
    shares = [c / s / result["matrix_rate"] for c, s in zip(flops, seconds, strict=True)]
    rows.append(["share of the matrix rate", *(f"{share:.0%}" for share in shares), ""])
    matmul = case["products_alone"]
    rows.append(["matmul-only time", f"{matmul:.2f}", "", f"{seconds[0] / matmul:.2f} times it"])
    return measuring.format_table(("training step, seconds", *COLUMNS), rows)


if __name__ == "__main__":
    run_cli(main)
