"""Training and encoding on a CUDA GPU: correctness first, then speed and memory.

    python -m benchmarks.cuda --out results       # everything; results/cuda.md, cuda.json, cuda.png
    python -m benchmarks.cuda --parts steps text  # some of it, to the standard output only

Published sizes with fresh weights, synthetic batches of 64 clips of 4 frames that lie on the GPU,
random words. Before anything is timed, attention is compared with its formula in float64, and
embeddings and losses with those of the plain reference path in float32. A step is that of train.py;
its time is that of several steps in a row, as in a run, where nothing waits for a step to end.
About 5 minutes on an H200.

Shapes: B clips, F frames, N patches a frame, H heads, C channels a head.
"""

import gc
import importlib.util
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from base.batch import Batch
from base.config import Config
from benchmarks import measuring
from benchmarks.baseline import PlainFrozenInTime
from benchmarks.evaluate import InMemoryLoader
from benchmarks.inputs import Texts, load_base_config, load_texts, make_batch
from benchmarks.one_step import build_step
from benchmarks.step import build_plain_path
from evaluation.embedding_cache import encode_texts
from evaluation.evaluator import Evaluator
from model.frozen_in_time import FrozenInTime
from model.grouped_attention import attend_in_groups
from trainer.build import build_criterion, build_model
from utils.cli import run_cli
from utils.errors import UserError
from utils.launch import configure_cuda
from utils.precision import Precision, PrecisionName

logger = logging.getLogger(__name__)

GIB = 2**30
CARD_GIB = 79  # what an 80 GB card holds
BATCH, FRAMES = 64, 4
WORDS = (50, 200)
STEPS = 10
HEADS, CHANNELS, PATCHES = 12, 64, 196
CURVE = (16, 32, 64, 128, 256)
TEST_VIDEOS = 2727
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
# Most relative difference (2-norm) from float64, and of embeddings from the plain path in float32.
TOLERANCE = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 1e-2, "fp16": 2e-3}
EMBEDDINGS = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
PARTS = ("correctness", "steps", "memory", "text", "evaluation")


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--out", type=Path, help="folder for tables, JSON and plot")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError("benchmarks.cuda: this machine has no CUDA GPU")
    configure_cuda()
    bench = Bench(load_texts(None), torch.device("cuda"))
    result = measuring.describe_machine() | describe_card(bench.device)
    for part in asked.parts:
        start = time.perf_counter()
        logger.info("%s …", part)
        result[part] = getattr(bench, f"measure_{part}")()
        result[f"{part}_took"] = time.perf_counter() - start
        if asked.out is not None:  # what is known so far, should a later part fail
            write_files(asked.out, result)
    measuring.write_result(result, asked.json, make_tables)


def describe_card(device: torch.device) -> dict[str, Any]:
    """Return the card's memory, its driver, and the rates that are compared with."""
    found: dict[str, Any] = {
        "memory_gib": torch.cuda.get_device_properties(device).total_memory / GIB,
        "driver": measuring.read_driver(),
    }
    for name, dtype in DTYPES.items():
        with Precision(name, device).set_tf32():
            found[f"rate_{name}"] = measuring.measure_matmul_rate(device, dtype)
    block = torch.empty(GIB, dtype=torch.uint8, device=device)
    seconds = measuring.time_median(lambda: block.clone(), device)
    return found | {"bytes_a_second": 2 * GIB / seconds}


@dataclass
class Bench:
    """What is measured, on models of the published sizes."""

    texts: Texts
    device: torch.device

    def build(self, *changes: str) -> tuple[Config, FrozenInTime]:
        """Build a model for training."""
        blocks = ("arch.args", "data_loader.args")
        frames = [f"{block}.video_params.num_frames={FRAMES}" for block in blocks]
        config = load_base_config(*frames, *changes)
        with self.device:  # drawn where they are needed: seconds less
            model = build_model(config, self.device).train()
        for weight in model.parameters_without_gradient():
            weight.requires_grad_(False)
        return config, model

    def make_batch(self, size: int, words: int) -> Batch:
        """Return a batch of ``size`` videos on the GPU; beyond 64 its clips are repeated."""
        batch = make_batch(self.texts, size, words, 1, 16, self.device)
        generator = torch.Generator(self.device).manual_seed(0)
        shape = (min(size, BATCH), FRAMES, 3, 224, 224)
        clips = torch.randn(shape, generator=generator, device=self.device)
        times = -(-size // len(clips))
        return replace(batch, video=clips.repeat(times, 1, 1, 1, 1)[:size])

    # Correctness

    @torch.no_grad()
    def measure_correctness(self) -> dict[str, Any]:
        """Compare attention with its formula, and embeddings with the plain path's.

        Raises:
            AssertionError: a difference is too large; then no time may be compared.
        """
        attention = [
            self.compare_attention(precision, over_time, frames)
            for precision in ("bf16", "fp16", "tf32", "fp32")
            for over_time, frames in ((True, 4), (True, 16), (False, 4))
        ]
        _, model = self.build()
        model.eval()
        batch = self.make_batch(16, WORDS[0])
        plain = PlainFrozenInTime(model)
        with Precision("fp32", self.device).set_tf32():
            clips = plain.encode_clips(batch)
            expected = plain.embed_queries(batch), plain.embed_videos(batch, clips)
        embeddings = {}
        for name in ("fp32", "tf32", "bf16", "fp16"):
            precision = Precision(name, self.device)
            with precision.set_tf32(), precision.autocast():
                embeds = model(batch)
            found = embeds["text"], embeds["fusion"]
            embeddings[name] = max(map(compute_difference, found, expected))
            assert embeddings[name] <= EMBEDDINGS[name], f"embeddings in {name}: {embeddings[name]}"
        return {"attention": attention, "embeddings": embeddings}

    def compare_attention(self, name: PrecisionName, over_time: bool, frames: int) -> dict:
        """Return the differences of output and gradient from the formula in float64."""
        precision = Precision(name, self.device)
        shape = 2, 1 + frames * PATCHES, 3, HEADS, CHANNELS
        dtype = precision.half or torch.float32
        qkv = torch.randn(shape, device=self.device).to(dtype)
        grad = torch.randn(2, shape[1], HEADS, CHANNELS, device=self.device).to(dtype)
        with torch.enable_grad():
            exact = qkv.double().requires_grad_()
            expected = attend_by_formula(exact, frames, over_time)
            (expected_grad,) = torch.autograd.grad(expected, exact, grad.double())
            own = qkv.clone().requires_grad_()
            with precision.set_tf32():
                out = attend_in_groups(own, frames, over_time)[0]
                (own_grad,) = torch.autograd.grad(out, own, grad)
        found = [compute_difference(out, expected), compute_difference(own_grad, expected_grad)]
        assert max(found) <= TOLERANCE[name], f"attention in {name}: {found}"
        axis = "time" if over_time else "space"
        return {"precision": name, "axis": axis, "frames": frames, "differences": found}

    # Steps

    def measure_steps(self) -> list[dict[str, Any]]:
        """Time training steps in each precision beside the plain path, and compiled ones."""
        cases = []
        for words in WORDS:
            batch = self.make_batch(BATCH, words)
            flops = self.count_flops(batch)
            cases.append(self.time_plain_step(batch, words))
            wanted = [("bf16", ""), ("bf16", "compile")]
            if words == WORDS[0]:
                wanted += [("tf32", ""), ("tf32", "compile"), ("fp16", ""), ("fp32", "")]
                wanted.append(("bf16", "checkpointing"))
            cases += [self.time_step(batch, words, *case) for case in wanted]
            for case in cases:
                case.setdefault("flops", flops)
        return cases

    def count_flops(self, batch: Batch) -> int:
        """Return the operations of a step's matrix products, by the plain formulas."""
        config, model = self.build()
        part = batch.rows(0, 4)
        plain = build_plain_path(model, config, build_criterion(config, self.device))
        clips = measuring.count_flops(lambda: plain.encoder.encode_clips(part).sum().backward())
        words = partial(encode_everything_but_clips, model, batch)
        return clips * len(batch) // len(part) + measuring.count_flops(words)

    def time_plain_step(self, batch: Batch, words: int) -> dict[str, Any]:
        """Time the step of the plain path, in float32."""
        config, model = self.build()
        criterion = build_criterion(config, self.device)
        step = partial(build_plain_path(model, config, criterion).take_step, batch, criterion)
        return {"words": words, "path": "plain", "precision": "fp32"} | self.time_flow(step, 2)

    def time_step(self, batch: Batch, words: int, name: str, how: str = "") -> dict[str, Any]:
        """Time the step of train.py: as it is, compiled, or with activation checkpointing."""
        with self.prepare_step(batch, name, how) as step:
            start = time.perf_counter()
            loss = float(step()[0])
            first = time.perf_counter() - start
            found = self.time_flow(step, STEPS if name != "fp32" else 3)
        found |= {"first_step": first, "first_loss": loss}
        if how == "compile":
            found["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        return {"words": words, "path": "ours", "precision": name, "how": how} | found

    @contextmanager
    def prepare_step(self, batch: Batch, name: str, how: str = "") -> Iterator[Callable]:
        """Yield a step; its memory is free afterwards."""
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        config, model = self.build(
            f"trainer.precision={name}",
            f"trainer.activation_checkpointing={json.dumps(how == 'checkpointing')}",
        )
        if how == "checkpointing":
            model.recompute_activations()
        if how == "compile":
            model.compile_encoders()
        try:
            yield build_step(config, model, batch)
        finally:
            free_memory()

    def time_flow(self, step: Callable[[], Any], count: int) -> dict[str, float]:
        """Return the seconds of a step among ``count`` in a row, and its peak of memory."""
        step()
        torch.cuda.synchronize()
        free_memory()
        torch.cuda.reset_peak_memory_stats()
        seconds = measuring.time_call(lambda: [step() for _ in range(count)], self.device) / count
        return {"seconds": seconds, "peak_gib": torch.cuda.max_memory_allocated() / GIB}

    # Memory

    def measure_memory(self) -> dict[str, Any]:
        """Measure speed and memory against the batch size, and the largest batches."""
        curve = [
            {"batch": size, "how": how} | self.try_batch(size, how)
            for how in ("", "checkpointing")
            for size in CURVE
        ]
        compiled = {"batch": 256, "how": "compile"} | self.try_batch(256, "compile")
        return {"curve": [*curve, compiled], "cache": self.try_gradient_cache(4096, 256)}

    def try_batch(self, size: int, how: str) -> dict[str, Any]:
        """Time a bf16 step of a batch, unless it does not fit."""
        try:
            batch = self.make_batch(size, WORDS[0])
            with self.prepare_step(batch, "bf16", how) as step:
                return self.time_flow(step, 3)
        except (torch.OutOfMemoryError, UserError):
            free_memory()
            return {"seconds": None, "peak_gib": None}

    def try_gradient_cache(self, size: int, chunk: int) -> dict[str, Any]:
        """Time one bf16 step of ``size`` videos in chunks."""
        batch = self.make_batch(size, WORDS[0])
        config, model = self.build("trainer.precision=bf16", f"trainer.chunk_size={chunk}")
        step = build_step(config, model, batch)
        torch.cuda.reset_peak_memory_stats()
        seconds = measuring.time_call(step, self.device)
        peak = torch.cuda.max_memory_allocated() / GIB
        del model, step, batch
        free_memory()
        return {"batch": size, "chunk": chunk, "seconds": seconds, "peak_gib": peak}

    # Texts

    def measure_text(self) -> list[dict[str, Any]]:
        """Time the OCR branch and the query encoder alone, forward and backward, in bf16."""
        _, model = self.build()
        cases = []
        for words in WORDS:
            batch = self.make_batch(BATCH, words)
            work = partial(
                encode_everything_but_clips, model, batch, Precision("bf16", self.device)
            )
            seconds = measuring.time_in_turn({"": work}, STEPS, self.device)[""]
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
                work()
                torch.cuda.synchronize()
            kernels = [event for event in seen.events() if event.device_time_total]
            busy = sum(event.device_time_total for event in kernels) / 1e6
            cases.append({
                "words": words,
                "distinct": sum(count for _, count in batch.words.groups),
                "tokens": sum(length * count for length, count in batch.words.groups),
                "seconds": seconds, "busy": busy, "launches": len(kernels),
            })  # fmt: skip
        return cases

    # Evaluation

    def measure_evaluation(self) -> list[dict[str, Any]]:
        """Time the encoding of a test set: clips as uint8 in memory, captions, words, metrics."""
        config, model = self.build()
        first, loader = (
            make_test_set(self.texts, count, WORDS[0]) for count in (2 * BATCH, TEST_VIDEOS)
        )
        criterion = build_criterion(config, self.device)
        cases = []
        for name in ("fp32", "bf16"):
            precision = Precision(name, self.device)
            evaluator = Evaluator(config.metrics, criterion, precision)
            evaluator.run(model, first)  # what is compiled and loaded once
            seconds = measuring.time_call(lambda run=evaluator.run: run(model, loader), self.device)
            own = loader.word_tokens, model.encode_words, precision
            texts = measuring.time_call(lambda own=own: encode_texts(*own), self.device)
            cases.append({"precision": name, "seconds": seconds, "words_alone": texts})
        return cases


def encode_everything_but_clips(
    model: FrozenInTime, batch: Batch, precision: Precision | None = None
) -> None:
    """Compute queries and the OCR branch, forward and backward."""
    precision = precision or Precision("fp32", batch.video.device)
    model.zero_grad(set_to_none=True)
    feature = torch.zeros(len(batch), model.video_model.embed_dim, device=batch.video.device)
    with precision.set_tf32():
        with precision.autocast():
            embeds = model.embed_queries(batch.query), model.fuse(batch.words, feature)
        sum(part.float().square().sum() for part in embeds).backward()


def attend_by_formula(qkv: Tensor, frames: int, over_time: bool) -> Tensor:
    """Attend with an explicit mask: (B, S, 3, H, C) -> (B, S, H, C)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    token = torch.arange(qkv.shape[1] - 1, device=qkv.device)
    patches = len(token) // frames
    group = token % patches if over_time else token // patches
    seen = torch.ones(len(token) + 1, len(token) + 1, dtype=torch.bool, device=qkv.device)
    seen[1:, 1:] = group[:, None] == group
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def compute_difference(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to that of what is expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def free_memory() -> None:
    """Give back what no tensor uses."""
    gc.collect()
    torch.cuda.empty_cache()


def make_test_set(texts: Texts, count: int, words: int) -> InMemoryLoader:
    """Return a loader of ``count`` videos, whose clips are those of one batch, pinned."""
    whole = make_batch(texts, count, words, 1, 1, torch.device("cpu"))
    clips = np.random.default_rng(0).integers(0, 256, (BATCH, FRAMES, 3, 224, 224), np.uint8)
    pinned, frames = torch.from_numpy(clips).pin_memory(), torch.full((BATCH,), FRAMES)
    batches = []
    for start in range(0, count, BATCH):
        rows = whole.rows(start, min(start + BATCH, count))
        size = len(rows)
        batches.append(replace(rows, video=pinned[:size], num_frames=frames[:size]))
    return InMemoryLoader(whole, batches)


# Output


def write_files(folder: Path, result: measuring.Result) -> None:
    """Write tables, JSON and the plot into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cuda.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (folder / "cuda.md").write_text(make_tables(result), encoding="utf-8")
    if "memory" in result:
        if importlib.util.find_spec("matplotlib") is None:
            logger.warning("no plot: it needs matplotlib (requirements-dev.txt)")
            return
        draw_curve(result, folder / "cuda.png")


def draw_curve(result: measuring.Result, file: Path) -> None:
    """Draw speed and memory against the batch size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for how in ("", "checkpointing"):
        fits = [c for c in result["memory"]["curve"] if c["how"] == how and c["seconds"]]
        sizes, label = [case["batch"] for case in fits], how or "activations kept"
        speed = [case["batch"] / case["seconds"] for case in fits]
        left.plot(sizes, speed, marker="o", label=label)
        right.plot(sizes, [case["peak_gib"] for case in fits], marker="o", label=label)
    for axes, title in ((left, "clips a second"), (right, "peak memory, GiB")):
        axes.set(title=title, xlabel="batch", xscale="log", ylim=0)
        axes.set_xticks(CURVE, [str(size) for size in CURVE], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend()
    figure.suptitle(f"Training in bf16, 4 frames, 50 words; {result['machine'].split(', ')[-1]}")
    figure.savefig(file, dpi=110)


def make_tables(result: measuring.Result) -> str:
    """Return the results as Markdown."""
    lines = [
        f"{measuring.format_head(result)}; driver {result['driver']}, "
        f"{result['memory_gib']:.0f} GiB. Large matrices: bf16 {result['rate_bf16'] / 1e12:.0f}, "
        f"tf32 {result['rate_tf32'] / 1e12:.0f}, fp32 {result['rate_fp32'] / 1e12:.0f} TFLOP/s; "
        f"copies {result['bytes_a_second'] / 1e12:.2f} TB/s."
    ]
    for part, make in TABLES.items():
        if part in result:
            lines += ["", make(result)]
    return "\n".join(lines) + "\n"


def _make_correctness(result: measuring.Result) -> str:
    rows = [
        [case["precision"], case["axis"], str(case["frames"]), *map(_exponent, case["differences"])]
        for case in result["correctness"]["attention"]
    ]
    columns = ("precision", "attention over", "frames", "output", "gradient")
    embeddings = ", ".join(
        f"{name} {_exponent(value)}" for name, value in result["correctness"]["embeddings"].items()
    )
    return (
        f"Difference from the formula in float64, relative:\n\n"
        f"{measuring.format_table(columns, rows, 2)}\n"
        f"Embeddings against the plain path in fp32, relative: {embeddings}."
    )


def _make_steps(result: measuring.Result) -> str:
    cases = result["steps"]
    plain = {case["words"]: case["seconds"] for case in cases if case["path"] == "plain"}
    rows = []
    for case in cases:
        rate = result[f"rate_{case['precision'].replace('fp16', 'bf16')}"]
        rows.append([
            str(case["words"]), case["path"], " ".join((case["precision"], case.get("how", ""))),
            f"{1e3 * case['seconds']:.0f}", f"{BATCH / case['seconds']:.0f}",
            f"{plain[case['words']] / case['seconds']:.1f}",
            f"{case['flops'] / case['seconds'] / rate:.0%}", f"{case['peak_gib']:.1f}",
            f"{case['first_step']:.0f}" if "first_step" in case else "",
            str(case.get("graphs", "")),
        ])  # fmt: skip
    columns = (
        "words", "path", "precision", "ms a step", "clips/s", "times the plain path",
        "of the matrix rate", "peak GiB", "first step, s", "graphs",
    )  # fmt: skip
    return measuring.format_table(columns, rows, 3)


def _make_memory(result: measuring.Result) -> str:
    cache, rows = result["memory"]["cache"], []
    for case in result["memory"]["curve"]:
        speed, peak, fits = "does not fit", "", ""
        if case["seconds"]:
            speed, peak = f"{case['batch'] / case['seconds']:.0f}", f"{case['peak_gib']:.1f}"
            fits = "yes" if case["peak_gib"] < CARD_GIB else "no"
        rows.append([str(case["batch"]), case["how"] or "kept", speed, peak, fits])
    columns = ("batch, bf16", "activations", "clips/s", "peak GiB", "fits 80 GB")
    return (
        f"{measuring.format_table(columns, rows, 2)}\n"
        f"Gradient cache: {cache['batch']} videos in chunks of {cache['chunk']}: "
        f"{cache['seconds']:.1f} s a step, peak {cache['peak_gib']:.1f} GiB."
    )


def _make_text(result: measuring.Result) -> str:
    rows = [
        [str(case["words"]), str(case["distinct"]), str(case["tokens"]),
         measuring.format_spread([1e3 * value for value in case["seconds"]], 1),
         f"{1e3 * case['busy']:.1f}", str(case["launches"])]
        for case in result["text"]
    ]  # fmt: skip
    columns = (
        "words a video", "distinct", "tokens", "OCR and queries, forward + backward, ms",
        "of it the GPU works", "launches",
    )  # fmt: skip
    return measuring.format_table(columns, rows, 0)


def _make_evaluation(result: measuring.Result) -> str:
    rows = [
        [case["precision"], f"{case['seconds']:.1f}", f"{case['words_alone']:.1f}"]
        for case in result["evaluation"]
    ]
    columns = (f"evaluation of {TEST_VIDEOS} videos in", "s", "of it the distinct words, s")
    return measuring.format_table(columns, rows)


def _exponent(value: float) -> str:
    return f"{value:.1e}"


TABLES = {
    "correctness": _make_correctness,
    "steps": _make_steps,
    "memory": _make_memory,
    "text": _make_text,
    "evaluation": _make_evaluation,
}


if __name__ == "__main__":
    run_cli(main)
