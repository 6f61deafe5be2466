"""Makes data to try the project with: a made-up TextVR, or stand-ins for the real one's files.

    python -m data_loader.synthetic --out data/demo
        1,536 small videos in the layout of TextVR. A caption speaks of what moves in the video
        (one of 32 looks) and of a word that can be read in it (one of 32); 16 test videos share
        each, so a model that sees only, or reads only, is at R@1 = 6.25 at best, but for luck.

    python -m data_loader.synthetic --annotations TextVR_test.json --out data/dry
        A small video and an OCR document for each entry of a real annotation file, to try a
        configuration from end to end before the real files are there.

Both also write OUT/text_model, a small DistilBERT configuration and tokenizer without weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from data_loader.synthetic.demo import DemoOptions, make_demo
from data_loader.synthetic.dry import make_dry_run
from data_loader.synthetic.files import default_workers
from data_loader.synthetic.text_model import write_text_model
from utils.cli import run_cli
from utils.errors import UserError

__all__ = ["DemoOptions", "main", "make_demo", "make_dry_run", "write_text_model"]

HELP = {
    "looks": "looks of the made-up data set",
    "words": "words of the made-up data set",
    "clips_per_pair": "training videos of each pair of look and word",
    "size": "width and height of its videos in pixels",
    "seed": "another seed makes another data set",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code is 0. Raises UserError: `run_cli` shows it, code 2."""
    sys.stdout.write(_run(_parser().parse_args(arguments)))
    return 0


def _parser() -> argparse.ArgumentParser:
    """The command line. Options of one job default to None, so that misplaced ones are seen."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m data_loader.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--annotations", type=Path, help="a real file: make stand-ins for it")
    parser.add_argument("--limit", type=int, help="stand-ins for its first LIMIT entries only")
    for field in fields(DemoOptions):
        option = f"--{field.name.replace('_', '-')}"
        text = f"{HELP[field.name]} (default {field.default})"
        parser.add_argument(option, type=int, metavar="N", help=text)
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes")
    parser.add_argument("--overwrite", action="store_true", help="even if OUT holds other files")
    return parser


def _run(args: argparse.Namespace) -> str:
    """Does the job that is asked for and gives what is to be said about it."""
    chosen = {field.name: getattr(args, field.name) for field in fields(DemoOptions)}
    given = {name: value for name, value in chosen.items() if value is not None}
    if args.annotations is None:
        if args.limit is not None:
            raise UserError("--limit needs --annotations: give both, or leave it out")
        return _run_demo(args, DemoOptions(**given))
    if given:
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise UserError(f"{option} has no meaning with --annotations: leave one of them out")
    result = make_dry_run(
        args.annotations, args.out, args.limit, args.workers, args.overwrite, progress=True
    )
    return (
        f"{args.out}: stand-ins for {args.annotations.name}, "
        f"{result.num_made} made, {result.num_kept} kept\n"
    )


def _run_demo(args: argparse.Namespace, options: DemoOptions) -> str:
    """Makes the made-up data set."""
    result = make_demo(args.out, options, args.workers, args.overwrite, progress=True)
    done = "was there already, left as it is" if result.already_there else "made"
    ceiling = result.ceiling_r1
    return (
        f"{args.out}: {result.num_videos['train']} training and {result.num_videos['test']} test "
        f"videos, {done}\n"
        f"best possible R@1 of one modality alone: "
        f"vision {ceiling['vision']:.2f}, OCR {ceiling['ocr']:.2f}\n"
    )


if __name__ == "__main__":
    run_cli(main)
