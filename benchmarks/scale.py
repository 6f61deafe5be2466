"""Growth of cost with the work: a step with frames, words and batch; evaluation; opening.

    python -m benchmarks.scale --plot benchmarks/figures/scale.png
    python -m benchmarks.scale --only frames words --json

Every point is measured in a process of its own. Beside each table stands the exponent p of the
power law y = c x^p that fits its points best: 1 is linear. Steps are those of the published sizes;
their memory is the peak less what was there before the first step, less gradients and moments,
which do not grow.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from base.criterion import cosine_similarity
from benchmarks import measuring, ocr_open
from model.metric import t2v_metrics, v2t_metrics
from utils.cli import positive_int, run_cli
from utils.errors import UserError
from utils.launch import keep_freed_memory

WIDTH = 256  # of the embeddings
KILOBYTES = 20  # of an OCR document

Point = dict[str, float]  # what is measured -> value


class Growth(NamedTuple):
    """A quantity that grows, and how a point is measured: seconds, and MiB where it is told."""

    title: str
    values: Sequence[int]
    measure: Callable[[int], Point]


def measure_step(option: str, value: int, model: str, steps: int) -> Point:
    """Measure training steps with one option changed."""
    options = {"--batch": 1, "--frames": 4, "--words": 50} | {option: value}
    words = [part for pair in options.items() for part in pair]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words += ["--model", model, "--steps", steps, "--device", device]
    found = measuring.run_module("benchmarks.one_step", *words)
    extra = found["peak"] - found["before"] - found["state"]
    return {"seconds": found["seconds"], "MiB": extra}


def measure_evaluation(size: int) -> Point:
    """Measure the similarity matrix of ``size`` captions and videos, and its metrics."""
    return measuring.run_in_new_process(_evaluate, size)


def _evaluate(size: int) -> Point:
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(size, WIDTH, generator=generator)
    text = video + 2 * torch.randn(size, WIDTH, generator=generator)
    cpu = torch.device("cpu")
    before, start = measuring.get_memory(cpu)[0], time.perf_counter()
    similarity = cosine_similarity(text, video).numpy()
    assert t2v_metrics(similarity)["MedR"] >= 1 <= v2t_metrics(similarity)["MedR"]
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "MiB": measuring.get_memory(cpu)[1] - before}


def measure_opening(documents: int) -> Point:
    """Measure how long a data set takes to open."""
    seconds = ocr_open.measure_openings(documents, KILOBYTES, runs=1)["seconds"]
    return {f"seconds, {name} opening": seconds[name][0] for name in ("second", "first")}


def list_growths(model: str, steps: int, largest: int) -> dict[str, Growth]:
    """Return everything that can be measured, by name."""
    sizes = [size for size in (1000, 2727, 10_000, 50_000) if size <= largest]

    def change(option: str) -> Callable[[int], Point]:
        return lambda value: measure_step(option, value, model, steps)

    one = "a training step of 1 video" if model == "base" else f"a step of the {model}'s model"
    documents = "opening a data set: OCR documents", (100, 1000, 10_000), measure_opening
    return {
        "frames": Growth(f"{one}, 50 words: frames", (1, 4, 8, 16), change("--frames")),
        "words": Growth(f"{one}, 4 frames: words", (0, 50, 200), change("--words")),
        "batch": Growth("4 frames, 50 words: videos", (1, 2, 4, 8), change("--batch")),
        "evaluation": Growth(
            "similarity and metrics: captions and videos", sizes, measure_evaluation
        ),
        "opening": Growth(*documents),
    }


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    names = list(list_growths("base", 0, 0))
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="what to measure")
    parser.add_argument("--model", choices=("base", "demo"), default="base", help="of the steps")
    parser.add_argument("--steps", type=positive_int, default=4, help="of each; the first untimed")
    parser.add_argument("--runs", type=positive_int, default=3, help="processes of each point")
    parser.add_argument("--largest", type=positive_int, default=50_000, help="of the evaluation")
    parser.add_argument("--plot", type=Path, help="draw them into this PNG file")
    asked = parser.parse_args()
    growths = list_growths(asked.model, asked.steps, asked.largest)
    found = [measure_growth(growths[name], asked.runs) for name in asked.only]
    result = measuring.describe_machine() | {"growths": found}
    if asked.plot is not None:
        plot(result, asked.plot)
    measuring.write_result(result, asked.json, make_table)


def measure_growth(growth: Growth, runs: int) -> measuring.Result:
    """Measure every point several times, in turn."""
    rounds = [[growth.measure(value) for value in growth.values] for _ in range(runs)]
    points = {
        name: [[found[place][name] for found in rounds] for place in range(len(growth.values))]
        for name in rounds[0][0]
    }
    exponents = {
        name: fit_exponent(growth.values, [statistics.median(point) for point in values])
        for name, values in points.items()
    }
    values = list(growth.values)
    return {"title": growth.title, "values": values, "points": points, "exponents": exponents}


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return p of the power law c x^p that is nearest to the points; x = 0 is left out."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a > 0 and b > 0]
    return float(np.polyfit(*np.log(np.array(pairs)).T, 1)[0]) if len(pairs) > 1 else float("nan")


def make_table(result: measuring.Result) -> str:
    """Return the results as Markdown."""
    parts = [measuring.format_head(result)]
    for growth in result["growths"]:
        rows = []
        for name, points in growth["points"].items():
            cells = [measuring.format_spread(point, 2) for point in points]
            rows.append([name, *cells, f"{growth['exponents'][name]:.2f}"])
        columns = [growth["title"], *map(str, growth["values"]), "exponent"]
        parts.append(measuring.format_table(columns, rows))
    return "\n\n".join(parts)


def plot(result: measuring.Result, file: Path) -> None:
    """Draw seconds and MiB against what grows, both axes logarithmic.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise UserError("--plot needs matplotlib: pip install matplotlib") from error
    growths = result["growths"]
    figure, axes = pyplot.subplots(2, len(growths), figsize=(3.2 * len(growths), 6), squeeze=False)
    for column, growth in zip(axes.T, growths, strict=True):
        for panel, name in zip(column, growth["points"], strict=True):
            _draw_panel(panel, growth, name)
    figure.suptitle(measuring.format_head(result), fontsize=8)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _draw_panel(panel: Any, growth: measuring.Result, name: str) -> None:
    """The points of one quantity, their ranges, and a line of slope 1 through the last."""
    pairs = [(x, p) for x, p in zip(growth["values"], growth["points"][name], strict=True) if x > 0]
    x, middle = [x for x, _ in pairs], [statistics.median(point) for _, point in pairs]
    low = [m - min(point) for m, (_, point) in zip(middle, pairs, strict=True)]
    high = [max(point) - m for m, (_, point) in zip(middle, pairs, strict=True)]
    panel.errorbar(x, middle, [low, high], marker="o", capsize=3)
    panel.plot(x, [middle[-1] * value / x[-1] for value in x], "--", color="0.7")
    panel.set(xscale="log", yscale="log", xlabel=growth["title"].split(": ")[-1], ylabel=name)
    panel.set_xticks(x, labels=[f"{value:,}" for value in x])
    panel.minorticks_off()
    panel.set_title(f"exponent {growth['exponents'][name]:.2f} (dashed: 1)", fontsize=9)
    panel.grid(True, which="both", alpha=0.2)


if __name__ == "__main__":
    run_cli(main)
