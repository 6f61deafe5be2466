"""Show runs as one HTML page that needs no network.

    python -m tools.report work_dirs/NAME/TIME
    python -m tools.report FUSION_RUN VISION_RUN OCR_RUN --out report.html

A RUN is a folder of train.py. Its best checkpoint (else the last) is tested on the test split, and
the results are kept in RUN/report/, so that the next page of the same checkpoint is quick.
The single queries are those of the first run; the others are compared with it, query by query.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from base.base_data_loader import BaseDataLoader
from base.base_model import RetrievalModel
from data_loader.datasets.text_video_dataset import make_thumbnail
from evaluation.evaluator import Evaluation, Evaluator
from evaluation.report.evaluated_run import (
    LETTERS,
    EvaluatedRun,
    RunParts,
    find_checkpoint,
    gather_contents,
)
from evaluation.report.page import render_page
from parse_config import add_override_argument, load_run_config
from trainer.build import build_criterion, build_loader, build_model
from trainer.checkpointing import load_model
from utils.cli import positive_int, run_cli
from utils.device import choose_devices
from utils.errors import UserError
from utils.files import write_text
from utils.run_dir import setup_logging


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the first RUN)")
    parser.add_argument("-d", "--device", help="GPU to use, such as 1")
    add_override_argument(parser)
    parser.add_argument("--loader", type=int, default=0, help="which data loader of a list")
    parser.add_argument(
        "--queries",
        type=positive_int,
        default=12,
        help="best and worst queries (default: %(default)s)",
    )
    parser.add_argument("--fresh", action="store_true", help="compute everything anew")
    parsed = parser.parse_args(arguments)
    if len(parsed.runs) > len(LETTERS):
        parser.error(f"at most {len(LETTERS)} runs fit on a page")
    return parsed


def open_run(folder: Path, arguments: argparse.Namespace) -> EvaluatedRun:
    """Return a run of which nothing is built yet.

    Raises:
        UserError: it is no run, or ``-d`` names several GPUs.
    """
    checkpoint = find_checkpoint(folder)
    config = load_run_config(checkpoint, None, arguments.overrides)
    devices = choose_devices(min(config.n_gpu, 1), arguments.device)
    if len(devices) > 1:
        raise UserError(f"-d {arguments.device}: a report uses one GPU; name one")
    device = devices[0]
    criterion = build_criterion(config, device)

    def load() -> RetrievalModel:
        model = build_model(config, device, initial_weights=False)
        load_model(model, criterion, checkpoint)
        return model

    def build_test_loader(**changes: Any) -> BaseDataLoader:
        return build_loader(config, arguments.loader, training=False, split="test", **changes)

    def evaluate(model: RetrievalModel, loader: BaseDataLoader) -> Evaluation:
        evaluation = Evaluator(config.metrics, criterion, device).run(model, loader)
        assert evaluation is not None  # nothing asks it to stop
        return evaluation

    parts = RunParts(
        load_model=load,
        build_loader=build_test_loader,
        evaluate=evaluate,
        collate=lambda loader, some: loader.to_device(loader.batches.collate_fn(some), device),
        read_thumbnail=make_thumbnail,
    )
    settings = [arguments.overrides, arguments.loader]
    return EvaluatedRun(checkpoint, config, parts, settings, arguments.fresh)


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    setup_logging(verbosity=0)
    runs = [open_run(folder, arguments) for folder in arguments.runs]
    made = f"Made {datetime.now():%Y-%m-%d %H:%M} by python -m tools.report"
    page = render_page(gather_contents(runs, arguments.queries, made))
    out = arguments.out or arguments.runs[0]
    out = out / "report.html" if out.is_dir() else out
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    sys.stdout.write(f"{out} ({out.stat().st_size / 1e6:.1f} MB)\n")


if __name__ == "__main__":
    run_cli(main)
