"""Latency of a search, by the number of entries of the index.

    python -m benchmarks.search_scale                       # a table: 1,000 to 100,000 entries
    python -m benchmarks.search_scale --largest 1000000     # and a million (5 GB of disk)
    python -m benchmarks.search_scale --vectors frames --width 512 --largest 1000000
    python -m benchmarks.search_scale --json                # the same as JSON

Synthetic entries: embeddings of --width numbers in clusters, six words each of a vocabulary of
50,000 with Zipf's frequencies. With --vectors frames the sizes are numbers of frame vectors, eight
to an entry, beside which each entry has its window's. A query is an entry's embedding with noise,
and three of its words, one with a wrong letter. Times of single queries, one after the other: by
meaning, exactly and with FAISS (recall: share of the exact ten that are found), by words, and
fused. Queries a second: fused, of 16 threads that ask at once, each query embedded, together with
those that wait, by a query encoder of the size of DistilBERT with random weights. Everything is
read once before, so the index is in memory if there is room.

Disk: of the whole index without FAISS's file; that one is held in memory. Memory: most that one
exact search by meaning allocates, beside the files, which are mapped.
"""

import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from numpy.typing import NDArray

from base.batch import Tokens
from benchmarks import measuring
from benchmarks.inputs import ENTRY_FRAMES, WIDTH, make_index
from model.frozen_in_time import QueryEncoder
from model.int8_linear import is_int8_usable, quantize_linears
from retrieval import VideoIndex
from retrieval.index.query_embedder import MAX_BATCH
from retrieval.index.store import MIN_VECTORS
from retrieval.index.vectors import Vectors
from retrieval.index.writer import IndexWriter, lock_index
from retrieval.search.hybrid import EmbeddedQuery, SearchRequest, run_search
from utils.batching import Batcher
from utils.cli import positive_int, run_cli

SIZES = (1_000, 10_000, 100_000, 1_000_000)
TOP = 10
QUERY_TOKENS = 12
CLIENTS, REPEATS = 16, 4  # threads that ask at once, and how often each query is asked
MODES = {"meaning": "semantic", "words": "keyword", "fused": "hybrid"}  # name in results -> mode

Ask = Callable[[NDArray, str], list[int]]  # embedding and text of a query -> entries


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--vectors", choices=get_args(Vectors), default="windows")
    parser.add_argument("--width", type=positive_int, default=WIDTH, help="of the embeddings")
    parser.add_argument("--smallest", type=positive_int, default=1, help="least entries or frames")
    parser.add_argument("--largest", type=positive_int, default=100_000, help="most of them")
    parser.add_argument("--queries", type=positive_int, default=50, help="queries of each kind")
    parser.add_argument("--folder", type=Path, help="where the indexes are made (default: /tmp)")
    asked = parser.parse_args()
    sizes = [size for size in SIZES if asked.smallest <= size <= asked.largest] or [asked.largest]
    cases, encoder = [], build_query_encoder("distilbert-base-uncased")
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="search_scale_", dir=asked.folder) as name:
            of_index = Path(name) / "index", size, asked.vectors, asked.width
            cases.append(measure_case(*of_index, asked.queries, encoder))
    measuring.write_result(measuring.describe_machine() | {"cases": cases}, asked.json, make_table)


def build_query_encoder(text_model: str) -> QueryEncoder:
    """Return a query encoder with random weights, which computes as those of indexes do."""
    encoder = QueryEncoder(text_model, "minimal", WIDTH).eval()
    if is_int8_usable():
        quantize_linears(encoder, lambda: encoder(make_tokens(encoder)))
    return encoder


def make_tokens(encoder: QueryEncoder) -> Tokens:
    """Return the tokens of one query; what they are makes no difference to the time."""
    most = encoder.text_model.config.vocab_size
    ids = torch.randint(most, (1, QUERY_TOKENS), generator=torch.Generator().manual_seed(0))
    return Tokens(ids, torch.ones_like(ids))


def measure_case(
    folder: Path,
    size: int,
    vectors: Vectors,
    width: int,
    num_queries: int,
    encoder: QueryEncoder,
    least_ann: int = MIN_VECTORS,
) -> measuring.Result:
    """Make an index of that size and search it; times are milliseconds, sizes MB."""
    entries = size if vectors == "windows" else max(1, size // ENTRY_FRAMES)
    embeddings, texts = make_index(folder, entries, vectors, width).make_queries(num_queries)
    case: measuring.Result = {"entries": entries, "vectors": vectors, "disk": measure_disk(folder)}
    if vectors == "frames":
        case["frames"] = entries * ENTRY_FRAMES
    with VideoIndex.open(folder) as index:
        found = {}
        for name in MODES:
            ask = partial(ask_index, index, name, True)
            found[name], case[name] = time_queries(ask, embeddings, texts)
        ask = partial(ask_index, index, "meaning", True, embeddings[0], texts[0])
        case["memory"] = measure_memory(ask)
        ask = partial(ask_index, index, "fused", False)
        case["per_second"] = measure_throughput(ask, embeddings, texts, encoder)
    if size < least_ann:
        return case
    with lock_index(folder), IndexWriter(folder) as writer:
        writer.build_ann(least_ann)
    case["ann_memory"] = measure_disk(folder, "*.faiss")
    with VideoIndex.open(folder) as index:
        ask = partial(ask_index, index, "meaning", False)
        near, case["ann"] = time_queries(ask, embeddings, texts)
        case["recall"] = compute_recall(found["meaning"], near)
        ask = partial(ask_index, index, "fused", False)
        _, case["fused_ann"] = time_queries(ask, embeddings, texts)
        case["per_second_ann"] = measure_throughput(ask, embeddings, texts, encoder)
    return case


def ask_index(
    index: VideoIndex, name: str, exact: bool, embedding: NDArray, text: str
) -> list[int]:
    """Search with a query that is embedded already; returns the entries."""
    request = SearchRequest(text, TOP, MODES[name], None, False, exact, 1.0)
    with index.reading() as (reader, snapshot):
        query = None if name == "words" else embedding
        return [hit.id for hit in run_search(reader, snapshot, request, EmbeddedQuery(query))]


def time_queries(
    ask: Ask, embeddings: NDArray, texts: Sequence[str]
) -> tuple[list[list[int]], list[float]]:
    """Time every query, after one that is not; returns what was found, and milliseconds."""
    ask(embeddings[-1], texts[-1])
    found, times = [], []
    for embedding, text in zip(embeddings, texts, strict=True):
        start = time.perf_counter()
        found.append(ask(embedding, text))
        times.append(1000 * (time.perf_counter() - start))
    return found, times


def measure_disk(folder: Path, pattern: str = "*") -> float:
    """Return the megabytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file()) / 1e6


def measure_memory(ask: Callable[[], list[int]]) -> float:
    """Return the most megabytes that a search has allocated at a time."""
    tracemalloc.start()
    try:
        ask()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def compute_recall(exact: Sequence[list[int]], found: Sequence[list[int]]) -> float:
    """Return the share of the exact hits that were found."""
    shares = [len({*a} & {*b}) / len(a) for a, b in zip(exact, found, strict=True)]
    return statistics.mean(shares)


def measure_throughput(
    ask: Ask, embeddings: NDArray, texts: Sequence[str], encoder: QueryEncoder
) -> float:
    """Return the queries a second of ``CLIENTS`` threads, each query embedded first."""
    tokens = make_tokens(encoder)

    def embed(queries: Sequence[str]) -> Sequence[str]:
        with torch.inference_mode():
            encoder(Tokens(*(ids.expand(len(queries), -1) for ids in vars(tokens).values())))
        return queries

    batcher = Batcher(embed, MAX_BATCH)

    def answer(query: tuple[NDArray, str]) -> None:
        batcher.ask(query[1])
        ask(*query)

    queries = list(zip(embeddings, texts, strict=True))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(answer, queries[:CLIENTS]))
            start = time.perf_counter()
            list(pool.map(answer, queries * REPEATS))
            return len(queries) * REPEATS / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def make_table(result: measuring.Result) -> str:
    """Return the results as a Markdown table: medians, with the range over the queries."""
    columns = ["entries", "frames", "meaning, exact, ms", "FAISS, ms", "recall@10", "words, ms"]
    columns += ["fused, ms", "fused, FAISS, ms", "queries/s", "with FAISS", "disk, MB"]
    columns += ["memory, MB", "FAISS, MB"]
    keys = ("frames", "meaning", "ann", "recall", "words", "fused", "fused_ann", "per_second")
    keys += ("per_second_ann", "disk", "memory", "ann_memory")
    formats = dict.fromkeys(("per_second", "per_second_ann", "disk", "ann_memory"), "{:,.0f}")
    formats |= {"frames": "{:,}", "recall": "{:.3f}", "memory": "{:,.1f}"}
    rows = []
    for case in result["cases"]:
        cells = [f"{case['entries']:,}"]
        for key in keys:
            if key not in case:
                cells.append("")
            elif key in formats:
                cells.append(formats[key].format(case[key]))
            else:
                cells.append(measuring.format_spread(case[key], 1))
        rows.append(cells)
    return f"{measuring.format_head(result)}\n\n{measuring.format_table(columns, rows, 0)}"


if __name__ == "__main__":
    run_cli(main)
