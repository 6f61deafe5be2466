"""Checkpoints, ours and others', described and written anew; nothing in them is executed.

python -m tools.checkpoint inspect textvr.pth
    What it holds: its weights by part, the other values, the configuration inside, and which
    of the project's configurations has a model that its weights fit.

python -m tools.checkpoint convert textvr.pth exp/textvr/model.pth
python -m tools.checkpoint convert model_best.pth model.safetensors
    Its weights, arch, epoch and configuration as tensors and plain values. The configuration
    also goes to config.json beside OUT, where test.py reads it, unless one is there.
    The state of the optimizer is left out.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.checkpoint.convert import convert_checkpoint
from utils.checkpoint.describe import Shapes, describe_checkpoint, describe_fit, get_shapes
from utils.checkpoint.files import CheckpointError, load_checkpoint
from utils.checkpoint.unpickling import make_printable
from utils.checkpoint.weights import get_weights
from utils.cli import run_cli

ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 0."""
    args = _build_parser().parse_args(arguments)
    if args.command == "convert":
        lines = convert_checkpoint(args.source, args.target, args.force)
    else:
        lines = inspect_checkpoint(args.file, args.config)
    for line in "\n".join(lines).split("\n"):
        sys.stdout.write(make_printable(line, sys.maxsize) + "\n")
    return 0


def inspect_checkpoint(path: Path, whole_config: bool) -> list[str]:
    """Return the lines about a checkpoint; raises ``CheckpointError`` if it can't be read."""
    state = load_checkpoint(path)
    lines = describe_checkpoint(path, state, whole_config)
    try:
        weights = get_weights(state, path)
    except CheckpointError:
        return lines  # which say that there are none
    warnings = logging.getLogger("parse_config")  # about the project's files, not about this one
    level = warnings.level
    warnings.setLevel(logging.ERROR)
    try:
        return lines + describe_fit(get_shapes(weights), *build_configured_models())
    finally:
        warnings.setLevel(level)


def build_configured_models() -> tuple[dict[str, Shapes], dict[str, str]]:
    """Return the shapes of each shipped configuration's model, and why others can't be built."""
    import torch

    from base.registry import ARCHITECTURES
    from parse_config import load_config  # takes seconds, which converting does without

    models: dict[str, Shapes] = {}
    skipped: dict[str, str] = {}
    built: dict[str, Shapes] = {}
    for path in sorted((ROOT / "configs").rglob("*.json")):
        if path.name == "schema.json":
            continue
        name = path.relative_to(ROOT).as_posix()
        try:
            arch = load_config(path).arch
            architecture = ARCHITECTURES.get(arch.type)
            arguments = architecture.without_initial_weights(**arch.kwargs())
            key = json.dumps([arch.type, arguments], default=repr, sort_keys=True)
            if key not in built:
                with torch.device("meta"):
                    built[key] = get_shapes(architecture(**arguments).state_dict())
            models[name] = built[key]
        except (ValueError, OSError) as error:  # UserError; transformers without a folder
            skipped[name] = (str(error).splitlines() or [type(error).__name__])[0]
    return models, skipped


def _build_parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tools.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="inspect|convert")
    look = commands.add_parser("inspect", help="say what a checkpoint holds")
    look.add_argument("file", type=Path, metavar="FILE")
    look.add_argument("--config", action="store_true", help="show all of the configuration inside")
    write = commands.add_parser("convert", help="write tensors and plain values")
    write.add_argument("source", type=Path, metavar="IN")
    write.add_argument("target", type=Path, metavar="OUT", help="ends in .pth or .safetensors")
    write.add_argument("--force", action="store_true", help="replace OUT where it is there")
    return parser


if __name__ == "__main__":
    run_cli(main)
