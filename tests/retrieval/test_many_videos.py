"""Indexes of many videos: what a commit costs doesn't grow with their number."""

from itertools import islice, product

import pytest

from retrieval.index import database
from retrieval.index.writer import IndexWriter, lock_index
from tests.retrieval.made_index import add, create, made_embeddings, made_video


def name_alike(count):
    """Names of videos that have the same words, so that the vocabulary stays as it is."""
    signs = islice(product("_-", repeat=10), count)
    return [f"red{''.join(between)}car.mp4" for between in signs]


def count_steps(folder, video, monkeypatch):
    """Return the steps of SQLite's machine, in tens, of the commit of a video."""
    steps, connect = [0], database.connect

    def connect_counting(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.set_progress_handler(lambda: steps.__setitem__(0, steps[0] + 1), 10)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(database, "connect", connect_counting)
        with lock_index(folder), IndexWriter(folder) as writer:
            before = steps[0]
            writer.write([video])
            return steps[0] - before


@pytest.mark.parametrize("is_known", [False, True])
def test_a_commit_costs_what_it_changes(tmp_path, monkeypatch, is_known):
    rows, found = made_embeddings(1), {}
    for count in (4, 400):
        create(tmp_path / str(count))
        videos = [made_video(name, ["a line"], rows) for name in name_alike(count + 1)]
        add(tmp_path / str(count), *videos[:count])
        video = videos[0 if is_known else count]
        found[count] = count_steps(tmp_path / str(count), video, monkeypatch)
    assert 0 < found[400] < 1.5 * found[4]
