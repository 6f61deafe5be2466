"""``python -m benchmarks.simulate_index``: what it measures, on a small index."""

import mmap
import subprocess
import sys

import pytest

from benchmarks import simulate_index
from benchmarks.inputs import make_index, make_vocabulary
from retrieval import VideoIndex
from retrieval.index.integrity import verify_index
from tests.conftest import ROOT


@pytest.mark.parametrize("with_checksums", [True, False])
def test_a_small_index(tmp_path, capsys, with_checksums):
    case = simulate_index.measure_case(tmp_path / "i", 300, 16, 3, False, with_checksums)
    assert case["entries"] == 300 and case["width"] == 16
    told = {name for name, value in case.items() if value < 0}
    assert not told  # memory may be 0
    for name in ("opening, next, ms", "words, common, ms", "videos, rare, ms", "hybrid, all, p95"):
        assert case[name] > 0
    assert ("new video, s" in case) == ("checksums, s" in case) == with_checksums
    tables = sum(case[f"disk, {name}"] for name in simulate_index.TABLES)
    assert 0 < tables <= case["disk, index.db"] < case["disk, all"]
    assert "300 entries: hybrid: {" in capsys.readouterr().err
    head = {"date": "2001-02-03", "machine": "2 threads", "versions": "torch 2"}
    lines = simulate_index.make_table(head | {"cases": [case, {"entries": 1000}]}).splitlines()
    assert lines[2] == "| entries | 300 | 1,000 |" and lines[4] == "| width | 16 |  |"


def test_the_index_is_sound(tmp_path):
    """It is made past the writer, and the writer adds checksums: the rows must be right."""
    make_index(tmp_path / "i", 250, vocabulary=40)
    assert verify_index(tmp_path / "i") == []
    with VideoIndex.open(tmp_path / "i") as index, index.reading() as (reader, _):
        names = reader.connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")
        assert {"entries_of_video", "tracks_of_video", "postings_of_entry"} <= {
            name for (name,) in names
        }
        assert reader.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_words_of_each_kind():
    vocabulary = make_vocabulary(500)
    texts = simulate_index.make_texts(vocabulary, 5)
    assert {len(own) for own in texts.values()} == {5}
    assert texts["common"] == vocabulary[:5]
    assert all(word in vocabulary[250:] for word in texts["rare"])
    assert all(any(part in word for word in vocabulary) for part in texts["part"])
    assert not set(texts["mistyped"]) <= set(vocabulary)


def test_memory_is_what_is_taken():
    with simulate_index.sample_memory() as memory:
        # Of the system's, not what this process has given back to its allocator.
        with mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
            taken.write(b"1" * len(taken))
            assert 31 < memory.read() < 100
    assert 31 < memory.peak < 100


def test_the_command_refuses_a_wrong_number():
    command = [sys.executable, "-m", "benchmarks.simulate_index", "--entries", "1.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "expected a whole number" in done.stderr
