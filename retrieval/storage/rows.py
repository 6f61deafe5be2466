"""A video's rows in the database: how they come, and how they go."""

import os
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retrieval.storage.contents import NewEntry, NewTrack, NewVideo, Stamp, stamp_text
from retrieval.storage.text import words_of


class KnownVideo(NamedTuple):
    """A video of the index and the files it was made from."""

    id: int
    stamp: Stamp
    ocr_stamp: Stamp | None


def known_videos(connection: sqlite3.Connection) -> dict[str, KnownVideo]:
    """Return the videos of an index by path."""
    rows = connection.execute("SELECT id, path, stamp, ocr_stamp FROM videos")
    return {
        os.fsdecode(path): KnownVideo(number, Stamp.parse(stamp), Stamp.parse(ocr))
        for number, path, stamp, ocr in rows
    }


def add_video(
    connection: sqlite3.Connection, video: NewVideo, first_row: int
) -> list[tuple[int, NewEntry]]:
    """Insert a video; returns its entries with their ids.

    Args:
        connection: within a transaction.
        video: its path is not there yet.
        first_row: of the embeddings of its entries.
    """
    stamps = stamp_text(video.stamp), stamp_text(video.ocr_stamp)
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
    for track in video.tracks:
        _add_track(connection, video_id, track, [ids[place] for place in track.seen_in])
    return list(zip(ids, video.entries, strict=True))


def _add_track(
    connection: sqlite3.Connection, video_id: int, track: NewTrack, entries: Sequence[int]
) -> None:
    boxes = np.ascontiguousarray(track.boxes, dtype=np.float32).tobytes()
    track_id = connection.execute(
        "INSERT INTO tracks (video_id, text, score, start_s, end_s, boxes) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (video_id, track.text, track.score, track.start_s, track.end_s, boxes),
    ).lastrowid
    for word in dict.fromkeys(words_of(track.text)):
        word_id = _word(connection, word)
        rows = ((word_id, entry, track_id) for entry in entries)
        connection.executemany("INSERT INTO postings VALUES (?, ?, ?)", rows)


def _word(connection: sqlite3.Connection, text: str) -> int:
    """Return the number of a word, which it is given when it is first met."""
    row = connection.execute("SELECT id FROM words WHERE text = ?", (text,)).fetchone()
    if row is not None:
        return row[0]
    number = connection.execute("INSERT INTO words (text) VALUES (?)", (text,)).lastrowid
    connection.execute("INSERT INTO words_fts (rowid, text) VALUES (?, ?)", (number, text))
    return number


def drop_video(connection: sqlite3.Connection, video_id: int) -> list[int]:
    """Delete a video, its entries' embeddings becoming dead rows; returns the entries' ids."""
    found = connection.execute("SELECT id, row FROM entries WHERE video_id = ?", (video_id,))
    entries = found.fetchall()
    connection.executemany("DELETE FROM postings WHERE entry_id = ?", ((i,) for i, _ in entries))
    connection.executemany("INSERT INTO dead_rows VALUES (?)", ((row,) for _, row in entries))
    for table in ("entries", "tracks"):
        connection.execute(f"DELETE FROM {table} WHERE video_id = ?", (video_id,))
    connection.execute("DELETE FROM videos WHERE id = ?", (video_id,))
    return [entry for entry, _ in entries]
