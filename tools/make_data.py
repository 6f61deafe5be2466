"""Make data to try the project with: a made-up TextVR, or stand-ins for the real one's files.

    python -m tools.make_data --out data/demo
        1,536 small videos in the layout of TextVR. A caption speaks of what moves in the video
        (one of 32 looks) and of a word that can be read in it (one of 32); 16 test videos share
        each, so a model that sees only, or reads only, is at R@1 = 6.25 at best, but for luck.

    python -m tools.make_data --annotations TextVR_test.json --out data/dry
        A small video and an OCR document for each entry of a real annotation file, to try a
        configuration from end to end before the real files are there.

Both also write OUT/text_model, a small DistilBERT configuration and tokenizer without weights.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from data_loader.synthetic.demo import DemoOptions, make_demo
from data_loader.synthetic.dry_run import make_dry_run
from utils.cli import positive_int, run_cli
from utils.errors import UserError
from utils.processes import count_cpus

HELP = {
    "looks": "looks of the made-up data set",
    "words": "words of the made-up data set",
    "clips_per_pair": "training videos of each pair of look and word",
    "size": "width and height of its videos in pixels",
    "seed": "another seed makes another data set",
}


def parse_arguments() -> argparse.Namespace:
    """Read the command line; options of one job default to None, so that misplaced ones show."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.make_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--annotations", type=Path, help="a real file: make stand-ins for it")
    parser.add_argument(
        "--limit", type=positive_int, help="stand-ins for its first LIMIT entries only"
    )
    for field in fields(DemoOptions):
        option = f"--{field.name.replace('_', '-')}"
        text = f"{HELP[field.name]} (default {field.default})"
        parser.add_argument(option, type=int, metavar="N", help=text)
    parser.add_argument("--workers", type=positive_int, default=count_cpus(), help="processes")
    parser.add_argument("--overwrite", action="store_true", help="even if OUT holds other files")
    return parser.parse_args()


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    out, annotations = arguments.out, arguments.annotations
    chosen = {field.name: getattr(arguments, field.name) for field in fields(DemoOptions)}
    given = {name: value for name, value in chosen.items() if value is not None}
    if annotations is not None:
        if given:
            option = f"--{next(iter(given)).replace('_', '-')}"
            raise UserError(f"{option} has no meaning with --annotations: leave one of them out")
        made = make_dry_run(
            annotations, out, arguments.limit, arguments.workers, arguments.overwrite
        )
        sys.stdout.write(
            f"{out}: stand-ins for {annotations.name}, {made.num_made} made, {made.num_kept} kept\n"
        )
        return
    if arguments.limit is not None:
        raise UserError("--limit needs --annotations: give both, or leave it out")
    demo = make_demo(out, DemoOptions(**given), arguments.workers, arguments.overwrite)
    done = "was there already, left as it is" if demo.already_there else "made"
    sys.stdout.write(
        f"{out}: {demo.num_videos['train']} training and {demo.num_videos['test']} test videos, "
        f"{done}\nbest possible R@1 of one modality alone: vision "
        f"{demo.ceiling_r1['vision']:.2f}, OCR {demo.ceiling_r1['ocr']:.2f}\n"
    )


if __name__ == "__main__":
    run_cli(main)
