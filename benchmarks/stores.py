"""Stores of an index side by side: a folder, and LanceDB on the local disk.

    python -m benchmarks.stores                                    # 100,000 entries
    python -m benchmarks.stores --entries 1e6 --thumbnail 0 --bulk
    python -m benchmarks.stores --entries 2000 --s3         # LanceDB in an S3 server (moto), too

The entries are made up as those of ``benchmarks.search_scale`` (embeddings in clusters, words with
Zipf's frequencies, of which there are as many as in a real library), and both stores are written to
by their own writers, some videos a commit, as an update writes them. With ``--bulk`` the folder is
written past its writer, which syncs a file for each thumbnail. Each step is a process of its own,
which opens the index anew; its first query also reads what later ones keep. Times are by the clock.
Memory is what a process has taken for itself, beside mapped files: the most.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import measuring
from benchmarks.inputs import (
    ENTRIES_PER_VIDEO,
    ENTRY_WORDS,
    IndexContents,
    draw_words,
    make_index,
    make_rows,
    make_vocabulary,
)
from benchmarks.scale_estimate import count_distinct_words
from benchmarks.search_scale import ask_index, compute_recall, measure_disk, time_queries
from benchmarks.shards import BUCKET, serve_bucket
from benchmarks.simulate_index import make_texts, sample_memory
from retrieval import VideoIndex
from retrieval.index.arrays import EMBEDDINGS
from retrieval.index.folder_store import FolderStore
from retrieval.index.location import open_store
from retrieval.index.records import ContentStamp, NewEntry, NewTrack, NewVideo
from retrieval.index.store import MIN_VECTORS
from retrieval.lance.store import LanceStore
from utils.cli import large_int, positive_int, run_cli

WIDTH = 512
COMMIT = 10  # videos
KEPT_S = 2.0  # LanceDB keeps versions from before a commit so long in any case
_COLUMNS = {
    "build, s": "{:.1f}", "disk, MB": "{:.0f}", "files": "{:.0f}", "open, ms": "{:.0f}",
    "exact, ms": "{:.1f}", "exact, p95": "{:.1f}", "words, ms": "{:.1f}", "words, p95": "{:.1f}",
    "part, ms": "{:.1f}", "part, p95": "{:.1f}", "hybrid, ms": "{:.1f}", "hybrid, p95": "{:.1f}",
    "memory, MiB": "{:.0f}", "build ANN, s": "{:.1f}", "ANN, ms": "{:.1f}", "ANN, p95": "{:.1f}",
    "recall@10": "{:.3f}", "memory with ANN, MiB": "{:.0f}",
}  # fmt: skip


class Contents(IndexContents):
    """Entries that are made when they are needed, the same ones each time."""

    def __init__(self, size: int, width: int) -> None:
        vocabulary = round(count_distinct_words(ENTRY_WORDS * size))
        rows = np.empty((size, width), dtype=np.float32)
        for first, part in make_rows(size, width):
            rows[first : first + len(part)] = part
        super().__init__(rows, draw_words(size, vocabulary), make_vocabulary(vocabulary))

    def make_videos(self, thumbnail: int) -> Iterator[NewVideo]:
        """Yield the videos, whose pictures have so many bytes."""
        rng, half = np.random.default_rng(6), ENTRY_WORDS // 2
        nowhere = np.zeros((1, 5), dtype=np.float32)
        for number, first in enumerate(range(0, len(self.rows), ENTRIES_PER_VIDEO)):
            entries, tracks = [], []
            for place, row in enumerate(
                range(first, min(first + ENTRIES_PER_VIDEO, len(self.rows)))
            ):
                start_s = 5.0 * place
                arrays = {EMBEDDINGS: self.rows[row]}
                entries.append(NewEntry(start_s, start_s + 10, rng.bytes(thumbnail), arrays))
                words = [self.vocabulary[word] for word in self.words[row]]
                for text in (words[:half], words[half:]):
                    line = " ".join(text), 0.9, start_s, start_s + 1
                    tracks.append(NewTrack(*line, nowhere, (place,)))
            name = f"{number % 100}/{number}.mp4"
            yield NewVideo(name, ContentStamp(1, 0, ""), None, 600.0, 640, 360, entries, tracks)


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--entries", type=large_int, nargs="+", default=[100_000], help="of each")
    parser.add_argument("--width", type=positive_int, default=WIDTH, help="of the embeddings")
    parser.add_argument("--queries", type=positive_int, default=20, help="of each kind")
    parser.add_argument("--commit", type=positive_int, default=COMMIT, help="videos a commit")
    parser.add_argument("--thumbnail", type=int, default=4000, help="bytes of a picture")
    parser.add_argument("--bulk", action="store_true", help="make the folder in bulk, untimed")
    parser.add_argument("--s3", action="store_true", help="LanceDB in moto's S3 server, too")
    parser.add_argument("--folder", type=Path, help="where the indexes are made (default: /tmp)")
    asked = parser.parse_args()
    cases = []
    for size in asked.entries:
        with ExitStack() as stack:
            name = tempfile.TemporaryDirectory(prefix="stores_", dir=asked.folder)
            folder = Path(stack.enter_context(name))
            stores = {"folder": str(folder / "my.index"), "LanceDB": str(folder / "my.lance")}
            if asked.s3:
                stack.enter_context(serve_bucket())
                stores["LanceDB, S3"] = f"s3://{BUCKET}/my.lance"
            for kind, location in stores.items():
                case = {"store": kind, "entries": size}
                measure_case(case, location, asked)
                cases.append(case)
    measuring.write_result(measuring.describe_machine() | {"cases": cases}, asked.json, make_table)


def measure_case(case: measuring.Result, location: str, asked: argparse.Namespace) -> None:
    """Make an index and search it; what is found is told on the standard error, too."""
    contents = case["entries"], asked.width
    build = partial(build_index, location, *contents, asked.commit, asked.thumbnail)
    if asked.bulk and isinstance(open_store(location), FolderStore):
        build = partial(make_folder, location, *contents)
    steps: list[Callable[[], measuring.Result]] = [
        build,
        partial(measure_searches, location, *contents, asked.queries),
    ]
    if case["entries"] >= MIN_VECTORS:
        steps.append(partial(build_ann, location))
        steps.append(partial(measure_ann, location, *contents, asked.queries))
    for step in steps:
        # LanceDB has threads, which a forked process would lack.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(step).result()
        case |= found
        sys.stderr.write(f"{case['store']}, {case['entries']:,} entries: {found}\n")


def build_index(
    location: str, size: int, width: int, commit: int, thumbnail: int
) -> measuring.Result:
    """Make an index by its writer, some videos a commit."""
    contents, store = Contents(size, width), open_store(location)
    model = dict.fromkeys(("name", "path", "sha256", "settings"), "")
    meta = {"folder": b"/".hex(), "model": model, "query_encoder": "", "windows": [10, 5]}
    taken = 0.0
    with store.locking():
        store.create(width, (), meta)
        with store.open_writer() as writer:
            videos = contents.make_videos(thumbnail)
            while some := list(islice(videos, commit)):
                start = time.perf_counter()
                writer.write(some)
                taken += time.perf_counter() - start
            start = time.perf_counter()
            writer.compact()
            writer.remove_leftovers()
            taken += time.perf_counter() - start
    if isinstance(store, LanceStore):  # without the versions that are kept for readers
        for _ in range(2):
            time.sleep(KEPT_S)
            store.optimize(kept_s=0)
    return {"build, s": taken} | _measure_files(Path(location))


def make_folder(location: str, size: int, width: int) -> measuring.Result:
    """Make an index folder in bulk, without thumbnails; how long that takes says nothing."""
    vocabulary = round(count_distinct_words(ENTRY_WORDS * size))
    make_index(Path(location), size, width=width, vocabulary=vocabulary)
    return _measure_files(Path(location))


def _measure_files(folder: Path) -> measuring.Result:
    """Return what an index takes on the disk; nothing where it is elsewhere."""
    if not folder.is_dir():
        return {}
    files = sum(path.is_file() for path in folder.rglob("*"))
    return {"disk, MB": measure_disk(folder), "files": files}


def measure_searches(location: str, size: int, width: int, count: int) -> measuring.Result:
    """Search exactly, by words, by parts of words, and by both."""
    made = Contents(size, width)
    embeddings, three = made.make_queries(count)
    parts = make_texts(made.vocabulary, count)["part"]
    del made
    with sample_memory() as memory:
        start = time.perf_counter()
        with VideoIndex.open(location) as index:
            with index.reading():
                told = {"open, ms": 1000 * (time.perf_counter() - start)}
            kinds = {"exact": ("meaning", three), "words": ("words", three)}
            kinds |= {"part": ("words", parts), "hybrid": ("fused", three)}
            for kind, (mode, texts) in kinds.items():
                _, times = time_queries(partial(ask_index, index, mode, True), embeddings, texts)
                told |= _describe(kind, times)
    return told | {"memory, MiB": memory.peak}


def build_ann(location: str) -> measuring.Result:
    """Make an index of nearest neighbours."""
    store = open_store(location)
    start = time.perf_counter()
    with store.locking(), store.open_writer() as writer:
        writer.build_ann()
    return {"build ANN, s": time.perf_counter() - start}


def measure_ann(location: str, size: int, width: int, count: int) -> measuring.Result:
    """Search by the index of nearest neighbours; returns the share of the exact ten, too."""
    embeddings, three = Contents(size, width).make_queries(count)
    with sample_memory() as memory, VideoIndex.open(location) as index:
        near, times = time_queries(partial(ask_index, index, "meaning", False), embeddings, three)
    with VideoIndex.open(location) as index:
        exact, _ = time_queries(partial(ask_index, index, "meaning", True), embeddings, three)
    told = {"recall@10": compute_recall(exact, near), "memory with ANN, MiB": memory.peak}
    return _describe("ANN", times) | told


def _describe(kind: str, times: list[float]) -> measuring.Result:
    return {
        f"{kind}, ms": statistics.median(times),
        f"{kind}, p95": float(np.percentile(times, 95)),
    }


def make_table(result: measuring.Result) -> str:
    """Return the results as a Markdown table, a store a column."""
    cases = result["cases"]
    head = ["", *(f"{case['store']}, {case['entries']:,}" for case in cases)]
    rows = [
        [key, *(form.format(case[key]) if key in case else "" for case in cases)]
        for key, form in _COLUMNS.items()
    ]
    return f"{measuring.format_head(result)}\n\n{measuring.format_table(head, rows)}"


if __name__ == "__main__":
    run_cli(main)
