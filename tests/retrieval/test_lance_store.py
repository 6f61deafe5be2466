"""An index in LanceDB: its hits are a folder's, and it stays valid whatever happens to a writer."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

import index as index_script
import search as search_script
from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.export.parquet import export_parquet
from retrieval.index.location import open_store
from retrieval.index.query_embedder import normalize_rows
from retrieval.lance import database, vectors
from retrieval.lance import writer as lance_writer
from retrieval.lance.schema import build_entry_row, build_rows, build_schemas
from retrieval.search.hybrid import EmbeddedQuery, SearchRequest, run_search
from tests.conftest import ROOT
from tests.object_storage import serve_s3
from tests.retrieval.lance_process import NUM_VIDEOS, check, churn, make_index
from tests.retrieval.made_index import MODEL, made_embeddings, made_video
from tests.retrieval.web.serving import serving
from utils.errors import UserError

pytest.importorskip("lancedb")

TEXTS = ["Grand Café", "casino open", "K-9 unit", "S A L E", "日本語テスト", "東京駅", "exit 12",
         "U.S.A.", "1,299.00", "ÖFFNUNG heute", "the casino", "open of the exit"]  # fmt: skip
QUERIES = ["casino", "cassino", "asin", "cafe", '"casino open"', "open casino", "本語", "東京",
           "k9", "1299", "sale", "öffnug", "exit the", "vid 7"]  # fmt: skip


def write_both(tmp_path: Path) -> tuple[Path, Path]:
    """The same index in a folder and in LanceDB, by the same changes."""
    rng = random.Random(0)
    made = [
        made_video(f"d{n % 3}/vid {n}.mp4", rng.sample(TEXTS, 3), made_embeddings(1 + n % 4, n))
        for n in range(30)
    ]
    places = tmp_path / "a.index", tmp_path / "a.lance"
    for place in places:
        make_index(str(place))
        store = open_store(place)
        with store.locking(), store.open_writer() as writer:
            for first in range(0, 30, 4):
                writer.write(made[first : first + 4])
            writer.write(made[3:5], [7, 11])
            writer.rename_videos({9: "d1/a new name.mp4"})
            writer.replace_tracks(12, made_video("", ["another casino"], made_embeddings(1)))
            writer.compact(0)
    return places


def open_tables(location: str | Path) -> database.Database:
    return database.Database(str(location), str(location))


def search(index: VideoIndex, text: str, mode: str, query: np.ndarray, exact: bool = True) -> list:
    request = SearchRequest(text, 12, mode, None, True, exact, 1.0)
    with index.reading() as (reader, snapshot):
        asked = EmbeddedQuery(None if mode == "keyword" else query)
        return run_search(reader, snapshot, request, asked)


def assert_equal_hits(some: list, others: list) -> None:
    """They are the same, to the last digits of what is computed."""
    assert [hit.id for hit in some] == [hit.id for hit in others]
    for one, other in zip(some, others, strict=True):
        for name in ("score", "similarity", "frame_similarity"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-6), name
        rest = {"score": 0.0, "similarity": None, "frame_similarity": None, "explanation": None}
        if one.evidence is not None:
            assert one.evidence == pytest.approx(other.evidence, abs=1e-6)
        assert replace(one, **rest, evidence=None) == replace(other, **rest, evidence=None)


@pytest.mark.parametrize("memory", [1 << 30, 0])
@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
def test_hits_are_those_of_a_folder(tmp_path, monkeypatch, mode, memory):
    monkeypatch.setattr(vectors, "MAX_RESIDENT", memory)  # kept in memory, or read for each query
    queries = made_embeddings(len(QUERIES), seed=99)
    with VideoIndex.open(write_both(tmp_path)[0]) as folder, \
            VideoIndex.open(tmp_path / "a.lance") as index:  # fmt: skip
        found = 0
        for text, query in zip(QUERIES, queries, strict=True):
            wanted = search(folder, text, mode, query)
            assert_equal_hits(search(index, text, mode, query), wanted)
            found += len(wanted)
        assert found > 100
        assert index.describe_library() == folder.describe_library()
        assert index.folders() == folder.folders() and len(index) == len(folder)


def test_vectors_of_a_commit_are_read_once_and_those_of_the_next_one_as_they_come(
    tmp_path, monkeypatch
):
    write_both(tmp_path)
    rows_read = []
    read = vectors.LanceVectors.read_rows

    def note_rows(self, rows):
        rows_read.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(vectors.LanceVectors, "read_rows", note_rows)
    query = made_embeddings(1, seed=5)[0]
    with VideoIndex.open(tmp_path / "a.lance") as index:
        search(index, "casino", "hybrid", query)
        assert not rows_read  # all at once
        for place in (tmp_path / "a.index", tmp_path / "a.lance"):
            store = open_store(place)
            with store.locking(), store.open_writer() as writer:
                writer.write([made_video("new.mp4", ["casino"], made_embeddings(3, 77))], [20])
        with VideoIndex.open(tmp_path / "a.index") as folder:
            wanted = search(folder, "casino", "hybrid", query)
            assert_equal_hits(search(index, "casino", "hybrid", query), wanted)
        assert rows_read == [3]


def test_rows_of_many_commits_are_merged_and_searches_see_no_difference(tmp_path, monkeypatch):
    monkeypatch.setattr(lance_writer, "MERGED_AFTER", 4)
    monkeypatch.setattr(lance_writer, "NEW_SHARE", 2.0)  # nothing else is done
    folder, location = write_both(tmp_path)
    for place in (folder, location):
        store = open_store(place)
        with store.locking(), store.open_writer() as writer:
            for n in range(11):
                writer.write([made_video(f"{n}.mp4", ["casino open"], made_embeddings(2, 50 + n))])
    database = open_tables(location)
    counts = {name: database.open(name).count_fragments() for name in ("entries", "postings")}
    assert all(count < 11 for count in counts.values()), counts  # of 19 commits
    query = made_embeddings(1, seed=51)[0]
    with VideoIndex.open(folder) as wanted, VideoIndex.open(location) as index:
        hits = search(wanted, "casino", "hybrid", query)
        assert_equal_hits(search(index, "casino", "hybrid", query), hits)
    assert open_store(location).verify() == []


def test_without_its_package_it_says_how_to_get_it(monkeypatch, run_main, tmp_path):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    code, _, error = run_main(search_script, "s3://videos/my.lance", "casino")
    assert code == 2 and error.startswith("an index in LanceDB needs the package lancedb (")
    assert error.endswith("pip install -r requirements-scale.txt\n")


def make_clusters(count: int, width: int = 32) -> np.ndarray:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((count // 20, width), dtype=np.float32)
    rows = centres[rng.integers(len(centres), size=count)]
    return normalize_rows(rows + 0.7 * rng.standard_normal((count, width), dtype=np.float32))


@pytest.mark.parametrize("frames", [False, True])
def test_index_of_nearest_neighbours_finds_the_nearest_and_what_is_new(tmp_path, frames):
    store, rows = open_store(tmp_path / "a.lance"), make_clusters(3000)
    meta = {"folder": b"/nowhere".hex(), "model": MODEL, "query_encoder": "", "windows": [10, 5]}
    with store.locking():
        store.create(rows.shape[1], (), meta | ({"num_frames": 0} if frames else {}))
        with store.open_writer() as writer:
            writer.write([made_video(f"{n}.mp4", [], rows[n : n + 100])
                          for n in range(0, len(rows), 100)])  # fmt: skip
            with pytest.raises(UserError, match="--ann is for 50,000 .* and more"):
                writer.build_ann(50_000)
            assert writer.build_ann(1000) >= 0.95
            assert writer.meta["ann"]["num_rows"] == 3000
            new = made_embeddings(2, seed=8, width=rows.shape[1])
            writer.write([made_video("new.mp4", [], new)], [1])
    queries = normalize_rows(rows[200::100] + 0.3 * make_clusters(28))
    shares = []
    with VideoIndex.open(tmp_path / "a.lance") as index:
        for query in queries:
            exact, near = (
                {hit.id for hit in search(index, "x", "semantic", query, exact=is_exact)}
                for is_exact in (True, False)
            )
            shares.append(len(exact & near) / len(exact))
        assert np.mean(shares) >= 0.95
        assert search(index, "x", "semantic", new[1], exact=False)[0].id == 3002
    store.optimize()  # it covers the new ones from then on, and finds the same
    with VideoIndex.open(tmp_path / "a.lance") as index, index.reading() as (reader, _):
        assert reader.meta["ann"]["num_rows"] == reader.meta["num_rows"] == 2902
        candidates = reader.open_vectors().find_candidates(new[1], 10)
        assert 3002 in reader.read_ids()[candidates]


class StoppedError(Exception):
    """A writer that is stopped."""


def test_a_writer_that_is_stopped_between_any_two_writes_has_changed_nothing(tmp_path, monkeypatch):
    location = str(tmp_path / "a.lance")
    make_index(location)
    churn(location, seed=1, rounds=2)
    store, left = open_store(location), None

    def count_down(name: str) -> None:
        wrapped = getattr(database.Table, name)

        def write(table: database.Table, *arguments: object) -> object:
            nonlocal left
            if left is not None:
                if left == 0:
                    raise StoppedError
                left -= 1
            return wrapped(table, *arguments)

        monkeypatch.setattr(database.Table, name, write)

    for name in ("append", "delete", "replace"):
        count_down(name)
    number = made_video("0.mp4", ["w0 here"], made_embeddings(1, seed=0))
    stops = 0
    while True:
        with store.reading() as reader:
            before = reader.meta, reader.read_known_videos(), check(reader)
        left = stops
        try:
            with store.locking(), store.open_writer() as writer:
                writer.write([number], [before[1]["2.mp4"].id] if "2.mp4" in before[1] else [])
            break
        except StoppedError:
            left = None
        with store.reading() as reader:
            assert (reader.meta, reader.read_known_videos(), check(reader)) == before
        assert store.verify() == []
        stops += 1
    left = None
    assert stops > 8  # tables were written to, and the commit
    with store.reading() as reader:
        check(reader)
        assert "2.mp4" not in reader.read_known_videos()
    assert store.verify() == []


def test_a_change_that_fails_is_undone_by_the_next_one_of_the_same_writer(tmp_path, monkeypatch):
    location = str(tmp_path / "a.lance")
    make_index(location)
    store = open_store(location)
    videos = [made_video(f"{n}.mp4", [f"w{n} here"], made_embeddings(n + 1, n)) for n in (0, 1)]
    with store.locking(), store.open_writer() as writer:
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(
                lance_writer.CommitLog, "append", lambda *_: (_ for _ in ()).throw(StoppedError)
            )
            writer.write(videos[:1])
        writer.write(videos[1:])
        assert set(writer.read_videos()) == {"1.mp4"}
        writer.write(videos[:1])
    with store.reading() as reader:
        assert check(reader) == 3
        assert [word for _, word, _ in reader.read_words()] == ["w1", "here", "1", "w0", "0"]
    assert store.verify() == []


def test_of_two_writers_the_second_fails_and_nothing_is_lost(tmp_path):
    location = str(tmp_path / "a.lance")
    make_index(location)
    store, other = open_store(location), open_store(location)
    with store.locking():
        with (
            pytest.raises(IndexFolderError, match="another index.py is writing to it"),
            other.locking(),
        ):
            pass  # on one machine
    videos = [made_video(f"{n}.mp4", [f"w{n} here"], made_embeddings(n + 1, n)) for n in range(4)]
    with store.open_writer() as first, other.open_writer() as second:  # as on two machines
        first.write(videos[:1])
        with pytest.raises(IndexFolderError, match="another index.py is writing to it"):
            second.write(videos[1:2])
        with pytest.raises(IndexFolderError, match="another index.py is writing to it"):
            first.write(videos[2:3])  # for the second has written to the tables
    with store.reading() as reader:
        assert set(reader.read_known_videos()) == {"0.mp4"}
    with store.locking(), store.open_writer() as writer:
        writer.write(videos[3:])
    with store.reading() as reader:
        assert check(reader) == 1 + 4
    assert store.verify() == []


SPAN_S = 1.2  # more than the second before a commit, of which versions are kept in any case


def count_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def test_optimize_removes_old_versions_while_a_reader_goes_on(tmp_path, run_main):
    location = tmp_path / "a.lance"
    make_index(str(location))
    store = open_store(location)
    video = made_video("0.mp4", ["w0 here"], made_embeddings(1, 0))
    with store.locking(), store.open_writer() as writer:
        for _ in range(20):
            writer.write([video])
    before = count_files(location)
    time.sleep(SPAN_S)
    with store.reading() as old:
        assert check(old) == 1
        code, text, error = run_main(index_script, "--optimize", location)
        assert (code, error) == (0, "") and text == f"{location}: is optimized\n"
        assert check(old) == 1  # what a reader may have open is kept
    with store.reading() as old:
        ids = old.read_ids()  # opened
        time.sleep(SPAN_S)
        store.optimize(kept_s=1)
        with store.reading() as new:
            assert check(new) == 1 and new.read_ids().tolist() == ids.tolist()
    assert count_files(location) < before / 3
    assert store.verify() == []
    with VideoIndex.open(location) as index:
        assert [hit.video for hit in index.search("w0", mode="keyword")] == ["0.mp4"]


def test_a_reader_whose_commit_was_cleaned_up_says_so_and_the_next_one_sees_the_last(tmp_path):
    location = tmp_path / "a.lance"
    make_index(str(location))
    store, other = open_store(location), open_store(location)
    for n in range(2):
        video = made_video("0.mp4", ["w0 here"], made_embeddings(1, 0))
        with other.locking(), other.open_writer() as writer:
            writer.write([video])
        if n == 0:
            reader = store.reading().__enter__()
            reader.read_ids()
        time.sleep(SPAN_S)
    other.optimize(kept_s=1)
    with pytest.raises(IndexFolderError, match="lines.lance: can't be read"):
        reader.read_name_lines()
    with store.reading() as reader:
        assert check(reader) == 1


def test_another_index_in_its_place_is_read_from_then_on(tmp_path):
    location = tmp_path / "a.lance"
    make_index(str(location))
    churn(str(location), seed=3, rounds=2)
    with VideoIndex.open(location) as index:
        assert index.search("here", mode="keyword")
        shutil.rmtree(location)
        with pytest.raises(IndexFolderError, match="no such folder"):
            index.search("here", mode="keyword")
        make_index(str(location))
        store = open_store(location)
        with store.locking(), store.open_writer() as writer:
            writer.write([made_video("other.mp4", ["something else"], made_embeddings(2))])
        assert not index.search("here", mode="keyword")
        assert [hit.video for hit in index.search("else", mode="keyword")] == ["other.mp4"] * 2


def test_tables_that_nobody_names_go_when_they_are_old(tmp_path):
    location = str(tmp_path / "a.lance")
    make_index(location)
    store = open_store(location)
    with store.locking(), store.open_writer() as writer:
        width = {"width": 8, "leaves_out": [], "model": MODEL, "query_encoder": ""}
        writer.begin_successor(width | {"generation": writer.next_generation()})
        writer.set_meta(successor=None)  # perhaps a reader has it open
        writer.remove_leftovers()
        assert "vectors-000002" in open_tables(location).list_names()
        open_tables(location).create("vectors-000009", build_schemas()["words"])
        writer.remove_leftovers()
        writer.remove_leftovers(kept_s=0)
        names = set(open_tables(location).list_names())
    assert {name for name in names if "vectors" in name} == {"vectors-000001"}
    assert store.verify() == []


def test_rows_of_another_writer_are_never_taken_for_one_s_own(tmp_path):
    location = str(tmp_path / "a.lance")
    make_index(location)
    video = made_video("0.mp4", ["w0 here"], made_embeddings(1, 0))
    store = open_store(location)
    with store.locking(), store.open_writer() as writer:
        writer.write([video])
        entries = open_tables(location).open("entries")
        entries.delete("id = 1")  # as another one on another machine replaces the video
        entries.append(
            build_rows(
                build_schemas()["entries"],
                [build_entry_row(2, 2, video.entries[0])],
            )
        )
        with pytest.raises(IndexFolderError, match="another index.py is writing to it"):
            writer.optimize()
    with store.reading() as reader:
        assert check(reader) == 1
    assert store.verify() == []


def test_large_tables_get_indexes_that_find_the_same(tmp_path, monkeypatch):
    from retrieval.lance import maintenance

    folder, location = write_both(tmp_path)
    monkeypatch.setattr(maintenance, "MIN_INDEXED", 10)
    open_store(location).optimize()
    monkeypatch.undo()
    for place in (folder, location):
        store = open_store(place)
        with store.locking(), store.open_writer() as writer:  # rows that no index covers
            writer.write(
                [made_video("z.mp4", ["casinos & café %_'\"\\"], made_embeddings(2, 5))], [3]
            )
    found = open_tables(location).open("words").list_indexes()
    assert found == {"id_idx": "BTree", "text_idx": "BTree", "text_fm": "Fm", "reduced_fm": "Fm"}
    queries = made_embeddings(len(QUERIES) + 3, seed=98)
    with VideoIndex.open(folder) as wanted, VideoIndex.open(location) as index:
        for text, query in zip([*QUERIES, "%_", "'", "casinos"], queries, strict=True):
            hits = search(wanted, text, "hybrid", query)
            assert_equal_hits(search(index, text, "hybrid", query), hits)


# Commands, and what goes wrong


def test_commands_work_on_it_as_on_a_folder(library, tmp_path, run_main, test_names):
    folder, location = tmp_path / "a.index", tmp_path / "é #1%.lance"
    said = {}
    for out in (folder, location):
        first = [library.videos, "--out", out, "-r", library.checkpoint, "--ocr", library.ocr]
        results = [run_main(index_script, *first)[:2]]
        results.append(run_main(index_script, library.videos, "--out", out, "--dry-run")[:2])
        results.append(run_main(index_script, "--verify", out))
        results.append(run_main(search_script, out, "red casino"))
        results.append(run_main(search_script, out, "casino", "--mode", "keyword", "--json"))
        said[out] = [str(part).replace(str(out), "OUT") for part in results]
    assert said[location] == said[folder]
    assert "8 added" in said[location][0] and "casino" in said[location][3]
    (library.videos / sorted(test_names)[0]).unlink()
    code, text, _ = run_main(index_script, library.videos, "--out", location)
    assert code == 0 and "1 dropped" in text and "7 unchanged" in text
    code, _, error = run_main(index_script, library.videos, "--out", location, "--repair")
    assert code == 2 and "--repair is for an index in a folder" in error
    code, _, error = run_main(index_script, "--optimize", folder)
    assert code == 2 and "--optimize is for LanceDB" in error
    with VideoIndex.open(location) as index:
        assert index.search("casino")[0].words and index.load_query_encoder()


def test_a_server_sends_its_hits_and_pictures(tmp_path):
    answers = []
    for place in write_both(tmp_path):
        with serving(place) as address, httpx.Client(base_url=address, trust_env=False) as client:
            found = client.get("/api/search", params={"q": "casino", "mode": "keyword"}).json()
            picture = client.get(f"/api/entries/{found['hits'][0]['id']}/thumbnail")
            assert (picture.status_code, picture.content) == (200, b"jpeg")
            answers.append(found["hits"])
    assert answers[0] == answers[1] and len(answers[0]) > 3


def test_an_export_is_that_of_a_folder(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    places = write_both(tmp_path)
    for place in places:
        with VideoIndex.open(place) as index:
            export_parquet(index, tmp_path / f"{place.name}.export")
    files = list((tmp_path / "a.index.export").glob("*.parquet"))
    assert len(files) == 6
    for file in files:
        found = parquet.read_table(tmp_path / "a.lance.export" / file.name)
        assert found.num_rows > 20 and found.equals(parquet.read_table(file))


def test_another_model_takes_over(library, tmp_path, make_checkpoint, run_main):
    location, other = tmp_path / "a.lance", make_checkpoint("fusion", "seed=7")
    folder = tmp_path / "a.index"
    for out in (folder, location):
        assert library.index(out).num_entries == 8
        command = [library.videos, "--out", out, "-r", other, "--replace-model"]
        code, text, error = run_main(index_script, *command)
        assert code == 0 and "8 unchanged" in text, error
    with VideoIndex.open(folder) as wanted, VideoIndex.open(location) as index:
        assert_equal_hits(index.search("red casino"), wanted.search("red casino"))
    assert open_store(location).verify() == []


def test_what_is_damaged_is_named(tmp_path, run_main):
    location = tmp_path / "a.lance"
    make_index(str(location))
    churn(str(location), seed=2, rounds=3)
    shutil.copytree(location, tmp_path / "copy.lance")
    for path in (location / "lines.lance/data").iterdir():
        path.unlink()
    code, text, _ = run_main(index_script, "--verify", location)
    assert code == 2 and f"{location}/lines.lance: can't be read" in text
    with pytest.raises(
        IndexFolderError, match="lines.lance: can't be read .* is damaged: put it back"
    ):
        search(VideoIndex.open(location), "here", "keyword", None)
    shutil.rmtree(location)
    shutil.copytree(tmp_path / "copy.lance", location)
    shutil.rmtree(location / "entries.lance")
    code, _, error = run_main(search_script, location, "here", "--mode", "keyword")
    assert code == 2 and f"{location}: entries.lance: can't be read" in error
    shutil.rmtree(location)
    shutil.copytree(tmp_path / "copy.lance", location)
    (table,) = location.glob("vectors-*")
    wanted = made_embeddings(1, seed=0)[0].tobytes()
    damaged = 0
    for path in (table / "data").iterdir():
        content = path.read_bytes()
        if wanted in content:
            at = content.index(wanted)
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            damaged += 1
    assert damaged
    store = open_store(location)
    with store.reading() as reader:
        entry = reader.list_entries(reader.find_video("0.mp4").id)[0][0]
    assert [str(one.what) for one in store.verify()] == [
        f"the vectors of entry {entry} are not what was written"
    ]


def test_what_is_no_index_is_refused(tmp_path, run_main):
    (tmp_path / "other.lance").mkdir()
    (tmp_path / "other.lance/file.txt").touch()
    videos = tmp_path / "videos"
    code, _, error = run_main(search_script, tmp_path / "none.lance", "a")
    assert code == 2 and "none.lance: no such folder; index.py makes one" in error
    with pytest.raises(IndexFolderError, match="holds something else than an index"):
        open_store(tmp_path / "other.lance").read_meta()
    code, _, error = run_main(index_script, "--optimize", tmp_path / "none.lance")
    assert code == 2 and "holds no index as yet" in error
    assert not (tmp_path / "none.lance").exists() and not videos.exists()
    code, _, error = run_main(search_script, "http://nowhere/my.lance", "a")
    assert code == 2 and "http://nowhere/my.lance: give a folder, or one of: s3://" in error


def test_memory_for_vectors_is_a_number(tmp_path, monkeypatch):
    write_both(tmp_path)
    monkeypatch.setenv(vectors.MEMORY_VARIABLE, "all")
    with pytest.raises(UserError, match='TEXTVR_VECTORS_GB is "all"; give a number'):
        search(VideoIndex.open(tmp_path / "a.lance"), "x", "semantic", made_embeddings(1)[0])


@contextmanager
def accept_and_say_nothing() -> Iterator[int]:
    """A server that takes connections and never answers; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def wait_for_a_second(monkeypatch) -> None:
    quick = {"connect_timeout": "1s", "timeout": "1s", "client_retry_timeout": "1"}
    first = database.FIRST_WAITING | quick | {"client_max_retries": "0"}
    monkeypatch.setattr(database, "FIRST_WAITING", first)


@pytest.mark.parametrize("answers", [False, True])
def test_storage_that_cannot_be_reached_is_given_up(monkeypatch, run_main, answers):
    wait_for_a_second(monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with accept_and_say_nothing() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port if answers else 9}")
        code, _, error = run_main(search_script, "s3://videos/my.lance", "a")
    assert code == 2 and error.startswith("s3://videos/my.lance: can't be reached (")
    assert len(error.splitlines()) == 1


def test_no_keys_are_no_damage(monkeypatch):
    wait_for_a_second(monkeypatch)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        IndexFolderError, match=r"s3://videos/my.lance: (can't be|access)"
    ) as caught:
        open_store("s3://videos/my.lance").read_meta()
    assert "damaged" not in str(caught.value) and "(docs/lance.md)" in str(caught.value)


def test_a_location_of_google_is_asked_of_google(monkeypatch, tmp_path):
    """Without its keys; a server of Google's that one could test with is not at hand."""
    wait_for_a_second(monkeypatch)
    key = tmp_path / "key.json"
    key.write_text('{"gcs_base_url": "http://127.0.0.1:9", "disable_oauth": true, '
                   '"client_email": "", "private_key": "", "private_key_id": ""}')  # fmt: skip
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(key))
    with pytest.raises(IndexFolderError, match=r"gs://videos/my.lance: can't be reached .*GCS"):
        open_store("gs://videos/my.lance").read_meta()


# Object storage and processes


@pytest.fixture
def bucket():
    with serve_s3("videos"):
        yield "s3://videos/my.lance"


def test_missing_bucket_is_said(bucket):
    with pytest.raises(
        IndexFolderError, match="s3://nothing-here/my.lance: there is no such bucket"
    ):
        open_store("s3://nothing-here/my.lance").read_meta()


def start(job: str, location: str, number: int, **more: str) -> subprocess.Popen:
    """A process of ``tests.retrieval.lance_process``; ``more`` is set in its environment."""
    command = [sys.executable, "-m", "tests.retrieval.lance_process", job, location, str(number)]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | more
    )


@pytest.mark.slow
def test_two_readers_see_whole_commits_while_a_writer_writes(bucket):
    make_index(bucket)
    writer = start("churn", bucket, 1)
    readers = [start("watch", bucket, 15) for _ in range(2)]
    try:
        for reader in readers:
            _, error = reader.communicate(timeout=240)
            assert reader.returncode == 0, error
        assert writer.poll() is None, writer.stderr.read()
    finally:
        for process in (writer, *readers):
            process.kill()
            process.communicate()
    assert open_store(bucket).verify() == []


@pytest.mark.slow
def test_of_writers_on_several_machines_all_but_one_fail_and_the_index_is_right(bucket, tmp_path):
    make_index(bucket)
    store = open_store(bucket)
    for turn in range(3):
        # Each with a cache of its own, as if on a machine of its own.
        writers = [
            start("churn", bucket, 10 * turn + n, TEXTVR_CACHE=str(tmp_path / f"{n}"))
            for n in range(3)
        ]
        try:
            while sum(writer.poll() is None for writer in writers) > 1:
                time.sleep(0.05)
        finally:
            for writer in writers:
                writer.kill()
        said = [writer.communicate()[1] for writer in writers]
        codes = [writer.returncode for writer in writers]
        errors = [error for error, code in zip(said, codes, strict=True) if code > 0]
        assert len(errors) >= 2
        for error in errors:
            assert "another index.py is writing to it" in error, error[-2000:]
        with store.reading() as reader:
            check(reader)
        assert store.verify() == []
    churn(bucket, 99, rounds=3)
    assert store.verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("is_remote", [False, True])
def test_killed_at_any_moment_it_is_as_after_some_commit(tmp_path, bucket, is_remote):
    location = bucket if is_remote else str(tmp_path / "a.lance")
    make_index(location)
    store, rng, last = open_store(location), random.Random(0), 0
    for seed in range(20):
        writer = start("churn", location, seed)
        while store.read_meta()["commits"] == last and writer.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        writer.kill()
        _, error = writer.communicate()
        assert writer.returncode == -signal.SIGKILL, error
        with store.reading() as reader:
            check(reader)
            assert set(reader.read_known_videos()) <= {f"{n}.mp4" for n in range(NUM_VIDEOS)}
            last = reader.meta["commits"]
        assert store.verify() == []
    churn(location, 99, rounds=3)  # and it is written to as ever
    assert store.verify() == []
