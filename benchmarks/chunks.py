"""Memory and time of a training step with and without ``trainer.chunk_size``.

    python -m benchmarks.chunks            # a table
    python -m benchmarks.chunks --json     # the same as JSON, each run's numbers included

Batch 64 whole, batch 512 whole and batch 512 in chunks of 64, on the CPU and on a GPU where there
is one. Each run is a process of its own; median and range of several.
"""

import torch

from benchmarks import measuring
from benchmarks.measuring import Result, format_spread
from utils.cli import run_cli

CASES = ((64, None), (512, None), (512, 64))  # videos of the batch, of a chunk
NUMBERS = ("before", "peak", "seconds")


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5, help="processes of each case")
    parser.add_argument("--steps", type=int, default=3, help="steps of each; the first is untimed")
    asked = parser.parse_args()
    if asked.runs < 1 or asked.steps < 2:
        parser.error("--runs: at least 1; --steps: at least 2, the first is untimed")
    cases = [
        measure_case(device, batch, chunk, asked.runs, asked.steps)
        for device in ["cpu"] + ["cuda"] * torch.cuda.is_available()
        for batch, chunk in CASES
    ]
    measuring.write_result(measuring.describe_machine() | {"cases": cases}, asked.json, make_table)


def measure_case(device: str, batch: int, chunk: int | None, runs: int, steps: int) -> Result:
    """Measure a case in fresh processes; returns the numbers of each run."""
    options: list[object] = ["--device", device, "--batch", batch, "--steps", steps]
    options += [] if chunk is None else ["--chunk", chunk]
    found = [measuring.run_module("benchmarks.one_step", *options) for _ in range(runs)]
    numbers = {name: [run[name] for run in found] for name in NUMBERS}
    return {"device": device, "batch": batch, "chunk": chunk} | numbers


def make_table(result: Result) -> str:
    """Return the results as a Markdown table: medians, with the range over the runs."""
    columns = ["device", "batch", "chunk_size", "peak MiB", "MiB before the step", "step alone"]
    rows = []
    for case in result["cases"]:
        alone = [peak - before for peak, before in zip(case["peak"], case["before"], strict=True)]
        cells = [format_spread(values, 0) for values in (case["peak"], case["before"], alone)]
        cells.append(format_spread(case["seconds"], 2))
        rows.append([case["device"], str(case["batch"]), str(case["chunk"] or "whole"), *cells])
    return (
        f"{measuring.format_head(result)}\n\n{measuring.format_table([*columns, 's/step'], rows)}"
    )


if __name__ == "__main__":
    run_cli(main)
