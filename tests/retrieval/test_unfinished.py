"""A long video whose embedding is stopped: the next run goes on within it."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.index import embedding, unfinished
from retrieval.index.embedding import WindowEncoder
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.unfinished import FOLDER
from retrieval.index.update import IndexOptions, update_index
from retrieval.index.video_file import VideoFile
from tests.retrieval.conftest import Library
from tests.retrieval.test_index_kill import start_process
from tests.videos import write_video

NUM_WINDOWS = 12
WINDOWS = {"window_s": 1.0, "stride_s": 0.5, "batch_size": 2}


@pytest.fixture
def long_video(checkpoint, tmp_path, monkeypatch) -> Library:
    """A video of 6.5 seconds, which are 12 windows, and what is embedded is kept at once."""
    videos, ocr = tmp_path / "videos", tmp_path / "ocr"
    videos.mkdir(), ocr.mkdir()
    write_video(videos / "long.mp4", 163)
    write_video(videos / "short.mp4", 30)
    monkeypatch.setattr(unfinished, "SAVE_S", 0.0)
    return Library(videos, ocr, checkpoint)


class Watched:
    """Counts the windows that are embedded, and those that are decoded; may stop at one."""

    def __init__(self, monkeypatch) -> None:
        self.embedded, self.decoded, self.stop_at = [], 0, None
        embed, read = WindowEncoder.embed, VideoFile.read_windows

        def embed_noting(encoder, samples, frames=False):
            if self.stop_at is not None and len(self.embedded) >= self.stop_at:
                raise KeyboardInterrupt
            self.embedded += [sample.id for sample in samples]
            return embed(encoder, samples, frames)

        def read_noting(file, *args):
            for window in read(file, *args):
                self.decoded += 1
                yield window

        monkeypatch.setattr(WindowEncoder, "embed", embed_noting)
        monkeypatch.setattr(VideoFile, "read_windows", read_noting)


def read_arrays(out: Path) -> list[np.ndarray]:
    """All that is kept of the entries, by video and time."""
    with VideoIndex.open(out) as index, index.reading() as (reader, snapshot):
        rows = reader.connection.execute(
            "SELECT row FROM entries JOIN videos ON video_id = videos.id ORDER BY path, start_s"
        ).fetchall()
        rows = [row for (row,) in rows]
        arrays = [snapshot.vectors.windows, *snapshot.vectors.without.values()]
        pictures = [reader.read_thumbnail(int(snapshot.ids[row])) for row in rows]
        return [*(np.array(array[rows]) for array in arrays), np.array(pictures, dtype=object)]


def assert_equal(out: Path, fresh: Path) -> None:
    for one, other in zip(read_arrays(out), read_arrays(fresh), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_that_was_stopped_goes_on_within_a_video(long_video, tmp_path, monkeypatch):
    out, fresh = tmp_path / "my.index", tmp_path / "fresh"
    long_video.index(fresh, **WINDOWS)
    watched = Watched(monkeypatch)
    watched.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        long_video.index(out, **WINDOWS)
    assert len(watched.embedded) == 6 and len(list(out.glob(f"{FOLDER}/*/*.npz"))) == 3
    watched.embedded, watched.decoded, watched.stop_at = [], 0, 8 - 6
    with pytest.raises(KeyboardInterrupt):
        long_video.index(out, **WINDOWS)
    (*_, last) = sorted(out.glob(f"{FOLDER}/*/*.npz"))
    last.write_bytes(last.read_bytes()[:-50])  # as a full disk may leave it
    watched.embedded, watched.decoded, watched.stop_at = [], 0, None
    done = long_video.index(out, **WINDOWS)
    assert (done.num_videos, done.failed) == (2, {})
    num_short = done.num_entries - NUM_WINDOWS
    assert len(watched.embedded) == watched.decoded == NUM_WINDOWS - 6 + num_short
    assert not (out / FOLDER).exists()
    assert_equal(out, fresh)


def test_a_first_model_goes_on_within_a_video(long_video, tmp_path, monkeypatch):
    out, fresh = tmp_path / "my.index", tmp_path / "fresh"
    long_video.index(fresh, **WINDOWS)
    source, options = OcrFolder(long_video.ocr), IndexOptions(**WINDOWS)
    update_index(long_video.videos, out, None, source, options)
    watched = Watched(monkeypatch)
    watched.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        long_video.index(out, **WINDOWS)
    watched.embedded, watched.stop_at = [], None
    done = long_video.index(out, **WINDOWS)
    assert len(watched.embedded) == done.num_entries - 6
    assert not (out / FOLDER).exists()
    assert_equal(out, fresh)


def test_parts_of_another_content_model_or_text_are_not_taken(
    long_video, tmp_path, monkeypatch, make_checkpoint
):
    out = tmp_path / "my.index"
    watched = Watched(monkeypatch)

    def stop_and_count(library: Library, **options) -> int:
        watched.embedded, watched.stop_at = [], 4
        with pytest.raises(KeyboardInterrupt):
            library.index(out, **WINDOWS, **options)
        return len(watched.embedded)

    assert stop_and_count(long_video) == 4
    (long_video.ocr / "long.mp4.json").write_text("{} ")
    assert stop_and_count(long_video) == 4
    write_video(long_video.videos / "long.mp4", 170)
    assert stop_and_count(long_video) == 4
    assert len(list(out.glob(f"{FOLDER}/*"))) == 3
    other = Library(long_video.videos, long_video.ocr, make_checkpoint("fusion", "seed=7"))
    watched.stop_at = None
    other.index(tmp_path / "fresh", **WINDOWS)
    assert other.index(out, **WINDOWS, replace_model=True).num_videos == 2
    assert_equal(out, tmp_path / "fresh")


def test_killed_within_a_video(long_video, tmp_path, monkeypatch):
    out, fresh = tmp_path / "my.index", tmp_path / "fresh"
    long_video.index(fresh, **WINDOWS)
    embed = embedding.WindowEncoder.embed

    def embed_slowly(encoder, samples, frames=False):
        time.sleep(0.2)
        return embed(encoder, samples, frames)

    with monkeypatch.context() as patch:
        patch.setattr(embedding.WindowEncoder, "embed", embed_slowly)
        process = start_process(lambda: long_video.index(out, **WINDOWS))
        while len(list(out.glob(f"{FOLDER}/*/*.npz"))) < 2:
            assert process.is_alive()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    watched = Watched(monkeypatch)
    done = long_video.index(out, **WINDOWS)
    assert len(watched.embedded) <= done.num_entries - 4
    assert_equal(out, fresh)
