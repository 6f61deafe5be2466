"""An index that is made by the workers of a Ray cluster is the one that is made without them."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import index as index_script
import retrieval.index.video_work as video_work
from retrieval.index.arrays import list_arrays, map_array
from retrieval.index.update import UpdateResult
from retrieval.index.writer import read_index_meta
from tests.conftest import ROOT
from tests.ray_cluster import OPTIONS, ray_cluster  # noqa: F401 - a fixture
from tests.retrieval.conftest import Library
from tests.videos import break_packets, write_video
from utils.processes import Work
from utils.ray_pool import RayOptions, RayPool

# All but what differs between any two runs: file times, and which words came first.
TABLES = {
    "videos": "SELECT id, path, duration_s, width, height FROM videos",
    "entries": "SELECT id, video_id, start_s, end_s, row FROM entries",
    "tracks": "SELECT id, video_id, text, score, start_s, end_s, boxes, kind FROM tracks",
    "postings": "SELECT text, reduced, entry_id, track_id FROM postings "
    "JOIN words ON words.id = word_id",
}


def index_by_workers(library: Library, out: Path, **options: object) -> UpdateResult:
    with RayPool(OPTIONS) as pool:
        return library.index(out, pool=pool, **options)


def check_equal(out: Path, wanted: Path) -> None:
    """Ids, lines of text and words exactly, vectors to 1e-6, thumbnails to the byte."""
    for query in TABLES.values():
        rows = []
        for folder in (out, wanted):
            with closing(sqlite3.connect(folder / "index.db")) as connection:
                rows.append(sorted(connection.execute(query).fetchall()))
        assert rows[0] == rows[1] and rows[0]
    metas = [read_index_meta(folder) for folder in (out, wanted)]
    for name in list_arrays(metas[1]):
        if name == "checksums":
            continue
        found, right = (map_array(*pair, name) for pair in zip((out, wanted), metas, strict=True))
        assert found.dtype == right.dtype
        atol = 1e-3 if right.dtype == np.float16 else 1e-6
        np.testing.assert_allclose(found.astype(float), right.astype(float), rtol=0, atol=atol)
    pictures = [
        {path.relative_to(folder): path.read_bytes() for path in folder.glob("thumbnails/*/*")}
        for folder in (out, wanted)
    ]
    assert pictures[0] == pictures[1] and pictures[0]


def test_it_is_the_same_index(library, tmp_path):
    names = sorted(library.videos.rglob("*.mp4"))
    (library.videos / "bad.mp4").write_bytes(names[0].read_bytes()[:300])
    found = [library.index(tmp_path / "a"), index_by_workers(library, tmp_path / "b")]
    assert list(found[1].failed) == ["bad.mp4"] and found[1] == found[0]
    assert found[1].num_videos == found[1].num_entries == 8
    check_equal(tmp_path / "b", tmp_path / "a")


@pytest.mark.slow
def test_it_is_updated_as_ever(library, tmp_path):
    """A new video, one that is gone, one that can't be read any more, and then nothing."""
    library.index(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    names = sorted(library.videos.rglob("*.mp4"))
    shutil.copy(names[1], library.videos / "new.mp4")
    names[0].unlink()
    names[2].write_bytes(b"no video")
    found = [library.index(tmp_path / "a"), index_by_workers(library, tmp_path / "b")]
    assert found[1] == found[0] and list(found[0].failed) == [
        names[2].relative_to(library.videos).as_posix()
    ]
    check_equal(tmp_path / "b", tmp_path / "a")
    names[2].unlink()
    before = (tmp_path / "b/index.db").read_bytes()
    with RayPool(RayOptions("192.0.2.1:1")) as pool:  # nothing is to be done, and none is asked
        library.index(tmp_path / "b", pool=pool)
    assert (tmp_path / "b/index.db").read_bytes() == before


@pytest.mark.slow
def test_only_the_text_is_new(library, make_checkpoint, tmp_path):
    """What a model that reads no text has embedded stays; and so does what is in no document."""
    library = replace(library, checkpoint=make_checkpoint("vision"))
    library.index(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second, *_ = sorted(library.ocr.rglob("*.json"))
    first.write_text(second.read_text())
    found = [library.index(tmp_path / "a"), index_by_workers(library, tmp_path / "b")]
    assert found[1] == found[0] and len(found[0].plan.update) == 1
    check_equal(tmp_path / "b", tmp_path / "a")
    rows = read_index_meta(tmp_path / "b")["num_rows"]
    assert rows == 8  # nothing was embedded again


@pytest.mark.slow
def test_without_a_model_the_text_is_spotted_by_workers(demo, tmp_path, run_main, monkeypatch):
    """As ``index.py``, where subtitles lie beside a video, and what is damaged is said."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    videos = tmp_path / "videos"
    videos.mkdir()
    for number, source in enumerate(sorted((demo / "Videos").rglob("*.mp4"))[:3]):
        shutil.copy(source, videos / f"{number}.mp4")
    (videos / "1.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\nthe spoken word\n")
    whole = write_video(tmp_path / "whole.mp4", 60, gop=5, x264="bframes=0")
    break_packets(videos / "broken.mp4", whole, list(range(18, 27)))
    said = []
    for name, options in (("a", []), ("b", ["--ray", "local"])):
        out = tmp_path / name
        code, text, errors = run_main(index_script, videos, "--out", out, *options)
        assert code == 0, errors
        warnings = [line for line in errors.splitlines() if "can't be decoded" in line]
        said.append(
            (text.replace(str(out), "OUT"), [line.partition(" W ")[2] for line in warnings])
        )
    assert said[1] == said[0] and len(said[0][1]) == 1
    check_equal(tmp_path / "b", tmp_path / "a")
    with closing(sqlite3.connect(tmp_path / "b/index.db")) as connection:
        kinds = {kind for (kind,) in connection.execute("SELECT kind FROM tracks")}
    assert kinds == {"name", "read", "spoken"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vision", "fusion"])
def test_another_model_embeds_all_anew(library, make_checkpoint, tmp_path, kind):
    """Of the text that the index has, where a document is another one by now."""
    library.index(tmp_path / "a")
    library = replace(library, checkpoint=make_checkpoint(kind, "seed=7"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second, *_ = sorted(library.ocr.rglob("*.json"))
    first.write_text(second.read_text())
    found = [
        library.index(tmp_path / "a", replace_model=True),
        index_by_workers(library, tmp_path / "b", replace_model=True),
    ]
    assert found[1] == found[0] and found[1].num_anew == 8 and len(found[1].plan.update) == 1
    check_equal(tmp_path / "b", tmp_path / "a")


@pytest.mark.slow
def test_a_worker_that_is_killed_harms_nothing(library, tmp_path, monkeypatch):
    library.index(tmp_path / "a")
    killed = tmp_path / "killed"
    victim = sorted(path.name for path in library.videos.rglob("*.mp4"))[2]
    monkeypatch.setattr("retrieval.index.update.VideoWork", make_deadly(victim, killed, 1))
    result = index_by_workers(library, tmp_path / "b")
    assert killed.read_text() == "x" and not result.failed
    check_equal(tmp_path / "b", tmp_path / "a")


@pytest.mark.slow
def test_a_video_that_kills_every_worker_is_said_once(library, tmp_path, monkeypatch):
    killed = tmp_path / "killed"
    victim = sorted(path.name for path in library.videos.rglob("*.mp4"))[2]
    monkeypatch.setattr("retrieval.index.update.VideoWork", make_deadly(victim, killed, 99))
    result = index_by_workers(library, tmp_path / "b")
    assert killed.read_text() == "xxx" and result.num_videos == 7
    ((name, reason),) = result.failed.items()
    assert name.endswith(victim) and reason.startswith("3 workers died of it")


def make_deadly(victim: str, killed: Path, times: int) -> type:
    """A work that ends its process with SIGKILL at a video, the first so many times."""

    class Deadly(video_work.VideoWork):
        def __call__(self) -> Work:
            work = super().__call__()

            def read(task: video_work.VideoTask, report: Callable[[float], None]) -> object:
                number = len(killed.read_text()) if killed.exists() else 0
                if task.name.endswith(victim) and number < times:
                    killed.write_text("x" * (number + 1))
                    os.kill(os.getpid(), signal.SIGKILL)
                return work(task, report)

            return read

    return Deadly


@pytest.mark.slow
def test_another_model_on_a_machine_is_refused(library, tmp_path, monkeypatch):
    of = video_work.WorkerModel.of
    other = "0" * 64
    monkeypatch.setattr(
        video_work.WorkerModel, "of", lambda *parts: replace(of(*parts), checksum=other)
    )
    with pytest.raises(ValueError, match="has other weights there than where the command"):
        index_by_workers(library, tmp_path / "a")


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on(library, tmp_path):
    """As ``index.py --ray``: what was committed stays, the rest is done by the next run."""
    names = sorted(library.videos.rglob("*.mp4"))
    for number in range(32):
        shutil.copy(names[number % 8], library.videos / f"{number}.mp4")
    library.index(tmp_path / "a")
    out = tmp_path / "b"
    command = [
        sys.executable, ROOT / "index.py", library.videos, "--out", out, "-r", library.checkpoint,
        "--ocr", library.ocr, "--ray", "local",
    ]  # fmt: skip
    counts = [0]
    for _ in range(2):
        driver = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
        while driver.poll() is None and count_videos(out) == counts[-1]:
            time.sleep(0.005)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
        counts.append(count_videos(out))
    assert 0 < counts[1] < counts[2] < 40
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"{out}: 40 videos, 40 entries\n")
    assert "Ray cluster of " in done.stderr
    check_equal(out, tmp_path / "a")


def count_videos(out: Path) -> int:
    try:
        with closing(sqlite3.connect(out / "index.db")) as connection:
            return connection.execute("SELECT COUNT(*) FROM videos").fetchone()[0]
    except sqlite3.Error:
        return 0
