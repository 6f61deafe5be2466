"""Repair of a damaged index: what is right of it is kept, and the next update makes the rest anew.

Checksums tell which videos are right in the database, and which rows in the arrays. Those go to a
new database, and to arrays under new names; the database takes its place last, so that a repair
that is stopped has changed nothing. Where vectors or files of the model are damaged, the index
holds words only until all entries have their vectors again, as when it is given its first model
(``retrieval.index.model_change``): those that are right are kept there, and only the others are
embedded.

Shapes: N rows, K rows that are kept.
"""

import os
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_loader.readers.tolerant_reader import SEARCH_READER, TolerantReader, open_tolerantly
from retrieval.errors import DamagedIndexError, IndexFolderError
from retrieval.index import checksums, database
from retrieval.index.arrays import (
    CHECKSUMS,
    FRAME_COUNTS,
    FRAMES,
    IDS,
    append_rows,
    array_file,
    copy_rows,
    create_array,
    list_arrays,
    list_vectors,
    map_array,
    map_vectors,
)
from retrieval.index.integrity import (
    ID,
    SETTINGS,
    find_array_damage,
    find_file_damage,
    hash_chosen,
    hash_thumbnail,
    read_settings,
    verify_index,
)
from retrieval.index.layout import thumbnail_file
from retrieval.index.model_change import restore_line
from retrieval.index.records import ContentStamp, KnownLine, NewTrack, build_name_track
from retrieval.index.roots import Roots, explain_unreachable
from retrieval.index.video_file import (
    ReadingParams,
    VideoFile,
    Window,
    cut_windows,
    find_windows,
    find_windows_at,
)
from retrieval.index.writer import REPAIRED, lock_index
from utils.errors import UserError
from utils.files import remove_path, sync_file, write_bytes

# What ``meta`` says of a model, and an index of words has not.
_OF_MODEL = (
    "model", "query_encoder", "query_encoder_folder", "config_file", checksums.FILES, "precision",
    "width", "leaves_out", "num_frames",
)  # fmt: skip
_MOST_SHOWN = 10  # of the things that are wrong
_OTHER_VERSION = "from a newer version"


@dataclass
class RepairResult:
    """What was wrong with an index, and what is left for the update that follows.

    Attributes:
        damage: a line for each thing that was wrong; none: the index is right.
        num_kept: videos that the index still has.
        dropped: names of those that are to be read anew.
        had_ann: whether a FAISS index is to be made anew.
    """

    damage: list[str]
    num_kept: int = 0
    dropped: list[str] = field(default_factory=list)
    had_ann: bool = False

    def describe(self) -> list[str]:
        """Return lines for the user."""
        if not self.damage:
            return ["is right, and was left as it is"]
        shown = self.damage[:_MOST_SHOWN]
        if len(self.damage) > len(shown):
            shown.append(f"and {len(self.damage) - len(shown)} more")
        gone = f", {len(self.dropped)} are read anew" if self.dropped else ""
        return [*shown, f"repaired: {self.num_kept} videos are kept{gone}"]


@dataclass
class _Video:
    """The rows of a video in the database."""

    row: tuple[Any, ...]  # of ``videos``
    entries: list[tuple[Any, ...]]  # id, video, start, end, row; by id
    tracks: list[dict[str, Any]]
    places: dict[int, list[int]]  # track -> its entries
    has_places: bool  # whether these are right

    @property
    def id(self) -> int:
        return self.row[0]

    @property
    def name(self) -> str:
        return os.fsdecode(self.row[1])


def repair_index(folder: Path) -> RepairResult:
    """Keep what is right of an index, which may then be updated, and drop the rest.

    Raises:
        IndexFolderError: another process writes to it, it can't be read or written for another
            reason than damage, or nothing says how it was made.
        UserError: its videos are at a URL that can't be reached; what is right stays.
    """
    with lock_index(folder), explain_unreachable():
        shutil.rmtree(folder / REPAIRED, ignore_errors=True)
        result = RepairResult(_describe_damage(folder))
        if not result.damage:
            return result
        try:
            _Repair(folder, result).run()
        except (OSError, sqlite3.Error) as error:
            raise IndexFolderError(
                f"{folder}: can't be repaired ({error}); it is as it was: free some space, or give "
                "access, and run the command again"
            ) from error
        return result


def _describe_damage(folder: Path) -> list[str]:
    """Return a line for each thing that is wrong; raises ``IndexFolderError`` as ``connect``."""
    try:
        found = verify_index(folder)
    except DamagedIndexError as error:
        return [f"{error.file}: {error.what}"]
    except IndexFolderError as error:
        with _open_tolerantly(folder) as connection:
            values = _read_meta(connection).get(checksums.VALUES, {})
        if values.get(checksums.VERSION, 0) > database.FORMAT_VERSION or (
            not values and _OTHER_VERSION in str(error)
        ):
            raise
        if isinstance(error.__cause__, OSError | sqlite3.Error) or "access" in str(error):
            raise
        if not values and read_settings(folder) is None:  # it was no index ever
            raise
        return [f"{database.DATABASE}: is not what it was"]
    return [f"{damage.file}: {damage.what}" for damage in found]


@contextmanager
def _open_tolerantly(folder: Path | None) -> Iterator[sqlite3.Connection]:
    """Open a database that may be damaged, or not be there; None: an empty one."""
    path = None if folder is None else folder / database.DATABASE
    name = ":memory:"
    if path is not None and path.is_file():
        name = path.resolve().as_uri() + "?mode=ro"
    with closing(sqlite3.connect(name, uri=True, isolation_level=None)) as connection:
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        yield connection


def _read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the values of ``meta``; nothing where they can't be read."""
    try:
        return database.read_meta(connection)
    except database.READ_ERRORS:
        return {}


def _read_rows(connection: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Return those rows of a table that can be read, from its beginning and from its end."""
    found: dict[tuple[Any, ...], None] = {}
    for order in ("", " ORDER BY 1 DESC"):
        try:
            for values in connection.execute(f'SELECT * FROM main."{table}"{order}'):
                found[values] = None
            break
        except database.READ_ERRORS:
            continue
    return list(found)


class _Repair:
    """One repair of an index folder, which is locked."""

    def __init__(self, folder: Path, result: RepairResult) -> None:
        self._folder, self._result = folder, result
        with ExitStack() as stack:
            connection = stack.enter_context(_open_tolerantly(folder))
            meta = _read_meta(connection)
            # Without checksums, of an earlier release, what can be read is right.
            self._is_verified = checksums.TABLES in meta
            with suppress(*database.READ_ERRORS):
                found = checksums.hash_values(connection)
                if self._is_verified and meta.get(checksums.VALUES) != found:
                    meta = {}
            settings = read_settings(folder)
            is_foreign = settings is not None and settings.get(ID) != meta.get(ID)
            if meta and is_foreign and not any(find_array_damage(folder, meta, True)):
                remove_path(folder / SETTINGS)  # they are those of another index
            elif meta and is_foreign:
                connection, meta = stack.enter_context(_open_tolerantly(None)), {}
            self._has_arrays = bool(meta)
            settings = meta or settings
            if settings is None:
                raise IndexFolderError(
                    f"{folder}: nothing says any more how it was made; delete the folder and make "
                    "the index anew with index.py"
                )
            self._meta: dict[str, Any] = settings
            self._is_verified |= not meta
            self._last_ids = self._read_last_ids(connection)
            self._videos = self._read_videos(connection)

    def run(self) -> None:
        roots = Roots.from_meta(self._meta)
        before = {video.name for video in self._videos}
        self._videos = [video for video in self._videos if self._restore_places(roots, video)]
        # A thumbnail that can't be made again is none, and its checksum 0.
        thumbnails = dict(self._restore_thumbnails(roots))
        values = self._write_arrays(thumbnails)
        self._write_database(values)
        self._result.num_kept = len(self._videos)
        self._result.dropped += sorted(before - {video.name for video in self._videos})

    # The database

    def _read_last_ids(self, connection: sqlite3.Connection) -> dict[str, int]:
        """Return the last id that was given in each table, which is not to be given again."""
        last = {"entries": 0, "videos": 0}
        last |= {name: number for name, number in _read_rows(connection, "sqlite_sequence")}
        with suppress(DamagedIndexError):
            ids = map_array(self._folder, self._meta, IDS) if self._has_arrays else ()
            last["entries"] = max(last["entries"], int(max(ids, default=0)))
        return last

    def _read_videos(self, connection: sqlite3.Connection) -> list[_Video]:
        """Return the videos whose rows are right."""
        tables: list[checksums.Table] = []
        kept: checksums.VideoSums = {}
        with suppress(*database.READ_ERRORS):
            tables = checksums.list_tables(connection)
            kept = checksums.read_video_sums(connection)
        rows = {table.name: _read_rows(connection, table.name) for table in tables}
        of_entry = {entry[0]: entry[1] for entry in rows.get("entries", ())}
        sums: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
        own: dict[str, dict[Any, list[tuple[Any, ...]]]] = {}
        totals: checksums.TableSums = {}
        for table in tables:
            own[table.name] = defaultdict(list)
            hashes = [checksums.hash_row(table.name, values) for values in rows[table.name]]
            totals[table.name] = [len(hashes), sum(hashes)]
            if table.video_column is None:
                continue
            place = table.columns.index(table.video_column)
            for values, value in zip(rows[table.name], hashes, strict=True):
                video = of_entry.get(values[place]) if table.names_entries else values[place]
                sums[video][table.names_entries] += value
                own[table.name][video].append(values)
        if not {"videos", "entries", "tracks", "postings"} <= own.keys():
            return []
        wanted = self._meta.get(checksums.TABLES, {})
        # Where the sums of videos themselves are damaged, and the tables are not.
        all_right = all(
            not table.video_column or totals[table.name] == wanted.get(table.name)
            for table in tables
        )
        columns = next(table.columns for table in tables if table.name == "tracks")
        found = []
        for values in rows["videos"]:
            video, is_known = values[0], all_right or not self._is_verified
            if not is_known and sums[video][0] != kept.get(video, (None, 0))[0]:
                if isinstance(values[1], bytes):
                    self._result.dropped.append(os.fsdecode(values[1]))
                continue
            places = defaultdict(list)
            for _, entry, track in own["postings"][video]:
                if entry not in places[track]:
                    places[track].append(entry)
            tracks = [dict(zip(columns, track, strict=True)) for track in own["tracks"][video]]
            has_places = is_known or sums[video][1] == kept.get(video, (0, 0))[1]
            found.append(_Video(values, sorted(own["entries"][video]), tracks, places, has_places))
        return sorted(found, key=lambda video: video.id)

    def _restore_places(self, roots: Roots, video: _Video) -> bool:
        """Find the entries of a video's lines where they are lost; returns whether that can be."""
        if video.has_places:
            return True
        try:
            find = _build_finder(roots, self._meta["windows"], video)
            video.places = {track["id"]: find(track) for track in video.tracks}
        except (UserError, OSError, ValueError):
            return False
        return True

    def _write_database(self, values: dict[str, Any]) -> None:
        """Write the videos into a new database, which takes the place of the old one."""
        target = self._folder / REPAIRED
        target.mkdir()
        meta = {key: value for key, value in (self._meta | values).items() if value is not None}
        meta = {key: value for key, value in meta.items() if key not in (checksums.TABLES,)}
        database.create_database(target, meta)
        with closing(database.connect(target, writing=True)) as connection:
            recorder = checksums.ChecksumRecorder(connection)
            connection.execute("BEGIN IMMEDIATE")
            used = set()
            for video in self._videos:
                used |= {entry[4] for entry in video.entries}
                _insert_video(connection, video)
            dead = sorted(set(range(meta["num_rows"])) - used)
            connection.executemany("INSERT INTO dead_rows VALUES (?)", ((row,) for row in dead))
            connection.execute("DELETE FROM sqlite_sequence")
            connection.executemany(
                "INSERT INTO sqlite_sequence VALUES (?, ?)", self._last_ids.items()
            )
            tables = recorder.finish_anew()
            database.write_meta(connection, {checksums.TABLES: tables})
            found = checksums.hash_values(connection)
            database.write_meta(connection, {checksums.VALUES: found})
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sync_file(target / database.DATABASE)
        for end in ("-wal", "-shm"):  # they would be taken for those of the new one
            (self._folder / f"{database.DATABASE}{end}").unlink(missing_ok=True)
        place = self._folder / database.DATABASE
        if place.is_dir():
            remove_path(place)
        (target / database.DATABASE).replace(place)
        sync_file(self._folder)
        shutil.rmtree(target, ignore_errors=True)

    # Thumbnails

    def _restore_thumbnails(self, roots: Roots) -> Iterator[tuple[int, int]]:
        """Make lost thumbnails anew; yields the entries with the checksums of theirs."""
        known = self._read_thumbnail_sums()
        for video in self._videos:
            found = {
                entry[0]: hash_thumbnail(thumbnail_file(self._folder, entry[0]))
                for entry in video.entries
            }
            wrong = [
                entry
                for entry, value in found.items()
                if not value or known.get(entry, value) != value
            ]
            if wrong:
                self._make_thumbnails(roots, video, set(wrong))
                for entry in wrong:
                    found[entry] = hash_thumbnail(thumbnail_file(self._folder, entry))
            yield from found.items()

    def _read_thumbnail_sums(self) -> dict[int, int]:
        if not self._has_arrays or checksums.ARRAYS not in self._meta or not self._is_verified:
            return {}
        damaged = {damage.file for damage in find_array_damage(self._folder, self._meta, True)}
        names = {name: array_file(self._folder, name, self._meta["generation"]).name
                 for name in (CHECKSUMS,)}  # fmt: skip
        if names[CHECKSUMS] in damaged:
            return {}
        sums = np.asarray(map_array(self._folder, self._meta, CHECKSUMS))[:, 1]
        return {entry[0]: int(sums[entry[4]]) for video in self._videos for entry in video.entries}

    def _make_thumbnails(self, roots: Roots, video: _Video, wanted: set[int]) -> None:
        """Make thumbnails of a video anew; remove them where its file is another one, or gone."""
        ids = [entry[0] for entry in video.entries]
        with suppress(UserError, OSError, ValueError), _open_video(roots, video) as reader:
            starts = [entry[2] for entry in video.entries]
            params = ReadingParams(*self._meta["windows"])
            file = VideoFile(video.name, (None, None), reader, (), params, starts)
            if len(file.windows) == len(ids):
                for number, (entry, _) in enumerate(file.read_windows()):
                    if ids[number] in wanted:
                        target = thumbnail_file(self._folder, ids[number])
                        _make_folder(target.parent)
                        remove_path(target)
                        write_bytes(target, entry.thumbnail, durable=True)
                return
        for entry in wanted:
            with suppress(OSError):
                remove_path(thumbnail_file(self._folder, entry))

    # The arrays

    def _write_arrays(self, thumbnails: dict[int, int]) -> dict[str, Any]:
        """Write what is right of the arrays under new names; returns what ``meta`` gets.

        The rows of the entries are then those of the new arrays.
        """
        meta, entries = self._meta, [entry for video in self._videos for entry in video.entries]
        entries.sort(key=lambda entry: (entry[4], entry[0]))
        sound = self._find_sound_rows([entry[4] for entry in entries])
        has_model = meta.get("model") is not None
        files = list(find_file_damage(self._folder, meta, complete=True)) if has_model else []
        loses_model = has_model and (bool(files) or not sound.all() or not self._has_arrays)
        first = self._find_free_generation()
        ids = np.array([entry[0] for entry in entries], dtype=np.int64)
        rows = np.array([entry[4] for entry in entries], dtype=np.int64)
        sums = np.zeros((len(ids), 2), dtype=np.uint32)
        sums[:, 1] = [thumbnails[entry] for entry in ids.tolist()]
        values: dict[str, Any] = {"commits": meta.get("commits", 0) + 1, "ann": None}
        self._result.had_ann = meta.get("ann") is not None
        successor = self._keep_successor() if not loses_model else None
        if loses_model:
            kept = rows[sound], ids[sound], sums[sound]
            successor = {key: meta[key] for key in _OF_MODEL if key in meta}
            successor |= self._write_generation(meta, first + 1, *kept)
            values |= dict.fromkeys(_OF_MODEL) | {"leaves_out": []}
            meta = meta | values
        values |= self._write_generation(meta, first, rows, ids, sums) | {"successor": successor}
        places = {entry: row for row, entry in enumerate(ids.tolist())}
        for video in self._videos:
            video.entries = [(*entry[:4], places[entry[0]]) for entry in video.entries]
        return values

    def _write_generation(
        self, meta: dict[str, Any], number: int, rows: NDArray, ids: NDArray, sums: NDArray
    ) -> dict[str, Any]:
        """Write rows (K,) of the arrays of a generation as another one; returns what it gets."""
        meta = meta | {checksums.ARRAYS: {}, "num_rows": len(ids)}
        names, found, frames = list_vectors(meta), {}, np.empty(0, dtype=np.int64)
        if names and len(rows):
            old, sums = self._meta, sums.copy()
            vectors = map_vectors(self._folder, old).frames
            frames = frames if vectors is None else vectors.list_frames(rows)
            sums[:, 0] = hash_chosen(self._folder, old, rows)
            for name in names:
                is_window = list_arrays(meta)[name].counted == "num_rows"
                chosen = rows if is_window else frames
                found[name] = copy_rows(self._folder, old, name, number, chosen)
        elif names:
            for name in names:
                dtype, row, _ = list_arrays(meta)[name]
                create_array(array_file(self._folder, name, number), dtype, row)
                found[name] = 0
        for name, own in ((IDS, ids), (CHECKSUMS, sums)):
            path = array_file(self._folder, name, number)
            create_array(path, own.dtype, own.shape[1:])
            append_rows(path, 0, own)
            found[name] = checksums.hash_array(own)
        counts = {"num_rows": len(ids), "generation": number, checksums.ARRAYS: found}
        return counts | ({"num_frames": len(frames)} if FRAMES in names else {})

    def _find_sound_rows(self, rows: Sequence[int]) -> NDArray:
        """Return (K,) bool: whether the vectors of some rows are what was written."""
        chosen = np.array(rows, dtype=np.int64)
        if not self._has_arrays:
            return np.zeros(len(chosen), dtype=bool)
        names = list_vectors(self._meta)
        files = {array_file(self._folder, n, self._meta["generation"]).name: n for n in
                 list_arrays(self._meta)}  # fmt: skip
        damaged = {
            files[damage.file] for damage in find_array_damage(self._folder, self._meta, True)
        }
        if not damaged & set(names):
            return np.ones(len(chosen), dtype=bool)
        try:
            if CHECKSUMS not in list_arrays(self._meta) or damaged & {CHECKSUMS, FRAME_COUNTS}:
                raise ValueError
            found = hash_chosen(self._folder, self._meta, chosen)
            return found == np.asarray(map_array(self._folder, self._meta, CHECKSUMS))[chosen, 0]
        except (DamagedIndexError, ValueError, IndexError, OverflowError, MemoryError):
            return np.zeros(len(chosen), dtype=bool)

    def _keep_successor(self) -> dict[str, Any] | None:
        """Return what another model has embedded so far, where that is right."""
        successor = self._meta.get("successor") if self._has_arrays else None
        if successor is None or any(find_array_damage(self._folder, successor, True)):
            return None
        return successor

    def _find_free_generation(self) -> int:
        """Return a number that no array in the folder has."""
        numbers = [path.stem[-6:] for path in self._folder.glob("*-??????.npy")]
        return max([0, *(int(number) for number in numbers if number.isdecimal())]) + 1


def _make_folder(path: Path) -> None:
    """Make a folder, in the place of a file perhaps."""
    for part in (path.parent, path):
        if part.exists() and not part.is_dir():
            remove_path(part)
    path.mkdir(parents=True, exist_ok=True)


def _insert_video(connection: sqlite3.Connection, video: _Video) -> None:
    marks = ", ".join("?" * len(video.row))
    connection.execute(f"INSERT INTO videos VALUES ({marks})", video.row)
    columns = "(id, video_id, start_s, end_s, row)"
    insert = f"INSERT INTO entries {columns} VALUES (?, ?, ?, ?, ?)"
    connection.executemany(insert, (entry[:5] for entry in video.entries))
    ids = [entry[0] for entry in video.entries]
    numbers = {entry: number for number, entry in enumerate(ids)}
    for track in sorted(video.tracks, key=lambda track: track["id"]):
        if track.get("kind") == "name":
            continue
        boxes = np.frombuffer(track["boxes"], dtype=np.float32).reshape(-1, 5)
        seen_in = tuple(numbers[entry] for entry in video.places.get(track["id"], ()))
        times = track["start_s"], track["end_s"]
        kind = track.get("kind", "read")
        new = NewTrack(track["text"], track["score"], *times, boxes, seen_in, kind)
        database.insert_track(connection, video.id, new, ids)
    name = build_name_track(video.name, video.row[4], len(ids))
    database.insert_track(connection, video.id, name, ids)


@contextmanager
def _open_video(roots: Roots, video: _Video) -> Iterator[TolerantReader]:
    """Open the file of a video; raises ``UserError`` where it is another one than it was."""
    stamp: ContentStamp | None = database.parse_stamp(video.row[2])
    if stamp is None or roots.find_same(video.name, stamp) is None:
        place = roots.locate(video.name)
        raise UserError(f"{place}: is another file than the one that was indexed")
    with (
        roots.open_video(video.name) as opened,
        open_tolerantly(opened.path, SEARCH_READER) as reader,
    ):
        yield reader


def _build_finder(
    roots: Roots, windows: Iterable[float], video: _Video
) -> Callable[[dict[str, Any]], list[int]]:
    """Return a function: line of a video -> the entries in which it is seen or said.

    The file is opened for the times of its frames; raises ``UserError``.
    """
    ids = [entry[0] for entry in video.entries]
    spans = [Window(entry[2], entry[3], 0, 0) for entry in video.entries]
    cut: list[Window] = []
    restore: Callable[[KnownLine], Any] | None = None
    if any(track.get("kind", "read") == "read" for track in video.tracks):
        with _open_video(roots, video) as reader:
            times, size = reader.times(), (reader.width, reader.height)
        starts = [span.start_s for span in spans]
        cut = [
            window
            for window in cut_windows(times, *windows)
            if np.isclose(window.start_s, starts, rtol=0, atol=1e-3).any()
        ]
        if len(cut) != len(ids):
            raise UserError(f"{video.name}: is cut into other windows than when it was indexed")
        restore = partial(restore_line, times=times, size=size)

    def find(track: dict[str, Any]) -> list[int]:
        kind = track.get("kind", "read")
        if kind == "name":  # it is made of the path
            return []
        if kind == "spoken" or restore is None:
            positions = find_windows_at((track["start_s"], track["end_s"]), spans)
        else:
            boxes = np.frombuffer(track["boxes"], dtype=np.float32).reshape(-1, 5)
            line = restore(KnownLine(track["text"], track["score"], boxes))
            positions = find_windows(list(line.frames), cut)
        return [ids[position] for position in positions]

    return find
