"""Processes that write to an index in LanceDB or read it, until they are killed.

    python -m tests.retrieval.lance_process churn LOCATION SEED
    python -m tests.retrieval.lance_process watch LOCATION COMMITS

Video n has n + 1 entries with embeddings of their own, and in each the words ``wn here``.
"""

import random
import sys
from collections import Counter

import numpy as np
import pytest

from retrieval.index.location import open_store
from retrieval.index.store import StoreReader
from retrieval.lance import writer as lance_writer
from tests.retrieval.made_index import MODEL, WIDTH, made_embeddings, made_video

NUM_VIDEOS = 5


def make_index(location: str) -> None:
    """An empty index, with vectors of frames."""
    store = open_store(location)
    meta = {"folder": b"/nowhere".hex(), "model": MODEL, "query_encoder": "", "windows": [10, 5]}
    with store.locking():
        store.create(WIDTH, (), meta | {"num_frames": 0})


def change(writer: lance_writer.LanceWriter, rng: random.Random) -> None:
    """Replace two videos and drop others, in one commit; merge small files now and then."""
    known = writer.read_videos()
    numbers = rng.sample(range(NUM_VIDEOS), 2)
    videos = [
        made_video(f"{n}.mp4", [f"w{n} here"], made_embeddings(n + 1, seed=n)) for n in numbers
    ]
    drop = [
        known[f"{n}.mp4"].id
        for n in range(NUM_VIDEOS)
        if rng.random() < 0.3 and n not in numbers and f"{n}.mp4" in known
    ]
    writer.write(videos, drop)
    if rng.random() < 0.2:
        writer.compact()
        writer.remove_leftovers()
    elif rng.random() < 0.2:
        writer.optimize()


def churn(location: str, seed: int, rounds: int = 10**6) -> None:
    """Change an index for ever, in runs of some commits, whose rows are merged time and again."""
    rng = random.Random(seed)
    store = open_store(location)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lance_writer, "MERGED_AFTER", 3)
        for _ in range(rounds):
            with store.locking(), store.open_writer() as writer:
                writer.remove_leftovers()
                for _ in range(rng.randint(1, 6)):
                    change(writer, rng)


def check(reader: StoreReader) -> int:
    """All that one commit says fits together; returns its number of entries."""
    ids, vectors = reader.read_ids(), reader.open_vectors()
    assert len(ids) == vectors.num_rows == reader.meta["num_rows"]
    entries = reader.read_entries(ids.tolist())
    assert len(entries) == len(ids)
    counts = Counter(entry.video for entry in entries.values())
    for name, count in counts.items():
        number = int(name.removesuffix(".mp4"))
        assert count == number + 1, counts
        video = reader.find_video(name)
        own = [entry for entry, *_ in reader.list_entries(video.id)]
        rows = np.searchsorted(ids, own)
        wanted = made_embeddings(number + 1, seed=number)
        np.testing.assert_array_equal(vectors.read_windows(rows), wanted)
        scores = vectors.score_together([wanted[0]])[0]
        np.testing.assert_allclose(vectors.score_rows(wanted[0], rows), scores[rows], atol=1e-6)
        places = reader.find_lines_with_words([f"w{number}", "here"])
        assert sorted(places.entries.tolist()) == own
    assert reader.count_videos() == len(counts)
    return len(ids)


def watch(location: str, num_commits: int) -> None:
    """Check commits as they come, until so many different ones were seen."""
    store, seen = open_store(location), set()
    while len(seen) < num_commits:
        with store.reading() as reader:
            check(reader)
            seen.add(reader.meta["commits"])


if __name__ == "__main__":
    job, place, number = sys.argv[1:]
    {"churn": churn, "watch": watch}[job](place, int(number))
