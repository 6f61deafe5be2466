"""Make a folder of videos searchable: embeddings, words, thumbnails.

    python index.py my_videos/ -r RUN/model_best.pth --out my.index/                  make it
    python index.py my_videos/ -r RUN/model_best.pth --ocr my_videos_ocr/ --out my.index/
    python index.py my_videos/ --out my.index/                          bring it up to date
    python index.py my_videos/ --out my.index/ --dry-run                say what that would do
    python search.py my.index/ "a red car passes the sign casino"

Any checkpoint of this project or converted by tools.checkpoint; without -c the config.json beside
it is read. A long video is cut into windows, each of them one entry. The text in the videos is
taken from --ocr (a/b.mp4 has a/b.mp4.json or a/b.json, as spot_text.py writes them, in several
processes), or spotted on the way. Run again, it adds new videos, updates those whose file or OCR
document has changed (by size and time, then by content) and drops those that are gone; model,
windows, precision and OCR are then as before. Where another version of the text engine is installed
meanwhile, --spot spots all text anew. Stopped at any moment, the index stays valid and the next run
goes on; it may be searched all the while. Exit code 1: a video could not be read, the others are in
the index.

Videos are embedded in evaluation.precision of the configuration, by default that of training; with
-r another one can be chosen: --set evaluation.precision=bf16. Embeddings of several precisions go
together in one index. Queries are embedded in fp32, see search.py --precision.
"""

import argparse
import sys
from pathlib import Path

from parse_config import add_config_arguments, load_config, load_run_config
from retrieval.index.embedding import ModelFile
from retrieval.index.identity import CONFIG
from retrieval.index.ocr_text import OcrFolder, OcrSource, load_source, spot_anew
from retrieval.index.update import IndexOptions, preview_update, read_index_meta, update_index
from retrieval.printing import format_plan, format_result
from utils.cli import positive_int, run_cli
from utils.errors import UserError
from utils.launch import choose_devices
from utils.run_dir import setup_logging


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, help="folder of videos, and those in it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the index")
    parser.add_argument("-r", "--resume", type=Path, metavar="MODEL", help="checkpoint")
    add_config_arguments(parser, required=False)
    parser.add_argument("--window", type=float, help="seconds of an entry (a new index: 10)")
    parser.add_argument("--stride", type=float, help="seconds between two entries (5)")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--ocr", type=Path, metavar="DIR", help="folder of OCR documents")
    text.add_argument("--spot", action="store_true", help="spot the text (a new index does)")
    text.add_argument("--no-ocr", action="store_true", help="do without the text")
    parser.add_argument("--engine", default="rapidocr", help="that spots text (%(default)s)")
    parser.add_argument("--script", help="of the text: latin, or chinese and latin (latin)")
    parser.add_argument("--ann", action="store_true", help="FAISS index for a million entries")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="windows a batch")
    parser.add_argument("-d", "--device", help="GPU to use, such as 1")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    return parser.parse_args()


def choose_source(arguments: argparse.Namespace, meta: dict | None) -> OcrSource:
    """Return where the text comes from: as is asked for, as before, or spotted."""
    before = None if meta is None else meta.get("ocr")
    if arguments.ocr is not None:
        return OcrFolder(arguments.ocr)
    if arguments.no_ocr:
        return OcrSource()
    if arguments.spot or before is None:
        return spot_anew(arguments.engine, arguments.script, before)
    return load_source(arguments.out, before)


def choose_model(arguments: argparse.Namespace, meta: dict | None) -> ModelFile:
    """Return the model that is asked for, or that of the index; raises ``UserError``."""
    if arguments.resume is not None:
        config = load_run_config(arguments.resume, arguments.config, arguments.overrides)
        return ModelFile(arguments.resume, config)
    if meta is None:
        raise UserError(f"{arguments.out}: is a new index; give the model's checkpoint with -r")
    if arguments.config or arguments.overrides:
        raise UserError("-c and --set change nothing without -r; give the model's checkpoint")
    return ModelFile(Path(meta["model"]["path"]), load_config(arguments.out / CONFIG, is_kept=True))


def main() -> int:
    """Run the command."""
    arguments = parse_arguments()
    setup_logging(verbosity=0)
    meta = read_index_meta(arguments.out)
    source = choose_source(arguments, meta)
    if arguments.dry_run:
        plan = preview_update(arguments.videos, arguments.out, source)
        sys.stdout.write(format_plan(plan))
        return 1 if plan.failed else 0
    model = choose_model(arguments, meta)
    device = choose_devices(model.config.n_gpu, arguments.device)[0]
    # Without -r the configuration is the one in the index, which it was first made with.
    precision = model.config.evaluation_precision if arguments.resume else None
    options = IndexOptions(
        arguments.window, arguments.stride, arguments.batch_size, arguments.ann, device, precision
    )
    result = update_index(arguments.videos, arguments.out, model, source, options)
    sys.stdout.write(format_result(result, arguments.out))
    return 1 if result.failed else 0


if __name__ == "__main__":
    run_cli(main)
