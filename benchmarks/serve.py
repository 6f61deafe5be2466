"""Latency of serve.py while many search at once, and how near its embeddings are to float32.

    python -m benchmarks.serve             # a table: 20 clients for 30 s, 100,000 entries
    python -m benchmarks.serve --json      # the same as JSON, with the time of every request
    python -m benchmarks.serve --clients 5 --slow-clients 200   # beside 200 that only keep it busy
    python -m benchmarks.serve --compare my.index/ queries.txt   # the default and int8 against fp32

The last one takes an index of one's own and a text file with a query a line: it says how near the
embeddings are and whether the same entries are found by meaning.

Else serve.py runs as a process of its own on 127.0.0.1, on an index of synthetic entries (see
benchmarks.search_scale), with query encoders of random weights: one of the size of the demo's, one
of DistilBERT's. Each client keeps one connection and sends its next query (both lists fused, about
15 tokens; no two clients send the same at a time, and nothing keeps embeddings) as soon as it has
read the answer to the last one, so that the server is never idle; the clients run in this process
and share the machine's cores with it. Times are from sending a request to having read its answer.
The server's CPU time is what the number of requests is bounded by, also where other jobs run.

Slow clients say nothing, or send a byte of a request now and then, or never read the answer to one;
where the server closes a connection, they open another one.
"""

import http.client
import itertools
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import torch

from benchmarks import measuring
from benchmarks.inputs import INDEX_VOCABULARY, WIDTH, IndexContents, make_index
from data_loader.collate import Collate, load_tokenizer
from data_loader.synthetic.text_model import MODEL_CONFIG, write_text_model
from parse_config import load_config
from retrieval import VideoIndex
from retrieval.index.layout import QUERY_ENCODER
from retrieval.index.query_embedder import QueryEmbedder, save_query_encoder
from retrieval.index.writer import IndexWriter, lock_index
from trainer.build import build_model
from utils.cli import positive_int, run_cli
from utils.errors import UserError
from utils.files import write_json

DISTILBERT = {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072}
DISTILBERT |= {"initializer_range": 0.03}  # the demo's would make a wide model chaotic
ENCODERS: dict[str, dict[str, int]] = {"as in the demo": {}, "as DistilBERT": DISTILBERT}
MAX_TOKENS = 32  # of a query
MAX_CLIENTS, MAX_SLOW, MAX_SECONDS, MAX_REQUESTS = 100, 1000, 300, 100_000
HITS = 24  # as the page asks for
NUM_QUERIES = 1000
TOP = 10  # entries that --compare looks at


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--entries", type=positive_int, default=100_000, help="of the index")
    parser.add_argument("--clients", type=positive_int, default=20, help="at once")
    slow = "clients that send or read next to nothing, besides (%(default)s)"
    parser.add_argument("--slow-clients", type=int, default=0, metavar="N", help=slow)
    parser.add_argument("--seconds", type=positive_int, default=30, help="for each query encoder")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("INDEX", "QUERIES"), help="see above"
    )
    asked = parser.parse_args()
    if asked.compare:
        result = measuring.describe_machine() | compare_precisions(*asked.compare)
        measuring.write_result(result, asked.json, make_comparison_table)
        return
    if not 0 <= asked.slow_clients <= MAX_SLOW:
        parser.error(f"--slow-clients: from 0 to {MAX_SLOW}")
    if asked.clients > MAX_CLIENTS or asked.seconds > MAX_SECONDS:
        parser.error(f"at most {MAX_CLIENTS} clients for at most {MAX_SECONDS} seconds")
    with tempfile.TemporaryDirectory(prefix="serve_") as name:
        folder = Path(name) / "index"
        contents, cases = make_index(folder, asked.entries), []
        paths = make_paths(contents)
        for encoder, size in ENCODERS.items():
            add_query_encoder(folder, contents.vocabulary, size)
            case = {"encoder": encoder, "entries": asked.entries, "clients": asked.clients}
            case["slow_clients"] = asked.slow_clients
            with run_server(folder) as (address, process):
                send_requests(address, paths, clients=2, seconds=10, most=20)  # reads everything
                options, before = (asked.clients, asked.seconds, MAX_REQUESTS), read_cpu_s(process)
                with run_slow_clients(address, asked.slow_clients) as opened:
                    case |= send_requests(address, paths, *options)
                case["slow_connections"] = opened[0]
                cases.append(case | {"cpu_s": read_cpu_s(process) - before})
    measuring.write_result(measuring.describe_machine() | {"cases": cases}, asked.json, make_table)


def add_query_encoder(folder: Path, words: Sequence[str], size: dict[str, int]) -> None:
    """Give an index a query encoder of random weights, whose tokenizer knows ``words``.

    ``size`` has the settings of its DistilBERT that differ from the demo's.
    """
    with tempfile.TemporaryDirectory(prefix="text_model_") as name:
        text_model = Path(name)
        write_text_model(text_model, words, max_words=INDEX_VOCABULARY)
        number = len((text_model / "vocab.txt").read_text().splitlines())
        write_json(text_model / "config.json", MODEL_CONFIG | size | {"vocab_size": number})
        changes = f"text_params.model={text_model}", f"projection_dim={WIDTH}"
        changes = [f"arch.args.{change}" for change in changes]
        config = load_config(measuring.ROOT / "configs/demo/vision.json", changes)
        model = build_model(config, torch.device("cpu"))
        collate = Collate(load_tokenizer(str(text_model)), False, MAX_TOKENS)
        checksum = save_query_encoder(folder / QUERY_ENCODER, model, config, collate)
        QueryEmbedder(folder / QUERY_ENCODER, checksum).save_unrelated()
    with lock_index(folder), IndexWriter(folder) as writer:
        writer.set_meta(query_encoder=checksum)


def make_paths(contents: IndexContents) -> list[str]:
    """Return what clients ask for: three words of an entry, one of them misspelt, both lists."""
    _, texts = contents.make_queries(NUM_QUERIES)
    return [f"/api/search?{urlencode({'q': text, 'k': HITS})}" for text in texts]


@contextmanager
def run_server(folder: Path) -> Iterator[tuple[str, int]]:
    """Run serve.py on a free port of 127.0.0.1; yields its address and the process.

    Raises:
        UserError: it did not start.
    """
    command = [sys.executable, "serve.py", str(folder), "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=measuring.ROOT, stdout=pipe, text=True) as process:
        try:
            said = process.stdout.readline().split()
            if not said:
                raise UserError(f"{' '.join(command)}: did not start")
            yield said[-1], process.pid
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def run_slow_clients(address: str, number: int) -> Iterator[list[int]]:
    """Keep connections open that take the server's time; yields how many have been opened."""
    place = urlsplit(address).hostname, urlsplit(address).port
    request = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1000
    whole = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
    opened, ended = [0], threading.Event()

    def open_one(position: int) -> socket.socket:
        connection = socket.create_connection(place, timeout=10)
        connection.sendall(whole if position % 3 == 2 else b"")
        connection.setblocking(False)
        opened[0] += 1
        return connection

    def run() -> None:
        slow = [open_one(position) for position in range(number)]
        for step in itertools.count():
            for position, connection in enumerate(slow):
                try:
                    if position % 3 == 1:
                        connection.send(request[step % len(request) :][:1])
                    elif position % 3 == 0 and connection.recv(1, socket.MSG_PEEK) == b"":
                        raise ConnectionResetError
                except BlockingIOError:
                    continue
                except OSError:
                    connection.close()
                    slow[position] = open_one(position)
            if ended.wait(1.0):
                break
        for connection in slow:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            while number and opened[0] < number and not running.done():
                time.sleep(0.01)
            yield opened
        finally:
            ended.set()
        running.result()


def read_cpu_s(process: int) -> float:
    """Return the seconds of CPU time that a process has taken; NaN on systems without /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare_precisions(folder: Path, file: Path) -> measuring.Result:
    """Search an index with the query encoder in fp32, in its default precision, and in int8.

    Returns for the last two and each query the cosine with fp32, how many of the first ``TOP``
    entries are the same, of how many, and whether they are in the same order.

    Raises:
        UserError: a file can't be read, or there is no query in it.
    """
    try:
        queries = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: can't be read ({error})") from error
    if not queries:
        raise UserError(f"{file}: has no query; give a text file with one a line")
    cases = []
    for precision in ("fp32", "auto", "int8"):
        with VideoIndex.open(folder, precision) as index:
            encoder = index.load_query_encoder()
            embeddings = np.stack([encoder.embed(query) for query in queries])
            ask = partial(index.search, k=TOP, mode="semantic", exact=True)
            found = [[hit.id for hit in ask(query)] for query in queries]
        if precision == "fp32":
            exact, right = embeddings, found
        cases.append({
            "precision": precision if encoder.precision == precision else
            f"{precision}, here {encoder.precision}",
            "cosines": (embeddings * exact).sum(1).tolist(),
            "same": [len({*a} & {*b}) for a, b in zip(found, right, strict=True)],
            "in_order": [a == b for a, b in zip(found, right, strict=True)],
            "hits": [len(ids) for ids in right],
        })  # fmt: skip
    return {"cases": cases[1:]}


def make_comparison_table(result: measuring.Result) -> str:
    """Return the results of ``compare_precisions`` as a Markdown table."""
    columns = ["precision", "queries", "least cosine with fp32", "mean", f"first {TOP} found, %"]
    columns += ["all of them, queries", "in the same order, queries"]
    rows = []
    for case in result["cases"]:
        same, hits = case["same"], case["hits"]
        row = [case["precision"], f"{len(same):,}", f"{min(case['cosines']):.5f}"]
        row += [f"{statistics.mean(case['cosines']):.5f}", f"{100 * sum(same) / sum(hits):.2f}"]
        rows.append([*row, f"{sum(map(int.__eq__, same, hits)):,}", f"{sum(case['in_order']):,}"])
    return f"{measuring.format_head(result)}\n\n{measuring.format_table(columns, rows)}"


def send_requests(
    address: str, paths: Sequence[str], clients: int, seconds: float, most: int
) -> measuring.Result:
    """Let clients ask for one path after the other, each in an order of its own.

    No request is begun after ``seconds``, or after ``most`` in all. Returns the milliseconds of
    every request that was answered well, what went wrong, and the seconds that it took.
    """
    host = urlsplit(address).netloc
    times: list[float] = []
    errors: list[str] = []
    numbers, start = itertools.count(), time.perf_counter()

    def run_client(seed: int) -> None:
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

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run_client, range(clients)))
    return {"times": times, "errors": errors, "seconds": time.perf_counter() - start}


def compute_percentile(values: Sequence[float], share: int) -> float:
    """Return what ``share`` per cent of the values are at most (nearest rank)."""
    return sorted(values)[max(0, -(-share * len(values) // 100) - 1)]


def make_table(result: measuring.Result) -> str:
    """Return the results as a Markdown table."""
    columns = [
        "query encoder",
        "entries",
        "clients",
        "slow ones",
        "requests",
        "a second",
        "median, ms",
    ]
    columns += ["p95, ms", "most, ms", "CPU of the server, ms/request", "errors"]
    rows = []
    for case in result["cases"]:
        times = case["times"]
        numbers = [f"{case['entries']:,}", f"{case['clients']:,}", f"{case['slow_clients']:,}"]
        numbers.append(f"{len(times):,}")
        numbers.append(f"{len(times) / case['seconds']:.0f}")
        cells = [""] * 3
        if times:
            latencies = statistics.median(times), compute_percentile(times, 95), max(times)
            cells = [f"{value:.0f}" for value in latencies]
        cpu = f"{1000 * case['cpu_s'] / len(times):.1f}" if times else ""
        rows.append([case["encoder"], *numbers, *cells, cpu, str(len(case["errors"]))])
    return f"{measuring.format_head(result)}\n\n{measuring.format_table(columns, rows)}"


if __name__ == "__main__":
    run_cli(main)
