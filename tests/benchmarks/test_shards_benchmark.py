"""``python -m benchmarks.shards``: what it compares, and its table."""

import json

import numpy as np
import pytest

from benchmarks import shards

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")


def test_a_whole_run_writes_json_and_a_table(monkeypatch, capsys):
    monkeypatch.setattr(shards, "SIDE", 100)
    argv = ["shards", "--videos", "6", "--shard_mb", "1", "--rounds", "2", "--clips", "20"]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")  # put back at the end
    monkeypatch.setattr("sys.argv", [*argv, "--json"])
    shards.main()
    result = json.loads(capsys.readouterr().out)
    ways = [shards.SINGLE, shards.SHARDS, shards.HTTP, shards.S3]
    assert list(result["seconds"]) == ways == list(result["clock"])
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in result["clock"].values())
    assert result["shards"] == 3  # of two videos
    lines = shards.make_table(result).splitlines()
    assert "3 shards" in lines[0] and [line.split(" | ")[0][2:] for line in lines[-4:]] == ways


def test_other_frames_are_seen_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SIDE", 20)
    store = shards.write_store(tmp_path, 3, 10**9)
    right = shards.read_store(store.folder)
    reads = {shards.SINGLE: shards.read_one_file(store), shards.SHARDS: right}
    assert len(shards.measure(reads, 3, 1, 5)["seconds"][shards.SHARDS]) == 1
    reads[shards.SHARDS] = lambda name, places: np.roll(right(name, places), 1)
    with pytest.raises(AssertionError, match="Videos/"):
        shards.measure(reads, 3, 1, 5)
