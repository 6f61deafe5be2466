"""Embeddings in their file, and the ways to the nearest of them."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.index import arrays
from retrieval.index.writer import IndexWriter, lock_index
from retrieval.search.semantic import find_nearest
from tests.retrieval.made_index import add, create, made_embeddings, made_video
from utils.errors import UserError


def test_arrays_grow_while_they_are_mapped(tmp_path):
    file, rows = tmp_path / "a.npy", made_embeddings(10, width=4)
    arrays.create_array(file, np.float32, (4,))
    assert np.load(file).shape == (0, 4) and len(arrays.map_rows(file, np.float32, 0, (4,))) == 0
    arrays.append_rows(file, 0, rows[:3])
    held = arrays.map_rows(file, np.float32, 3, (4,))
    arrays.append_rows(file, 3, rows[8:])  # by one that was killed before it said so
    arrays.append_rows(file, 3, rows[3:4])
    arrays.append_rows(file, 4, rows[4:7])
    np.testing.assert_array_equal(held, rows[:3])
    np.testing.assert_array_equal(np.load(file), rows[:7])
    np.testing.assert_array_equal(arrays.map_rows(file, np.float32, 7, (4,)), rows[:7])


def test_threads_that_search_at_once_get_their_own_answers(tmp_path):
    folder, rows = tmp_path / "i", made_embeddings(5000)  # more than are multiplied at a time
    create(folder)
    add(folder, *(made_video(f"{i}.mp4", [], rows[500 * i : 500 * i + 500]) for i in range(10)))
    add(folder, drop=[3])
    alive = np.flatnonzero((np.arange(5000) < 1000) | (np.arange(5000) >= 1500))
    with VideoIndex.open(folder) as index, index.reading() as (_, snapshot):
        queries = made_embeddings(60, seed=1)
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda query: find_nearest(snapshot, query, 10), queries))
    for query, (ids, cosines, _) in zip(queries, found, strict=True):
        wanted = alive[np.argsort(-(rows[alive] @ query))[:10]]
        np.testing.assert_array_equal(ids, wanted + 1)
        np.testing.assert_allclose(cosines, rows[wanted] @ query, atol=1e-6)


def test_faiss_finds_nearly_what_the_exact_search_finds(tmp_path):
    folder, rows = tmp_path / "i", made_embeddings(3000)
    create(folder)
    add(folder, *(made_video(f"{i}.mp4", [], rows[100 * i : 100 * i + 100]) for i in range(25)))
    with lock_index(folder), IndexWriter(folder) as writer:
        with pytest.raises(UserError, match="--ann is for 10,000 entries and more; .* has 2,500"):
            writer.build_ann()
        assert writer.build_ann(min_vectors=100) > 0.9
    # Later ones are found, too, and none that is gone.
    add(folder, *(made_video(f"{i}.mp4", [], rows[100 * i : 100 * i + 100]) for i in range(25, 30)),
        drop=[1])  # fmt: skip
    alive = np.arange(100, 3000)
    with VideoIndex.open(folder) as index, index.reading() as (_, snapshot):
        assert snapshot.meta["ann"]["num_rows"] == 2500 and len(index) == 2900
        shares, newer = [], 0
        for row in range(0, 3000, 50):
            wanted = alive[np.argsort(-(rows[alive] @ rows[row]))[:10]] + 1
            exact, *_ = find_nearest(snapshot, rows[row], 10, exact=True)
            np.testing.assert_array_equal(exact, wanted)
            found, cosines, _ = find_nearest(snapshot, rows[row], 200)
            assert not set(found.tolist()) & set(range(1, 101))
            np.testing.assert_allclose(cosines, rows[found - 1] @ rows[row], atol=1e-6)
            shares.append(len({*wanted.tolist()} & {*found[:10].tolist()}) / 10)
            newer += int(np.sum(found[:10] > 2500))
        assert np.mean(shares) > 0.9 and newer > 0
    (file,) = folder.glob("*.faiss")
    for spoil in (lambda: os.truncate(file, 1000), file.unlink):
        spoil()
        with VideoIndex.open(folder) as index, index.reading() as (_, snapshot):
            with pytest.raises(IndexFolderError, match="faiss: .* --repair makes anew"):
                find_nearest(snapshot, rows[0], 10)
            assert find_nearest(snapshot, rows[200], 1, exact=True)[0].tolist() == [201]
