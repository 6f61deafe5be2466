"""Checksums of an index: what its tables and files held when they were last written.

Those of the tables are kept up to date by triggers, so that a commit costs what it changes and
whoever writes a row need not know of them. A table's checksum is the number of its rows and the sum
of theirs, in any order. Each video has sums of its own, which tell what of a damaged index is
right. CRC-32 is for accidents, not for attackers.

They stand in ``meta``, where an index of an earlier release has none; its next update adds them.
"""

import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.files import compute_crc32

# Keys of ``meta``.
TABLES = "table_checksums"  # table -> number of rows, sum
VALUES = "meta_checksums"  # each other key -> checksum of its value
ARRAYS = "array_checksums"  # array -> checksum of its rows, one after the other
FILES = "file_checksums"  # file of the model -> size, checksum
VERSION = "user_version"  # of the database, which is checked like a value of ``meta``

# Video -> sum of its rows in the tables that name videos, and in those that name entries.
VIDEO_TABLE = "video_checksums"
_VIDEO_SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS {VIDEO_TABLE} (video_id INTEGER PRIMARY KEY, "
    "content INTEGER NOT NULL, places INTEGER NOT NULL)"
)
_UNUSED = "_docsize"  # of FTS5, for a ranking that isn't used
_CHUNK = 1 << 24  # bytes

TableSums = dict[str, list[int]]  # table -> number of rows, sum
VideoSums = dict[int, tuple[int, int]]  # video -> content, places


class Table(NamedTuple):
    """A table whose rows are counted."""

    name: str
    columns: list[str]

    @property
    def names_entries(self) -> bool:
        """Whether its rows are of videos by their entries."""
        return "entry_id" in self.columns and "video_id" not in self.columns

    @property
    def video_column(self) -> str | None:
        """The column that names a row's video, or its entry."""
        if self.name == "videos":
            return "id"
        return next((name for name in ("video_id", "entry_id") if name in self.columns), None)

    @property
    def rows(self) -> str:
        """The statement that reads all of it."""
        return f'SELECT * FROM main."{self.name}"'


def list_tables(connection: sqlite3.Connection, kind: str = "table") -> list[Table]:
    """Return the tables of a database whose rows have checksums; ``shadow``: those of FTS5."""
    names = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = ? ORDER BY name",
        (kind,),
    ).fetchall()
    tables = []
    for (name,) in names:
        if name.startswith("sqlite_") or name in ("meta", VIDEO_TABLE) or name.endswith(_UNUSED):
            continue
        columns = connection.execute("SELECT name FROM pragma_table_info(?)", (name,)).fetchall()
        tables.append(Table(name, [column for (column,) in columns]))
    return tables


def hash_row(table: str, values: tuple[Any, ...]) -> int:
    """Return the checksum of a row."""
    return zlib.crc32(ascii((table, values)).encode())  # as every release of Python writes it


def hash_array(rows: NDArray, checksum: int = 0) -> int:
    """Return the checksum of rows, mapped perhaps; ``checksum`` is that of those before them."""
    data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    for first in range(0, len(data), _CHUNK):
        checksum = zlib.crc32(data[first : first + _CHUNK], checksum)
    return checksum


def hash_files(folder: Path, files: Iterable[Path]) -> dict[str, list[int]]:
    """Return size and checksum of those files in a folder that are there, by their names in it."""
    return {
        file.relative_to(folder).as_posix(): [file.stat().st_size, compute_crc32(file)]
        for file in sorted(files)
        if file.is_file()
    }


def hash_values(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the checksum of each value of ``meta``, and of the number of the format."""
    rows = connection.execute("SELECT key, value FROM main.meta WHERE key != ?", (VALUES,))
    found = {key: zlib.crc32(value.encode()) for key, value in rows}
    return found | {VERSION: connection.execute("PRAGMA user_version").fetchone()[0]}


def sum_table(connection: sqlite3.Connection, table: Table) -> list[int]:
    """Return the number of rows of a table, and their sum."""
    hashes = [hash_row(table.name, values) for values in connection.execute(table.rows)]
    return [len(hashes), sum(hashes)]


def sum_tables(connection: sqlite3.Connection) -> tuple[TableSums, VideoSums]:
    """Return the checksums of all tables, and of the videos in them."""
    of_entry = dict(connection.execute("SELECT id, video_id FROM main.entries"))
    tables: TableSums = {}
    videos: dict[int | None, list[int]] = defaultdict(lambda: [0, 0])
    for table in list_tables(connection):
        column, count, total = table.video_column, 0, 0
        place = None if column is None else table.columns.index(column)
        find_video = of_entry.get if table.names_entries else int
        for values in connection.execute(table.rows):
            value = hash_row(table.name, values)
            count, total = count + 1, total + value
            if place is not None:
                videos[find_video(values[place])][table.names_entries] += value
        tables[table.name] = [count, total]
    for table in list_tables(connection, "shadow"):
        tables[table.name] = sum_table(connection, table)
    videos.pop(None, None)  # of entries that are gone
    return tables, {video: (content, places) for video, (content, places) in videos.items()}


def read_video_sums(connection: sqlite3.Connection) -> VideoSums:
    """Return the sums that are kept of each video."""
    rows = connection.execute(f"SELECT video_id, content, places FROM main.{VIDEO_TABLE}")
    return {video: (content, places) for video, content, places in rows}


class ChecksumRecorder:
    """Keeps the checksums of tables up to date while a connection writes to them.

    Args:
        connection: that no transaction is open on.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tables: dict[str, list[int]] = {}  # what this transaction changes
        self._videos: dict[int, list[int]] = {}
        self.reset()
        connection.create_function("record_row", -1, self._record_row)
        connection.execute("PRAGMA recursive_triggers = ON")  # REPLACE deletes rows, too
        for table in list_tables(connection):
            for statement in _list_triggers(table):
                connection.execute(statement)

    def reset(self) -> None:
        """Begin a transaction, or forget what one has changed."""
        self._tables, self._videos = {}, defaultdict(lambda: [0, 0])

    def _record_row(
        self, sign: int, table: str, names_entries: int, video: int | None, *values: Any
    ) -> None:
        value = sign * hash_row(table, values)
        sums = self._tables.setdefault(table, [0, 0])
        sums[0] += sign
        sums[1] += value
        if video is not None:
            self._videos[video][names_entries] += value

    def finish(self, before: TableSums) -> TableSums:
        """Write the sums of videos; returns the checksums of tables, given those before."""
        execute, changed = self._connection.execute, dict(self._tables)
        for video, (content, places) in self._videos.items():
            query = f"SELECT content, places FROM {VIDEO_TABLE} WHERE video_id = ?"
            old = execute(query, (video,)).fetchone() or (0, 0)
            new = old[0] + content, old[1] + places
            execute(f"DELETE FROM {VIDEO_TABLE} WHERE video_id = ?", (video,))
            if any(new):
                execute(f"INSERT INTO {VIDEO_TABLE} VALUES (?, ?, ?)", (video, *new))
        after = dict(before)
        for name, (count, total) in changed.items():
            old = before.get(name, [0, 0])
            after[name] = [old[0] + count, old[1] + total]
        if changed:  # FTS5 writes its own tables past every trigger
            for statement in ("SAVEPOINT flush", "RELEASE flush"):  # now, not with the commit
                execute(statement)
            for table in list_tables(self._connection, "shadow"):
                after[table.name] = sum_table(self._connection, table)
        return after

    def finish_anew(self) -> TableSums:
        """Write the sums of videos, and return the checksums of tables, as all of them are."""
        for statement in ("SAVEPOINT flush", "RELEASE flush", _VIDEO_SCHEMA):
            self._connection.execute(statement)
        self._connection.execute(f"DELETE FROM {VIDEO_TABLE}")
        tables, videos = sum_tables(self._connection)
        rows = ((video, *sums) for video, sums in videos.items())
        self._connection.executemany(f"INSERT INTO {VIDEO_TABLE} VALUES (?, ?, ?)", rows)
        return tables


def _list_triggers(table: Table) -> Iterator[str]:
    """Yield the statements that let a connection notice what it changes in a table."""

    def record(row: str, sign: int) -> str:
        column, video = table.video_column, "NULL"
        if column is not None:
            video = f'{row}."{column}"'
        if table.names_entries:
            video = f"(SELECT video_id FROM main.entries WHERE id = {video})"
        values = ", ".join(f'{row}."{name}"' for name in table.columns)
        given = f"{sign}, '{table.name}', {int(table.names_entries)}, {video}, {values}"
        return f"SELECT record_row({given});"

    old, new = record("OLD", -1), record("NEW", 1)
    for event, action in (("INSERT", new), ("DELETE", old), ("UPDATE", old + new)):
        yield (
            f'CREATE TEMP TRIGGER "record_{event}_{table.name}" AFTER {event} ON '
            f'main."{table.name}" BEGIN {action} END'
        )
