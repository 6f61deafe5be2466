"""Integrity of an index: whether its files and tables hold what was written to them.

Every opening checks what takes no time: sizes, headers, the number of rows, small files, and a
sample of the vectors; a small index it checks completely. The vectors are read to the end before a
search first compares them. An update, and ``index.py --verify``, check all of it.
"""

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import DamagedIndexError, explain_file_error
from retrieval.index import checksums
from retrieval.index.arrays import (
    CHECKSUMS,
    FRAME_COUNTS,
    IDS,
    array_file,
    describe_header,
    hash_rows,
    list_arrays,
    list_vectors,
    map_array,
)
from retrieval.index.database import DATABASE, open_database, read_meta
from retrieval.index.layout import THUMBNAILS, thumbnail_file
from retrieval.index.records import Damage
from utils.files import compute_crc32

ID = "id"  # key of ``meta``: by it the files of an index know each other
# Copy of how the index was made, for the repair of one whose database is lost.
SETTINGS = "settings.json"
WEIGHTS = "weights.safetensors"  # of the query encoder
# Sizes, in bytes, up to which something is checked completely at every opening.
_SMALL_DATABASE = 1 << 21
_SMALL_ARRAY = 1 << 24
_SMALL_FILE = 1 << 20
MOST_VECTORS = 1 << 30  # that a search checks before it compares them
_SAMPLE = 64  # rows of which more are looked at


def check_opening(folder: Path, meta: dict[str, Any], connection: sqlite3.Connection) -> None:
    """Check an index that is opened, within a transaction; raises ``DamagedIndexError``."""
    _raise_first(folder, find_damage(folder, meta, connection, complete=False))


def check_completely(folder: Path) -> None:
    """Check an index that an update will build on, but for its thumbnails' content.

    Raises ``IndexFolderError``.
    """
    with open_database(folder) as connection:
        connection.execute("BEGIN")
        meta = read_meta(connection)
        _raise_first(folder, find_damage(folder, meta, connection, complete=True))
        _raise_first(folder, find_missing_thumbnails(folder, meta, connection))


def verify_index(folder: Path) -> list[Damage]:
    """Return all that is wrong with an index; raises ``IndexFolderError`` where it can't be read.

    Sizes, checksums of everything, and the structure of the database.
    """
    with open_database(folder) as connection:
        connection.execute("BEGIN")
        meta = read_meta(connection)
        found = list(find_damage(folder, meta, connection, complete=True))
        found = found or list(find_missing_thumbnails(folder, meta, connection))
        return found or list(find_other_thumbnails(folder, meta, connection))


def _raise_first(folder: Path, found: Iterator[Damage]) -> None:
    for damage in found:
        raise DamagedIndexError(folder, *damage)


def find_damage(
    folder: Path, meta: dict[str, Any], connection: sqlite3.Connection, complete: bool
) -> Iterator[Damage]:
    """Yield what is wrong with an index but for its thumbnails, in a transaction.

    An index of an earlier release, which has no checksums, counts as right.

    Args:
        complete: all of it, and not only what takes no time.
    """
    if checksums.TABLES not in meta:
        if _has_table(connection, checksums.VIDEO_TABLE):
            yield Damage(DATABASE, "has lost its checksums")
        return
    values = list(_find_other_values(meta, connection))
    yield from values
    if values:  # what they say can't be relied on
        return
    settings = read_settings(folder)
    if settings is not None and settings.get(ID) != meta.get(ID):
        yield Damage(DATABASE, f"is that of another index than {SETTINGS}")
    is_small = (folder / DATABASE).stat().st_size <= _SMALL_DATABASE
    yield from find_table_damage(meta, connection, complete or is_small)
    yield from find_array_damage(folder, meta, complete)
    yield from find_file_damage(folder, meta, complete)
    ann = meta.get("ann") if complete else None  # checked when it is loaded: not every search does
    if ann is not None and (said := describe_ann_damage(folder, ann, complete)):
        yield Damage(ann["file"], said)
    if complete and (successor := meta.get("successor")) is not None:
        # Its model's files are written again where they are not right.
        yield from find_array_damage(folder, successor, complete)


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return the values of ``meta`` that say how an index was made; None: nothing says it."""
    try:
        kept = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        is_right = kept["checksum"] == hash_settings(kept["settings"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return kept["settings"] if is_right else None


def hash_settings(settings: dict[str, Any]) -> int:
    """Return the checksum of what ``read_settings`` returns."""
    return zlib.crc32(json.dumps(settings, sort_keys=True).encode())


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE name = ?"
    return connection.execute(query, (name,)).fetchone() is not None


def _find_other_values(meta: dict[str, Any], connection: sqlite3.Connection) -> Iterator[Damage]:
    found, wanted = checksums.hash_values(connection), meta.get(checksums.VALUES)
    if not isinstance(wanted, dict):
        yield Damage(DATABASE, "has lost the checksums of its values")
        return
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            yield Damage(DATABASE, f"its value of {key} is not what was written")


def find_table_damage(
    meta: dict[str, Any], connection: sqlite3.Connection, complete: bool
) -> Iterator[Damage]:
    """Yield what is wrong with the tables of the database."""
    wanted = meta[checksums.TABLES]
    names = {
        t.name for kind in ("table", "shadow") for t in checksums.list_tables(connection, kind)
    }
    for name in sorted(wanted.keys() - names):
        yield Damage(DATABASE, f"its table {name} is gone")
    if complete:
        said = [text for (text,) in connection.execute("PRAGMA main.integrity_check(3)")]
        if said != ["ok"]:
            yield Damage(DATABASE, f"SQLite says: {'; '.join(said)}")
            return
        found, videos = checksums.sum_tables(connection)
        others = videos != checksums.read_video_sums(connection)
    else:
        found, others = {}, False
        for name in sorted(wanted.keys() & names):
            (count,) = connection.execute(f'SELECT COUNT(*) FROM main."{name}"').fetchone()
            found[name] = [count, wanted[name][1]]
    for name in sorted(wanted.keys() & names):
        if found.get(name) != wanted[name]:
            counts = found.get(name, [0])[0], wanted[name][0]
            rows = f"has {counts[0]} rows and not {counts[1]}"
            what = rows if counts[0] != counts[1] else "has other rows than were written"
            yield Damage(DATABASE, f"its table {name} {what}")
    if others:
        yield Damage(DATABASE, "the checksums of its videos are not what was written")


def find_array_damage(folder: Path, meta: dict[str, Any], complete: bool) -> Iterator[Damage]:
    """Yield what is wrong with the arrays of a generation."""
    wanted = meta.get(checksums.ARRAYS, {})
    sound = set()
    for name, (dtype, row, counted) in list_arrays(meta).items():
        path = array_file(folder, name, meta["generation"])
        try:
            rows = map_array(folder, meta, name)
            said = describe_header(path, dtype, meta[counted], row)
        except DamagedIndexError as error:
            yield Damage(path.name, error.what)
            continue
        if not said and (complete or rows.nbytes <= _SMALL_ARRAY):
            is_right = checksums.hash_array(rows) == wanted.get(name)
            said = "" if is_right else "holds other numbers than were written"
        if said:
            yield Damage(path.name, said)
        else:
            sound.add(name)
    if not complete and sound.issuperset(list_arrays(meta)) and CHECKSUMS in sound:
        yield from _find_other_rows(folder, meta)


def _find_other_rows(folder: Path, meta: dict[str, Any]) -> Iterator[Damage]:
    """Compare a sample of rows with their checksums."""
    names, num_rows = list_vectors(meta), meta["num_rows"]
    if not names or not num_rows:
        return
    chosen = np.unique(np.linspace(0, num_rows - 1, _SAMPLE).astype(np.int64))
    found = hash_chosen(folder, meta, chosen)
    if (found != np.asarray(map_array(folder, meta, CHECKSUMS))[chosen, 0]).any():
        yield Damage(
            array_file(folder, names[0], meta["generation"]).name,
            "holds other vectors than were written",
        )


def hash_chosen(folder: Path, meta: dict[str, Any], chosen: NDArray) -> NDArray:
    """Return the checksums (K,) of the vectors of some rows (K,)."""
    arrays = {name: map_array(folder, meta, name) for name in list_vectors(meta)}
    frames = chosen
    if FRAME_COUNTS in arrays:
        counts = np.asarray(arrays[FRAME_COUNTS]).astype(np.int64)
        starts = np.cumsum(counts) - counts
        frames = np.concatenate(
            [np.arange(starts[row], starts[row] + counts[row]) for row in chosen]
        )
    kinds = list_arrays(meta)
    parts = {
        name: rows[chosen if kinds[name].counted == "num_rows" else frames]
        for name, rows in arrays.items()
    }
    return hash_rows(parts, len(chosen))


def find_file_damage(folder: Path, meta: dict[str, Any], complete: bool) -> Iterator[Damage]:
    """Yield what is wrong with the files of a model."""
    for name, (size, checksum) in meta.get(checksums.FILES, {}).items():
        is_small = size <= _SMALL_FILE and not name.endswith(WEIGHTS)
        said = _describe_file(folder, name, size, checksum, complete or is_small)
        if said:
            yield Damage(name, said)


def check_model_files(folder: Path, meta: dict[str, Any]) -> None:
    """Check the query encoder of an index before it is loaded; raises ``DamagedIndexError``.

    Its weights are compared when they are read (``retrieval.index.query_embedder``).
    """
    found = find_file_damage(folder, meta, complete=True)
    _raise_first(folder, (damage for damage in found if not damage.file.endswith(WEIGHTS)))


def describe_ann_damage(folder: Path, ann: dict[str, Any], complete: bool = True) -> str:
    """Return what is wrong with the FAISS index that ``meta`` speaks of, or nothing."""
    if "size" not in ann:  # of an earlier release
        return ""
    return _describe_file(folder, ann["file"], ann["size"], ann["checksum"], complete)


def _describe_file(folder: Path, name: str, size: int, checksum: int, complete: bool) -> str:
    """Return what is wrong with a file, or nothing."""
    file = folder / name
    try:
        found = file.stat().st_size if file.is_file() else None
        if found is None:
            return "is gone" if not file.exists() else "is no file"
        if found != size:
            return f"has {found} bytes and not {size}"
        if complete and compute_crc32(file) != checksum:
            return "holds something else than was written"
    except OSError as error:
        raise explain_file_error(folder, name, error) from error
    return ""


def find_missing_thumbnails(
    folder: Path, meta: dict[str, Any], connection: sqlite3.Connection
) -> Iterator[Damage]:
    """Yield the thumbnails of entries that are not there."""
    if checksums.ARRAYS not in meta:
        return
    names = {path.name for path in (folder / THUMBNAILS).glob("*/*.jpg")}
    has_none = _list_entries_without(folder, meta)
    for (entry,) in connection.execute("SELECT id FROM main.entries ORDER BY id"):
        if f"{entry}.jpg" not in names and entry not in has_none:
            file = thumbnail_file(folder, entry).relative_to(folder)
            yield Damage(file.as_posix(), "is gone")


def _list_entries_without(folder: Path, meta: dict[str, Any]) -> set[int]:
    """Return the entries whose thumbnail was lost, and could not be made anew."""
    ids, sums = (np.asarray(map_array(folder, meta, name)) for name in (IDS, CHECKSUMS))
    return set(ids[sums[:, 1] == 0].tolist())


def find_other_thumbnails(
    folder: Path, meta: dict[str, Any], connection: sqlite3.Connection
) -> Iterator[Damage]:
    """Yield the thumbnails that hold something else than was written."""
    if checksums.ARRAYS not in meta:
        return
    sums = np.asarray(map_array(folder, meta, CHECKSUMS))[:, 1]
    for entry, row in connection.execute("SELECT id, row FROM main.entries ORDER BY id"):
        file = thumbnail_file(folder, entry)
        if sums[row] and hash_thumbnail(file) != sums[row]:
            name = file.relative_to(folder).as_posix()
            yield Damage(name, "holds something else than was written")


def hash_thumbnail(file: Path) -> int:
    """Return the checksum of a thumbnail; 0 where there is none."""
    try:
        return compute_crc32(file)
    except OSError:
        return 0


class VectorCheck:
    """Reads the vectors of an index before a search compares them, each row once.

    It outlives a commit: of the next one only the rows that are new are read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._read: dict[Path, tuple[int, int]] = {}  # array -> its rows so far, their checksum

    def check(self, meta: dict[str, Any]) -> None:
        """Check the vectors of a commit; raises ``DamagedIndexError``.

        Of more than ``MOST_VECTORS`` bytes only what the opening looks at is checked.
        """
        wanted = meta.get(checksums.ARRAYS)
        if wanted is None:
            return
        names = list_vectors(meta)
        with self._lock:
            try:
                arrays = {name: map_array(self._folder, meta, name) for name in names}
            except DamagedIndexError:
                files = [array_file(self._folder, name, meta["generation"]) for name in names]
                if all(file.exists() for file in files):
                    raise
                return  # a later commit has replaced them; the search has them mapped already
            if sum(rows.nbytes for rows in arrays.values()) > MOST_VECTORS:
                return
            for name, rows in arrays.items():
                path = array_file(self._folder, name, meta["generation"])
                count, checksum = self._read.get(path, (0, 0))
                if count > len(rows):
                    continue  # an earlier commit, which was checked
                checksum = checksums.hash_array(rows[count:], checksum)
                if checksum != wanted[name]:
                    what = "holds other vectors than were written"
                    raise DamagedIndexError(self._folder, path.name, what)
                self._read[path] = len(rows), checksum
