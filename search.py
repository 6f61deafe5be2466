"""Search an index of videos, made by index.py.

    python search.py my.index/ "a red car passes the sign casino"
    python search.py my.index/ "RE16" --mode keyword          only by the text in the videos
    python search.py my.index/ '"sale up to" 60' --explain    a quoted phrase; what matched where
    python search.py my.index/ "a beach" -k 50 --folder 2024/summer --json
    python search.py my.index/ "a zebra" --only_likely        nothing rather than the least unlike
    python search.py my.index/ casino --open                  play it there, by mpv or VLC

Semantic search compares the embedding of the query with those of the entries; keyword search its
words with the text in the videos (exact; the same word written otherwise, as 1299 for 1,299.00; in
pieces, as CA SINO; at the beginning of a word, within it, and fuzzy: letters that look alike, or in
longer words one or two wrong ones); hybrid search adds up the evidence of both, in which a rare
word outweighs a vague resemblance. An index without a model holds words only, and is searched by
them. The time of a hit is that at which its line begins, or its best frame is
shown. Everything in a query is plain text; only "quotation marks"
mean a phrase as it stands. What is said (subtitles, speech) is searched like what can be read;
--explain says which it was. (Best frames are known where the index has vectors of frames, see
index.py --vectors.) Where no word matches and the similarity is
not above that of texts that have nothing to do with the videos, a hit stands below the others, and
the output says so.

    python search.py my.index/ --like a/b.mp4@12.5            more like this moment of a video
    python search.py my.index/ --image photo.jpg              what looks like a picture
    python search.py my.index/ "a beach" --image photo.jpg --like a/b.mp4@1:02 --minus people

An example is a moment of an indexed video (seconds, or 1:02.5), or a picture. All examples and the
words are one query: the sum of their embeddings, each of length 1, less a half of those of --minus,
--minus_like and --minus_image. Keyword search knows the words only; what shows a word of --minus
exactly is not in its list. A picture is embedded by the video model of the index, whose checkpoint
has to be where it was, as a clip of one frame. What can be read in it is not read: where the model
fuses frames and words, the picture is compared with what entries are without their words; write
what it says beside it, in the query.

Windows that share a time, and near-identical ones of any video (cosine --near_duplicate and more),
are one hit ("+3 alike", named by --explain and --json); what shows another matched line of text
never is. --all shows each of them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrieval import VideoIndex
from retrieval.index.location import parse_location
from retrieval.index.query_embedder import QUERY_PRECISIONS
from retrieval.index.roots import Roots
from retrieval.media_player import open_player
from retrieval.printing import dump_hits, escape, format_hits, format_time
from retrieval.results import MODES, Hit, rename_mode
from retrieval.search.grouping import NEAR_DUPLICATE
from utils.cli import positive_int, run_cli
from utils.errors import UserError

OPTIONS = (  # of VideoIndex.search
    "k", "mode", "folder", "explain", "exact", "words_weight", "near_duplicate",
    "like", "image", "minus", "minus_like", "minus_image", "like_meaning",
)  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=parse_location, help="folder of the index")
    parser.add_argument("query", nargs="?", default="", help="what to look for")
    add_example_arguments(parser)
    parser.add_argument(
        "-k", type=positive_int, default=10, help="most hits (default: %(default)s)"
    )
    parser.add_argument(
        "--mode", type=rename_mode, choices=MODES, default="hybrid", help="(default: %(default)s)"
    )
    parser.add_argument("--folder", help="only videos in this folder of the indexed one, and below")
    parser.add_argument("--all", action="store_true", help="show near-duplicates, too")
    parser.add_argument(
        "--near_duplicate",
        type=float,
        default=NEAR_DUPLICATE,
        metavar="COSINE",
        help="from which entries show the same (%(default)s)",
    )
    parser.add_argument("--explain", action="store_true", help="say of each hit what matched")
    parser.add_argument(
        "--only_likely", action="store_true", help="leave out what is only the least unlike"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    opened = "play the best hit, or the N-th, from its moment, by mpv or VLC"
    parser.add_argument("--open", type=positive_int, nargs="?", const=1, metavar="N", help=opened)
    parser.add_argument(
        "--words_weight", type=float, default=1.0, help="of what is read or said (%(default)s)"
    )
    like_meaning = "find words of like meaning, too, last (needs wordllama==0.4.0.post1)"
    parser.add_argument("--like_meaning", action="store_true", help=like_meaning)
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


def add_example_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is searched with beside the words, and what is not wanted."""
    several: dict[str, Any] = {"action": "append", "default": []}
    moment, picture = {"metavar": "PATH@SECONDS"}, {"metavar": "PICTURE", "type": Path}
    parser.add_argument("--like", **several, **moment, help="a moment of an indexed video")
    parser.add_argument("--image", **several, **picture, help="a picture")
    parser.add_argument("--minus", default="", metavar="WORDS", help="what is not wanted")
    parser.add_argument("--minus_like", **several, **moment, help="likewise, a moment")
    parser.add_argument("--minus_image", **several, **picture, help="likewise, a picture")


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
        options = {name: vars(arguments)[name] for name in OPTIONS}
        hits, roots = index.search(arguments.query, group=not arguments.all, **options), index.roots
    if arguments.only_likely:
        hits = [hit for hit in hits if hit.likely is not False]
    if arguments.json:
        sys.stdout.write(dump_hits(hits))
    else:
        sys.stdout.write(format_hits(hits, arguments.explain, roots.locate))
    if arguments.open is not None:
        open_hit(hits, arguments.open, roots)


def open_hit(hits: Sequence[Hit], number: int, roots: Roots) -> None:
    """Open the video of the ``number``-th hit, from 1, at its moment."""
    if number > len(hits):
        raise UserError(f"--open {number}: there are {len(hits)} hits")
    hit = hits[number - 1]
    player = open_player(roots.locate(hit.video), hit.moment_s)
    sys.stderr.write(f"{player} plays {escape(hit.video)} from {format_time(hit.moment_s)}\n")


if __name__ == "__main__":
    run_cli(main)
