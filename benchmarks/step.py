"""A forward pass by parts, and training steps: this project beside the plain reference path.

    python -m benchmarks.step                                  # base sizes, batch 4; minutes
    python -m benchmarks.step --annotations TextVR_test.json   # words of real captions
    python -m benchmarks.step --precision bf16 --batch 64      # on a GPU; the plain path stays fp32
    python -m benchmarks.step --json

Both paths have the same weights and the same batch, are first asked for the same numbers, and run
in turn. Beside the seconds stand the operations by count, what share of the machine's rate for
large matrices they reach, and the time that the step's matrix products take alone.
"""

import argparse
import statistics
from pathlib import Path as File
from typing import Any

import torch

from base.batch import Batch
from base.config import Config
from benchmarks.counting import Products, flops, in_turn, matrix_rate
from benchmarks.made import Texts, base_config, made_batch, texts_of
from benchmarks.paths import PARTS, Path, assert_same_numbers, our_path, plain_path
from benchmarks.report import Result, head, machine, markdown, spread, write
from trainer.build import build_loss, build_model
from utils.cli import positive_int, run_cli
from utils.launch import keep_freed_memory
from utils.precision import Precision

TERA = 1e12
PATHS = ("ours", "plain")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=File, help="draw words and queries from its captions")
    parser.add_argument("--batch", type=positive_int, default=4, help="videos of a batch")
    parser.add_argument("--frames", type=positive_int, default=4, help="of a clip")
    parser.add_argument("--words", type=int, nargs="+", default=[50, 200], help="of a video")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32", help="of ours")
    parser.add_argument("--runs", type=positive_int, default=3, help="of each path; the median counts")
    parser.add_argument("--set", action="append", default=[], help="as for train.py: another model")
    parser.add_argument("--json", action="store_true", help="write JSON")
    arguments = parser.parse_args()
    keep_freed_memory()  # as train.py does; both paths gain by it
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    changes = [f"{where}.video_params.num_frames={arguments.frames}" for where in _FRAMES]
    config = base_config(*changes, *arguments.set)
    texts = texts_of(arguments.annotations)
    cases = [measured(config, texts, words, arguments, device) for words in arguments.words]
    Precision(arguments.precision, device)  # sets what the products below may do
    rate = matrix_rate(device, DTYPES[arguments.precision])
    asked = {name: getattr(arguments, name) for name in ("batch", "frames", "precision", "runs")}
    result = machine() | asked | {"matrix_rate": rate, "cases": cases}
    write(result, arguments.json, table)


_FRAMES = ("arch.args", "data_loader.args")


def measured(
    config: Config, texts: Texts, words: int, asked: argparse.Namespace, device: torch.device
) -> Result:
    """Compare the paths on videos of ``words`` OCR words each."""
    model = build_model(config, device)
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    res = model.video_model.input_res
    batch = made_batch(texts, asked.batch, words, asked.frames, res, device)
    plain = plain_path(model.eval(), config, device)
    ours = our_path(model, config, asked.precision, device)
    differences = assert_same_numbers(ours.encoder, plain.encoder, batch)
    forward = forward_seconds(ours, plain, batch, asked)
    loss = build_loss(config)
    model.train()
    plain.encoder.train()
    steps: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for run in range(asked.runs + 1):
        for path in (ours, plain):
            found = path.step(batch, loss)
            if run:  # the first one warms up
                steps[path.name].append(found)
    counts = {path.name: flops(lambda p=path: p.step(batch, loss)) for path in (ours, plain)}
    products = Products()
    with products:
        ours.step(batch, loss)
    distinct = batch.words.groups
    return {
        "words": words,
        "distinct_words": sum(count for _, count in distinct),
        "distinct_tokens": sum(length * count for length, count in distinct),
        "differences": differences,
        "forward": forward,
        "steps": steps,
        "flops": counts,
        "products_alone": products.seconds(device),
    }


@torch.no_grad()
def forward_seconds(
    ours: Path, plain: Path, batch: Batch, asked: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Time the parts of the forward pass as in evaluation: part -> path -> seconds."""
    found = {}
    for part in ("video", "query", "ocr"):
        cases = {}
        for path in (ours, plain):
            features = path.encoder.features(batch) if part == "ocr" else None
            works = {
                "video": lambda p=path: p.encoder.features(batch),
                "query": lambda p=path: p.encoder.queries(batch),
                "ocr": lambda p=path, f=features: p.encoder.videos(batch, f),
            }
            cases[path.name] = lambda p=path, work=works[part]: p.run(work)
        found[part] = in_turn(cases, asked.runs, ours.device)
    return found


def ratio(case: dict[str, list[float]]) -> float:
    """Return how many times faster ours is: the median of the runs' ratios, pair by pair."""
    return statistics.median(p / o for o, p in zip(case["ours"], case["plain"], strict=True))


def totals(steps: dict[str, list[dict[str, float]]]) -> dict[str, list[float]]:
    """Return the seconds of whole steps."""
    return {name: [sum(run.values()) for run in runs] for name, runs in steps.items()}


def table(result: Result) -> str:
    """Return the results as Markdown."""
    lines = [head(result), ""]
    lines.append(
        f"batch {result['batch']}, {result['frames']} frames, ours in {result['precision']}, "
        f"median of {result['runs']} runs (range); large matrices: "
        f"{result['matrix_rate'] / TERA:.3f} TFLOP/s"
    )
    for case in result["cases"]:
        lines += ["", _case_title(case), "", _forward_table(case), _step_table(case, result)]
    return "\n".join(lines)


def _case_title(case: dict[str, Any]) -> str:
    worst = max(case["differences"].values())
    return (
        f"**{case['words']} words a video** ({case['distinct_words']} distinct ones of "
        f"{case['distinct_tokens']} tokens in the batch; outputs equal within {worst:.1e})"
    )


def _forward_table(case: dict[str, Any]) -> str:
    rows = [
        [part, spread(found["ours"], 3), spread(found["plain"], 3), f"{ratio(found):.2f}"]
        for part, found in case["forward"].items()
    ]
    return markdown(("forward, seconds", "ours", "plain", "plain / ours"), rows)


def _step_table(case: dict[str, Any], result: Result) -> str:
    steps, rows = case["steps"], []
    for part in PARTS:
        found = {name: [run[part] for run in runs] for name, runs in steps.items()}
        cells = [spread(found[name], 3) for name in PATHS]
        rows.append([part, *cells, f"{ratio(found):.2f}"])
    whole = totals(steps)
    cells = [spread(whole[name], 2) for name in PATHS]
    rows.append(["**step**", *cells, f"**{ratio(whole):.2f}**"])
    seconds = [statistics.median(whole[name]) for name in PATHS]
    counts = [case["flops"][name] for name in PATHS]
    rows.append(["samples a second", *(f"{result['batch'] / s:.3f}" for s in seconds), ""])
    rows.append(["TFLOP of products", *(f"{count / TERA:.3f}" for count in counts), ""])
    shares = [c / s / result["matrix_rate"] for c, s in zip(counts, seconds, strict=True)]
    rows.append(["share of the matrix rate", *(f"{share:.0%}" for share in shares), ""])
    alone = case["products_alone"]
    rows.append(["its products alone", f"{alone:.2f}", "", f"{seconds[0] / alone:.2f} of them"])
    return markdown(("training step, seconds", "ours", "plain", "plain / ours"), rows)


if __name__ == "__main__":
    run_cli(main)
