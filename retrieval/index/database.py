"""Database of an index: its tables, how it is opened, and a video's rows in it.

``index.db`` is SQLite in WAL mode: one process writes, any number read at the same time, each
transaction sees one state. Whatever is new counts from the commit here: embeddings and thumbnails
are on the disk before it. Shapes: E width of the common space.
"""

import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import DamagedIndexError, IndexFolderError
from retrieval.index.records import (
    ContentStamp,
    KnownEntry,
    KnownLine,
    KnownVideo,
    NewEntry,
    NewTrack,
    NewVideo,
    Stamps,
    build_name_track,
)
from retrieval.index.words import (
    fold_formerly,
    get_words,
    list_index_words,
    list_pieces,
    reduce_word,
)
from retrieval.results import TrackKind

DATABASE = "index.db"
# Format 2 may have vectors of frames, another model than its first one, or none. Format 3 has lines
# that are spoken, and the names of the videos as lines, which formats before can't tell from those
# that were read. Format 4 has the reduced forms of words. All are read, and become the last one
# when they are written to; until then words are found in their written form only.
FORMAT_VERSION = 4
APPLICATION_ID = 0x54565258  # "TVRX": tells our databases from others
NO_INDEX = "index.py makes one: python index.py VIDEOS --out {}"
_WAIT_S = 30.0
READ_ERRORS = sqlite3.Error, UnicodeDecodeError  # the second where a damaged schema is no text
# What SQLite says where nothing is damaged, but it is kept from the files.
_ACCESS = re.compile("unable to open|readonly|is locked|is full|disk I/O|not authorized")
_KINDS: dict[str, type] = {  # of the values that every ``meta`` has
    "commits": int, "generation": int, "num_rows": int, "windows": list, "leaves_out": list
}  # fmt: skip

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
    score REAL NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL, boxes BLOB NOT NULL,
    kind TEXT NOT NULL DEFAULT 'read');
CREATE INDEX tracks_of_video ON tracks (video_id);
CREATE TABLE words (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, reduced TEXT);
CREATE TABLE postings (
    word_id INTEGER NOT NULL, entry_id INTEGER NOT NULL, track_id INTEGER NOT NULL,
    PRIMARY KEY (word_id, entry_id, track_id)) WITHOUT ROWID;
CREATE INDEX postings_of_entry ON postings (entry_id);
"""
# What finds parts of words: trigrams, and neighbours of scripts without blanks. ``reduced`` is NULL
# where it is the written form.
_WORD_PARTS = """
CREATE VIRTUAL TABLE words_fts USING fts5 (
    text, reduced, content='words', content_rowid='id', tokenize='trigram');
CREATE TABLE pieces (
    piece TEXT NOT NULL, word_id INTEGER NOT NULL, PRIMARY KEY (piece, word_id)) WITHOUT ROWID;
"""
SCHEMA += _WORD_PARTS


def create_database(folder: Path, meta: dict[str, Any]) -> None:
    """Make the database of an empty index, completely or not at all."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, SCHEMA.split(";")):
            connection.execute(statement)
        write_meta(connection, meta)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("COMMIT")


def upgrade_database(connection: sqlite3.Connection) -> bool:
    """Bring a database that is open for writing to the last format, in one commit.

    Returns whether that was needed.
    """
    version = read_version(connection)
    if version >= FORMAT_VERSION:
        return False
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version < 3:
            connection.execute("ALTER TABLE tracks ADD COLUMN kind TEXT NOT NULL DEFAULT 'read'")
        _reduce_words(connection)
        _respell_tracks(connection)
        for (video_id,) in connection.execute("SELECT id FROM videos").fetchall():
            _replace_tracks(connection, video_id, "name", [])
        write_meta(connection, {"commits": read_meta(connection)["commits"] + 1})
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True


def _reduce_words(connection: sqlite3.Connection) -> None:
    """Give the words of a former format their reduced forms."""
    connection.execute("ALTER TABLE words ADD COLUMN reduced TEXT")
    connection.execute("DROP TABLE words_fts")
    for statement in filter(str.strip, _WORD_PARTS.split(";")):
        connection.execute(statement)
    for word_id, text in connection.execute("SELECT id, text FROM words").fetchall():
        reduced = reduce_word(text)
        if reduced != text:
            values = reduced, word_id
            connection.execute("UPDATE words SET reduced = ? WHERE id = ?", values)
        _insert_pieces(connection, word_id, reduced)
    connection.execute("INSERT INTO words_fts (words_fts) VALUES ('rebuild')")


def _respell_tracks(connection: sqlite3.Connection) -> None:
    """Give the lines of a former format the words that they have now, where these are others."""
    in_entries = (
        "SELECT DISTINCT entry_id FROM postings WHERE track_id = ? AND entry_id IN "
        "(SELECT id FROM entries WHERE video_id = ?)"
    )
    rows = connection.execute(
        "SELECT id, video_id, text FROM tracks WHERE kind != 'name'"
    ).fetchall()
    for track_id, video_id, text in rows:
        words = list_index_words(text)
        if words.keys() == {fold_formerly(word) for word in get_words(text)}:
            continue
        found = connection.execute(in_entries, (track_id, video_id)).fetchall()
        keys = [(entry, track_id) for (entry,) in found]
        connection.executemany("DELETE FROM postings WHERE entry_id = ? AND track_id = ?", keys)
        _insert_words(connection, words, keys)


def connect(folder: Path, writing: bool = False) -> sqlite3.Connection:
    """Open the database; any thread may use the connection in turn.

    Transactions are begun and ended by statements.

    Raises:
        IndexFolderError: there is none, it is none of ours, damaged, or of a newer version.
    """
    path = folder / DATABASE
    if not path.is_file():
        what = "holds no finished index" if folder.is_dir() else "no such folder"
        raise IndexFolderError(f"{folder}: {what}; {NO_INDEX.format(folder)}")
    mode = "rw" if writing else "ro"
    if not writing and not os.access(folder, os.W_OK):
        mode += "&immutable=1"  # readers, too, write a file beside it otherwise
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False}
    with ExitStack() as stack:
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=_WAIT_S, **options)
            stack.enter_context(closing(connection))
            _check_version(connection, folder)
            if writing:
                connection.execute("PRAGMA synchronous = FULL")
            else:
                _add_missing_columns(connection)
        except READ_ERRORS as error:
            raise explain_read_error(folder, error) from error
        stack.pop_all()
    return connection


def _add_missing_columns(connection: sqlite3.Connection) -> None:
    """Let an index of a former format be read as one of the last."""
    version = read_version(connection)
    view = "CREATE TEMP VIEW {0} AS SELECT *, {1} FROM main.{0}"
    if version < 3:  # all lines of such an index were read
        connection.execute(view.format("tracks", "'read' AS kind"))
    if version < 4:
        connection.execute(view.format("words", "NULL AS reduced"))


def _check_version(connection: sqlite3.Connection, folder: Path) -> None:
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    version = read_version(connection)
    if found != APPLICATION_ID:
        raise IndexFolderError(f"{folder}: holds no finished index; {NO_INDEX.format(folder)}")
    if version > FORMAT_VERSION:
        raise IndexFolderError(
            f"{folder}: is an index of format {version}, from a newer version of this project; "
            f"this one reads format {FORMAT_VERSION}: update the project, or make the index anew"
        )


def read_version(connection: sqlite3.Connection) -> int:
    """Return the format of an index."""
    return connection.execute("PRAGMA user_version").fetchone()[0]


@contextmanager
def open_database(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the database for a ``with`` block that reads; raises ``IndexFolderError``."""
    with closing(connect(folder)) as connection:
        try:
            yield connection
        except READ_ERRORS as error:
            raise explain_read_error(folder, error) from error


def explain_read_error(folder: Path, error: Exception) -> IndexFolderError:
    """Return the error for the user where SQLite can't read."""
    said = str(error)
    if _ACCESS.search(said):
        return IndexFolderError(
            f"{folder / DATABASE}: can't be read ({said}); give access to it, and free some space"
        )
    return DamagedIndexError(folder, DATABASE, f"can't be read ({said})")


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the values of the table ``meta`` by key.

    Raises ``sqlite3.Error`` where there is none, or it lacks what every index has.
    """
    meta = {}
    for key, value in connection.execute("SELECT key, value FROM meta"):
        try:
            meta[key] = json.loads(value)
        except (TypeError, ValueError) as error:
            raise sqlite3.DatabaseError(f"its value of {key} is no JSON") from error
    for key, kind in _KINDS.items():
        if not isinstance(meta.get(key), kind):
            raise sqlite3.DatabaseError(f"has no {key}, or one that can't be")
    return meta


def write_meta(connection: sqlite3.Connection, values: dict[str, Any]) -> None:
    """Set values of the table ``meta`` by key; None deletes one."""
    for key, value in values.items():
        connection.execute("DELETE FROM meta WHERE key = ?", (key,))
        if value is not None:
            connection.execute("INSERT INTO meta VALUES (?, ?)", (key, json.dumps(value)))


def read_videos(connection: sqlite3.Connection) -> dict[str, KnownVideo]:
    """Return the videos of an index by path."""
    rows = connection.execute("SELECT id, path, stamp, ocr_stamp FROM videos")
    return {
        os.fsdecode(path): KnownVideo(video_id, parse_stamp(stamp), parse_stamp(ocr))
        for video_id, path, stamp, ocr in rows
    }


def find_videos(connection: sqlite3.Connection, paths: Sequence[str]) -> list[int]:
    """Return the ids of those videos (by path) that the index has."""
    query = "SELECT id FROM videos WHERE path = ?"
    rows = (connection.execute(query, (os.fsencode(path),)).fetchone() for path in paths)
    return [row[0] for row in rows if row is not None]


def read_entries(connection: sqlite3.Connection) -> dict[int, list[KnownEntry]]:
    """Return the entries of each video (by id), in their order."""
    found: dict[int, list[KnownEntry]] = {}
    for video, *entry in connection.execute(
        "SELECT video_id, id, start_s FROM entries ORDER BY id"
    ):
        found.setdefault(video, []).append(KnownEntry(*entry))
    return found


def read_lines(connection: sqlite3.Connection, video_id: int) -> list[KnownLine]:
    """Return the lines of text that were read in a video, in the order in which they came."""
    rows = connection.execute(
        "SELECT text, score, boxes FROM tracks WHERE video_id = ? AND kind = 'read' ORDER BY id",
        (video_id,),
    )
    return [
        KnownLine(text, score, np.frombuffer(boxes, dtype=np.float32).reshape(-1, 5))
        for text, score, boxes in rows
    ]


def update_stamps(connection: sqlite3.Connection, stamps: dict[int, Stamps]) -> None:
    """Write new stamps of videos (by id) and of their OCR documents."""
    connection.executemany(
        "UPDATE videos SET stamp = ?, ocr_stamp = ? WHERE id = ?",
        ((_dump_stamp(file), _dump_stamp(ocr), video) for video, (file, ocr) in stamps.items()),
    )


def insert_video(
    connection: sqlite3.Connection, video: NewVideo, first_row: int
) -> list[tuple[int, NewEntry]]:
    """Insert a video whose path is new; returns its entries with their ids.

    The embeddings of its entries begin at ``first_row``.
    """
    stamps = _dump_stamp(video.stamp), _dump_stamp(video.ocr_stamp)
    size = video.duration_s, video.width, video.height
    video_id = connection.execute(
        "INSERT INTO videos (path, stamp, ocr_stamp, duration_s, width, height) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (os.fsencode(video.path), *stamps, *size),
    ).lastrowid
    ids = [
        connection.execute(
            "INSERT INTO entries (video_id, start_s, end_s, row) VALUES (?, ?, ?, ?)",
            (video_id, entry.start_s, entry.end_s, row),
        ).lastrowid
        for row, entry in enumerate(video.entries, first_row)
    ]
    name = build_name_track(video.path, video.duration_s, len(ids))
    for track in (*video.tracks, name):
        insert_track(connection, video_id, track, ids)
    return list(zip(ids, video.entries, strict=True))


def insert_track(
    connection: sqlite3.Connection, video_id: int, track: NewTrack, entries: Sequence[int]
) -> None:
    """Insert a line of text of a video that has these entries, in their order."""
    boxes = np.ascontiguousarray(track.boxes, dtype=np.float32).tobytes()
    values = track.text, track.score, track.start_s, track.end_s, boxes, track.kind
    track_id = connection.execute(
        "INSERT INTO tracks (video_id, text, score, start_s, end_s, boxes, kind) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (video_id, *values),
    ).lastrowid
    places = [(entries[position], track_id) for position in track.seen_in]
    _insert_words(connection, list_index_words(track.text), places)


def _insert_words(
    connection: sqlite3.Connection, words: Mapping[str, str], places: Sequence[tuple[int, int]]
) -> None:
    """Insert the words of a line, with their reduced forms, for its entries and its own id."""
    for text, reduced in words.items():
        word_id = _find_or_insert_word(connection, text, reduced)
        rows = ((word_id, *place) for place in places)
        connection.executemany("INSERT INTO postings VALUES (?, ?, ?)", rows)


def _find_or_insert_word(connection: sqlite3.Connection, text: str, reduced: str) -> int:
    row = connection.execute("SELECT id FROM words WHERE text = ?", (text,)).fetchone()
    if row is not None:
        return row[0]
    forms = text, reduced if reduced != text else None
    word_id = connection.execute("INSERT INTO words (text, reduced) VALUES (?, ?)", forms).lastrowid
    of_parts = "INSERT INTO words_fts (rowid, text, reduced) VALUES (?, ?, ?)"
    connection.execute(of_parts, (word_id, *forms))
    _insert_pieces(connection, word_id, reduced)
    return word_id


def _insert_pieces(connection: sqlite3.Connection, word_id: int, reduced: str) -> None:
    rows = ((piece, word_id) for piece in list_pieces(reduced))
    connection.executemany("INSERT INTO pieces VALUES (?, ?)", rows)


def rename_videos(connection: sqlite3.Connection, names: Mapping[int, str]) -> None:
    """Give videos (by id) other paths, and their entries the words of these."""
    # No two may have the same path at any time, and no video's begins with a slash.
    free = ((f"/{video}", video) for video in names)
    connection.executemany("UPDATE videos SET path = CAST(? AS BLOB) WHERE id = ?", free)
    for video, path in names.items():
        connection.execute("UPDATE videos SET path = ? WHERE id = ?", (os.fsencode(path), video))
        _replace_tracks(connection, video, "name", [])


def replace_tracks(connection: sqlite3.Connection, video_id: int, video: NewVideo) -> None:
    """Give a video that is known other lines of text; its entries stay as they are."""
    for kind in ("read", "spoken"):
        tracks = [track for track in video.tracks if track.kind == kind]
        _replace_tracks(connection, video_id, kind, tracks)
    update_stamps(connection, {video_id: (video.stamp, video.ocr_stamp)})


def _replace_tracks(
    connection: sqlite3.Connection, video_id: int, kind: TrackKind, tracks: Sequence[NewTrack]
) -> None:
    """Replace a video's lines of a kind; its name is made of its path."""
    found = connection.execute("SELECT id FROM entries WHERE video_id = ? ORDER BY id", (video_id,))
    entries = [entry for (entry,) in found]
    old = connection.execute(
        "SELECT id FROM tracks WHERE video_id = ? AND kind = ?", (video_id, kind)
    ).fetchall()
    pairs = ((entry, track) for (track,) in old for entry in entries)
    connection.executemany("DELETE FROM postings WHERE entry_id = ? AND track_id = ?", pairs)
    connection.executemany("DELETE FROM tracks WHERE id = ?", old)
    if kind == "name":
        path, duration_s = connection.execute(
            "SELECT path, duration_s FROM videos WHERE id = ?", (video_id,)
        ).fetchone()
        tracks = [build_name_track(os.fsdecode(path), duration_s, len(entries))]
    for track in tracks:
        insert_track(connection, video_id, track, entries)


def delete_video(connection: sqlite3.Connection, video_id: int) -> list[int]:
    """Delete a video and return its entries' ids; their embeddings become dead rows."""
    found = connection.execute("SELECT id, row FROM entries WHERE video_id = ?", (video_id,))
    entries = found.fetchall()
    connection.executemany("DELETE FROM postings WHERE entry_id = ?", ((i,) for i, _ in entries))
    connection.executemany("INSERT INTO dead_rows VALUES (?)", ((row,) for _, row in entries))
    for table in ("entries", "tracks"):
        connection.execute(f"DELETE FROM {table} WHERE video_id = ?", (video_id,))
    connection.execute("DELETE FROM videos WHERE id = ?", (video_id,))
    return [entry for entry, _ in entries]


def _dump_stamp(stamp: ContentStamp | None) -> str:
    return json.dumps(None if stamp is None else asdict(stamp))


def parse_stamp(text: str) -> ContentStamp | None:
    """Read a stamp of the table ``videos``."""
    values = json.loads(text)
    return None if values is None else ContentStamp(**values)
