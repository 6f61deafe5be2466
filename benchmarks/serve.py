"""Latency of serve.py while many search at once.

    python -m benchmarks.serve             # a table: 20 clients for 30 s, 10,000 entries
    python -m benchmarks.serve --json      # the same as JSON, with the time of every request

serve.py runs as a process of its own on 127.0.0.1, on an index of made-up entries (see
benchmarks.search_scale), with query encoders of random weights: one of the size of the demo's, one
of DistilBERT's. Each client keeps one connection and sends its next query (both lists fused, about
15 tokens) as soon as it has read the answer to the last one, so that the server is never idle; the
clients run in this process and share the machine's cores with it. Times are from sending a request
to having read its answer.
"""

import argparse
import http.client
import itertools
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import torch
from data_loader.synthetic.files import write_json

from benchmarks.made_index import VOCABULARY, WIDTH, Made, make_index
from benchmarks.report import Result, head, machine, markdown, write
from data_loader.collate import Collate, load_tokenizer
from data_loader.synthetic.text_model import MODEL_CONFIG, write_text_model
from parse_config import load_config
from retrieval.index.layout import QUERY_ENCODER
from retrieval.index.query_embedder import save_query_encoder
from retrieval.index.writer import IndexWriter, lock_index
from trainer.build import build_model
from utils.cli import positive_int, run_cli
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
DISTILBERT = {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072}
ENCODERS: dict[str, dict[str, int]] = {"as in the demo": {}, "as DistilBERT": DISTILBERT}
MOST_TOKENS = 32  # of a query
MOST_CLIENTS, MOST_SECONDS, MOST_REQUESTS = 100, 300, 100_000
HITS = 24  # as the page asks for
NUM_QUERIES = 1000


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=positive_int, default=10_000, help="of the index")
    parser.add_argument("--clients", type=positive_int, default=20, help="at once")
    parser.add_argument("--seconds", type=positive_int, default=30, help="for each query encoder")
    parser.add_argument("--json", action="store_true", help="write JSON")
    arguments = parser.parse_args()
    if arguments.clients > MOST_CLIENTS or arguments.seconds > MOST_SECONDS:
        parser.error(f"at most {MOST_CLIENTS} clients for at most {MOST_SECONDS} seconds")
    with tempfile.TemporaryDirectory(prefix="serve_") as name:
        folder = Path(name) / "index"
        made, cases = make_index(folder, arguments.entries), []
        for encoder, size in ENCODERS.items():
            add_query_encoder(folder, made.vocabulary, size)
            case = measured(folder, search_paths(made), arguments.clients, arguments.seconds)
            cases.append({"encoder": encoder, "entries": arguments.entries} | case)
    write(machine() | {"cases": cases}, arguments.json, table)


def measured(folder: Path, paths: Sequence[str], clients: int, seconds: float) -> Result:
    """Serve an index and let clients ask; see ``ask_all``."""
    with server(folder) as address:
        ask_all(address, paths, clients=2, seconds=10, most=20)  # everything is read once
        return ask_all(address, paths, clients, seconds, MOST_REQUESTS) | {"clients": clients}


def add_query_encoder(folder: Path, words: Sequence[str], size: dict[str, int]) -> None:
    """Give an index a query encoder of random weights.

    Args:
        folder: the index.
        words: that the tokenizer knows.
        size: settings of a DistilBERT that differ from the demo's.
    """
    with tempfile.TemporaryDirectory(prefix="text_model_") as name:
        text_model = Path(name)
        write_text_model(text_model, words, max_words=VOCABULARY)
        number = len((text_model / "vocab.txt").read_text().splitlines())
        write_json(text_model / "config.json", MODEL_CONFIG | size | {"vocab_size": number})
        changes = (
            f"arch.args.text_params.model={text_model}",
            f"arch.args.projection_dim={WIDTH}",
        )
        config = load_config(ROOT / "configs/demo/vision.json", changes)
        model = build_model(config, torch.device("cpu"))
        collate = Collate(load_tokenizer(str(text_model)), False, MOST_TOKENS)
        checksum = save_query_encoder(folder / QUERY_ENCODER, model, config, collate)
    with lock_index(folder), IndexWriter(folder) as writer:
        writer.set_meta(query_encoder=checksum)


def search_paths(made: Made) -> list[str]:
    """Return what clients ask for: three words of an entry, one of them misspelt, both lists."""
    _, texts = made.queries(NUM_QUERIES)
    return [f"/api/search?{urlencode({'q': text, 'k': HITS})}" for text in texts]


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run serve.py on a free port of 127.0.0.1; yields its address.

    Raises:
        UserError: it did not start.
    """
    command = [sys.executable, "serve.py", str(folder), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline().split()
            if not said:
                raise UserError(f"{' '.join(command)}: did not start")
            yield said[-1]
        finally:
            process.send_signal(signal.SIGTERM)


def ask_all(address: str, paths: Sequence[str], clients: int, seconds: float, most: int) -> Result:
    """Let clients ask one thing after the other.

    Args:
        address: of the server.
        paths: what is asked for; each client has an order of its own.
        clients: at once.
        seconds: no request is begun after that.
        most: requests in all.

    Returns:
        milliseconds of every request that was answered well, what went wrong, and seconds.
    """
    host = urlsplit(address).netloc
    times: list[float] = []
    errors: list[str] = []
    numbers, start = itertools.count(), time.perf_counter()

    def client(seed: int) -> None:
        rng = random.Random(seed)
        connection = http.client.HTTPConnection(host, timeout=60)
        while time.perf_counter() - start < seconds and next(numbers) < most:
            begin = time.perf_counter()
            try:
                connection.request("GET", rng.choice(paths))
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                errors.append(f"{type(error).__name__}: {error}")
                connection.close()  # the next request opens it anew
                continue
            if answer.status == http.client.OK:
                times.append(1000 * (time.perf_counter() - begin))
            else:
                errors.append(f"{answer.status} {answer.reason}")
        connection.close()

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"times": times, "errors": errors, "seconds": time.perf_counter() - start}


def percentile(values: Sequence[float], share: int) -> float:
    """Return what ``share`` per cent of the values are at most (nearest rank)."""
    return sorted(values)[max(0, -(-share * len(values) // 100) - 1)]


def table(result: Result) -> str:
    """Return the results as a Markdown table."""
    columns = (
        "query encoder",
        "entries",
        "clients",
        "requests",
        "a second",
        "median, ms",
        "p95, ms",
        "most, ms",
    )
    rows = []
    for case in result["cases"]:
        times = case["times"]
        numbers = [f"{case[name]:,}" for name in ("entries", "clients")]
        numbers += [f"{len(times):,}", f"{len(times) / case['seconds']:.0f}"]
        latencies = (statistics.median(times), percentile(times, 95), max(times)) if times else ()
        cells = [f"{value:.0f}" for value in latencies] or [""] * 3
        rows.append([case["encoder"], *numbers, *cells, str(len(case["errors"]))])
    return f"{head(result)}\n\n{markdown((*columns, 'errors'), rows)}"


if __name__ == "__main__":
    run_cli(main)
