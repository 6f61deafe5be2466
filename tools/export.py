"""Export an index as Parquet files that any engine reads.

    python -m tools.export my.index --to parquet DIR
    python -m tools.export my.index --to parquet DIR --vectors float16
    python -m tools.export --columns                       what the files hold, column by column

Entries with their time spans and vectors, videos, lines of text with times and boxes, words, and
which line is seen or said in which entry, each in its own file: see docs/export.md, which also
loads them into PostgreSQL, Qdrant, OpenSearch and DuckDB. All files are of one commit of the index,
which may be searched and updated meanwhile. DIR is there when the export is complete; an earlier
export in it is replaced, a folder of anything else is refused. Memory does not grow with the index.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from retrieval import VideoIndex
from retrieval.export.parquet import export_parquet
from retrieval.export.schema import Precision, describe_tables
from utils.cli import run_cli
from utils.errors import escape_unprintable

FORMATS = ("parquet",)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", nargs="?", metavar="INDEX", help="of index.py or find.py")
    parser.add_argument(
        "--to", nargs=2, metavar=("FORMAT", "DIR"), help="parquet, and the folder that is written"
    )
    parser.add_argument(
        "--vectors", choices=get_args(Precision), default="float32",
        help="precision of the vectors of windows (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--columns", action="store_true", help="print all columns as Markdown")
    parsed = parser.parse_args(arguments)
    if not parsed.columns and (parsed.index is None or parsed.to is None):
        parser.error("give INDEX and --to parquet DIR (or --columns)")
    if parsed.to is not None and parsed.to[0] not in FORMATS:
        parser.error(f"--to {parsed.to[0]}: is no format of an export; give: {', '.join(FORMATS)}")
    return parsed


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    if arguments.columns:
        sys.stdout.write(describe_tables())
        return
    folder = Path(arguments.to[1])
    with VideoIndex.open(arguments.index) as index:
        rows = export_parquet(index, folder, arguments.vectors)
    for name, count in rows.items():
        file = folder / f"{name}.parquet"
        size = file.stat().st_size
        line = f"{file}: {count:,} row{'s' * (count != 1)}, {size:,} bytes"
        sys.stdout.write(escape_unprintable(line) + "\n")


if __name__ == "__main__":
    run_cli(main)
