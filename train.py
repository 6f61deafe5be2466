"""Train a model.

    python train.py -c configs/TextVR_fusion.json              # a new run, on n_gpu GPUs
    python train.py -r work_dirs/NAME/TIME/model_last.pth      # go on with one
    python train.py -c CONFIG -r auto                          # go on with the newest, or begin
    torchrun --nproc_per_node=8 train.py -c CONFIG             # started by torchrun, any number
    python train.py -c CONFIG --set optimizer.args.lr=1e-4     # change single values (or --lr 1e-4)
    python train.py -c CONFIG --profile                        # a few steps into profile/, no model

A run has a folder of its own, trainer.save_dir/name/date_time, which holds config.json (resolved),
environment.json (package versions, commit), train.log, metrics.jsonl, tensorboard/,
data_report.json, model_best.pth, model_last.pth (and those before it), checkpoint-epochN.pth, and
with trainer.sharding optimizer-STEP/. On several nodes: docs/several_nodes.md.
SIGTERM and Ctrl-C finish the step, save, and end with code 143 or 130. A run that is resumed with
other data or settings is refused with a list of them, unless --allow-changes is given.
"""

import argparse
import logging
import sys
from pathlib import Path

from parse_config import (
    SetOption,
    add_config_arguments,
    load_config,
    load_run_config,
    resolve_config,
)
from trainer.build import build_trainer
from trainer.checkpointing import enter_run
from trainer.profiling import profile_run
from trainer.tracking import summarize_run
from utils.cli import run_cli
from utils.distributed import get_dist_info
from utils.launch import choose_devices, join_run, must_launch, relaunch_for_each
from utils.run_dir import describe_run

logger = logging.getLogger("train")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("-r", "--resume", help="checkpoint to go on from, or auto")
    parser.add_argument("-d", "--device", help="GPUs to use, such as 1 or 0,1")
    for flags, key in (
        (("--lr", "--learning_rate"), "optimizer.args.lr"),
        (("--bs", "--batch_size"), "data_loader.args.batch_size"),
    ):
        parser.add_argument(*flags, action=SetOption, key=key, metavar="N")
    parser.add_argument(
        "-o", "--observe", action="store_true", help="no effect: trainer.tracker has it"
    )
    parser.add_argument("--run_dir", help="folder of this run (default: save_dir/name/time)")
    parser.add_argument("--profile", action="store_true", help="show where a step's time goes")
    parser.add_argument("--allow-shuffled", action="store_true", help="let monitor use such a file")
    text = "resume with other data or settings, though the run won't equal one never stopped"
    parser.add_argument("--allow-changes", action="store_true", help=text)
    arguments = parser.parse_args()
    if arguments.config is None and arguments.resume in (None, "auto"):
        parser.error("give a configuration (-c) or a checkpoint to resume (-r)")
    if arguments.resume not in (None, "auto") and arguments.run_dir is not None:
        parser.error("--run_dir is for a new run; -r goes on in the checkpoint's folder")
    return arguments


def main() -> int:
    """Train in this process; with several GPUs, start the command once for each."""
    arguments = parse_arguments()
    if arguments.observe:
        logger.warning("-o has no effect, as published: trainer.tracker says where curves go")
    if arguments.config is not None:
        config = load_config(arguments.config, arguments.overrides, training=True)
    else:
        config = load_run_config(Path(arguments.resume), None, arguments.overrides)
    devices = choose_devices(config.n_gpu, arguments.device)
    if must_launch(devices):
        return relaunch_for_each(devices)
    with join_run(devices, config.trainer.rank_timeout) as device:
        run = enter_run(config, arguments.resume, arguments.run_dir)
        trainer = build_trainer(config, run.folder, device, arguments.allow_shuffled)
        if run.checkpoint is not None:
            trainer.resume(run.checkpoint, arguments.allow_changes)
        if get_dist_info().is_main:
            describe_run(run.folder, resolve_config(config), sys.argv)
        if arguments.profile:
            text = profile_run(trainer, run.folder)
        else:
            trainer.fit()
            text = summarize_run(run.folder, trainer.epoch, trainer.monitor)
        if get_dist_info().is_main:
            sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    run_cli(main)
