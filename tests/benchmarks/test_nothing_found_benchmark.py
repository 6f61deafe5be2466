"""``benchmarks.nothing_found``: its queries, its table, and the demonstration as it is trained."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import nothing_found
from demo import index_videos, make_dataset_overrides
from retrieval import VideoIndex
from retrieval.index.unrelated import UNRELATED_TEXTS
from tests.conftest import ROOT
from tests.retrieval.made_index import index_of_lines
from utils.errors import UserError


def test_queries_that_match_nothing_share_no_word_with_the_others(demo):
    queries = nothing_found.list_queries(demo)
    words = {word for word in queries["a word alone"]}
    assert len(queries["captions"]) == 8 and words
    assert all(words & set(caption.lower().split()) for caption in
               (text.replace(".", " ") for text in queries["captions"]))  # fmt: skip
    for kind in ("another look and word", "another word alone", "everyday sentences"):
        assert queries[kind] and not any(words & set(text.split()) for text in queries[kind])
    assert not set(queries["everyday sentences"]) & set(UNRELATED_TEXTS)
    assert queries == nothing_found.list_queries(demo)


def test_the_table():
    kinds = nothing_found.summarize({"captions": np.array([1.0, 2.0, 3.0, 4.0])})
    assert kinds["captions"]["found"] == 0.75 and kinds["captions"]["median"] == 2.5
    result = {"date": "today", "machine": "m", "versions": "v", "kinds": kinds}
    lines = nothing_found.format_table(result).splitlines()
    assert lines[1].split() == ["captions", "4", "1.15", "2.50", "3.85", "75.0%"]
    assert lines[2] == "today, m, v"


def test_an_index_of_few_entries_is_refused(tmp_path):
    folder = index_of_lines(tmp_path / "i", [["casino"]] * 8)
    with VideoIndex.open(folder) as index, pytest.raises(UserError, match="has 8 entries; give"):
        nothing_found.measure_queries(index, ["casino"])


@pytest.mark.slow
def test_the_demonstration_finds_what_is_there_and_nothing_else(tmp_path):
    """The fusion model of ``make demo``, trained, and an index of its test videos."""
    data, run = tmp_path / "data", tmp_path / "fusion"
    options = [word for change in make_dataset_overrides(data) for word in ("--set", change)]
    for command in (
        ["-m", "tools.make_data", "--out", data],
        ["train.py", "-c", "configs/demo/fusion.json", "--run_dir", run, *options],
    ):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    with VideoIndex.open(index_videos(data, tmp_path)) as index:
        queries = nothing_found.list_queries(data)
        scores = {kind: nothing_found.measure_queries(index, queries[kind]) for kind in queries}
        scores |= nothing_found.measure_halves(index, data)
    found = {kind: row["found"] for kind, row in nothing_found.summarize(scores).items()}
    assert found["captions"] > 0.85 and found["of half: captions in the index"] > 0.9, found
    for kind in (
        "of half: captions left out", "another word alone", "everyday sentences", "random letters",
    ):  # fmt: skip
        assert found[kind] < 0.2, found
