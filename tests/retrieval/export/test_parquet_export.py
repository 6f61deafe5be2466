"""``python -m tools.export``: what the files hold, and what happens to the folder."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.errors import DamagedIndexError
from retrieval.export import parquet as module
from retrieval.export.parquet import MANIFEST, export_parquet
from retrieval.export.schema import TABLES, describe_tables
from retrieval.index.records import NewEntry, NewTrack, NewVideo
from tests.conftest import ROOT
from tests.retrieval.made_index import (
    BOX,
    MODEL,
    WIDTH,
    add,
    create,
    made_embeddings,
    made_frames,
    made_video,
    make_former,
)
from tools import export as command
from utils.errors import UserError

pq = pytest.importorskip("pyarrow.parquet")

FILES = {f"{table.name}.parquet" for table in TABLES} | {MANIFEST}
ROWS = made_embeddings(6)


@pytest.fixture
def made(tmp_path):
    """An index with frame vectors: two videos, one of them of a name that is no text."""
    create(tmp_path / "my.index", vectors="frames")
    first = made_video("a/Blue_Bus.mp4", ["Casino Café", "!?"], ROWS[:4])
    add(tmp_path / "my.index", first, made_video("c\udcff.mp4", ["k-9"], ROWS[4:]))
    return tmp_path / "my.index"


def export(index, folder, *precision):
    with VideoIndex.open(index) as opened:
        export_parquet(opened, folder, *precision)
    return {path.stem: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")}


def test_all_tables_hold_what_the_index_has(made, tmp_path):
    found = export(made, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    first, second = found["videos"]
    assert first == {
        "id": 1, "path": "a/Blue_Bus.mp4", "path_bytes": None, "root": "", "folder": "/nowhere",
        "duration_s": 10.0, "width": 64, "height": 48, "size": 1, "modified_ns": 2, "sha256": "3",
    }  # fmt: skip
    assert (second["path"], second["path_bytes"]) == (r"c\udcff.mp4", b"c\xff.mp4")
    times = [(0.0, 10.0), (5.0, 15.0), (10.0, 20.0), (15.0, 25.0)]
    of_entries = [(row["id"], row["video_id"]) for row in found["entries"]]
    assert of_entries == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2)]
    assert [(row["start_s"], row["end_s"]) for row in found["entries"]] == times + times[:2]
    assert np.array_equal([row["vector"] for row in found["entries"]], ROWS)
    numbers = [0, 1, 2, 3, 0, 1]
    frames = [made_frames(row, number) for row, number in zip(ROWS, numbers, strict=True)]
    of_frames = [entry for entry, own in enumerate(frames, 1) for _ in own]
    assert [row["entry_id"] for row in found["frames"]] == of_frames
    assert np.array_equal([row["vector"] for row in found["frames"]], np.concatenate(frames))
    assert [row["time_s"] for row in found["frames"] if row["entry_id"] == 2] == [5.0, 5.25]
    lines = {row["text"]: row for row in found["lines"]}
    assert [(row["video_id"], row["kind"], row["text"]) for row in found["lines"]] == [
        (1, "name", "a Blue Bus"), (1, "read", "Casino Café"), (1, "read", "!?"),
        (2, "name", "c"), (2, "read", "k-9"),
    ]  # fmt: skip
    boxes = [dict(zip(("time_s", "left", "top", "right", "bottom"), (time, *BOX), strict=True))
             for time in (0.5, 1.5)]  # fmt: skip
    assert (lines["Casino Café"]["boxes"], lines["a Blue Bus"]["boxes"]) == (boxes, [])
    assert lines["k-9"]["score"] == 0.9
    words = {row["word"]: row for row in found["words"]}
    assert set(words) == {"casino", "cafe", "a", "blue", "bus", "k-9", "c"}
    assert words["k-9"] == {
        "word": "k-9", "reduced": "k9", "line_id": lines["k-9"]["id"], "video_id": 2,
        "kind": "read", "start_s": 0.5, "end_s": 1.5,
        "left": 0.25, "top": 0.5, "right": 0.75, "bottom": 0.625,
    }  # fmt: skip
    assert words["bus"]["left"] is None and words["cafe"]["reduced"] == "cafe"
    spans = [(row["entry_id"], row["start_s"], row["end_s"]) for row in found["spans"]
             if row["line_id"] == lines["Casino Café"]["id"]]  # fmt: skip
    # The made index says that every line is seen in every entry, also where its time is over.
    assert spans == [(1, 0.5, 1.5), (2, 5.0, 5.0), (3, 10.0, 10.0), (4, 15.0, 15.0)]


def test_the_documented_columns_are_those_of_the_files(made, tmp_path):
    page = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    assert page.endswith(describe_tables())  # python -m tools.export --columns
    export(made, tmp_path / "out")
    for table in TABLES:
        schema = pq.read_schema(tmp_path / f"out/{table.name}.parquet")
        documented = re.findall(r"^\| `(\w+)` \| `", page.split(f"### `{table.name}.par")[1]
                                .split("###")[0], re.MULTILINE)  # fmt: skip
        absent = ["without_vision", "without_ocr"] if table.name == "entries" else []
        assert documented == [*schema.names, *absent]
        for column in table.columns[: len(schema.names)]:
            given = schema.field(column.name).metadata
            assert given == {b"unit": column.unit.encode(), b"meaning": column.meaning.encode()}
            kind = str(schema.field(column.name).type)
            assert kind.split("<")[0].split("[")[0] == column.type.split("<")[0]


def test_vectors_may_be_half_as_large_and_the_model_is_named(made, tmp_path):
    found = export(made, tmp_path / "out", "float16")
    halves = ROWS.astype(np.float16).astype(np.float32)
    assert np.array_equal([row["vector"] for row in found["entries"]], halves)
    schema = pq.read_schema(tmp_path / "out/entries.parquet")
    assert str(schema.field("vector").type) == f"fixed_size_list<element: halffloat>[{WIDTH}]"
    described = json.loads(schema.metadata[b"textvr"])
    assert described["model"] == MODEL and described["commit"] == 1
    assert described["windows"] == [10, 5]
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest["rows"] == {name: len(rows) for name, rows in found.items()}
    assert described.items() <= manifest.items()


def test_a_fusion_model_has_the_vectors_of_its_parts(built, tmp_path):
    found = export(built[0], tmp_path / "out")
    assert "frames" not in found
    with VideoIndex.open(built[0]) as index, index.reading() as (_, snapshot):
        ids = [row["id"] for row in found["entries"]]
        rows = snapshot.find_rows_of(np.array(ids))
        arrays = {f"without_{part}": array for part, array in snapshot.vectors.without.items()}
        for name, array in ({"vector": snapshot.vectors.windows} | arrays).items():
            assert np.array_equal([row[name] for row in found["entries"]], array[rows])
        assert set(snapshot.vectors.without) == {"vision", "ocr"}


def test_an_index_of_words_only_has_no_vectors(tmp_path):
    from retrieval.index.writer import IndexWriter, lock_index

    (tmp_path / "i").mkdir()
    with lock_index(tmp_path / "i"):
        meta = {"folder": b"/nowhere".hex(), "windows": [10, 5]}
        IndexWriter.create(tmp_path / "i", None, (), meta)
    video = made_video("1.mp4", ["casino"], ROWS[:1])
    entries = [NewEntry(0.0, 10.0, b"jpeg")]
    add(tmp_path / "i", NewVideo(video.path, video.stamp, None, 10.0, 64, 48, entries,
                                 video.tracks))  # fmt: skip
    found = export(tmp_path / "i", tmp_path / "out")
    assert "frames" not in found and "vector" not in found["entries"][0]
    assert [row["word"] for row in found["words"]] == ["1", "casino"]


def test_an_empty_index_and_one_of_a_former_format(made, tmp_path):
    create(tmp_path / "empty")
    found = export(tmp_path / "empty", tmp_path / "nothing")
    assert {name: [] for name in found} == found and "entries" in found
    make_former(made, 3)
    found = export(made, tmp_path / "out")
    assert {row["reduced"] for row in found["words"]} == {None}
    assert len(found["entries"]) == 6


def test_many_rows_are_written_a_row_group_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 4)
    create(tmp_path / "i")
    rows = made_embeddings(30)
    add(tmp_path / "i", *(made_video(f"{i}.mp4", ["w"], rows[3 * i : 3 * i + 3]) for i in range(9)),
        made_video("9.mp4", ["w"], rows[27:]))  # fmt: skip
    found = export(tmp_path / "i", tmp_path / "out")
    metadata = pq.ParquetFile(tmp_path / "out/entries.parquet").metadata
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert max(groups) == 4 and sum(groups) == 30
    assert np.array_equal([row["vector"] for row in found["entries"]], rows)


def test_words_and_places_are_those_that_the_index_has(tmp_path):
    create(tmp_path / "i")
    lines = [["S A L E now", "k-9 ... U.S.A."], ["東京タワー", "ØRSTED sale"], ["!!"]]
    add(tmp_path / "i", *(made_video(f"{n}.mp4", texts, ROWS[2 * n : 2 * n + 2])
                          for n, texts in enumerate(lines)))  # fmt: skip
    found = export(tmp_path / "i", tmp_path / "out")
    with closing(sqlite3.connect(tmp_path / "i/index.db")) as connection:
        wanted = connection.execute(
            "SELECT words.text, ifnull(reduced, words.text), entry_id, tracks.text FROM postings "
            "JOIN words ON words.id = word_id JOIN tracks ON tracks.id = track_id"
        ).fetchall()
    texts = {row["id"]: row["text"] for row in found["lines"]}
    given = [(word["word"], word["reduced"], span["entry_id"], texts[span["line_id"]])
             for word in found["words"] for span in found["spans"]
             if word["line_id"] == span["line_id"]]  # fmt: skip
    assert sorted(given) == sorted(wanted)


def test_an_export_is_of_one_commit(made, tmp_path, monkeypatch):
    """What a writer commits while the files are written is in none of them."""
    read_videos = module.read_videos

    def read_and_write(reader, snapshot):
        for number, video in enumerate(read_videos(reader, snapshot)):
            if not number:
                add(made, made_video("late.mp4", ["later"], ROWS[:1]), drop=[2])
            yield video

    monkeypatch.setattr(module, "read_videos", read_and_write)
    found = export(made, tmp_path / "out")
    assert [row["id"] for row in found["videos"]] == [1, 2]
    assert np.array_equal([row["vector"] for row in found["entries"]], ROWS)
    monkeypatch.undo()
    assert [row["path"] for row in export(made, tmp_path / "out")["videos"]] == [
        "a/Blue_Bus.mp4", "late.mp4"
    ]  # fmt: skip


def test_a_folder_of_anything_else_is_refused_and_left(made, tmp_path):
    def refuse(folder, message):
        before = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
        with VideoIndex.open(made) as index, pytest.raises(UserError, match=message):
            export_parquet(index, folder)
        after = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
        assert after == before

    other = tmp_path / "other"
    other.mkdir()
    (other / "entries.parquet").write_bytes(b"mine")
    refuse(other, "holds files, but no export.json")
    (other / MANIFEST).write_text("[" * 100_000)
    refuse(other, "holds files, but no export.json")
    (other / "notes.txt").write_text("mine")
    refuse(other, "holds notes.txt, which is no part of an export")
    refuse(other / "notes.txt", "is a file")
    refuse(made / "out", "lies in the index")
    (tmp_path / "empty").mkdir()
    assert export(made, tmp_path / "empty")
    assert export(made, tmp_path / "new/below")


def test_an_export_that_fails_leaves_the_earlier_one(made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(made, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(writers, found):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_add_lines", fail)
    with pytest.raises(OSError, match="No space"):
        export(made, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.index", "out"]


def test_what_a_killed_export_left_is_removed_by_the_next(made, tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from retrieval import VideoIndex\n"
        "from retrieval.export import parquet\n"
        "parquet._add_lines = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "parquet.export_parquet(VideoIndex.open(sys.argv[1]), Path(sys.argv[2]))"
    )
    command_line = [sys.executable, "-c", code, str(made), str(tmp_path / "out")]
    assert subprocess.run(command_line, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2 and re.fullmatch(r"\.out\.\d+\.tmp", names[0])
    export(made, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.index", "out"]


def test_damaged_vectors_are_refused(made, tmp_path):
    (file,) = made.glob("embeddings-*.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 64
    file.write_bytes(content)
    with pytest.raises(DamagedIndexError):
        export(made, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["my.index"]


def test_a_link_to_a_folder_stays_a_link(made, tmp_path):
    (tmp_path / "disk").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "out")
    export(made, tmp_path / "out")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / MANIFEST).is_file()


def test_the_command(made, tmp_path, run_main):
    code, out, _ = run_main(command, str(made), "--to", "parquet", str(tmp_path / "out"))
    assert code == 0 and f"{tmp_path}/out/entries.parquet: 6 rows, " in out
    assert run_main(command, "--columns")[:2] == (0, describe_tables())
    for arguments, message in (
        ([str(made)], "give INDEX and --to parquet DIR"),
        ([str(made), "--to", "csv", "out"], "--to csv: is no format of an export; give: parquet"),
        (["nowhere", "--to", "parquet", str(tmp_path / "o")], "nowhere: no such folder"),
        ([str(made), "--to", "parquet", str(tmp_path)], "holds my.index, which is no part of"),
    ):
        code, _, error = run_main(command, *arguments)
        assert code == 2 and message in error and "Traceback" not in error


def test_without_pyarrow_one_line_says_what_to_install(made, tmp_path, run_main, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, _, error = run_main(command, str(made), "--to", "parquet", str(tmp_path / "out"))
    assert code == 2 and not (tmp_path / "out").exists()
    assert error.endswith("pip install -r requirements-scale.txt\n") and error.count("\n") == 1


def test_a_word_of_several_lines_has_a_row_for_each(tmp_path):
    create(tmp_path / "i")
    # Two lines that are equal in all, one of them in the second entry only.
    video = made_video("1.mp4", ["casino casino", "casino casino"], ROWS[:2])
    nowhere = np.zeros((0, 5), np.float32)
    video.tracks.append(NewTrack("the casino", 1.0, 2.0, 4.0, nowhere, (1,), "spoken"))
    add(tmp_path / "i", video)
    tables = export(tmp_path / "i", tmp_path / "out")
    found = [(row["line_id"], row["kind"], row["start_s"], row["left"])
             for row in tables["words"] if row["word"] == "casino"]  # fmt: skip
    assert found == [(2, "read", 0.5, 0.25), (3, "read", 0.5, 0.25), (4, "spoken", 2.0, None)]
    places = [(row["entry_id"], row["line_id"]) for row in tables["spans"]]
    assert sorted(places) == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (2, 4)]
