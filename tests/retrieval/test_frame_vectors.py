"""Frame vectors of an index: scores, the best frame and its time, and what an update keeps."""

import json
import sqlite3
import tracemalloc
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import index as index_script
import search as search_script
from data_loader.frame_sampling import sample_frame_indices
from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.index import database, vectors
from retrieval.index.ann import AnnIndex
from retrieval.index.arrays import EMBEDDINGS, FRAMES
from retrieval.index.embedding import BrokenModelError, ModelFile, WindowEncoder
from retrieval.index.ocr_text import OcrSource
from retrieval.index.query_embedder import normalize_rows
from retrieval.index.records import NewVideo
from retrieval.index.update import IndexOptions, update_index
from retrieval.index.vectors import FrameVectors, multiply_halves
from retrieval.index.writer import IndexWriter, lock_index, read_index_meta
from retrieval.search.hybrid import EmbeddedQuery, SearchRequest, run_search
from retrieval.search.semantic import find_nearest
from tests.retrieval.conftest import Library
from tests.retrieval.frame_colours import (
    FPS,
    NUM_FRAMES,
    FrameColours,
    write_colours,
)
from tests.retrieval.made_index import add, create, made_embeddings, made_video
from utils.errors import UserError
from utils.precision import Precision
from utils.times import format_time


def test_every_half_is_converted_exactly():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)][:, None]
    products = multiply_halves(halves, np.ones(1, dtype=np.float32))
    np.testing.assert_array_equal(products, halves[:, 0].astype(np.float32))
    rows, query = made_embeddings(5000, width=300).astype(np.float16), made_embeddings(1, 1, 300)[0]
    wanted = rows.astype(np.float64) @ query.astype(np.float64)
    np.testing.assert_allclose(multiply_halves(rows, query), wanted, atol=1e-7)
    np.testing.assert_allclose(multiply_halves(rows[::-7], query), wanted[::-7], atol=1e-7)
    assert multiply_halves(rows[:0], query).shape == (0,)


def test_several_threads_give_what_one_gives(monkeypatch):
    rows, query = made_embeddings(3001, width=100).astype(np.float16), made_embeddings(1, 1, 100)[0]
    wanted = multiply_halves(rows, query)
    monkeypatch.setattr(vectors, "_BLOCK", 5000)
    for cores in (1, 2, 3, 64):
        monkeypatch.setattr(vectors, "count_cpus", lambda cores=cores: cores)
        np.testing.assert_array_equal(multiply_halves(rows, query), wanted)


def test_the_memory_of_a_comparison_does_not_grow_with_the_vectors(monkeypatch):
    monkeypatch.setattr(vectors, "count_cpus", lambda: 2)  # each thread has a block
    rows = np.zeros((80_000, 256), dtype=np.float16)
    rows[:, 0] = 1
    frames = FrameVectors(rows, np.zeros(len(rows)), np.full(len(rows) // 8, 8))
    some = np.arange(0, len(rows) // 8, 2)
    query = np.eye(1, 256, dtype=np.float32)[0]
    for compare, most in ((frames.compare_all, 6e6), (lambda q: frames.compare_rows(q, some), 6e6)):
        tracemalloc.start()
        assert compare(query).all()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most < rows.nbytes / 6


class BruteForce:
    """What each entry's score should be, in float64, from what was written."""

    def __init__(self, videos: Sequence[NewVideo]) -> None:
        entries = [entry for video in videos for entry in video.entries]
        self.windows = np.array([entry.embeddings[EMBEDDINGS] for entry in entries], dtype=float)
        self.frames = [entry.embeddings[FRAMES].astype(float) for entry in entries]
        self.all_frames = np.concatenate(self.frames)
        self.stops = np.cumsum([len(rows) for rows in self.frames])

    def score(self, query: np.ndarray) -> np.ndarray:
        cosines = np.split(self.all_frames @ query.astype(float), self.stops[:-1])
        best = [own.max() for own in cosines]
        return (self.windows @ query.astype(float) + best) / 2


def test_the_ranking_is_that_of_brute_force_in_double_precision(tmp_path):
    folder, rows = tmp_path / "i", made_embeddings(400)
    create(folder, vectors="frames")
    videos = [made_video(f"{i % 3}/{i}.mp4", [], rows[10 * i : 10 * i + 10]) for i in range(40)]
    brute_force = BruteForce(videos)
    add(folder, *videos[:25])
    add(folder, *videos[25:], drop=[2, 7])
    ids = np.arange(1, 401)
    dead = np.isin((ids - 1) // 10, [1, 6])
    in_folder = (ids - 1) // 10 % 3 == 2
    for compact in (False, True):
        with lock_index(folder), IndexWriter(folder) as writer:
            assert writer.compact(max_dead=0.0 if compact else 1.0) == compact
            assert writer.meta["num_frames"] == 19 * (38 if compact else 40)
        with VideoIndex.open(folder) as index, index.reading() as (reader, snapshot):
            for query in made_embeddings(10, seed=5):
                scores = np.where(dead, -np.inf, brute_force.score(query))
                for inside, name in ((~dead, None), (~dead & in_folder, "2")):
                    only = None if name is None else snapshot.find_rows(reader, name)
                    found, given, _ = find_nearest(snapshot, query, 400, only)
                    wanted = ids[np.argsort(np.where(inside, -scores, np.inf))][: inside.sum()]
                    np.testing.assert_array_equal(found, wanted)
                    np.testing.assert_allclose(given, scores[wanted - 1], atol=1e-6)
                    if only is not None:  # as of a folder that is a small part
                        few = find_nearest(snapshot, query, 400, only[:20])
                        np.testing.assert_allclose(few[1], scores[few[0] - 1], atol=1e-6)


def test_a_hit_says_which_frame_is_best(tmp_path):
    folder, rows = tmp_path / "i", made_embeddings(30)
    create(folder, vectors="frames")
    video = made_video("a.mp4", ["casino"], rows)
    add(folder, video)
    with VideoIndex.open(folder) as index, index.reading() as (reader, snapshot):
        query = made_embeddings(1, seed=9)[0]
        for mode in ("semantic", "hybrid"):
            asked = SearchRequest("casino", 30, mode, None, True, False, 1.0)
            for hit in run_search(reader, snapshot, asked, EmbeddedQuery(query)):
                entry = video.entries[hit.id - 1]
                cosines = entry.embeddings[FRAMES].astype(float) @ query
                assert hit.time_s == entry.frame_times[int(np.argmax(cosines))]
                assert hit.frame_similarity == pytest.approx(cosines.max(), abs=1e-6)
                cosine = float(entry.embeddings[EMBEDDINGS] @ query)
                assert hit.similarity == hit.explanation.similarity == pytest.approx(cosine)
                if mode == "semantic":
                    mean = (hit.similarity + hit.frame_similarity) / 2
                    assert hit.score == pytest.approx(mean, abs=1e-6)
    with VideoIndex.open(folder) as index:
        (hit,) = index.search("casino", 1, mode="keyword")
        assert hit.time_s is None and hit.frame_similarity is None


def test_faiss_finds_nearly_what_the_exact_search_finds(tmp_path):
    folder, rows = tmp_path / "i", made_embeddings(3000)
    create(folder, vectors="frames")
    videos = [made_video(f"{i}.mp4", [], rows[100 * i : 100 * i + 100]) for i in range(30)]
    brute_force = BruteForce(videos)
    add(folder, *videos[:25])
    with lock_index(folder), IndexWriter(folder) as writer:
        with pytest.raises(UserError, match="--ann is for 10,000 vectors and more; .* has 7,475"):
            writer.build_ann()
        assert writer.build_ann(min_vectors=100) > 0.9
    add(folder, *videos[25:], drop=[1])
    with VideoIndex.open(folder) as index, index.reading() as (_, snapshot):
        ann = AnnIndex(folder, snapshot.meta["ann"])
        assert ann.num_rows == 2500 and ann.index.ntotal == 7475
        shares, newer = [], 0
        for row in range(0, 3000, 50):
            query = normalize_rows(rows[row][None] + made_embeddings(1, row))[0]
            near = ann.find_rows(query, 200)
            assert len(near) == len(set(near.tolist())) == 200
            scores = brute_force.score(query)
            exact, *_ = find_nearest(snapshot, query, 10, exact=True)
            np.testing.assert_array_equal(exact, 101 + np.argsort(-scores[100:])[:10])
            found, given, _ = find_nearest(snapshot, query, 200)
            np.testing.assert_allclose(given, scores[found - 1], atol=1e-6)
            shares.append(len({*exact.tolist()} & {*found[:10].tolist()}) / 10)
            newer += int(np.sum(found[:10] > 2500))
        assert np.mean(shares) > 0.9 and newer > 0


def test_an_entry_without_frames_is_never_written(tmp_path):
    folder, video = tmp_path / "i", made_video("a.mp4", [], made_embeddings(3))
    create(folder, vectors="frames")
    for spoil in (
        lambda entry: entry.embeddings.update({FRAMES: entry.embeddings[FRAMES][:0]}),
        lambda entry: setattr(entry, "frame_times", ()),
    ):
        spoil(video.entries[1])
        with pytest.raises(ValueError, match="no frames, or not as many vectors as times"):
            add(folder, video)
    with VideoIndex.open(folder) as index:
        assert len(index) == 0
        with index.reading() as (_, snapshot):
            assert find_nearest(snapshot, made_embeddings(1)[0], 5)[0].tolist() == []


def read_format(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "index.db")) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def test_an_earlier_release_refuses_a_new_index(tmp_path, monkeypatch):
    """It would take what is said, and the names of files, for lines without a place."""
    create(tmp_path / "windows")
    create(tmp_path / "frames", vectors="frames")
    assert (read_format(tmp_path / "windows"), read_format(tmp_path / "frames")) == (4, 4)
    assert len(list((tmp_path / "windows").glob("*.npy"))) == 2
    monkeypatch.setattr(database, "FORMAT_VERSION", 2)
    with pytest.raises(IndexFolderError, match="index of format 4, from a newer version"):
        VideoIndex.open(tmp_path / "frames")


def index_colours(videos: Path, out: Path, model: ModelFile, **options: object) -> None:
    result = update_index(videos, out, model, OcrSource(), IndexOptions(**options))
    assert not result.failed, result.failed


def test_the_best_frame_is_when_the_colour_is_seen(colours, tmp_path):
    out = tmp_path / "i"
    index_colours(*colours[:1], out, colours[1])  # frames are the default of such a model
    with VideoIndex.open(out) as index:
        hits = index.search("red", mode="semantic")
        spans = sorted((hit.video, hit.start_s, hit.end_s) for hit in hits[:2])
        assert spans == [("moment.mp4", 0, 10), ("moment.mp4", 4, 14)]
        for hit in hits[:2]:
            assert 6.0 <= hit.time_s < 8.0 and hit.frame_similarity > 0.99
            frames = sample_frame_indices(NUM_FRAMES, 100)  # of the window's hundred
            assert min(abs(hit.time_s - hit.start_s - frames / FPS)) < 1e-6
            assert hit.similarity < 0.5  # nearly all of the window is blue
        (hit, *_) = index.search("cyan", mode="hybrid")
        assert hit.video == "short.mp4" and 0 <= hit.time_s < 0.5
        with index.reading() as (_, snapshot):
            assert snapshot.vectors.frames.counts.tolist() == [8, 8, 5]  # five frames are all


def test_without_frame_vectors_there_is_no_time(colours, tmp_path):
    out = tmp_path / "i"
    index_colours(*colours[:1], out, colours[1], vectors="windows")
    assert len(list(out.glob("*.npy"))) == 3
    with VideoIndex.open(out) as index:
        hits = index.search("red", mode="semantic")
        assert {hit.time_s for hit in hits} == {None}
        assert [hit.score for hit in hits] == [hit.similarity for hit in hits]
    with pytest.raises(UserError, match="has the vectors of windows, and --vectors frames needs"):
        index_colours(*colours[:1], out, colours[1], vectors="frames")
    index_colours(*colours[:1], out, colours[1])  # as before, whatever a new index would have
    assert "num_frames" not in read_index_meta(out)


def test_an_update_goes_on_with_frames(colours, tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "i"
    write_colours(videos / "a.mp4", ("blue", 3))
    write_colours(videos / "b.mp4", ("white", 3))
    model = colours[1]
    index_colours(videos, out, model)
    write_colours(videos / "a.mp4", ("blue", 1), ("red", 1), ("blue", 4))  # another content
    (videos / "b.mp4").unlink()
    write_colours(videos / "c.mp4", ("cyan", 12))
    index_colours(videos, out, model)
    index_colours(videos, tmp_path / "fresh", model, vectors="frames")
    meta = read_index_meta(out)
    assert meta["num_rows"] == 3 and meta["num_frames"] == 24 and meta["generation"] == 2
    with VideoIndex.open(out) as index, VideoIndex.open(tmp_path / "fresh") as fresh:
        found, wanted = index.search("red"), fresh.search("red")
        assert found[0].video == "a.mp4" and 1 <= found[0].time_s < 2
        numbers = {"id": 0}
        assert [replace(hit, **numbers) for hit in found] == [
            replace(hit, **numbers) for hit in wanted
        ]
    with pytest.raises(UserError, match=r"i: has the vectors of frames, and --vectors windows"):
        index_colours(videos, out, model, vectors="windows")


def test_a_model_that_cant_is_refused(library: Library, tmp_path):
    with pytest.raises(
        UserError, match="--vectors frames: .*FrozenInTime. embeds windows as a whole"
    ):
        library.index(tmp_path / "i", vectors="frames")
    assert library.index(tmp_path / "i").num_entries == 8
    assert "num_frames" not in read_index_meta(tmp_path / "i")


def test_a_dual_encoder_keeps_frames_unless_told_otherwise(demo, make_checkpoint, tmp_path):
    checkpoint = make_checkpoint("dual_encoder")
    library = Library(demo / "Videos", demo / "Kwai_VideoOCR", checkpoint)
    library.index(tmp_path / "i", batch_size=5)
    library.index(tmp_path / "windows", vectors="windows")
    meta = read_index_meta(tmp_path / "i")
    assert meta["num_frames"] > meta["num_rows"] == 16
    with VideoIndex.open(tmp_path / "i") as index, VideoIndex.open(tmp_path / "windows") as other:
        hits = index.search("a red circle", 16, mode="semantic")
        assert all(hit.start_s <= hit.time_s < hit.end_s for hit in hits)
        similarities = {hit.video: hit.similarity for hit in other.search("a red circle", 16)}
        for hit in hits:
            assert hit.similarity == pytest.approx(similarities[hit.video], abs=1e-5)
            mean = (hit.similarity + hit.frame_similarity) / 2
            assert hit.score == pytest.approx(mean, abs=1e-6)


def test_embeddings_of_frames_that_are_not_finite_are_an_error(colours, tmp_path, monkeypatch):
    videos, model = colours
    monkeypatch.setattr(
        FrameColours, "embed_videos_apart", lambda self, batch: {"whole": torch.ones(1, 3)}
    )
    encoder = WindowEncoder(model, Precision("fp32", torch.device("cpu")))
    assert encoder.model.embeds_frames
    monkeypatch.setattr(
        FrameColours, "embed_frames", lambda self, batch: batch.video.mean((3, 4)) / 0
    )
    with pytest.raises(BrokenModelError, match="embeddings are not finite"):
        index_colours(videos, tmp_path / "i", model, batch_size=1)


def test_the_commands_say_the_frames_time(colours, tmp_path, run_main):
    videos, model = colours
    out = tmp_path / "i"
    command = [videos, "--out", out, "-r", model.path, "--no-ocr"]
    code, _, error = run_main(index_script, *command, "--vectors", "tracks")
    assert code == 2 and "'windows', 'frames'" in error
    assert run_main(index_script, *command, "--vectors", "frames")[0] == 0
    code, text, _ = run_main(search_script, out, "red", "--mode", "semantic", "--json")
    best = json.loads(text)[0]
    assert code == 0 and 6 <= best["time_s"] < 8 and best["frame_similarity"] > 0.99
    _, text, _ = run_main(search_script, out, "red", "--mode", "semantic", "--explain")
    lines = text.splitlines()
    assert lines[0].split() == ["time", "score", "words", "video"]
    assert format_time(best["time_s"]) in lines[1].split()
    assert lines.pop(2).strip().startswith("from the window ")
    moment = f"best frame {best['frame_similarity']:.3f}, at {format_time(best['time_s'])}"
    assert lines[2].strip().startswith("similarity ") and lines[3].strip() == moment
    code, _, error = run_main(index_script, *command, "--vectors", "windows")
    assert code == 2 and "leave out --vectors, or give another --out" in error


def test_an_index_is_embedded_anew_for_other_vectors(colours, tmp_path, run_main):
    videos, model = colours
    out = tmp_path / "i"
    command = [videos, "--out", out, "-r", model.path, "--no-ocr", "--vectors"]
    assert run_main(index_script, *command, "windows")[0] == 0
    code, _, error = run_main(index_script, *command, "frames")
    assert code == 2 and "give --replace-model and the model, too" in error
    for kept in ("frames", "windows", "frames"):
        assert run_main(index_script, *command, kept, "--replace-model")[0] == 0
        with VideoIndex.open(out) as index:
            hit = index.search("red", 1, mode="semantic")[0]
            assert hit.video == "moment.mp4" and (hit.time_s is not None) == (kept == "frames")
            assert sorted(index.entry(number).video for number in (1, 2, 3)) == (
                ["moment.mp4"] * 2 + ["short.mp4"]
            )  # entries stay what they are
    assert len(list(out.glob("*.npy"))) == 6
    assert read_index_meta(out)["num_frames"] == 21


def test_an_index_of_words_gets_frames_with_its_first_model(colours, tmp_path):
    videos, model = colours
    with pytest.raises(UserError, match="--vectors is for embeddings, and an index of words only"):
        index_colours(videos, tmp_path / "i", None, vectors="frames")
    index_colours(videos, tmp_path / "i", None)
    index_colours(videos, tmp_path / "i", model)
    with VideoIndex.open(tmp_path / "i") as index:
        assert 6 <= index.search("red", 1, mode="semantic")[0].time_s < 8


def test_a_killed_embedding_anew_goes_on_with_its_frames(colours, tmp_path, monkeypatch):
    """As a run that is killed between two commits leaves it."""
    videos, model = colours
    index_colours(videos, tmp_path / "i", model, vectors="windows")
    switch = IndexWriter.switch_to_successor
    monkeypatch.setattr(IndexWriter, "switch_to_successor", stop)
    with pytest.raises(StoppedError):
        index_colours(videos, tmp_path / "i", model, vectors="frames", replace_model=True)
    assert read_index_meta(tmp_path / "i")["successor"]["num_frames"] == 21
    with VideoIndex.open(tmp_path / "i") as index:
        assert index.search("red", 1, mode="semantic")[0].time_s is None  # as it was
    monkeypatch.setattr(IndexWriter, "switch_to_successor", switch)
    monkeypatch.setattr(WindowEncoder, "embed", stop)  # nothing is left to be embedded
    index_colours(videos, tmp_path / "i", model, vectors="frames", replace_model=True)
    with VideoIndex.open(tmp_path / "i") as index:
        assert 6 <= index.search("red", 1, mode="semantic")[0].time_s < 8


class StoppedError(Exception):
    """In the place of a signal."""


def stop(*_: object, **__: object) -> None:
    raise StoppedError
