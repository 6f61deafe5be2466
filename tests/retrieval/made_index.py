"""Index folders without a model: embeddings and lines of text as a test wants them."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from retrieval.index.arrays import EMBEDDINGS, FRAMES
from retrieval.index.query_embedder import normalize_rows
from retrieval.index.records import ContentStamp, NewEntry, NewTrack, NewVideo
from retrieval.index.vectors import Vectors
from retrieval.index.words import fold_formerly, get_words
from retrieval.index.writer import IndexWriter, lock_index

WIDTH = 16
MODEL = {"name": "made", "path": "/made.pth", "sha256": "0" * 64, "settings": "1" * 64}
BOX = (0.25, 0.5, 0.75, 0.625)


def made_embeddings(count: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """(count, width) float32 of length 1."""
    rng = np.random.default_rng(seed)
    return normalize_rows(rng.standard_normal((count, width), dtype=np.float32))


def made_frames(row: np.ndarray, number: int) -> np.ndarray:
    """The frame vectors of the window with that embedding: 1 to 3, by its number in the video."""
    seed = int.from_bytes(row.tobytes()[:8])
    noise = made_embeddings(1 + number % 3, seed, len(row))
    return normalize_rows(row + noise).astype(np.float16)


def made_video(name: str, lines: Sequence[str], rows: np.ndarray) -> NewVideo:
    """A video of one entry a row; every line is seen in every entry. Frames are 0.25 s apart."""
    entries = []
    for number, row in enumerate(rows):
        start, frames = 5.0 * number, made_frames(row, number)
        arrays = {EMBEDDINGS: row, FRAMES: frames}
        times = [start + 0.25 * i for i in range(len(frames))]
        entries.append(NewEntry(start, start + 10, b"jpeg", arrays, times))
    places = tuple(range(len(entries)))
    boxes = np.array([(0.5, *BOX), (1.5, *BOX)], dtype=np.float32)
    tracks = [NewTrack(line, 0.9, 0.5, 1.5, boxes, places) for line in lines]
    stamp = ContentStamp(1, 2, "3")
    return NewVideo(name, stamp, None, 10.0, 64, 48, entries, tracks)


def create(folder: Path, width: int = WIDTH, vectors: Vectors = "windows") -> None:
    """An empty index in a new folder."""
    folder.mkdir(parents=True)
    meta = {"folder": b"/nowhere".hex(), "model": MODEL, "query_encoder": "", "windows": [10, 5]}
    with lock_index(folder):
        meta |= {"num_frames": 0} if vectors == "frames" else {}
        IndexWriter.create(folder, width, (), meta)


def add(folder: Path, *videos: NewVideo, drop: Sequence[int] = ()) -> None:
    """One commit."""
    with lock_index(folder), IndexWriter(folder) as writer:
        writer.write(videos, drop)


def index_of_lines(folder: Path, lines: Sequence[Sequence[str]]) -> Path:
    """An index of one-entry videos ``0.mp4`` …, which show these lines; entry ids count from 1."""
    create(folder)
    rows = made_embeddings(len(lines))
    videos = [made_video(f"{i}.mp4", texts, rows[i : i + 1]) for i, texts in enumerate(lines)]
    add(folder, *videos)
    return folder


FORMER_WORDS = """
DROP TABLE pieces;
DROP TABLE words_fts;
ALTER TABLE words DROP COLUMN reduced;
CREATE VIRTUAL TABLE words_fts USING fts5 (
    text, content='words', content_rowid='id', tokenize='trigram');
"""
FORMER_TRACKS = """
DELETE FROM postings WHERE track_id IN (SELECT id FROM tracks WHERE kind != 'read');
DELETE FROM tracks WHERE kind != 'read';
ALTER TABLE tracks DROP COLUMN kind;
"""


FORMER_CHECKSUMS = """
DELETE FROM meta WHERE key LIKE '%checksums' OR key = 'id';
DROP TABLE video_checksums;
"""


def remove_checksums(folder: Path) -> None:
    """Make an index one without checksums, as releases of before wrote it."""
    with closing(sqlite3.connect(folder / "index.db")) as connection, connection:
        connection.executescript(FORMER_CHECKSUMS)
    for path in (*folder.glob("checksums-*"), folder / "settings.json"):
        path.unlink()


def make_former(folder: Path, version: int) -> None:
    """Make an index one of format 2 or 3, as releases of before wrote it."""
    remove_checksums(folder)
    with closing(sqlite3.connect(folder / "index.db")) as connection, connection:
        connection.executescript(FORMER_WORDS + (FORMER_TRACKS if version < 3 else ""))
        rows = connection.execute(
            "SELECT DISTINCT track_id, entry_id, text FROM postings "
            "JOIN tracks ON tracks.id = track_id"
        ).fetchall()
        connection.executescript("DELETE FROM postings; DELETE FROM words;")
        for track, entry, text in rows:
            for word in dict.fromkeys(map(fold_formerly, get_words(text))):
                connection.execute("INSERT OR IGNORE INTO words (text) VALUES (?)", (word,))
                of_word = "INSERT INTO postings SELECT id, ?, ? FROM words WHERE text = ?"
                connection.execute(of_word, (entry, track, word))
        connection.execute("INSERT INTO words_fts (words_fts) VALUES ('rebuild')")
        connection.execute(f"PRAGMA user_version = {version}")
