"""Limits of an index folder: memory, time and disk with up to ten million entries.

    python -m benchmarks.simulate_index                            # 100,000 entries
    python -m benchmarks.simulate_index --entries 1e6 --ann        # and FAISS
    python -m benchmarks.simulate_index --entries 1e7 --width 128 --no-checksums
    python -m benchmarks.simulate_index --entries 1e5 1e6 --json

The entries are made up as those of ``benchmarks.search_scale``, but the number of distinct words
grows with that of all words, as in a real library (``benchmarks.scale_estimate``).
``benchmarks.inputs.make_index`` writes the rows of arrays
and tables in bulk and in their order, and SQLite's own indexes after them; the writer adds the
checksums. There are no thumbnails.

Each step is a process of its own, which opens the index anew. Its first query also reads what later
ones keep, such as the vocabulary; of the others the median and the 95th percentile are told. Times
are those of the processor, system included, which other jobs on the machine change little; "by the
clock" is what passed. Memory is what a process has taken for itself, beside the mapped files: the
most, and what is left after the last query. With --no-checksums the index is as one of an early
release, which counts as right: its opening checks nothing, and no video is added.
"""

import argparse
import json
import re
import statistics
import string
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import measuring
from benchmarks.index_checks import measure_commits
from benchmarks.inputs import ENTRY_WORDS, WIDTH, make_index
from benchmarks.scale_estimate import count_distinct_words
from benchmarks.search_scale import ask_index, compute_recall, measure_disk, time_queries
from retrieval import VideoIndex
from retrieval.index import database
from retrieval.index.writer import IndexWriter, lock_index
from utils.cli import large_int, positive_int, run_cli
from utils.errors import UserError

SAMPLE_S = 0.01  # between two looks at the memory
PART = 4  # letters of a part of a word that is looked for
_MIN_LETTERS = 7  # of a word that is mistyped, or looked for in part
TABLES = ("postings", "tracks", "words", "entries", "videos")


class Queries(NamedTuple):
    """What is searched for."""

    embeddings: NDArray  # (Q, E)
    texts: dict[str, list[str]]  # kind -> Q texts

    @property
    def with_words(self) -> tuple[NDArray, list[str]]:
        """The embeddings, and three words of the same entries."""
        return self.embeddings, self.texts["three words"]


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--entries", type=large_int, nargs="+", default=[100_000], help="of each")
    parser.add_argument("--width", type=positive_int, default=WIDTH, help="of the embeddings")
    parser.add_argument("--queries", type=positive_int, default=20, help="queries of each kind")
    parser.add_argument("--ann", action="store_true", help="make a FAISS index, too")
    parser.add_argument("--checksums", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--folder", type=Path, help="where the indexes are made (default: /tmp)")
    asked = parser.parse_args()
    cases = []
    for size in asked.entries:
        with tempfile.TemporaryDirectory(prefix="simulate_index_", dir=asked.folder) as name:
            options = asked.width, asked.queries, asked.ann, asked.checksums
            cases.append(measure_case(Path(name) / "index", size, *options))
    measuring.write_result(measuring.describe_machine() | {"cases": cases}, asked.json, make_table)


def measure_case(
    folder: Path, size: int, width: int, num_queries: int, with_ann: bool, with_checksums: bool
) -> measuring.Result:
    """Make an index of that size and search it: milliseconds, MB of disk, MiB of memory.

    What is found is told on the standard error after each step, for the last one may need more than
    the machine has.
    """
    vocabulary = round(count_distinct_words(ENTRY_WORDS * size))
    case: measuring.Result = {"entries": size, "width": width, "words": vocabulary}

    def measure(name: str, step: Callable[..., measuring.Result], *arguments: object) -> None:
        found = run_in_fork(step, folder, *arguments)
        case.update({f"{name}, {key}": value for key, value in found.items()})
        sys.stderr.write(f"{size:,} entries: {name}: {json.dumps(found)}\n")

    contents = size, width, vocabulary, num_queries
    queries = run_in_fork(_make, folder, *contents)
    case |= queries.pop("case")
    sys.stderr.write(f"{size:,} entries: made: {json.dumps(case)}\n")
    asked = Queries(**queries)
    if with_checksums:
        measure("checksums", add_checksums)
    measure("disk", list_parts)
    measure("opening", measure_opening)
    measure("words", measure_words, asked)
    measure("videos", measure_videos, asked)
    measure("semantic", measure_searches, asked, "meaning")
    measure("hybrid", measure_searches, asked, "fused")
    if with_checksums:
        measure("new video", measure_new_video)
    if with_ann:
        measure("FAISS, made", make_ann, asked)
        measure("FAISS", measure_searches, asked, "meaning", False)
        measure("FAISS, hybrid", measure_searches, asked, "fused", False)
    return case


def run_in_fork(step: Callable[..., measuring.Result], *arguments: object) -> measuring.Result:
    """Run a step in a process that has read nothing of an index, and imports nothing anew."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(step, *arguments).result()


def _make(
    folder: Path, size: int, width: int, vocabulary: int, num_queries: int
) -> measuring.Result:
    """Make the index without its checksums; returns queries, too."""
    with sample_memory() as memory:
        clock = Clock()
        made = make_index(folder, size, "windows", width, vocabulary, with_checksums=False)
        told = clock.read()
    embeddings, three = made.make_queries(num_queries)
    texts = make_texts(made.vocabulary, num_queries) | {"three words": three}
    told = {f"made, {key}": value for key, value in (told | {"peak": memory.peak}).items()}
    return {"case": told, "embeddings": embeddings, "texts": texts}


def make_texts(vocabulary: Sequence[str], count: int) -> dict[str, list[str]]:
    """Return queries of one word, by their kinds, given words by their frequency."""
    rng = np.random.default_rng(5)
    half = len(vocabulary) // 2
    long = [word for word in vocabulary[:half] if len(word) >= _MIN_LETTERS]
    parted, mistyped = (
        [long[number] for number in rng.integers(len(long), size=count)] for _ in range(2)
    )
    others = rng.choice(list(string.ascii_lowercase), count)
    return {
        "rare": [vocabulary[n] for n in rng.integers(half, len(vocabulary), count)],
        "part": [word[1 : 1 + PART] for word in parted],
        "mistyped": [f"{w[:3]}{c}{w[4:]}" for w, c in zip(mistyped, others, strict=True)],
        "common": list(vocabulary[:count]),
    }


# Memory


class Memory:
    """The MiB that a process has taken for itself, beside what it had before."""

    def __init__(self) -> None:
        self._before = _read_memory()
        self.peak = 0.0

    def read(self) -> float:
        """Return how many it has now."""
        now = _read_memory() - self._before
        self.peak = max(self.peak, now)
        return now


def _read_memory() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        raise UserError(f"{status}: not there; memory is measured on Linux only")
    return int(re.search(r"RssAnon:\s+(\d+) kB", status.read_text())[1]) / 1024  # type: ignore[index]


@contextmanager
def sample_memory() -> Iterator[Memory]:
    """Look at this process' memory all the time, in a ``with`` block."""
    memory, is_over = Memory(), threading.Event()

    def sample() -> None:
        while not is_over.wait(SAMPLE_S):
            memory.read()

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        memory.read()
        is_over.set()
        thread.join()


# Steps


def add_checksums(folder: Path) -> measuring.Result:
    """Let the writer add the checksums: it reads everything, as an update does to check it."""
    with sample_memory() as memory:
        clock = Clock()
        with IndexWriter(folder):
            return clock.read() | {"peak": memory.peak}


def list_parts(folder: Path) -> measuring.Result:
    """Return the MB of the files, and of each table with SQLite's own indexes of it."""
    found = {"vectors": measure_disk(folder, "embeddings*.npy")}
    found |= {"index.db": measure_disk(folder, "index.db"), "all": measure_disk(folder)}
    sizes = "SELECT SUM(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE "
    sizes += "tbl_name = ? OR (?1 = 'words' AND tbl_name LIKE 'words_fts%'))"
    with closing(database.connect(folder)) as connection:
        for table in TABLES:
            found[table] = connection.execute(sizes, (table,)).fetchone()[0] / 1e6
    return found


def measure_opening(folder: Path) -> measuring.Result:
    """Open the index several times; what an opening counts is read from the files at first."""

    def open_index() -> None:
        with VideoIndex.open(folder):
            pass

    with sample_memory() as memory:
        found = describe_first(time_call(open_index))
        found |= describe_times("next", [time_call(open_index) for _ in range(5)])
        return found | {"peak": memory.peak}


def measure_words(folder: Path, queries: Queries) -> measuring.Result:
    """Search for words of each kind, after one that is nowhere."""
    with sample_memory() as memory, VideoIndex.open(folder) as index:
        ask = partial(ask_index, index, "words", True, queries.embeddings[0])
        found = describe_first(time_call(ask, "nowhere"))
        for kind, texts in queries.texts.items():
            found |= describe_times(kind, [time_call(ask, text) for text in texts])
        return found | {"end": memory.read(), "peak": memory.peak}


def measure_videos(folder: Path, queries: Queries) -> measuring.Result:
    """Search for videos, and not for entries, by words."""
    with sample_memory() as memory, VideoIndex.open(folder) as index:
        ask = partial(index.search_videos, mode="keyword")
        first, *times = [time_call(ask, text) for text in queries.texts["rare"]]
        found = describe_first(first) | describe_times("rare", times)
        return found | {"end": memory.read(), "peak": memory.peak}


def measure_searches(
    folder: Path, queries: Queries, name: str, exact: bool = True
) -> measuring.Result:
    """Search by ``meaning``, or ``fused`` with three words."""
    with sample_memory() as memory, VideoIndex.open(folder) as index:
        ask = partial(ask_index, index, name, exact)
        pairs = zip(*queries.with_words, strict=True)
        first, *times = [time_call(ask, *pair) for pair in pairs]
        found = describe_first(first) | describe_times("all", times)
        return found | {"end": memory.read(), "peak": memory.peak}


def measure_new_video(folder: Path) -> measuring.Result:
    """Add some videos of ten entries, one commit each; the time is that of all of them."""
    with sample_memory() as memory:
        clock = Clock()
        commit = measure_commits(folder)
        return clock.read() | {"commit, by the clock": commit, "peak": memory.peak}


def make_ann(folder: Path, queries: Queries) -> measuring.Result:
    """Make a FAISS index; returns the share of the exact ten that it finds."""
    with sample_memory() as memory:
        clock = Clock()
        with lock_index(folder), IndexWriter(folder) as writer:
            writer.build_ann()
        told = clock.read() | {"peak": memory.peak}
    with VideoIndex.open(folder) as index:
        exact, near = (
            time_queries(partial(ask_index, index, "meaning", is_exact), *queries.with_words)[0]
            for is_exact in (True, False)
        )
    told["disk"] = measure_disk(folder, "*.faiss")
    return told | {"recall": compute_recall(exact, near)}


class Clock:
    """Measures how long something takes, from when it is made on."""

    def __init__(self) -> None:
        self._start = time.process_time(), time.perf_counter()

    def read(self) -> measuring.Result:
        """Return the seconds of the processor, and by the clock."""
        worked, now = time.process_time(), time.perf_counter()
        return {"s": worked - self._start[0], "s by the clock": now - self._start[1]}


def time_call(ask: Callable[..., object], *query: object) -> tuple[float, float]:
    """Return the milliseconds of one query: of the processor, and by the clock."""
    clock = Clock()
    ask(*query)
    worked, passed = clock.read().values()
    return 1e3 * worked, 1e3 * passed


def describe_first(first: tuple[float, float]) -> measuring.Result:
    """Name the times of a first query."""
    return {"first, ms": first[0], "first, by the clock": first[1]}


def describe_times(kind: str, times: Sequence[tuple[float, float]]) -> measuring.Result:
    """Return median and 95th percentile, and the median by the clock."""
    worked, passed = zip(*times, strict=True)
    return {
        f"{kind}, ms": statistics.median(worked),
        f"{kind}, p95": float(np.percentile(worked, 95)),
        f"{kind}, by the clock": statistics.median(passed),
    }


def make_table(result: measuring.Result) -> str:
    """Return the results as a Markdown table, a column for each index."""
    names = list(dict.fromkeys(name for case in result["cases"] for name in case))
    rows = [
        [name, *(_format(case[name]) if name in case else "" for case in result["cases"])]
        for name in names[1:]
    ]
    columns = ["entries", *(f"{case['entries']:,}" for case in result["cases"])]
    return f"{measuring.format_head(result)}\n\n{measuring.format_table(columns, rows)}"


def _format(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


if __name__ == "__main__":
    run_cli(main)
