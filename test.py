"""Test a model: similarity matrix, metrics and, on demand, embeddings.

    python test.py -r RUN/model_best.pth --sim_path out/sim_matrix.npy
    python test.py -r RUN/model_best.pth -c configs/TextVR_fusion.json --save_feats feats/

Without -c the config.json beside the checkpoint is read; with it, its keys win over those of that
file. The matrix is float32; row x, column y is the similarity of the x-th caption to the y-th
video, in the annotation file's order. metrics.json and data_report.json are written beside it.
Videos without captions only have embeddings: give --save_feats.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from base.config import Config
from parse_config import add_config_arguments, load_run_config
from trainer.build import build_evaluator, build_loader, build_model
from trainer.evaluator.postprocess import add_postprocess_arguments
from trainer.evaluator.report import evaluation_table, open_queries, scored, write_evaluation
from utils.checkpoint.weights import load_weights
from utils.cli import positive, run_cli
from utils.distributed import ranks
from utils.launch import on_devices
from utils.run_dir import setup_logging


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-r", "--resume", type=Path, required=True, help="checkpoint to test")
    add_config_arguments(parser, required=False)
    parser.add_argument("-d", "--device", help="GPU to use, such as 1")
    parser.add_argument(
        "--sim_path", type=Path, default="sim_matrix.npy", help="the matrix (default: %(default)s)"
    )
    parser.add_argument("--save_feats", type=Path, help="folder for embeddings and ids")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--batch_size", type=positive, help="videos a batch")
    parser.add_argument("--sliding_window_stride", type=positive, help="frames between clips")
    parser.add_argument("--loader", type=int, default=0, help="which data loader of a list")
    add_postprocess_arguments(parser)
    return parser.parse_args()


def main() -> int:
    """Run the command; with several GPUs, start it once for each."""
    arguments = parse_arguments()
    config = load_run_config(arguments.resume, arguments.config, arguments.overrides)
    job = partial(test, arguments, config)
    return on_devices(job, config.n_gpu, arguments.device, config.trainer.rank_timeout)


def test(arguments: argparse.Namespace, config: Config, device: torch.device) -> None:
    """Test in this process, which takes its share of the batches; the first one writes."""
    setup_logging(verbosity=1 if ranks().is_first else 0)
    names = ("split", "batch_size", "sliding_window_stride")
    changes = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    changes |= {"per_gpu_batch_size": None} if "batch_size" in changes else {}
    loader = build_loader(config, arguments.loader, training=False, **changes)
    queries = open_queries(loader.dataset, arguments.save_feats)
    model = build_model(config, device, initial_weights=False)
    load_weights(model, arguments.resume)
    evaluation = build_evaluator(config, device).run(model, loader)
    if ranks().is_first:
        changes = arguments.postprocess, arguments.temperature
        tested = scored(evaluation, queries, config.metrics, *changes)
        write_evaluation(tested, arguments.sim_path, arguments.save_feats)
        sys.stdout.write(evaluation_table(tested) + "\n")


if __name__ == "__main__":
    run_cli(main)
