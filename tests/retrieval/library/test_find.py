"""``find.py`` in processes of its own, on real videos: searched while it works, killed, watched."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.retrieval.library.made_library import (
    LIMIT_S,
    make_command,
    make_environment,
    make_old,
    read_contents,
    read_ids,
    run_find,
    running,
    wait_until_ended,
    write_text_video,
)

NUM_LINES = 60
LINES = [f"Chapter {number}" for number in range(100, 100 + NUM_LINES)]


@pytest.fixture
def videos(tmp_path) -> Path:
    folder = tmp_path / "videos"
    write_text_video(folder / "hotel.mp4", "Grand Hotel")
    write_text_video(folder / "deep/museum.mp4", "Museum", "Casino")
    return folder


@pytest.fixture
def library(tmp_path) -> Path:
    return tmp_path / "library"


def test_it_is_searched_while_it_works(videos, library, tmp_path):
    """The newest video comes first, and is found while the long one is being read."""
    write_text_video(videos / "long.mp4", *LINES)
    make_old(videos / "long.mp4", 1000)
    (videos / "bad.mp4").write_bytes(b"no video")
    make_old(videos / "bad.mp4", 500)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with running(library, "../videos", folder=elsewhere) as run:
        run.wait_for(lambda: run.find("hotel") == {"videos/hotel.mp4"})
        work = run.wait_for(lambda: (now := run.work())["video"] == "videos/long.mp4" and now)
        assert work["state"] == "working" and work["step"] == "reading text"
        assert work["num_total"] == 4 and work["num_failed"] == 1
        run.wait_for(lambda: 0 < run.work()["share"] < 1)
        assert run.find("museum") == {"videos/deep/museum.mp4"} and run.find("chapter") == set()
        run.wait_for(lambda: "failed  videos/bad.mp4: " in run.output)  # said twice a second
        # A second one shows the page of the first.
        done = subprocess.run(
            make_command(library), env=make_environment(), capture_output=True, text=True,
            cwd=elsewhere, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout.startswith(run.address)
        children = run.list_children()
        assert len(children) >= 3  # that works, that makes documents, and one of its workers
        os.killpg(run.process.pid, signal.SIGINT)  # as the terminal does
        assert run.process.wait(LIMIT_S) == 1  # one of the videos can't be read
        wait_until_ended(children)
        assert "Traceback" not in run.output
    assert "Traceback" not in (library / "work.log").read_text()
    assert set(read_contents(library)) == {"videos/hotel.mp4", "videos/deep/museum.mp4"}


@pytest.mark.slow
def test_killed_within_a_long_video_nothing_is_lost(tmp_path):
    videos = tmp_path / "videos"
    write_text_video(videos / "long.mp4", *LINES, *(f"Page {n}" for n in range(200, 300)))
    assert run_find(tmp_path / "fresh", videos)[0] == 0
    library, reached = tmp_path / "library", 0.0
    for _ in range(3):
        with running(library, videos) as run:
            share = run.wait_for(lambda: run.work()["share"])
            assert reached <= share < 1  # it goes on where it was
            reached = run.wait_for(lambda share=share: max(run.work()["share"] - share, 0)) + share
            run.kill()
    code, text = run_find(library)
    assert code == 0 and "1 added, 0 unreadable; 1 videos" in text
    assert read_contents(library) == read_contents(tmp_path / "fresh")


@pytest.mark.slow
def test_the_process_that_works_is_killed(videos, library):
    with running(library, videos) as run:
        run.wait_for(lambda: run.work()["state"] == "working")
        for number in run.list_children():
            os.kill(number, signal.SIGKILL)
        work = run.wait_for_state("stopped")
        assert "the work has ended unexpectedly" in work["message"]
    assert run_find(library)[0] == 0
    assert len(read_contents(library)) == 2


@pytest.mark.slow
def test_it_is_watched_and_killed_and_watched(videos, library, tmp_path):
    with running(library, videos, "--watch") as run:
        run.wait_for_state("watching")
        write_text_video(tmp_path / "new.mp4", "Aquarium")
        (tmp_path / "new.mp4").rename(videos / "new.mp4")
        run.wait_for(lambda: run.find("aquarium") == {"videos/new.mp4"})
        ids = read_ids(library)
        (videos / "deep").rename(videos / "deeper")
        run.wait_for(lambda: run.find("museum") == {"videos/deeper/museum.mp4"})
        assert read_ids(library)["videos/deeper/museum.mp4"] == ids["videos/deep/museum.mp4"]
        (videos / "hotel.mp4").unlink()
        run.wait_for(lambda: not run.find("hotel"))
        # A file that grows is waited for.
        content = write_text_video(tmp_path / "slow.mp4", "Lighthouse").read_bytes()
        with (videos / "slow.mp4").open("wb") as file:
            for start in range(0, len(content), 1 + len(content) // 4):
                file.write(content[start : start + 1 + len(content) // 4])
                file.flush()
                time.sleep(1)
        run.wait_for(lambda: run.find("lighthouse") == {"videos/slow.mp4"})
        assert "failed" not in run.output
        run.wait_for_state("watching")
        run.kill()
    write_text_video(videos / "later.mp4", "Waterfall")
    with running(library, "--watch") as run:
        run.wait_for(lambda: run.find("waterfall") == {"videos/later.mp4"})
        run.wait_for_state("watching")
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(LIMIT_S) == 0
    assert run_find(tmp_path / "fresh", videos)[0] == 0
    assert read_contents(library) == read_contents(tmp_path / "fresh")


@pytest.mark.slow
def test_a_library_that_lives(videos, library, tmp_path):
    other = tmp_path / "disk" / "videos"
    write_text_video(other / "bridge.mp4", "Bridge")
    code, text = run_find(library, videos, other)
    assert code == 0 and "3 added, 0 unreadable; 3 videos, 3 entries in the library" in text
    ids = read_ids(library)
    assert set(ids) == {
        "videos/hotel.mp4", "videos/deep/museum.mp4", "videos-2/bridge.mp4"
    }  # fmt: skip
    # A disk that is unplugged.
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    code, text = run_find(library)
    assert code == 0 and f"{other} is not there, what is known of its videos stays" in text
    assert read_ids(library) == ids
    # It lies elsewhere by now.
    (tmp_path / "unplugged").rename(tmp_path / "mounted")
    code, text = run_find(library, "--relocate", tmp_path / "disk", tmp_path / "mounted")
    assert code == 0 and "0 added, 0 unreadable" in text and read_ids(library) == ids
    # From one folder to another, renamed, and out.
    documents = {path.read_bytes() for path in (library / "text").rglob("*.json")}
    (videos / "hotel.mp4").rename(tmp_path / "mounted/videos/inn.mp4")
    code, text = run_find(library)
    assert code == 0 and "0 added, 1 moved, 0 unreadable" in text
    assert read_ids(library)["videos-2/inn.mp4"] == ids["videos/hotel.mp4"]
    assert {path.read_bytes() for path in (library / "text").rglob("*.json")} == documents
    code, text = run_find(library, "--forget", tmp_path / "mounted/videos")
    assert code == 0 and set(read_ids(library)) == {"videos/deep/museum.mp4"}
    assert len(list((library / "text").rglob("*.json"))) == 1
    assert (tmp_path / "mounted/videos/inn.mp4").exists()
    # Its document is gone: it is read again, and nothing has changed.
    shutil.rmtree(library / "text")
    code, text = run_find(library)
    assert code == 0 and "0 added, 0 unreadable" in text
    assert read_ids(library)["videos/deep/museum.mp4"] == ids["videos/deep/museum.mp4"]
