"""Write the OCR words of a data set to files that later runs read from a URL.

    python -m tools.cache_words -c CONFIG --out words/           # training and validation
    python -m tools.cache_words -c CONFIG --out words/ --split train val test

Copy the folder to a web server or S3, and set data_loader.args.cache_dir to its URL (https://,
s3://): the words of a video are then read by ranges of bytes, and its OCR document need not be
there. There is a file for the rules of ocr_params, and one of all words, by which captions that
need reading are told. The command writes both anew.

Exit code 0: all is well; 2: a document or the configuration can't be used.
"""

import argparse
import sys
from pathlib import Path

from data_loader.ocr.ocr_reader import OcrReader, export_stores
from parse_config import add_config_arguments, load_config
from tools.cache_frames import add_place_arguments, list_places
from trainer.build import build_dataset
from utils.cli import run_cli
from utils.errors import UserError
from utils.files import get_cache_folder
from utils.remote_files import is_url


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.cache_words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    add_place_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder, made if need be")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    readers: list[OcrReader] = []
    for split, place in list_places(config, arguments):
        dataset = build_dataset(config, training=split == "train", frame_cache=None, **place)
        named = getattr(config, place["key"])[place["number"]].kwargs()["cache_dir"]
        dataset.prepare(get_cache_folder(None if named and is_url(named) else named))
        readers += dataset.list_word_readers()
    count = export_stores(readers, arguments.out)
    if not count:
        raise UserError(f"{arguments.config}: none of its videos has an OCR document")
    sys.stdout.write(f"{arguments.out}: the words of {count} OCR documents\n")


if __name__ == "__main__":
    run_cli(main)
