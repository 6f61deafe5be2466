"""Writing to an index in LanceDB: see ``retrieval.index.store.StoreWriter``.

Each change writes the tables, then a commit that names their new versions
(``retrieval.lance.commits``). Tables that have other versions than the last commit names were left
so by a writer that was killed, or by a change that failed; they are put back before the next one.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from retrieval.index.arrays import keeps_frames
from retrieval.index.records import (
    KnownEntry,
    KnownLine,
    KnownVideo,
    NewEntry,
    NewTrack,
    NewVideo,
    Stamps,
    build_name_track,
)
from retrieval.index.store import MAX_DEAD, MIN_VECTORS
from retrieval.index.words import list_index_words
from retrieval.lance.ann import build_indexes, measure_recall
from retrieval.lance.commits import COMMITS, Commit, CommitLog, TableState
from retrieval.lance.database import Database, Table, list_in, report_other_writer
from retrieval.lance.maintenance import KEPT_S, choose_kept_from, create_missing_indexes
from retrieval.lance.reader import list_known_videos
from retrieval.lance.schema import (
    CONTENT,
    ENTRIES,
    LINES,
    POSTINGS,
    VIDEOS,
    WORDS,
    build_entry_row,
    build_line_row,
    build_rows,
    build_schemas,
    build_vector_rows,
    build_vector_schema,
    build_video_row,
    dump_stamp,
    list_tables,
    name_vectors,
    read_lists,
)
from retrieval.lance.vectors import LanceVectors, ResidentVectors
from retrieval.lance.view import CommitView
from retrieval.results import TrackKind
from utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

# Commits of one run whose rows are merged, which reads and writes those rows alone.
MERGED_AFTER = 256
# An update ends by optimizing the tables, which may read and write a million rows of each, where so
# much of the index is new, or they are in so many parts.
NEW_SHARE, _MANY_FRAGMENTS = 0.1, 128
_FEW_COMMITS = 8  # that are left as they are
# By which ids the last rows of a table are told from others; of vectors, by those of entries.
_GROWING = {POSTINGS: "line_id"}
_KINDS = {VIDEOS: VIDEOS, LINES: LINES, WORDS: WORDS, POSTINGS: LINES}
_MOST_NAMED = 2000  # words that one condition names


@dataclass
class _Change:
    """What is written to the tables for the next commit."""

    next_ids: dict[str, int]
    retired: dict[str, float]
    begun_s: float
    may_have_unused_words: bool
    optimized_from: int
    meta: dict[str, Any] = field(default_factory=dict)  # values that are set; None: deleted
    tables: set[str] = field(default_factory=set)  # that are written to
    new_words: list[str] = field(default_factory=list)

    def take_ids(self, kind: str, count: int) -> range:
        """Return new ids of a kind."""
        first = self.next_ids[kind]
        self.next_ids[kind] += count
        return range(first, first + count)


class LanceWriter:
    """Writes to an index that is locked.

    Attributes:
        meta: as of the last commit.
    """

    def __init__(self, database: Database, log: CommitLog, commit: Commit) -> None:
        self._database, self._log, self._commit = database, log, commit
        self.meta = commit.meta
        self._schemas = build_schemas()
        self._tables: dict[str, Table] = {}
        self._paths: dict[bytes, int] | None = None  # of the videos
        self._word_ids: dict[str, int] | None = None  # of all words
        self._bases: dict[str, int] = {}  # the version of each table that is as the commit has it
        self._merged = dict(commit.next_ids)  # whose rows before these are merged
        self._num_written = 0  # commits since then
        self._restore_tables()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.clear()

    # Reading

    def read_videos(self) -> dict[str, KnownVideo]:
        """Return the videos of the index by path."""
        found = self._tables[VIDEOS].read(["id", "path", "stamp", "ocr_stamp"])
        return list_known_videos(found.sort_by("id"))

    def read_entries(self) -> dict[int, list[KnownEntry]]:
        """Return the entries of each video (by id) that has any, in their order."""
        rows = self._tables[ENTRIES].read(["video_id", "id", "start_s"]).sort_by("id")
        found: dict[int, list[KnownEntry]] = {}
        for video, *entry in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            found.setdefault(video, []).append(KnownEntry(*entry))
        return found

    def read_starts(self, video_id: int) -> list[float]:
        """Return when the entries of a video begin, in their order, in seconds."""
        found = self._tables[ENTRIES].read(["id", "start_s"], f"video_id = {video_id}")
        return found.sort_by("id")["start_s"].to_pylist()

    def read_lines(self, video_id: int) -> list[KnownLine]:
        """Return the lines that were read in a video, in the order in which they came."""
        where = f"video_id = {video_id} AND kind = 'read'"
        found = self._tables[LINES].read(["id", "text", "score", "boxes"], where).sort_by("id")
        texts, scores = found["text"].to_pylist(), found["score"].to_pylist()
        boxes = read_lists(found["boxes"], 5)
        return [KnownLine(*line) for line in zip(texts, scores, boxes, strict=True)]

    # Changes

    def update_stamps(self, stamps: dict[int, Stamps]) -> None:
        """Write new stamps of videos (by id) whose content is unchanged."""
        with self._transaction() as change:
            self._replace_videos(change, _dump_stamps(stamps))

    def rename_videos(self, names: Mapping[int, str]) -> None:
        """Give videos (by id) other paths; their entries stay, with the words of the new names."""
        if not names:
            return
        with self._transaction() as change:
            paths = {video: {"path": os.fsencode(path)} for video, path in names.items()}
            rows = self._replace_videos(change, paths)
            of_names = f"{list_in('video_id', sorted(names))} AND kind = 'name'"
            entries = self._list_entries(sorted(names))
            self._delete_lines(change, of_names, [ids for ids in entries.values() if len(ids)])
            tracks = []
            for row in rows:
                own = entries.get(row["id"], _NO_IDS).tolist()
                name = build_name_track(os.fsdecode(row["path"]), row["duration_s"], len(own))
                tracks.append((row["id"], own, [name]))
            self._insert_lines(change, tracks)
        self._paths = None

    def replace_tracks(self, video_id: int, video: NewVideo) -> None:
        """Give a video other lines and other stamps; its entries stay as they are."""
        kinds: tuple[TrackKind, ...] = ("read", "spoken")
        tracks = [track for kind in kinds for track in video.tracks if track.kind == kind]
        with self._transaction() as change:
            entries = self._list_entries([video_id]).get(video_id, _NO_IDS)
            where = f"video_id = {video_id} AND kind != 'name'"
            self._delete_lines(change, where, [entries] if len(entries) else [])
            self._insert_lines(change, [(video_id, entries.tolist(), tracks)])
            stamps = {video_id: (video.stamp, video.ocr_stamp)}
            self._replace_videos(change, _dump_stamps(stamps))

    def set_meta(self, **values: Any) -> None:
        """Set values of ``meta``; None deletes one."""
        with self._transaction() as change:
            change.meta = values

    def write(self, videos: Sequence[NewVideo], drop: Sequence[int] = ()) -> None:
        """Add or replace videos (by path), and drop others (by id), in one commit."""
        paths = self._load_paths()
        new = [os.fsencode(video.path) for video in videos]
        gone = sorted({*drop, *(paths[path] for path in new if path in paths)})
        with self._transaction() as change:
            if gone:
                self._delete_videos(change, gone)
            if videos:
                ids = self._insert_videos(change, videos)
        if drop:
            of_gone = set(gone)
            for path in [path for path, video in paths.items() if video in of_gone]:
                del paths[path]
        if videos:
            paths.update(zip(new, ids, strict=True))
        self._num_written += 1
        if self._num_written >= MERGED_AFTER:
            self._merge_last_rows()

    def _load_paths(self) -> dict[bytes, int]:
        if self._paths is None:
            self._paths = self._read_ids(VIDEOS, "path")
        return self._paths

    def _read_ids(self, name: str, column: str) -> dict[Any, int]:
        """Return the ids of a table's rows by a column whose values are distinct."""
        found = self._tables[name].read([column, "id"])
        return dict(zip(found[column].to_pylist(), found["id"].to_pylist(), strict=True))

    # Dead rows are deleted at once

    def count_dead_rows(self) -> int:
        """Return no rows: those of videos that are gone are deleted with them."""
        return 0

    def compact(self, max_dead: float = MAX_DEAD) -> bool:
        """Merge small files, and drop words that no line has any more; returns False.

        No row is dead, so there is none to drop.
        """
        if self._commit.may_have_unused_words:
            unused = self._find_unused_words()
            with self._transaction(is_seen=len(unused) > 0) as change:
                change.may_have_unused_words = False
                for first in range(0, len(unused), _MOST_NAMED):
                    where = list_in("id", unused[first : first + _MOST_NAMED])
                    self._delete(change, WORDS, where)
            self._word_ids = None
        if self._num_written > _FEW_COMMITS:
            self._merge_last_rows()
        new = self._commit.next_ids[ENTRIES] - self._commit.optimized_from
        num_fragments = self._count_fragments()
        is_grown = new >= NEW_SHARE * self.meta["num_rows"] and num_fragments > 1
        if is_grown or num_fragments >= _MANY_FRAGMENTS:
            self.optimize()
        return False

    def _merge_last_rows(self) -> None:
        """Write the rows of the last commits anew, together; searches see no difference."""
        with self._transaction(is_seen=False) as change:
            for name in self._list_searched():
                first = self._merged[_KINDS.get(name, ENTRIES)]
                where = f"{_GROWING.get(name, 'id')} >= {first}"
                table = self._tables[name]
                if table.count(where):
                    before = self._database.open(name, table.version)
                    self._delete(change, name, where)
                    self._append(change, name, before.stream(where))
        self._merged, self._num_written = dict(self._commit.next_ids), 0

    def _find_unused_words(self) -> NDArray:
        """Return the ids (M,) of the words that no line has."""
        is_used = np.zeros(self._commit.next_ids[WORDS], dtype=bool)
        for batch in self._tables[POSTINGS].scan(["word_id"], rows=1 << 16):
            is_used[batch.column("word_id").to_numpy()] = True
        ids = self._tables[WORDS].read(["id"])["id"].to_numpy()
        return ids[~is_used[ids]]

    def optimize(self, kept_s: float = KEPT_S) -> None:
        """Merge small files, bring indexes up to date, and remove what no reader needs.

        Searches see no difference.

        Args:
            kept_s: seconds for which former versions are kept, for readers that have them open.
        """
        with self._transaction(is_seen=False) as change:
            for name in self._list_searched():
                self._optimize(change, name, kept_s)
            if (ann := self.meta.get("ann")) is not None:
                change.meta = {"ann": ann | self._describe_covered()}
            change.optimized_from = self._commit.next_ids[ENTRIES]
        self._log.optimize(kept_s)
        self._merged, self._num_written = dict(self._commit.next_ids), 0

    def _list_searched(self) -> list[str]:
        """Return the tables that searches look into."""
        vectors = name_vectors(self.meta)
        return [*CONTENT, *([vectors] if vectors else [])]

    def _optimize(self, change: _Change, name: str, kept_s: float) -> None:
        table, rows = self._tables[name], self._commit.tables[name].rows
        create_missing_indexes(table, rows)
        table.optimize(choose_kept_from(self._commit.tables[name], kept_s))
        table.follow()
        self._check_rows(name)
        change.tables.add(name)

    def _check_rows(self, name: str) -> None:
        """See that a table has the rows of the last commit.

        Raises ``IndexFolderError`` where another writer has written to it meanwhile.
        """
        table, next_id = self._tables[name], self._commit.next_ids[_KINDS.get(name, ENTRIES)]
        num_new = table.count(f"{_GROWING.get(name, 'id')} >= {next_id}")
        if num_new or table.count() != self._commit.tables[name].rows:
            raise report_other_writer(self._database.location)

    def _count_fragments(self) -> int:
        """Return in how many parts the table of most parts has been written."""
        return max(self._tables[name].count_fragments() for name in self._list_searched())

    # Another model

    def next_generation(self) -> int:
        """Return the number of the next generation of vectors."""
        used = self.meta["generation"], (self.meta.get("successor") or {}).get("generation", 0)
        return max(used) + 1

    def begin_successor(self, values: dict[str, Any]) -> None:
        """Begin vectors by another model, beside those that are searched."""
        successor = values | {"num_rows": 0}
        name = name_vectors(successor)
        assert name is not None  # a model has a width
        with self._transaction(is_seen=False) as change:
            self._tables[name] = self._database.create(name, build_vector_schema(successor))
            change.tables.add(name)
            change.meta = {"successor": successor}

    def read_succeeded(self) -> NDArray:
        """Return the entries (M,) that the successor has vectors of, by its rows."""
        name = name_vectors(self.meta["successor"])
        return self._tables[name].read(["id"])["id"].to_numpy()

    def change_successor(self, values: dict[str, Any]) -> None:
        """Set values that a successor brings with it, whose vectors stay as they are."""
        with self._transaction(is_seen=False) as change:
            change.meta = {"successor": self.meta["successor"] | values}

    def write_successor(self, entries: Sequence[tuple[int, NewEntry]]) -> None:
        """Give the successor vectors of entries (by id) that the index has."""
        successor = self.meta["successor"]
        with self._transaction(is_seen=False) as change:
            counts = self._insert_vectors(change, successor, entries)
            change.meta = {"successor": successor | counts}

    def switch_to_successor(self) -> None:
        """Let the successor's vectors take over, in one commit.

        Entries stay what they are. Videos that it has no vectors of, of every entry, are gone.
        """
        successor = self.meta["successor"]
        name = name_vectors(successor)
        rows = self._tables[ENTRIES].read(["id", "video_id"])
        ids, videos = rows["id"].to_numpy(), rows["video_id"].to_numpy()
        succeeded = self.read_succeeded()
        gone = np.unique(videos[~np.isin(ids, succeeded)])
        kept = ids[~np.isin(videos, gone)]
        with self._transaction() as change:
            if len(gone):
                self._delete_videos(change, gone.tolist())
            dead = np.setdiff1d(succeeded, kept)
            if len(dead):
                self._delete(change, name, _list_ranges("id", dead))
            counts: dict[str, int | None] = {"num_rows": len(kept), "num_frames": None}
            if keeps_frames(successor):
                counts["num_frames"] = _sum_frames(self._tables[name])
            change.meta = successor | counts | {"successor": None, "ann": None}

    # Nearest neighbours

    def build_ann(self, min_vectors: int = MIN_VECTORS) -> float:
        """Make an index of nearest neighbours; returns its recall on a sample of entries.

        Raises ``UserError`` where there are fewer vectors.
        """
        meta = self.meta
        num_vectors = meta["num_rows"] + (meta.get("num_frames") or 0)
        if num_vectors < min_vectors:
            what = "vectors" if keeps_frames(meta) else "entries"
            raise UserError(
                f"{self._database.location}: --ann is for {min_vectors:,} {what} and more; this "
                f"index has {num_vectors:,}, which are searched exactly in less time"
            )
        name = name_vectors(meta)
        assert name is not None  # of an index of words only there are no vectors
        with self._transaction() as change:
            kind = build_indexes(self._tables[name], meta)
            self._check_rows(name)
            change.tables.add(name)
            change.meta = {"ann": {"kind": kind} | self._describe_covered()}
        view = CommitView(self._database, self._commit)
        return measure_recall(LanceVectors(view, ResidentVectors()))

    def _describe_covered(self) -> dict[str, int]:
        """Return what ``meta`` says of the rows of an index of nearest neighbours: all of them."""
        last = self._commit.next_ids[ENTRIES] - 1
        return {"num_rows": self.meta["num_rows"], "last_entry": last}

    def remove_leftovers(self, kept_s: float = KEPT_S) -> None:
        """Remove tables that no commit has named for so many seconds.

        So long a reader may have them open, or a writer on another machine may be making them.
        """
        now_s, retired = time.time(), self._commit.retired
        unused = set(self._database.list_names()) - {*self._commit.tables, COMMITS}
        kept = {name: retired.get(name, now_s) for name in unused}
        gone = [name for name, since_s in kept.items() if now_s - since_s >= kept_s]
        kept = {name: since_s for name, since_s in kept.items() if name not in gone}
        if kept != retired:
            with self._transaction(is_seen=False) as change:  # so this is the last commit
                change.retired = kept
        for name in gone:
            self._database.drop(name)

    # Rows

    def _insert_videos(self, change: _Change, videos: Sequence[NewVideo]) -> list[int]:
        """Insert videos whose paths are new; returns their ids."""
        ids = list(change.take_ids(VIDEOS, len(videos)))
        entries: list[tuple[int, NewEntry]] = []
        entry_rows, tracks = [], []
        for video_id, video in zip(ids, videos, strict=True):
            own = list(change.take_ids(ENTRIES, len(video.entries)))
            entries += zip(own, video.entries, strict=True)
            entry_rows += [
                build_entry_row(entry_id, video_id, entry)
                for entry_id, entry in zip(own, video.entries, strict=True)
            ]
            name = build_name_track(video.path, video.duration_s, len(own))
            tracks.append((video_id, own, [*video.tracks, name]))
        rows = [build_video_row(*video) for video in zip(ids, videos, strict=True)]
        self._append_rows(change, VIDEOS, rows)
        self._append_rows(change, ENTRIES, entry_rows)
        change.meta |= self._insert_vectors(change, self.meta | change.meta, entries)
        self._insert_lines(change, tracks)
        return ids

    def _insert_vectors(
        self, change: _Change, meta: dict[str, Any], entries: Sequence[tuple[int, NewEntry]]
    ) -> dict[str, int]:
        """Insert vectors of a generation, whose ``meta`` is given, if it has any.

        Returns what that ``meta`` gets: its numbers of rows.
        """
        name = name_vectors(meta)
        counts = {"num_rows": meta["num_rows"] + len(entries)}
        if keeps_frames(meta):
            more = sum(len(entry.frame_times) for _, entry in entries)
            counts["num_frames"] = meta["num_frames"] + more
        if entries and name is not None:
            self._append(change, name, build_vector_rows(meta, entries))
        return counts

    def _insert_lines(
        self, change: _Change, tracks: Sequence[tuple[int, Sequence[int], Sequence[NewTrack]]]
    ) -> None:
        """Insert lines of videos, each given with its id and those of its entries."""
        rows: list[dict[str, Any]] = []
        places: list[tuple[dict[str, str], int, list[int]]] = []
        for video_id, entries, own in tracks:
            for line_id, track in zip(change.take_ids(LINES, len(own)), own, strict=True):
                rows.append(build_line_row(line_id, video_id, track))
                seen_in = [entries[position] for position in track.seen_in]
                places.append((list_index_words(track.text), line_id, seen_in))
        self._append_rows(change, LINES, rows)
        forms = {text: form for words, *_ in places for text, form in words.items()}
        word_ids = self._find_or_insert_words(change, forms)
        postings = [
            (word_ids[text], entry, line)
            for words, line, entries in places
            for text in words
            for entry in entries
        ]
        if postings:
            import pyarrow as pa

            columns = np.ascontiguousarray(np.array(postings, dtype=np.int64).T)
            schema = self._schemas[POSTINGS]
            self._append(change, POSTINGS, pa.table(list(columns), schema=schema))

    def _find_or_insert_words(self, change: _Change, forms: Mapping[str, str]) -> dict[str, int]:
        """Return the ids of words, given with their reduced forms; new ones are inserted."""
        known = self._load_words()
        new = [text for text in forms if text not in known]
        ids = dict(zip(new, change.take_ids(WORDS, len(new)), strict=True))
        rows = [
            {"id": ids[text], "text": text, "reduced": forms[text] if forms[text] != text else None}
            for text in new
        ]
        self._append_rows(change, WORDS, rows)
        known.update(ids)
        change.new_words += new
        return {text: known[text] for text in forms}

    def _load_words(self) -> dict[str, int]:
        """Return the ids of all words, by their texts."""
        if self._word_ids is None:
            self._word_ids = self._read_ids(WORDS, "text")
        return self._word_ids

    def _delete_videos(self, change: _Change, videos: Sequence[int]) -> None:
        """Delete videos with all that is theirs."""
        entries = np.concatenate([_NO_IDS, *self._list_entries(videos).values()])
        if len(entries):
            ranges = _list_ranges("entry_id", entries)
            self._delete(change, POSTINGS, ranges)
            change.may_have_unused_words = True
            if (vectors := name_vectors(self.meta)) is not None:
                of_ids = _list_ranges("id", entries)
                if keeps_frames(self.meta):
                    gone = _sum_frames(self._tables[vectors], of_ids)
                    change.meta["num_frames"] = self.meta["num_frames"] - gone
                self._delete(change, vectors, of_ids)
            change.meta["num_rows"] = self.meta["num_rows"] - len(entries)
        for name, column in ((ENTRIES, "video_id"), (LINES, "video_id"), (VIDEOS, "id")):
            self._delete(change, name, list_in(column, videos))

    def _delete_lines(self, change: _Change, where: str, entries: Sequence[NDArray]) -> None:
        """Delete lines that fit a condition, of videos that have these entries."""
        found = self._tables[LINES].read(["id"], where)["id"].to_numpy()
        if not len(found):
            return
        if entries:
            ranges = _list_ranges("entry_id", np.concatenate(entries))
            of_lines = f"({ranges}) AND {list_in('line_id', found)}"
            self._delete(change, POSTINGS, of_lines)
            change.may_have_unused_words = True
        self._delete(change, LINES, where)

    def _replace_videos(
        self, change: _Change, values: Mapping[int, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Set columns of videos (by id); returns their rows."""
        if not values:
            return []
        where = list_in("id", sorted(values))
        columns = self._schemas[VIDEOS].names
        rows = self._tables[VIDEOS].read(columns, where).sort_by("id").to_pylist()
        rows = [row | values[row["id"]] for row in rows]
        self._delete(change, VIDEOS, where)
        self._append_rows(change, VIDEOS, rows)
        return rows

    def _list_entries(self, videos: Sequence[int]) -> dict[int, NDArray]:
        """Return the ids (M,) of the entries of each of some videos that has any, ascending."""
        found = self._tables[ENTRIES].read(["id", "video_id"], list_in("video_id", videos))
        ids, of_video = found["id"].to_numpy(), found["video_id"].to_numpy()
        return {
            int(video): np.sort(ids[of_video == video]).astype(np.int64)
            for video in np.unique(of_video)
        }

    def _append_rows(self, change: _Change, name: str, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            self._append(change, name, build_rows(self._schemas[name], rows))

    def _append(self, change: _Change, name: str, rows: "pa.Table | pa.RecordBatchReader") -> None:
        with self._writing_to(change, name) as table:
            table.append(rows)

    def _delete(self, change: _Change, name: str, where: str) -> None:
        with self._writing_to(change, name) as table:
            table.delete(where)

    @contextmanager
    def _writing_to(self, change: _Change, name: str) -> Iterator[Table]:
        """Yield a table for one write; raises ``IndexFolderError`` where others write, too."""
        table = self._tables[name]
        before = table.version
        change.tables.add(name)
        yield table
        if table.version != before + 1:
            raise report_other_writer(self._database.location)

    # Commits

    @contextmanager
    def _transaction(self, is_seen: bool = True) -> Iterator[_Change]:
        """Commit what a ``with`` block writes to the tables.

        Args:
            is_seen: whether searches see a difference.
        """
        before = self._commit
        self._restore_tables()
        change = _Change(
            dict(before.next_ids),
            dict(before.retired),
            time.time(),
            before.may_have_unused_words,
            before.optimized_from,
        )
        try:
            yield change
            meta = before.meta | change.meta | {"commits": before.meta["commits"] + is_seen}
            meta = {key: value for key, value in meta.items() if value is not None}
            tables = before.tables | {name: self._describe(change, name) for name in change.tables}
            needed = list_tables(meta)
            for name in needed - tables.keys():  # of a model whose files have been written
                self._tables[name] = self._database.open(name)
                tables[name] = self._describe(change, name)
                self._bases[name] = tables[name].version
            change.retired |= dict.fromkeys(tables.keys() - needed, change.begun_s)
            tables = {name: tables[name] for name in needed}
            commit = replace(
                before,
                number=before.number + 1,
                meta=meta,
                tables=tables,
                next_ids=change.next_ids,
                retired=change.retired,
                may_have_unused_words=change.may_have_unused_words,
                optimized_from=change.optimized_from,
            )
            commit = Commit.parse(commit.dump())  # its values are of this commit alone
            self._log.append(commit)
        except BaseException:
            for text in change.new_words:
                self._load_words().pop(text, None)
            raise
        self._commit, self.meta = commit, commit.meta
        self._tables = {name: self._tables[name] for name in commit.tables}
        self._bases |= {name: self._tables[name].version for name in change.tables & needed}

    def _describe(self, change: _Change, name: str) -> TableState:
        table = self._tables[name]
        return TableState(table.version, table.count(), change.begun_s)

    def _restore_tables(self) -> None:
        """Put back tables that have been written to without a commit, and open all others."""
        for name, state in self._commit.tables.items():
            if name not in self._tables:
                self._tables[name] = self._database.open(name)
                self._bases[name] = state.version
            table = self._tables[name]
            if table.version != self._bases[name]:
                table.restore(state.version)
                self._bases[name] = table.version


_NO_IDS = np.zeros(0, dtype=np.int64)


def _dump_stamps(stamps: Mapping[int, Stamps]) -> dict[int, dict[str, Any]]:
    return {
        video: {"stamp": dump_stamp(file), "ocr_stamp": dump_stamp(ocr)}
        for video, (file, ocr) in stamps.items()
    }


def _list_ranges(column: str, ids: NDArray) -> str:
    """Return the condition that a column has one of these ids (M,), most of them neighbours."""
    ids = np.unique(ids)
    cuts = np.flatnonzero(np.diff(ids) > 1) + 1
    runs: Iterable[NDArray] = np.split(ids, cuts)
    return " OR ".join(f"({column} >= {run[0]} AND {column} <= {run[-1]})" for run in runs)


def _sum_frames(table: Table, where: str | None = None) -> int:
    """Return how many frames the rows of a table of vectors have."""
    return int(table.read(["num_frames"], where)["num_frames"].to_numpy().sum())
