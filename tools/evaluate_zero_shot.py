"""Zero-shot retrieval by image-text towers on the test set of a configuration, in one table.

    python -m tools.evaluate_zero_shot -c configs/TextVR_fusion.json
    python -m tools.evaluate_zero_shot -c configs/MSRVTT_jsfusion.json --tower FOLDER --no_ocr
    python -m tools.evaluate_zero_shot -c configs/TextVR_fusion.json --tower A --tower B --out out/

Of the configuration only the data are used: whatever its model, each tower is tested as its
publisher trained it, with its own size and colours of frames. Rows of the table:

    seen       the mean of the frames' vectors (as configs/zero_shot.json gives)
    read       all words of a video, by their scores, as one text for the tower's text encoder
    both       late fusion: the mean of both similarities, each first made to have mean 0 and
               standard deviation 1 over the videos of a query. No weight is tuned on the test set

Matrix, metrics and ranks of each row are written below --out, as test.py writes them. A data set
without OCR words has the row "seen" alone (--no_ocr).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from base.config import Config
from evaluation.evaluator import Evaluation, Evaluator
from evaluation.ground_truth import build_ground_truth
from evaluation.results import ScoredEvaluation, score_evaluation, write_evaluation
from model.dual_encoder import DEFAULT_TOWER
from model.towers import describe_tower
from parse_config import load_config
from trainer.build import build_criterion, build_loader, build_model
from utils.cli import positive_int, run_cli
from utils.files import write_json
from utils.launch import choose_devices
from utils.precision import Precision
from utils.run_dir import setup_logging

COLUMNS = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "MedR": "MedR"}
SEEN, READ, BOTH = "seen", "read", "both"
MODALITIES = {SEEN: ["vision"], READ: ["ocr"]}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluate_zero_shot", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("-c", "--config", type=Path, required=True, help="whose data are used")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change a value of the configuration",
    )  # fmt: skip
    parser.add_argument(
        "--tower", action="append", metavar="NAME", help=f"may be repeated ({DEFAULT_TOWER})"
    )
    parser.add_argument("--num_frames", type=positive_int, default=12, help="(%(default)s)")
    parser.add_argument("--no_ocr", action="store_true", help="the row seen alone")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--loader", type=int, default=0, help="which data loader of a list")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="videos a batch")
    parser.add_argument("-d", "--device", help="GPU to use, such as 1")
    parser.add_argument("--out", type=Path, default=Path("zero_shot"), help="(%(default)s)")
    return parser.parse_args()


def make_config(arguments: argparse.Namespace, tower: str, row: str) -> Config:
    """Return the configuration with a tower in its model's place."""
    arch = {
        "type": "DualEncoder",
        "args": {"tower": tower, "modalities": MODALITIES[row], "ocr": "caption"},
    }
    block = f"data_loader.{arguments.loader}.args"
    changes = {
        "arch": arch,
        "loss": {"type": "SoftmaxLoss"},
        "trainer.unimodal_losses": {},
        "trainer.ocr_warmup_steps": 0,
        f"{block}.tsfm_params": None,
        f"{block}.video_params.input_res": describe_tower(tower).frame_size,
        f"{block}.video_params.num_frames": arguments.num_frames,
        f"{block}.batch_size": arguments.batch_size,
        f"{block}.per_gpu_batch_size": None,
        f"{block}.frame_cache": None,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return load_config(arguments.config, [*arguments.overrides, *overrides])


def evaluate_tower(
    arguments: argparse.Namespace, tower: str, device: torch.device
) -> dict[str, ScoredEvaluation]:
    """Evaluate a tower; returns row -> its scores, and writes them."""
    scored: dict[str, ScoredEvaluation] = {}
    evaluations: dict[str, Evaluation] = {}
    rows = [SEEN] if arguments.no_ocr else [SEEN, READ]
    for row in rows:
        config = make_config(arguments, tower, row)
        loader = build_loader(config, arguments.loader, training=False, split=arguments.split)
        truth = build_ground_truth(loader.dataset)
        model = build_model(config, device)
        criterion = build_criterion(config, device, model)
        precision = Precision(config.evaluation_precision, device)
        evaluations[row] = Evaluator(config.metrics, criterion, precision).run(model, loader)
        scored[row] = score_evaluation(evaluations[row], truth, config.metrics)
    if len(rows) == 2:
        fused = fuse_similarities(evaluations[SEEN].similarity, evaluations[READ].similarity)
        both = Evaluation(**vars(evaluations[SEEN]) | {"similarity": fused, "loss": None})
        scored[BOTH] = score_evaluation(both, truth, config.metrics)
    for row, result in scored.items():
        folder = arguments.out / name_folder(tower) / row
        folder.mkdir(parents=True, exist_ok=True)
        write_evaluation(result, folder / "sim_matrix.npy")
    return scored


def fuse_similarities(*matrices: NDArray, eps: float = 1e-8) -> NDArray:
    """Return the mean of similarities (Q, V) that have mean 0 and deviation 1 in each row."""
    standardized = []
    for matrix in matrices:
        rows = np.asarray(matrix, dtype=np.float64)
        spread = np.maximum(rows.std(axis=1, keepdims=True), eps)
        standardized.append((rows - rows.mean(axis=1, keepdims=True)) / spread)
    return np.mean(standardized, axis=0).astype(np.float32)


def name_folder(tower: str) -> str:
    """Return a tower's name as one part of a path."""
    return tower.strip("/").replace("/", "_").replace(":", "_")


def format_table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return a line for each tower and row; caption to video."""
    width = max(map(len, results)) + 2
    lines = [f"{'tower':<{width}}{'':<6}" + "".join(f"{name:>8}" for name in COLUMNS.values())]
    for tower, rows in results.items():
        for row, metrics in rows.items():
            cells = "".join(f"{metrics['t2v_metrics'][key]:8.2f}" for key in COLUMNS)
            lines.append(f"{tower:<{width}}{row:<6}{cells}")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    setup_logging(verbosity=1)
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for tower in arguments.tower or [DEFAULT_TOWER]:
        device = choose_devices(make_config(arguments, tower, SEEN).n_gpu, arguments.device)[0]
        scored = evaluate_tower(arguments, tower, device)
        results[tower] = {row: result.scores.metrics for row, result in scored.items()}
    write_json(arguments.out / "results.json", results)
    sys.stdout.write(format_table(results) + "\n")


if __name__ == "__main__":
    run_cli(main)
