"""Train a model.

    python train.py -c configs/TextVR_fusion.json              # a new run
    python train.py -r work_dirs/NAME/TIME/model_last.pth      # go on with one
    python train.py -c CONFIG --set optimizer.args.lr=1e-4     # change single values

A run has a folder of its own, trainer.save_dir/name/date_time, which holds config.json (resolved),
environment.json (package versions, commit), train.log, metrics.jsonl, tensorboard/,
data_report.json, model_best.pth, model_last.pth and checkpoint-epochN.pth.
"""

import argparse
import sys
from pathlib import Path

from parse_config import add_config_arguments, load_config, resolved
from trainer.build import build_trainer
from utils.cli import run_cli
from utils.device import choose_device
from utils.errors import UserError
from utils.run_dir import CONFIG_NAME, describe_run, make_run_dir, setup_logging


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("-r", "--resume", type=Path, help="checkpoint to go on from")
    parser.add_argument("-d", "--device", help="GPU to use, such as 1")
    parser.add_argument("--run_dir", help="folder of this run (default: save_dir/name/time)")
    parser.add_argument(
        "--allow-shuffled", action="store_true", help="let trainer.monitor use a shuffled test file"
    )
    arguments = parser.parse_args()
    if arguments.config is None and arguments.resume is None:
        parser.error("give a configuration (-c) or a checkpoint to resume (-r)")
    if arguments.resume is not None and arguments.run_dir is not None:
        parser.error("--run_dir is for a new run; -r goes on in the checkpoint's folder")
    return arguments


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    if arguments.resume is not None and not arguments.resume.is_file():
        raise UserError(f"{arguments.resume}: no such checkpoint to resume")
    config_file = arguments.config or arguments.resume.parent / CONFIG_NAME
    config = load_config(config_file, arguments.overrides)
    if arguments.resume is None:
        run_dir = make_run_dir(config.trainer.save_dir, config.name, arguments.run_dir)
    else:
        run_dir = arguments.resume.parent
    setup_logging(config.trainer.verbosity, run_dir / "train.log")
    device = choose_device(config.n_gpu, arguments.device)
    allow = arguments.allow_shuffled
    trainer = build_trainer(config, run_dir, device, resolved(config), allow_shuffled=allow)
    if arguments.resume is not None:
        trainer.resume(arguments.resume)
    describe_run(run_dir, resolved(config), sys.argv)
    trainer.fit()


if __name__ == "__main__":
    run_cli(main)
