"""What the database says of single entries: spans, lines, matched words."""

import os
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UnknownEntryError
from retrieval.results import Box, Entry, TextTrack, WordMatch
from retrieval.searching.words import MetTerm
from retrieval.storage.text import words_of

MOST_MATCHES = 50  # of a hit


class EntryRow(NamedTuple):
    """An entry and the row of its embedding."""

    entry: Entry
    row: int


def entry_row(connection: sqlite3.Connection, entry_id: int) -> EntryRow:
    """Return an entry; raises ``UnknownEntryError``."""
    # Whatever came from outside: SQLite has no larger numbers.
    known = isinstance(entry_id, int) and abs(entry_id) < 1 << 63
    found = (
        known
        and connection.execute(
            "SELECT path, start_s, end_s, duration_s, width, height, row FROM entries "
            "JOIN videos ON videos.id = entries.video_id WHERE entries.id = ?",
            (entry_id,),
        ).fetchone()
    )
    if not found:
        raise UnknownEntryError(f"{entry_id}: the index has no such entry (any more); search again")
    path, *values, row = found
    return EntryRow(Entry(entry_id, os.fsdecode(path), *values), row)


def lines_of(connection: sqlite3.Connection, entry_id: int) -> list[TextTrack]:
    """Return the lines that are seen within an entry, by time."""
    rows = connection.execute(
        "SELECT text, score, start_s, end_s, boxes FROM tracks WHERE id IN "
        "(SELECT track_id FROM postings WHERE entry_id = ?) ORDER BY start_s, id",
        (entry_id,),
    )
    return [_track(*row) for row in rows]


def _track(text: str, score: float, start_s: float, end_s: float, blob: bytes) -> TextTrack:
    boxes = np.frombuffer(blob, dtype=np.float32).reshape(-1, 5)
    places = tuple((float(time), _box(corners)) for time, *corners in boxes)
    return TextTrack(text, score, start_s, end_s, _box(boxes[:, 1:].mean(axis=0)), places)


def _box(corners: Sequence[float] | NDArray) -> Box:
    return Box(*map(float, corners))


def matches_in(lines: Sequence[TextTrack], met: Sequence[MetTerm]) -> tuple[WordMatch, ...]:
    """Return what terms have met in an entry's lines, best first, then by time."""
    found = []
    for line in lines:
        words = words_of(line.text)
        for term in met:
            word = term.best_in(words)
            if word is not None:
                read = line.text, line.start_s, line.end_s, line.box
                match = WordMatch(term.term.text, word.text, word.kind, *read)
                found.append((-term.weight * word.worth, line.start_s, match))
    found.sort(key=lambda item: item[:2])
    return tuple(match for _, _, match in found[:MOST_MATCHES])
