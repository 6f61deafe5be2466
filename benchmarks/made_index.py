"""An index of made-up entries, written in bulk.

Shapes: N entries, E width of the common space.
"""

import random
import string
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.index import arrays, database
from retrieval.index.layout import EMBEDDINGS, IDS, array_file
from retrieval.index.query_embedder import normalize_rows
from retrieval.index.writer import IndexWriter

WIDTH = 256
VOCABULARY = 50_000
WORDS = 6  # of an entry, in two lines
ENTRIES_OF_VIDEO = 100
ENTRIES_OF_CLUSTER = 100
SPREAD = 0.8  # of a cluster, against the distance between clusters
_CHUNK = 50_000
_BOX = np.array([(1.0, 0.1, 0.1, 0.5, 0.2)], dtype=np.float32).tobytes()


@dataclass(frozen=True)
class Made:
    """What the entries were made from.

    Attributes:
        rows: (N, E) float32 embeddings.
        words: (N, WORDS) int64 numbers of words.
        vocabulary: the words.
    """

    rows: NDArray
    words: NDArray
    vocabulary: list[str]

    def queries(self, count: int) -> tuple[NDArray, list[str]]:
        """Return embeddings (count, E) near to those of entries, and three of their words each.

        The last word has a wrong letter.
        """
        rng = np.random.default_rng(1)
        chosen = rng.integers(len(self.rows), size=count)
        noise = 0.5 * normalize_rows(rng.standard_normal((count, WIDTH), dtype=np.float32))
        texts = []
        for entry in chosen:
            first, second, third = (self.vocabulary[word] for word in self.words[entry, :3])
            texts.append(f"{first} {second} {third[:2]}#{third[3:]}".replace("#", "q"))
        return normalize_rows(self.rows[chosen] + noise), texts


def make_index(folder: Path, size: int) -> Made:
    """Write an index of ``size`` entries in a new folder."""
    folder.mkdir(parents=True)
    model = {"name": "made", "path": "", "sha256": "", "settings": ""}
    meta = {"folder": b"/".hex(), "model": model, "query_encoder": "", "windows": [10, 5]}
    IndexWriter.create(folder, WIDTH, (), meta)
    made = Made(_embeddings(size), _words(size), _vocabulary())
    for first in range(0, size, _CHUNK):
        part = made.rows[first : first + _CHUNK]
        arrays.append_rows(array_file(folder, EMBEDDINGS, 1), first, part)
        ids = np.arange(first + 1, first + 1 + len(part))
        arrays.append_rows(array_file(folder, IDS, 1), first, ids)
    with closing(database.connect(folder, writing=True)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        _insert(connection, made)
        database.write_meta(connection, {"num_rows": size, "commits": 1})
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return made


def _embeddings(size: int) -> NDArray:
    rng = np.random.default_rng(0)
    centres = normalize_rows(rng.standard_normal((max(1, size // ENTRIES_OF_CLUSTER), WIDTH), np.float32))
    rows = np.empty((size, WIDTH), dtype=np.float32)
    for first in range(0, size, _CHUNK):
        count = min(_CHUNK, size - first)
        own = centres[rng.integers(len(centres), size=count)]
        noise = normalize_rows(rng.standard_normal((count, WIDTH), dtype=np.float32))
        rows[first : first + count] = normalize_rows(own + SPREAD * noise)
    return rows


def _words(size: int) -> NDArray:
    """Numbers of words with Zipf's frequencies: the n-th most frequent is n times as rare."""
    shares = 1 / np.arange(1, VOCABULARY + 1)
    steps = np.cumsum(shares) / shares.sum()
    draws = np.random.default_rng(2).random((size, WORDS))
    return np.minimum(np.searchsorted(steps, draws), VOCABULARY - 1)


def _vocabulary() -> list[str]:
    rng = random.Random(3)
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        words["".join(rng.choices(string.ascii_lowercase, k=rng.randint(4, 11)))] = None
    return list(words)


def _insert(connection: database.sqlite3.Connection, made: Made) -> None:
    many, size = connection.executemany, len(made.rows)
    numbers = range(1, size + 1)
    videos = range(1, (size - 1) // ENTRIES_OF_VIDEO + 2)
    many(
        "INSERT INTO videos VALUES (?, ?, '{}', 'null', 600, 640, 360)",
        ((video, f"{video % 100}/{video}.mp4".encode()) for video in videos),
    )
    many(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?)",
        (
            (i, (i - 1) // ENTRIES_OF_VIDEO + 1, start := 5.0 * ((i - 1) % 100), start + 10, i - 1)
            for i in numbers
        ),
    )
    texts = [[made.vocabulary[word] for word in row] for row in made.words.tolist()]
    half = WORDS // 2
    many(
        "INSERT INTO tracks VALUES (?, ?, ?, 0.9, 0, 1, ?)",
        (
            (2 * i - 1 + line, (i - 1) // ENTRIES_OF_VIDEO + 1, " ".join(words), _BOX)
            for i in numbers
            for line, words in enumerate((texts[i - 1][:half], texts[i - 1][half:]))
        ),
    )
    many("INSERT INTO words VALUES (?, ?)", enumerate(made.vocabulary, 1))
    connection.execute("INSERT INTO words_fts (words_fts) VALUES ('rebuild')")
    keys = np.array(
        [
            made.words.ravel() + 1,
            np.repeat(np.arange(1, size + 1), WORDS),
            np.tile(np.repeat([0, 1], half), size) + 2 * np.repeat(np.arange(size), WORDS) + 1,
        ]
    ).T
    keys = keys[np.lexsort(keys.T[::-1])]  # in the table's order, which is the fastest
    for first in range(0, len(keys), _CHUNK):
        part = keys[first : first + _CHUNK].tolist()
        many("INSERT OR IGNORE INTO postings VALUES (?, ?, ?)", part)
