"""Latency of a search, by the number of entries of the index.

    python -m benchmarks.search_scale                       # a table: 1,000 to 100,000 entries
    python -m benchmarks.search_scale --largest 1000000     # and a million (5 GB of disk)
    python -m benchmarks.search_scale --json                # the same as JSON

Made-up entries: embeddings of 256 numbers in clusters, six words each of a vocabulary of 50,000
with Zipf's frequencies. A query is an entry's embedding with noise, and three of its words, one
with a wrong letter. Times of single queries, one after the other: by meaning, exactly and with
FAISS (recall: share of the exact ten that are found), by words, and fused. Queries a second: fused,
on two threads, each query embedded by a query encoder of the size of DistilBERT with random
weights. Everything is read once before, so the index is in memory if there is room.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from model.query_encoder import QueryEncoder
from numpy.typing import NDArray

from base.batch import Tokens
from benchmarks.chunks import machine, spread
from benchmarks.made_index import WIDTH, make_index
from model.params import TextParams
from retrieval import VideoIndex
from retrieval.index.ann import LEAST_ROWS, build_ann
from retrieval.index.writer import IndexWriter, lock_index
from retrieval.search.hybrid import SearchRequest, run_search
from utils.cli import positive_int, run_cli

SIZES = (1_000, 10_000, 100_000, 1_000_000)
TOP = 10
QUERY_TOKENS = 12


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=positive_int, default=100_000, help="most entries")
    parser.add_argument("--queries", type=positive_int, default=50, help="queries of each kind")
    parser.add_argument("--folder", type=Path, help="where the indexes are made (default: /tmp)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    arguments = parser.parse_args()
    sizes = [size for size in SIZES if size <= arguments.largest] or [arguments.largest]
    cases = []
    encoder = query_encoder("distilbert-base-uncased")
    for size in sizes:
        folder = Path(tempfile.mkdtemp(prefix="search_scale_", dir=arguments.folder))
        try:
            cases.append(measured(folder / "index", size, arguments.queries, encoder))
        finally:
            shutil.rmtree(folder)
    result = machine() | {"cases": cases}
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if arguments.json else table(result))


def query_encoder(text_model: str) -> QueryEncoder:
    """Return a query encoder with random weights; its size is what counts here."""
    return QueryEncoder(TextParams(model=text_model, pretrained=False), "minimal", WIDTH).eval()


def measured(
    folder: Path,
    size: int,
    num_queries: int,
    encoder: QueryEncoder,
    least_ann: int = LEAST_ROWS,
) -> dict[str, Any]:
    """Make an index of that size and search it; times are milliseconds."""
    made = make_index(folder, size)
    embeddings, texts = made.queries(num_queries)
    case: dict[str, Any] = {"entries": size}
    with VideoIndex.open(folder) as index:
        run = partial(ask, index)
        exact = map_tasks(partial(run, "meaning", True), embeddings, texts, case, "meaning")
        map_tasks(partial(run, "words", True), embeddings, texts, case, "words")
        map_tasks(partial(run, "fused", True), embeddings, texts, case, "fused")
        case["per_second"] = throughput(partial(run, "fused", False), embeddings, texts, encoder)
    if size >= least_ann:
        with lock_index(folder), IndexWriter(folder) as writer:
            build_ann(writer, least_ann)
        with VideoIndex.open(folder) as index:
            run = partial(ask, index)
            found = map_tasks(partial(run, "meaning", False), embeddings, texts, case, "ann")
            case["recall"] = recall(exact, found)
            map_tasks(partial(run, "fused", False), embeddings, texts, case, "fused_ann")
            case["per_second_ann"] = throughput(
                partial(run, "fused", False), embeddings, texts, encoder
            )
    return case


def ask(index: VideoIndex, mode: str, exact: bool, embedding: NDArray, text: str) -> list[int]:
    """Search with a query that is embedded already; returns the entries."""
    request = SearchRequest(text, TOP, mode, None, False, exact, 1.0)
    with index.reading() as (connection, snapshot):
        query = None if mode == "words" else embedding
        return [hit.id for hit in run_search(connection, snapshot, request, query)]


def map_tasks(
    run: Callable[[NDArray, str], list[int]],
    embeddings: NDArray,
    texts: Sequence[str],
    case: dict[str, Any],
    name: str,
) -> list[list[int]]:
    """Time every query, after one that is not; returns what was found."""
    run(embeddings[-1], texts[-1])
    found, times = [], []
    for embedding, text in zip(embeddings, texts, strict=True):
        start = time.perf_counter()
        found.append(run(embedding, text))
        times.append(1000 * (time.perf_counter() - start))
    case[name] = times
    return found


def recall(exact: Sequence[list[int]], found: Sequence[list[int]]) -> float:
    """Return the share of the exact hits that were found."""
    shares = [len({*a} & {*b}) / len(a) for a, b in zip(exact, found, strict=True)]
    return statistics.mean(shares)


def throughput(
    run: Callable[[NDArray, str], list[int]],
    embeddings: NDArray,
    texts: Sequence[str],
    encoder: QueryEncoder,
) -> float:
    """Return the queries a second of two threads, each query embedded first."""
    most = encoder.text_model.config.vocab_size
    ids = torch.randint(most, (1, QUERY_TOKENS), generator=torch.Generator().manual_seed(0))
    tokens = Tokens(ids, torch.ones_like(ids))

    def job(query: tuple[NDArray, str]) -> None:
        with torch.inference_mode():
            encoder(tokens)
        run(*query)

    queries = list(zip(embeddings, texts, strict=True))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(job, queries[:4]))
            start = time.perf_counter()
            list(pool.map(job, queries))
            return len(queries) / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def table(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table: medians, with the range over the queries."""
    lines = [
        f"{result['date']}; {result['machine']}; {result['versions']}",
        "",
        "| entries | meaning, exact, ms | FAISS, ms | recall@10 | words, ms | fused, ms | "
        "fused, FAISS, ms | queries/s | with FAISS |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in result["cases"]:
        cells = [f"{case['entries']:,}", spread(case["meaning"], 1)]
        ann = "ann" in case
        cells += [spread(case["ann"], 1), f"{case['recall']:.3f}"] if ann else ["", ""]
        cells += [spread(case["words"], 1), spread(case["fused"], 1)]
        cells += [spread(case["fused_ann"], 1)] if ann else [""]
        cells += [f"{case['per_second']:.0f}"]
        cells += [f"{case['per_second_ann']:.0f}"] if ann else [""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_cli(main)
