"""The tables of an index, and how they are opened.

``index.db`` is SQLite in WAL mode: one process writes, any number read at the same time, each
transaction sees one state. A commit here is the moment at which anything new counts: embeddings
and thumbnails are on the disk before it.
"""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from retrieval.errors import IndexFolderError

DATABASE = "index.db"
FORMAT_VERSION = 1
APPLICATION_ID = 0x54565258  # "TVRX": tells our databases from others
NO_INDEX = "index.py makes one: python index.py VIDEOS -r MODEL --out {}"
_WAIT_S = 30.0

# Paths are kept as the bytes that they are: names need not be text.
# Rows count from 0 and are those of the embeddings; dead ones belonged to videos that are gone.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE videos (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE, stamp TEXT NOT NULL,
    ocr_stamp TEXT NOT NULL, duration_s REAL NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, video_id INTEGER NOT NULL REFERENCES videos,
    start_s REAL NOT NULL, end_s REAL NOT NULL, row INTEGER NOT NULL UNIQUE);
CREATE INDEX entries_of_video ON entries (video_id);
CREATE TABLE dead_rows (row INTEGER PRIMARY KEY);
CREATE TABLE tracks (
    id INTEGER PRIMARY KEY, video_id INTEGER NOT NULL REFERENCES videos, text TEXT NOT NULL,
    score REAL NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL, boxes BLOB NOT NULL);
CREATE INDEX tracks_of_video ON tracks (video_id);
CREATE TABLE words (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE VIRTUAL TABLE words_fts USING fts5 (
    text, content='words', content_rowid='id', tokenize='trigram');
CREATE TABLE postings (
    word_id INTEGER NOT NULL, entry_id INTEGER NOT NULL, track_id INTEGER NOT NULL,
    PRIMARY KEY (word_id, entry_id, track_id)) WITHOUT ROWID;
CREATE INDEX postings_of_entry ON postings (entry_id);
"""


def create(folder: Path, meta: dict[str, Any]) -> None:
    """Make the database of an empty index; it is there as a whole or not at all."""
    connection = sqlite3.connect(folder / DATABASE, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, SCHEMA.split(";")):
            connection.execute(statement)
        write_meta(connection, meta)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def connect(folder: Path, writing: bool = False) -> sqlite3.Connection:
    """Open the database; transactions are begun and ended by statements.

    Args:
        folder: the index.
        writing: False: nothing is ever written, and any thread may use the connection in turn.

    Raises:
        IndexFolderError: there is none, it is none of ours, damaged, or of a newer version.
    """
    path = folder / DATABASE
    if not path.is_file():
        what = "holds no finished index" if folder.is_dir() else "no such folder"
        raise IndexFolderError(f"{folder}: {what}; {NO_INDEX.format(folder)}")
    mode = "rw" if writing else "ro"
    if not writing and not os.access(folder, os.W_OK):
        mode += "&immutable=1"  # readers, too, note in the folder that they are there
    connection = None
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=_WAIT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        _check_version(connection, folder)
        if writing:
            connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise unreadable(folder, error) from error
    except IndexFolderError:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, folder: Path) -> None:
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != APPLICATION_ID:
        raise IndexFolderError(f"{folder}: holds no finished index; {NO_INDEX.format(folder)}")
    if version > FORMAT_VERSION:
        raise IndexFolderError(
            f"{folder}: is an index of format {version}, from a newer version of this project; "
            f"this one reads format {FORMAT_VERSION}: update the project, or make the index anew"
        )


def unreadable(folder: Path, error: sqlite3.Error) -> IndexFolderError:
    """Return what to say of an error of SQLite while reading."""
    return IndexFolderError(
        f"{folder / DATABASE}: can't be read ({error}); give access to it and free some space, or "
        "delete the folder and make the index anew with index.py"
    )


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return everything that is kept by name."""
    rows = connection.execute("SELECT key, value FROM meta")
    return {key: json.loads(value) for key, value in rows}


def write_meta(connection: sqlite3.Connection, values: dict[str, Any]) -> None:
    """Set values by name; None takes one away."""
    for key, value in values.items():
        connection.execute("DELETE FROM meta WHERE key = ?", (key,))
        if value is not None:
            connection.execute("INSERT INTO meta VALUES (?, ?)", (key, json.dumps(value)))
