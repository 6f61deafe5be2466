"""Time that the checksums of an index take: when it is opened, searched, checked and written to.

    python -m benchmarks.index_checks                     # 100,000 entries
    python -m benchmarks.index_checks --entries 1000000
    python -m benchmarks.index_checks --json

Synthetic entries as of ``benchmarks.search_scale``. Opening: ``VideoIndex.open``, the median of
nine, files in memory; of it what the checks take. Vectors: before the first search by meaning.
Update: what is checked before one builds on the index. Verify: ``index.py --verify``. Video: one
commit of a video of ten entries. Milliseconds.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np

from benchmarks import measuring
from benchmarks.inputs import make_index
from retrieval import VideoIndex
from retrieval.index.arrays import EMBEDDINGS
from retrieval.index.integrity import VectorCheck, check_completely, verify_index
from retrieval.index.records import ContentStamp, NewEntry, NewTrack, NewVideo
from retrieval.index.writer import IndexWriter, lock_index
from utils.cli import positive_int, run_cli

REPEATS = 9
ENTRIES_PER_VIDEO = 10


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--entries", type=positive_int, default=100_000, help="of the index")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="index_checks_") as name:
        case = measure_case(Path(name) / "index", asked.entries)
    measuring.write_result(measuring.describe_machine() | case, asked.json, make_table)


def measure_case(folder: Path, entries: int) -> measuring.Result:
    """Make an index of that size and check it in every way."""
    make_index(folder, entries)
    case: measuring.Result = {"entries": entries}

    def open_index() -> None:
        with VideoIndex.open(folder):
            pass

    case["open"] = measure_time(open_index)
    with mock.patch("retrieval.index.folder_store.check_opening"):
        case["open_unchecked"] = measure_time(open_index)
    with VideoIndex.open(folder) as index, index.reading() as (_, snapshot):
        case["vectors"] = measure_time(lambda: VectorCheck(folder).check(snapshot.meta))
    no_thumbnails = mock.patch(
        "retrieval.index.integrity.find_missing_thumbnails", return_value=iter(())
    )
    with no_thumbnails:
        case["update"] = measure_time(lambda: check_completely(folder), 3)
    case["verify"] = measure_time(lambda: verify_index(folder), 1)
    case["video"] = measure_commits(folder)
    return case


def measure_time(job: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median time of some runs, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def measure_commits(folder: Path) -> float:
    """Return the time of a commit of one video, in milliseconds."""
    places = tuple(range(ENTRIES_PER_VIDEO))
    line = NewTrack("six words that are read here", 1.0, 0, 1, np.zeros((1, 5)), places)
    numbers = iter(range(REPEATS))
    with lock_index(folder), IndexWriter(folder) as writer:
        rows = np.eye(ENTRIES_PER_VIDEO, writer.meta["width"], dtype=np.float32)

        def write() -> None:
            entries = [
                NewEntry(5.0 * i, 5.0 * i + 10, b"jpeg", {EMBEDDINGS: rows[i]}) for i in places
            ]
            name, stamp = f"new/{next(numbers)}.mp4", ContentStamp(1, 2, "3")
            writer.write([NewVideo(name, stamp, None, 60.0, 64, 48, entries, [line])])

        return measure_time(write)


def make_table(result: measuring.Result) -> str:
    """Return the result as a table."""
    names = "open", "open_unchecked", "vectors", "update", "verify", "video"
    head = f"{result['entries']:,} entries, ms"
    return "\n".join([head, *(f"{name:15} {result[name]:10.1f}" for name in names)]) + "\n"


if __name__ == "__main__":
    run_cli(main)
