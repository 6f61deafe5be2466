"""The benchmark of stores, with few entries."""

import numpy as np
import pytest

from benchmarks import stores

pytest.importorskip("lancedb")


def test_both_stores_are_made_of_the_same_and_find_it(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "KEPT_S", 0.0)
    contents = stores.Contents(250, 16)
    videos = list(contents.make_videos(9))
    assert [len(video.entries) for video in videos] == [100, 100, 50]
    cases = []
    for name in ("my.index", "my.lance"):
        location = str(tmp_path / name)
        case = {"store": name, "entries": 250}
        case |= stores.build_index(location, 250, 16, commit=2, thumbnail=9)
        case |= stores.measure_searches(location, 250, 16, 2)
        with stores.VideoIndex.open(location) as index:
            assert len(index) == 250 and len(index.paths()) == 3
        assert min(value for key, value in case.items() if key.endswith((", ms", ", s"))) > 0
        cases.append(case)
    result = {"date": "", "machine": "", "versions": "", "cases": cases}
    table = stores.make_table(result)
    assert "|  | my.index, 250 | my.lance, 250 |" in table and "| exact, ms | " in table


def test_a_folder_in_bulk_has_the_same_entries(tmp_path):
    location = str(tmp_path / "my.index")
    told = stores.make_folder(location, 250, 16)
    assert told["files"] > 0 and told["disk, MB"] > 0
    with stores.VideoIndex.open(location) as index, index.reading() as (reader, _):
        made = stores.Contents(250, 16)
        assert np.array_equal(reader.open_vectors().read_windows(np.arange(250)), made.rows)
        assert {text for _, text, _ in reader.read_words()} <= set(made.vocabulary)
