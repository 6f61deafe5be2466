"""The benchmark of serve.py on a small index: what it counts, and what it writes."""

import math
import os
import time

import pytest

from benchmarks.inputs import make_index
from benchmarks.serve import (
    add_query_encoder,
    compare_precisions,
    compute_percentile,
    make_comparison_table,
    make_paths,
    make_table,
    read_cpu_s,
    run_slow_clients,
    send_requests,
)
from retrieval import VideoIndex
from retrieval.web import connections
from tests.retrieval.web.serving import serving
from utils.errors import UserError

SMALL = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "index"
    made = make_index(folder, 200)
    add_query_encoder(folder, made.vocabulary, SMALL)
    return folder, made


def test_requests_and_errors_are_counted(made):
    folder, entries = made
    paths = make_paths(entries)
    assert len(set(paths)) > 150 and all("q=" in path for path in paths)
    with serving(folder) as address:
        case = send_requests(f"{address}/", paths, clients=3, seconds=60, most=30)
        assert len(case["times"]) == 30 and case["errors"] == []
        case = send_requests(f"{address}/", ["/api/search?q=a&k=0"], clients=2, seconds=60, most=5)
        assert case["times"] == [] and [text[:4] for text in case["errors"]] == ["422 "] * 5
    case = send_requests(f"{address}/", paths, clients=1, seconds=60, most=2)  # it has ended
    assert len(case["errors"]) == 2 and "Refused" in case["errors"][0]


def test_slow_clients_come_back_and_others_are_answered(made, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    folder, entries = made
    with serving(folder) as address, run_slow_clients(address, 30) as opened:
        case = send_requests(address, make_paths(entries), clients=2, seconds=60, most=20)
        assert len(case["times"]) == 20 and case["errors"] == []
        deadline = time.monotonic() + 60
        while opened[0] < 50:  # those that send nothing, or too little, were closed
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_what_is_asked_for_is_found(made):
    folder, entries = made
    _, texts = entries.make_queries(20)
    with VideoIndex.open(folder) as index:
        for text in texts:
            found = {word.word for word in index.search(text, 1, "words")[0].words}
            assert text.split()[0] in found


def test_percentiles():
    assert compute_percentile([5.0], 95) == 5
    assert compute_percentile(list(range(1, 101)), 95) == 95
    assert compute_percentile([4, 3, 2, 1], 50) == 2


def test_the_table():
    case = {
        "encoder": "small",
        "entries": 10_000,
        "clients": 20,
        "slow_clients": 200,
        "seconds": 1.5,
    }
    case |= {"times": [1.0, 2.0, 9.0], "errors": ["x"], "cpu_s": 0.03}
    result = {"date": "today", "machine": "this", "versions": "new", "cases": [case]}
    lines = make_table(result).splitlines()
    assert lines[0] == "today; this; new"
    assert lines[-1] == "| small | 10,000 | 20 | 200 | 3 | 2 | 2 | 9 | 9 | 10.0 | 1 |"
    result["cases"] = [case | {"times": []}]
    assert (
        make_table(result).splitlines()[-1]
        == "| small | 10,000 | 20 | 200 | 0 | 0 |  |  |  |  | 1 |"
    )


def test_cpu_time_is_that_of_the_process():
    before = read_cpu_s(os.getpid())
    sum(range(10**7))
    assert before < read_cpu_s(os.getpid()) < before + 60
    assert math.isnan(read_cpu_s(2**30))


def test_the_default_is_compared_with_float32(made, tmp_path):
    folder, entries = made
    queries = tmp_path / "queries.txt"
    queries.write_text("\n\n".join(entries.make_queries(7)[1]))
    result = compare_precisions(folder, queries)
    auto, rounded = result["cases"]
    assert auto["precision"] == "auto, here fp32" and rounded["precision"] == "int8"
    assert auto["same"] == auto["hits"] == [10] * 7 and all(auto["in_order"])
    assert 0.99 < min(rounded["cosines"]) < 1 - 1e-6 and len(rounded["same"]) == 7
    lines = make_comparison_table({"date": "", "machine": "", "versions": ""} | result).splitlines()
    assert lines[-2] == "| auto, here fp32 | 7 | 1.00000 | 1.00000 | 100.00 | 7 | 7 |"
    queries.write_text("\n")
    with pytest.raises(UserError, match="has no query"):
        compare_precisions(folder, queries)
