r"""The demonstration's models over several seeds: whether a recipe works, or a seed was lucky.

    python -m benchmarks.seeds                                  # the fusion, seeds 0 to 8
    python -m benchmarks.seeds --seeds 9-20 --out work_dirs/more_seeds
    python -m benchmarks.seeds -c configs/demo/published_recipe.json --out work_dirs/published \
        --plot docs/figures/published_recipe.png

Each seed is trained by train.py and tested by test.py in a folder of its own, and the table shows
it with mean and range. Stopped at any moment and run again, it goes on: a seed that is done is not
run again, one that was begun goes on from its newest checkpoint.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base.config import resolve_config
from benchmarks import measuring
from demo import make_dataset_overrides, read_labels, read_results, run_command
from parse_config import load_config
from trainer.tracking import METRICS_FILE
from utils.cli import run_cli
from utils.errors import UserError
from utils.files import write_json
from utils.run_dir import CONFIG_NAME

RESULT = "seed.json"  # written last
# Panel -> what is drawn of an epoch's line in metrics.jsonl; losses as what a modality takes away.
PANELS = {
    "attention to the words, share": ("attention_ocr",),
    "attention to the frames, share": ("attention_vision",),
    "loss without the words, less the loss": ("fused_loss_without_ocr", "fused_loss"),
    "loss without the frames, less the loss": ("fused_loss_without_vision", "fused_loss"),
    "gradient norm of the OCR branch": ("gradient_norm_ocr",),
    "gradient norm of the vision branch": ("gradient_norm_vision",),
}
COLUMNS = {"R1": "R@1", "R5": "R@5", "right_look": "right look", "right_word": "right word"}


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that ``0-8,12`` names; raises ``UserError``."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            found = range(int(first), int(last or first) + 1)
        except ValueError:
            found = range(0)
        if not found:
            raise UserError(f'--seeds: "{part}" is neither a number nor a range such as 0-8')
        seeds += found
    return list(dict.fromkeys(seeds))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("-c", "--config", default="configs/demo/fusion.json")
    parser.add_argument("--seeds", default="0-8", help="such as 0-8 or 1,4,9-20")
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="made if need be")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/seeds"), help="runs, results")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the course of every seed")
    return parser.parse_args()


def run_seed(folder: Path, config: str, changes: Sequence[str], data: Path) -> dict[str, Any]:
    """Train and test one seed in ``folder``, or what is missing of it; returns its results.

    Raises:
        UserError: the folder holds a run of another configuration, or a command failed.
    """
    wanted = resolve_config(load_config(config, changes))
    beside, done = folder / CONFIG_NAME, folder / RESULT
    if beside.exists() and json.loads(beside.read_text(encoding="utf-8")) != wanted:
        raise UserError(f"{beside}: a run of another configuration; give another --out")
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    options = [word for change in changes for word in ("--set", change)]
    last = folder / "model_last.pth"
    start = time.monotonic()
    begin = ("-r", "auto", "-c", config, "--run_dir", folder, *options)
    run_command("train.py", *begin)
    seconds = time.monotonic() - start
    run_command("test.py", "-r", last, "--sim_path", folder / "sim_matrix.npy")
    found = read_results(folder, read_labels(data)[0])
    result = {name: found[name] for name in ("right_look", "right_word")}
    result |= {name: found["t2v"][name] for name in ("R1", "R5")}
    epochs = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    result["attention_ocr"] = json.loads(epochs[-1]).get("attention_ocr")
    result["train_seconds"] = seconds
    write_json(done, result)
    return result


def format_table(result: measuring.Result) -> str:
    """Return one line a seed, then mean, least and greatest."""
    seeds = result["seeds"]
    lines = [f"{'seed':<8}" + "".join(f"{title:>12}" for title in COLUMNS.values())]
    lines[0] += f"{'attention':>12}{'seconds':>10}"
    lines += [_format_row(seed, row) for seed, row in seeds.items()]
    for name, reduce in (("mean", statistics.fmean), ("least", min), ("greatest", max)):
        columns = {key: [row[key] for row in seeds.values()] for key in next(iter(seeds.values()))}
        reduced = {
            key: None if None in column else reduce(column) for key, column in columns.items()
        }
        lines.append(_format_row(name, reduced))
    lines += ["", "attention: of the fusion to the OCR words, a share; seconds: of train.py"]
    return "\n".join([*lines, f"{result['date']}, {result['machine']}, {result['versions']}", ""])


def _format_row(name: str, row: dict[str, Any]) -> str:
    cells = "".join(f"{row[key]:12.2f}" for key in COLUMNS)
    share = "-" if row["attention_ocr"] is None else f"{row['attention_ocr']:.2f}"
    return f"{name:<8}{cells}{share:>12}{row['train_seconds']:10.0f}"


def plot_courses(folders: dict[str, Path], result: measuring.Result, file: Path) -> None:
    """Draw each seed's course, epoch by epoch, coloured by its R@1.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("--plot needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, 3).T.flatten()
    colours = ScalarMappable(cmap=colormaps["viridis"])
    colours.set_clim(0, 100)
    for seed, folder in folders.items():
        text = (folder / METRICS_FILE).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        colour = colours.to_rgba(result["seeds"][seed]["R1"])
        for panel, names in zip(panels, PANELS.values(), strict=True):
            values = [line[names[0]] - sum(line[name] for name in names[1:]) for line in lines]
            panel.plot([line["epoch"] for line in lines], values, color=colour)
    for panel, title in zip(panels, PANELS, strict=True):
        panel.set(title=title, xlabel="epoch")
        panel.grid(alpha=0.3)
    figure.colorbar(colours, ax=list(panels), label="R@1 of the seed, %", fraction=0.03)
    figure.suptitle(f"{result['config']}, {len(folders)} seeds; {result['date']}")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run the command."""
    asked = parse_arguments()
    seeds = parse_seeds(asked.seeds)
    run_command("-m", "tools.make_data", "--out", asked.data)
    found = {}
    for seed in seeds:
        changes = [*make_dataset_overrides(asked.data), *asked.changes, f"seed={seed}"]
        found[str(seed)] = run_seed(asked.out / f"seed_{seed}", asked.config, changes, asked.data)
        sys.stdout.write(f"seed {seed}: {shlex.quote(str(asked.out / f'seed_{seed}'))}\n")
    result = {**measuring.describe_machine(), "config": asked.config, "changes": asked.changes}
    result["seeds"] = found
    write_json(asked.out / "seeds.json", result)
    if asked.plot is not None:
        folders = {str(seed): asked.out / f"seed_{seed}" for seed in seeds}
        plot_courses(folders, result, asked.plot)
    measuring.write_result(result, asked.json, format_table)


if __name__ == "__main__":
    run_cli(main)
