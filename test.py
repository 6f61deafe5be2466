"""Test a model: similarity matrix, metrics and, on demand, embeddings.

    python test.py -r RUN/model_best.pth --sim_path out/sim_matrix.npy
    python test.py -r RUN/model_best.pth -c configs/TextVR_fusion.json --save_feats feats/
    python test.py -r RUN/model_best.pth --save_feats feats/ --no_matrix    # metrics in blocks
    python test.py -r RUN/model_best.pth --save_feats feats/ --ray          # see docs/ray.md
    python test.py -c configs/TextVR_word_overlap.json         # a model without weights
    python test.py -c configs/zero_shot.json                   # a pretrained tower as it is

Without -c the config.json beside the checkpoint is read; with it, its keys win over those of that
file. Without -r the checkpoint that arch.args.load_checkpoint names is tested, or an image-text
tower as its publisher trained it. The matrix is float32; row x, column y is the similarity of the
x-th caption to the y-th video, in the annotation file's order. metrics.json, ranks.csv (the rank of
every query) and data_report.json are written beside it. A matrix that does not fit into memory or
on the disk is not made, which is said before anything is encoded; metrics are then computed in
blocks.

--save_feats writes the embeddings in shards while they are computed. Stopped, the same command goes
on after the last shard; what depends on another model, other data or settings is refused, and
replaced with --overwrite. From Python: evaluation.embedding_files.load_embeddings("feats"). (The
matrix and the files beside it replace those of an earlier test.) Videos without captions only have
embeddings.

The encoders compute in evaluation.precision, by default that of training. Numbers to be published
are those of fp32: --set evaluation.precision=fp32.
"""

import argparse
import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.embedding_files import (
    SHARD_SIZE,
    EmbeddingFiles,
    describe_embeddings,
    name_embeddings,
)
from evaluation.evaluator import Evaluator
from evaluation.ground_truth import GroundTruth
from evaluation.postprocess import add_postprocess_arguments
from evaluation.results import (
    format_evaluation,
    open_ground_truth,
    score_evaluation,
    write_evaluation,
)
from evaluation.similarity_blocks import plan_matrix
from parse_config import (
    add_config_arguments,
    config_from_dict,
    load_config,
    load_run_config,
    resolve_config,
)
from trainer.build import (
    build_criterion,
    build_loader,
    build_model,
    find_tested_checkpoint,
    open_split,
)
from trainer.checkpointing import load_model
from trainer.encoding_work import TestedModel, encode_by_workers
from trainer.selection import find_selection
from utils.cli import positive_int, run_cli
from utils.distributed import gather_objects, get_dist_info
from utils.errors import UserError
from utils.launch import choose_devices, join_run, must_launch, relaunch_for_each
from utils.precision import Precision
from utils.ray_pool import add_ray_arguments, open_pool
from utils.run_dir import setup_logging

logger = logging.getLogger("test")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-r", "--resume", type=Path, help="checkpoint (default: the -c file's load_checkpoint)"
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("-d", "--device", help="GPU to use, such as 1")
    parser.add_argument(
        "--sim_path", type=Path, default="sim_matrix.npy", help="the matrix (default: %(default)s)"
    )
    parser.add_argument("--no_matrix", action="store_true", help="compute the metrics in blocks")
    parser.add_argument("--save_feats", type=Path, help="folder for embeddings and ids")
    parser.add_argument(
        "--save_type",
        choices=("both", "text", "video"),
        help="no effect: --save_feats keeps texts and videos, in files of their own",
    )
    text = "replace embeddings of the same name, whatever they depend on"
    parser.add_argument("--overwrite", action="store_true", help=text)
    text = "videos, and captions, of a file of embeddings (default: %(default)s)"
    parser.add_argument("--shard_size", type=positive_int, default=SHARD_SIZE, help=text)
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--batch_size", type=positive_int, help="videos a batch")
    parser.add_argument(
        "-s", "--sliding_window_stride", type=stride, help="frames between clips; -1: one clip"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--loader", type=int, default=0, help="which data loader of a list")
    text = "one of valid_data_loader in place of data_loader"
    which.add_argument("--valid_loader", type=int, metavar="NUMBER", help=text)
    add_postprocess_arguments(parser)
    add_ray_arguments(parser)
    arguments = parser.parse_args()
    if arguments.resume is None and arguments.config is None:
        parser.error(
            "give a checkpoint (-r), or a configuration (-c) whose arch.args.load_checkpoint is "
            "one, or whose model needs no training"
        )
    if arguments.overwrite and arguments.save_feats is None:
        parser.error("--overwrite is for --save_feats; --sim_path always replaces its file")
    if arguments.no_matrix and arguments.postprocess:
        parser.error("--postprocess needs the whole matrix; leave out --no_matrix")
    return arguments


def stride(text: str) -> int:
    """Read the distance of windows (a ``type`` of argparse): -1, as published, for one clip."""
    return -1 if text == "-1" else positive_int(text)


def choose_loader(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return which of the configuration's loaders is tested, as ``build_loader`` takes it."""
    if arguments.valid_loader is None:
        return {"number": arguments.loader, "key": "data_loader"}
    return {"number": arguments.valid_loader, "key": "valid_data_loader"}


def list_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the changes of the configuration: those of --set, then those of options."""
    names = ("batch_size", "sliding_window_stride")
    changes = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    changes |= {"per_gpu_batch_size": "null"} if "batch_size" in changes else {}
    block = "{key}.{number}.args".format(**choose_loader(arguments))
    return [*arguments.overrides, *(f"{block}.{name}={value}" for name, value in changes.items())]


def decide_on_matrix(ground_truth: GroundTruth, arguments: argparse.Namespace) -> bool:
    """Say whether the matrix is made, before anything is encoded; the same in every process.

    Raises:
        UserError: it does not fit, but --postprocess needs it.
    """
    plan = plan_matrix(ground_truth.shape, arguments.sim_path, not arguments.no_matrix)
    plan = gather_objects(plan)[0]
    if plan.does_not_fit and arguments.postprocess:
        raise UserError(f"{plan.note}. But --postprocess needs the matrix: leave it out")
    if ground_truth.captions:
        logger.log(logging.WARNING if plan.does_not_fit else logging.INFO, plan.note)
    return plan.is_made


def main() -> int:
    """Test in this process; with several GPUs, start the command once for each.

    Each process takes its share of the batches; the first one writes.
    """
    arguments = parse_arguments()
    overrides = list_overrides(arguments)
    if arguments.resume is None:
        config = load_config(arguments.config, overrides)
    else:
        config = load_run_config(arguments.resume, arguments.config, overrides)
    checkpoint = find_tested_checkpoint(config, arguments.resume)
    # The workers of a cluster are the parallelism.
    n_gpu = config.n_gpu if arguments.ray is None else min(1, config.n_gpu)
    devices = choose_devices(n_gpu, arguments.device)
    if must_launch(devices):
        return relaunch_for_each(devices)
    with join_run(devices, config.trainer.rank_timeout) as device:
        setup_logging(verbosity=1 if get_dist_info().is_main else 0)
        which = choose_loader(arguments)
        loader = build_loader(config, training=False, split=arguments.split, **which)
        ground_truth = open_ground_truth(loader.dataset, arguments.save_feats)
        with_matrix = decide_on_matrix(ground_truth, arguments)
        model = build_model(config, device, initial_weights=checkpoint is None)
        criterion = build_criterion(config, device, model)
        selection = None
        if checkpoint is not None:
            state = load_model(model, criterion, checkpoint)
            tested = checkpoint, config, which, arguments.split
            selection = find_selection(state, *tested, partial(open_split, config))
            del state  # with the optimizer's it is three times as large as the model
        precision = Precision(config.evaluation_precision, device)
        logger.info("the encoders compute in %s", precision.name)
        kept: AbstractContextManager[EmbeddingFiles | None] = nullcontext()
        if arguments.save_feats is not None:
            changes = {"split": arguments.split}
            identity = describe_embeddings(config, which, changes, model, loader)
            name = name_embeddings(config, checkpoint, arguments.split, which)
            options = identity, arguments.shard_size, arguments.overwrite
            kept = EmbeddingFiles.open(arguments.save_feats, name, *options)
        with kept as files, open_pool(arguments, uses_model=True) as pool:
            elsewhere = None
            if pool is not None:
                place = which | {"split": arguments.split}
                load = partial(config_from_dict, resolve_config(config), config.name)
                tested = TestedModel.of(load, checkpoint, place, model, loader)
                elsewhere = encode_by_workers(pool, tested)
            evaluation = Evaluator(config.metrics, criterion, precision).run(
                model,
                loader,
                files=files,
                with_matrix=with_matrix,
                only_main=True,
                elsewhere=elsewhere,
            )
        if get_dist_info().is_main:
            after = arguments.postprocess, arguments.temperature
            scored = score_evaluation(
                evaluation, ground_truth, config.metrics, *after, selection=selection
            )
            write_evaluation(scored, arguments.sim_path)
            sys.stdout.write(format_evaluation(scored) + "\n")
    return 0


if __name__ == "__main__":
    run_cli(main)
