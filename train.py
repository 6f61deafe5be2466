"""Train a model.

    python train.py -c configs/TextVR_fusion.json              # a new run, on n_gpu GPUs
    python train.py -r work_dirs/NAME/TIME/model_last.pth      # go on with one
    python train.py -c CONFIG -r auto                          # go on with the newest, or begin
    torchrun --nproc_per_node=8 train.py -c CONFIG             # started by torchrun, any number
    python train.py -c CONFIG --set optimizer.args.lr=1e-4     # change single values

A run has a folder of its own, trainer.save_dir/name/date_time, which holds config.json (resolved),
environment.json (package versions, commit), train.log, metrics.jsonl, tensorboard/,
data_report.json, model_best.pth, model_last.pth (and those before it) and checkpoint-epochN.pth.
SIGTERM and Ctrl-C finish the step, save, and end with code 143 or 130.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from base.config import Config
from parse_config import add_config_arguments, load_config, load_run_config, resolved
from trainer.build import build_trainer
from trainer.resume import open_run
from utils.cli import run_cli
from utils.distributed import gather_objects, ranks
from utils.launch import on_devices
from utils.run_dir import describe_run, setup_logging


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("-r", "--resume", help="checkpoint to go on from, or auto")
    parser.add_argument("-d", "--device", help="GPUs to use, such as 1 or 0,1")
    parser.add_argument("--run_dir", help="folder of this run (default: save_dir/name/time)")
    parser.add_argument(
        "--allow-shuffled", action="store_true", help="let trainer.monitor use a shuffled test file"
    )
    arguments = parser.parse_args()
    if arguments.config is None and arguments.resume in (None, "auto"):
        parser.error("give a configuration (-c) or a checkpoint to resume (-r)")
    if arguments.resume not in (None, "auto") and arguments.run_dir is not None:
        parser.error("--run_dir is for a new run; -r goes on in the checkpoint's folder")
    return arguments


def main() -> int:
    """Run the command; with several GPUs, start it once for each."""
    arguments = parse_arguments()
    if arguments.config is not None:
        config = load_config(arguments.config, arguments.overrides)
    else:
        config = load_run_config(Path(arguments.resume), None, arguments.overrides)
    job = partial(train, arguments, config)
    return on_devices(job, config.n_gpu, arguments.device, config.trainer.rank_timeout)


def train(arguments: argparse.Namespace, config: Config, device: torch.device) -> None:
    """Train in this process; the first of them makes the folder and writes."""
    run, is_first = None, ranks().is_first
    setup_logging(config.trainer.verbosity if is_first else 0)
    if is_first:
        run = open_run(config, arguments.resume, arguments.run_dir)
        setup_logging(config.trainer.verbosity, run.folder / "train.log")
    run = gather_objects(run)[0]
    trainer = build_trainer(config, run.folder, device, resolved(config), arguments.allow_shuffled)
    if run.checkpoint is not None:
        trainer.resume(run.checkpoint)
    if is_first:
        describe_run(run.folder, resolved(config), sys.argv)
    trainer.fit()


if __name__ == "__main__":
    run_cli(main)
