"""An index that is killed, written to while it is searched, or runs out of disk stays valid."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.index.writer import IndexWriter, lock_index
from retrieval.search.snapshot import Snapshot, read_entry
from tests.retrieval.conftest import Library
from tests.retrieval.made_index import add, create, made_embeddings, made_frames, made_video

FORK = multiprocessing.get_context("fork")
NUM_WORDS = 5


def start_process(job: Callable, *arguments: object) -> multiprocessing.Process:
    """A process of its own that is silent."""

    def silent() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        job(*arguments)

    process = FORK.Process(target=silent)
    process.start()
    return process


def churn(folder: Path, seed: int, rounds: int = 10**6) -> None:
    """Add, replace and drop videos for ever; what is compacted is written anew, time and again.

    Video n has the word ``wn`` and, in each of its entries, an embedding of its own.
    """
    rng = random.Random(seed)
    for _ in range(rounds):
        with lock_index(folder), IndexWriter(folder) as writer:
            known = writer.read_videos()
            writer.remove_leftovers()
            numbers = rng.sample(range(NUM_WORDS), 2)
            videos = [made_video(f"{n}.mp4", [f"w{n} here"], rows_of(n)) for n in numbers]
            drop = [known[f"{n}.mp4"].id for n in range(NUM_WORDS)
                    if rng.random() < 0.3 and n not in numbers and f"{n}.mp4" in known]  # fmt: skip
            writer.write(videos, drop)
            writer.compact(max_dead=0.3)


def rows_of(number: int) -> np.ndarray:
    return made_embeddings(number + 1, seed=number)


def check(index: VideoIndex) -> int:
    """Everything that an index says fits together; returns the number of entries."""
    with index.reading() as (reader, snapshot):
        rows = dict(reader.connection.execute("SELECT id, row FROM entries"))
        assert len(rows) == snapshot.num_entries
        of_video: dict[str, list[int]] = {}
        for entry_id, row in rows.items():
            assert snapshot.ids[row] == entry_id and row not in snapshot.dead
            of_video.setdefault(read_entry(reader, entry_id).video, []).append(row)
        for name, own in of_video.items():
            wanted = rows_of(int(name.removesuffix(".mp4")))
            np.testing.assert_array_equal(snapshot.vectors.windows[sorted(own)], wanted)
            for number, row in enumerate(sorted(own)):
                check_frames(snapshot, row, made_frames(wanted[number], number), 5.0 * number)
        assert reader.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return len(rows)


def check_frames(snapshot: Snapshot, row: int, wanted: np.ndarray, start_s: float) -> None:
    """In an index of frame vectors a row has its own, with their times."""
    if (frames := snapshot.vectors.frames) is not None:
        own = frames.list_frames(np.array([row]))
        np.testing.assert_array_equal(frames.vectors[own], wanted)
        times = start_s + 0.25 * np.arange(len(wanted))
        np.testing.assert_array_equal(frames.times[own], times)


def check_words(index: VideoIndex) -> None:
    for number in range(NUM_WORDS):
        hits = index.search(f'"w{number} here"', mode="keyword", k=50)
        assert {hit.video for hit in hits} <= {f"{number}.mp4"}
        assert len(hits) in (0, number + 1)  # all of its entries or none


def read_commit(folder: Path) -> int:
    with VideoIndex.open(folder) as index, index.reading() as (_, snapshot):
        return snapshot.number


@pytest.mark.parametrize(("vectors", "num_arrays"), [("windows", 3), ("frames", 6)])
def test_killed_at_any_moment_it_is_as_after_some_commit(tmp_path, vectors, num_arrays):
    folder = tmp_path / "my.index"
    create(folder, vectors=vectors)
    rng = random.Random(0)
    commits = []
    for seed in range(8):
        process = start_process(churn, folder, seed)
        while read_commit(folder) == (commits or [0])[-1]:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with VideoIndex.open(folder) as index:
            check(index)
            check_words(index)
        commits.append(read_commit(folder))
    assert commits == sorted(set(commits)) and len(commits) == 8
    churn(folder, 99, rounds=3)  # and it is written to as ever
    with VideoIndex.open(folder) as index:
        num_entries = check(index)
        assert len(list(folder.glob("thumbnails/*/*"))) >= num_entries > 0
    with lock_index(folder), IndexWriter(folder) as writer:
        writer.remove_leftovers()
    assert len(list(folder.glob("thumbnails/*/*"))) == num_entries
    assert len(list(folder.glob("*.npy"))) == num_arrays


@pytest.mark.parametrize("vectors", ["windows", "frames"])
def test_it_is_searched_while_another_process_writes(tmp_path, vectors):
    folder = tmp_path / "my.index"
    create(folder, vectors=vectors)
    add(folder, made_video("0.mp4", ["w0 here"], rows_of(0)))
    with VideoIndex.open(folder) as index:
        process = start_process(churn, folder, 1)
        try:
            seen, end = set(), time.monotonic() + 60
            while len(seen) < 15 and time.monotonic() < end:
                check(index)
                check_words(index)
                with index.reading() as (_, snapshot):
                    seen.add(snapshot.number)
            assert process.is_alive()
        finally:
            process.kill()
            process.join()
    assert len(seen) >= 15  # states of the index


def test_a_real_run_that_is_killed_goes_on(library, tmp_path):
    """Whatever was there is kept, and in the end it is what an undisturbed run makes."""
    out = tmp_path / "my.index"
    rng = random.Random(1)
    for _ in range(4):
        process = start_process(library.index, out)
        time.sleep(rng.uniform(0.05, 0.6))
        process.kill()
        process.join()
        if (out / "index.db").exists():
            try:
                with VideoIndex.open(out) as index:
                    assert 0 <= len(index) <= 8
                    index.search("casino", mode="keyword")
            except IndexFolderError as error:  # killed before there was one
                assert "holds no finished index" in str(error)
    assert library.index(out).num_entries == 8
    library.index(tmp_path / "fresh")
    with VideoIndex.open(out) as index, VideoIndex.open(tmp_path / "fresh") as fresh:
        for query in ("casino", "a red circle", "hotel"):
            found, wanted = ({hit.video: hit for hit in i.search(query)} for i in (index, fresh))
            assert found.keys() == wanted.keys() and len(found) == 8
            for video, hit in found.items():
                assert hit.words == wanted[video].words
                assert hit.score == pytest.approx(wanted[video].score)


def index_on_full_disk(library: Library, out: Path, most: int) -> None:
    """Index with files of at most so many bytes; ends with 7 where it names what is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        library.index(out, batch_size=2)
    except IndexFolderError as error:
        sys.exit(7 if str(out) in str(error) and "free some space" in str(error) else 8)


def test_a_full_disk_keeps_what_was_finished(library, tmp_path):
    out = tmp_path / "my.index"
    library.index(out)
    for number, most in enumerate([200, 34_000, 40_000]):  # the next row; the log of the database
        for source in sorted(library.videos.rglob("*.mp4"))[:2]:
            shutil.copy(source, source.with_name(f"{source.stem}_{number}.mp4"))
        process = start_process(index_on_full_disk, library, out, most)
        process.join()
        assert process.exitcode == 7, most
        with VideoIndex.open(out) as index:
            found = len(index)
            assert found in range(8 + 2 * number, 8 + 2 * number + 2)  # one may be complete
            assert len(index.search("casino", 50)) == found
        assert library.index(out).num_entries == 8 + 2 * (number + 1)


def test_a_disk_that_is_full_from_the_start(library, tmp_path):
    out = tmp_path / "my.index"
    for most in (0, 5000, 60_000):  # nothing at all, the weights, the database
        process = start_process(index_on_full_disk, library, out, most)
        process.join()
        assert process.exitcode == 7, most
        with pytest.raises(IndexFolderError, match="holds no finished index|can't be read"):
            VideoIndex.open(out)
    assert library.index(out).num_entries == 8
