"""The benchmark of stores, with few entries."""

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
