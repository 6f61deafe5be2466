"""Memory and time of a training step with and without ``trainer.chunk_size``.

    python -m benchmarks.chunks            # a table
    python -m benchmarks.chunks --json     # the same as JSON, each run's numbers included

Batch 64 whole, batch 512 whole and batch 512 in chunks of 64, on the CPU and on a GPU where there
is one. Each run is a process of its own; median and range of several.
"""

import argparse
from typing import Any

import torch

from benchmarks.processes import run_module
from benchmarks.report import head, machine, markdown, spread, write
from utils.cli import run_cli

CASES = ((64, None), (512, None), (512, 64))  # videos of the batch, of a chunk
NUMBERS = ("before", "peak", "seconds")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="processes of each case")
    parser.add_argument("--steps", type=int, default=3, help="steps of each; the first is untimed")
    parser.add_argument("--json", action="store_true", help="write JSON")
    arguments = parser.parse_args()
    if arguments.runs < 1 or arguments.steps < 2:
        parser.error("--runs: at least 1; --steps: at least 2, the first is untimed")
    cases = [
        measured(device, batch, chunk, arguments.runs, arguments.steps)
        for device in ["cpu"] + ["cuda"] * torch.cuda.is_available()
        for batch, chunk in CASES
    ]
    result = machine() | {"cases": cases}
    write(result, arguments.json, table)


def measured(device: str, batch: int, chunk: int | None, runs: int, steps: int) -> dict[str, Any]:
    """Measure a case in fresh processes; returns the numbers of each run.

    Raises:
        UserError: a process failed, for example for want of memory.
    """
    options: list[object] = ["--device", device, "--batch", batch, "--steps", steps]
    options += [] if chunk is None else ["--chunk", chunk]
    found = [run_module("benchmarks.one_step", *options) for _ in range(runs)]
    return {"device": device, "batch": batch, "chunk": chunk} | {
        name: [run[name] for run in found] for name in NUMBERS
    }


def table(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table: medians, with the range over the runs."""
    columns = ["device", "batch", "chunk_size", "peak MiB", "MiB before the step", "step alone"]
    columns.append("s/step")
    rows = []
    for case in result["cases"]:
        alone = [peak - before for peak, before in zip(case["peak"], case["before"], strict=True)]
        cells = [spread(case["peak"], 0), spread(case["before"], 0), spread(alone, 0)]
        cells.append(spread(case["seconds"], 2))
        rows.append([case["device"], str(case["batch"]), str(case["chunk"] or "whole"), *cells])
    return f"{head(result)}\n\n{markdown(columns, rows)}"


if __name__ == "__main__":
    run_cli(main)
