"""Search an index of videos, made by index.py.

    python search.py my.index/ "a red car passes the sign casino"
    python search.py my.index/ "RE16" --mode keyword          only by the text in the videos
    python search.py my.index/ '"sale up to" 60' --explain    a quoted phrase; what matched where
    python search.py my.index/ "a beach" -k 50 --folder 2024/summer --json
    python search.py my.index/ "a zebra" --only_likely        nothing rather than the least unlike

Semantic search compares the embedding of the query with those of the entries; keyword search its
words with the text in the videos (exact, at the beginning of a word, within it, and fuzzy: with one
or two wrong letters); hybrid search fuses both lists by their ranks. An index without a model holds
words only, and is searched by them. Everything in a query is plain text; only "quotation marks"
mean a phrase as it stands. Where the index has vectors of frames (see index.py --vectors), a hit
found by meaning has the time of its best frame, too. Where no word matches and the similarity is
not above that of texts that have nothing to do with the videos, a hit stands below the others, and
the output says so.
"""

import argparse
import sys
from pathlib import Path

from retrieval import VideoIndex
from retrieval.index.query_embedder import QUERY_PRECISIONS
from retrieval.printing import dump_hits, format_hits
from retrieval.results import MODES, rename_mode
from utils.cli import positive_int, run_cli


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path, help="folder of the index")
    parser.add_argument("query", help="what to look for")
    parser.add_argument(
        "-k", type=positive_int, default=10, help="most hits (default: %(default)s)"
    )
    parser.add_argument(
        "--mode", type=rename_mode, choices=MODES, default="hybrid", help="(default: %(default)s)"
    )
    parser.add_argument("--folder", help="only videos in this folder of the indexed one, and below")
    parser.add_argument("--explain", action="store_true", help="say of each hit what matched")
    parser.add_argument(
        "--only_likely", action="store_true", help="leave out what is only the least unlike"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--words_weight", type=float, default=1.0, help="of the keyword list (%(default)s)"
    )
    parser.add_argument("--exact", action="store_true", help="leave the FAISS index aside")
    parser.add_argument(
        "-r", "--resume", type=Path, metavar="MODEL", help="refuse an index of another model"
    )
    parser.add_argument(
        "--precision",
        choices=QUERY_PRECISIONS,
        default="auto",
        help="of the query encoder, on the CPU, whatever that of the index; auto: int8 where it is "
        "near enough to fp32, else fp32 (%(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    with VideoIndex.open(arguments.index, arguments.precision) as index:
        if arguments.resume is not None:
            index.check_model(arguments.resume)
        if arguments.mode == "hybrid" and index.model is None:
            sys.stderr.write(
                "the index holds words only, so that only text is found; index.py --model adds a "
                "model\n"
            )
        names = ("k", "mode", "folder", "explain", "exact", "words_weight")
        hits = index.search(arguments.query, **{name: vars(arguments)[name] for name in names})
    if arguments.only_likely:
        hits = [hit for hit in hits if hit.likely is not False]
    text = dump_hits(hits) if arguments.json else format_hits(hits, arguments.explain)
    sys.stdout.write(text)


if __name__ == "__main__":
    run_cli(main)
