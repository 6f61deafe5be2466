"""Store of an index in LanceDB, on a local disk or in object storage.

What its methods do is said by ``retrieval.index.store.IndexStore``. See docs/lance.md.
"""

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from urllib.parse import unquote, urlsplit

from retrieval.errors import IndexFolderError
from retrieval.index.records import Damage
from retrieval.lance.commits import COMMITS, Commit, CommitLog, TableState
from retrieval.lance.database import SCHEME, DamagedStoreError, Database, GoneVersionError, Table
from retrieval.lance.maintenance import KEPT_S
from retrieval.lance.model_files import copy_files, find_damage, save_files
from retrieval.lance.reader import LanceReader
from retrieval.lance.schema import (
    CONTENT,
    build_schemas,
    build_vector_schema,
    name_model,
    name_vectors,
)
from retrieval.lance.vectors import ResidentVectors
from retrieval.lance.verification import check_tables, verify
from retrieval.lance.view import CommitView
from retrieval.lance.writer import LanceWriter
from utils.errors import UserError
from utils.files import FileLockedError, get_cache_folder, lock_file

_NONE = "holds no finished index; index.py makes one: python index.py VIDEOS --out {}"
_SCHEMES = ("s3://", "gs://", "az://", "file://")
_LOCK = "index.lock"
_WORK = "work"


class LanceStore:
    """An index in LanceDB. Readers share what they have read of one commit.

    Args:
        location: a local folder ``NAME.lance``, or ``s3://BUCKET/NAME.lance``, ``gs://…``.

    Raises:
        UserError: it is a URL of something else.
    """

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/") or location
        scheme = SCHEME.match(location)
        if scheme and scheme.group().lower() not in _SCHEMES:
            raise UserError(f"{location}: give a folder, or one of: {', '.join(_SCHEMES)}")
        self._folder = _find_local_folder(self.location)
        self._address = self.location if self._folder is None else str(self._folder.absolute())
        cache = get_cache_folder(None) or Path(gettempdir()) / "textvr"
        self._models = cache / "lance" / "models"
        if self._folder is not None:
            self.work_folder = self._folder / _WORK
        else:
            key = hashlib.sha256(self._address.encode()).hexdigest()[:24]
            self.work_folder = cache / "lance" / key
        self._lock = threading.RLock()
        self._database: Database | None = None
        self._log: CommitLog | None = None
        self._place: tuple[int, int] | None = None  # of the log that is open, on a local disk
        self._view: CommitView | None = None
        self._resident = ResidentVectors()

    # Opening

    def _open_database(self) -> Database:
        with self._lock:
            if self._database is None:
                self._database = Database(self._address, self.location)
            return self._database

    def _find_log(self) -> CommitLog | None:
        """Return the commits of the index that is there now; None: there is none as yet."""
        with self._lock:
            place = self._identify_log()
            if self._log is not None and place != self._place:
                self.close()  # another index has been put in its place
            if self._log is None:
                if self._folder is not None and place is None:
                    return None
                database = self._open_database()
                if not database.has(COMMITS):
                    return None
                self._log, self._place = CommitLog(database), place
            return self._log

    def _identify_log(self) -> tuple[int, int] | None:
        """Return what tells the folder of the commits from others, on a local disk."""
        if self._folder is None:
            return None
        try:
            status = os.stat(self._folder / f"{COMMITS}.lance")
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _read_commit(self) -> Commit | None:
        """Return the last commit; None: there is no index as yet."""
        with self._lock:
            log = self._find_log()
            if log is None:
                return None
            try:
                return log.read_newest()
            except GoneVersionError:
                self.close()  # perhaps another index has been put in its place
                log = self._find_log()
                return None if log is None else log.read_newest()

    def read_meta(self) -> dict[str, Any] | None:
        """Return ``meta`` as last committed; None where there is no index as yet."""
        commit = self._read_commit()
        if commit is not None:
            return commit.meta
        self._check_place()
        return None

    def _check_place(self) -> None:
        """Raise ``IndexFolderError`` where there is something else than the making of an index."""
        if self._folder is not None:
            if not self._folder.exists():
                return
            names = (
                {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else {""}
            )
            foreign = names - {_LOCK, _WORK}
            names = {name.removesuffix(".lance") for name in foreign}
        else:
            names = set(self._open_database().list_names())
        if not all(name in CONTENT or name.startswith(("vectors-", "model-")) for name in names):
            raise IndexFolderError(
                f"{self.location}: holds something else than an index; name another --out"
            )

    def _load_view(self) -> tuple[CommitView, Commit]:
        """Return the view of the last commit; raises ``IndexFolderError``."""
        with self._lock:
            commit = self._read_commit()
            if commit is None:
                what = _NONE.format(self.location)
                if self._folder is not None and not self._folder.exists():
                    what = what.replace("holds no finished index", "no such folder")
                raise IndexFolderError(f"{self.location}: {what}")
            view = self._view
            if view is None or not _see_same(view.commit, commit):
                view = self._view = CommitView(self._open_database(), commit)
            return view, commit

    @contextmanager
    def reading(self) -> Iterator[LanceReader]:
        """Yield a reader of the last commit."""
        view, commit = self._load_view()
        yield LanceReader(view, commit.meta, self._resident)

    def close(self) -> None:
        """Release files and memory."""
        with self._lock:
            self._database = self._log = self._place = self._view = None
            self._resident.clear()

    # Writing

    @contextmanager
    def locking(self) -> Iterator[None]:
        """Keep other writers of this machine out; those of others are noticed when they write."""
        folder = self.work_folder if self._folder is None else self._folder
        try:
            self.work_folder.mkdir(parents=True, exist_ok=True)
            with lock_file(folder / _LOCK, wait=False):
                yield
        except FileLockedError:
            raise IndexFolderError(
                f"{self.location}: another index.py is writing to it; wait until it has ended"
            ) from None
        except OSError as error:
            raise IndexFolderError(
                f"{self.location}: can't be written ({error}); what was finished before is kept: "
                "free some space, or give access, and run the command again"
            ) from error

    def create(self, width: int | None, leaves_out: Sequence[str], meta: dict[str, Any]) -> None:
        """Make an empty index; its first commit comes last."""
        counts = {"generation": 1, "num_rows": 0, "commits": 0}
        meta = meta | counts | {"width": width, "leaves_out": list(leaves_out)}
        meta = {key: value for key, value in meta.items() if value is not None}
        database, schemas = self._open_database(), build_schemas()
        if (vectors := name_vectors(meta)) is not None:
            schemas[vectors] = build_vector_schema(meta)
        tables = {name: database.create(name, schema) for name, schema in schemas.items()}
        if (model := name_model(meta)) is not None:
            tables[model] = database.open(model)
        states = {
            name: TableState(table.version, table.count(), 0.0) for name, table in tables.items()
        }
        first = Commit(1, secrets.token_hex(8), meta, states, dict.fromkeys(CONTENT[:4], 1))
        CommitLog.create(database, Commit.parse(first.dump()))

    def open_writer(self) -> LanceWriter:
        """Open the index for writing."""
        _, commit = self._load_view()
        log = self._find_log()
        assert log is not None  # the commit is of it
        return LanceWriter(self._open_database(), log, commit)

    def optimize(self, kept_s: float = KEPT_S) -> None:
        """Merge small files, bring indexes up to date, and remove what is of no use any more.

        Args:
            kept_s: seconds for which former versions are kept, for readers that have them open.
        """
        with self.locking(), self.open_writer() as writer:
            writer.optimize(kept_s)
            writer.remove_leftovers(kept_s)

    # Checks

    def check_completely(self) -> None:
        """Check what takes no time; ``verify`` reads everything."""
        view, _ = self._load_view()
        for damage in check_tables(view):
            raise DamagedStoreError(self.location, *damage)

    def verify(self) -> list[Damage]:
        """Return all that is wrong with the index."""
        view, _ = self._load_view()
        return list(verify(view))

    # Files of the model

    def save_model_files(self, meta: dict[str, Any]) -> None:
        """Take the files of a model from the work folder."""
        save_files(self._open_database(), self.work_folder, meta)

    def open_model_folder(self, meta: dict[str, Any]) -> Path:
        """Return a folder of the local cache with the files of a model."""
        table = self._open_model(meta)
        if table is None:
            return self.work_folder
        try:
            return copy_files(table, self._models, meta, self.location)
        except OSError as error:
            raise IndexFolderError(
                f"{self._models}: can't be written ({error}); free some space, give access, or "
                "name another folder in the environment variable TEXTVR_CACHE"
            ) from error

    def find_model_damage(self, meta: dict[str, Any]) -> list[Damage]:
        """Return what is wrong with the files of a model, its weights among them."""
        try:
            table = self._open_model(meta)
            return [] if table is None else find_damage(table, meta)
        except DamagedStoreError as error:
            return [Damage(error.file, error.what)]

    def _open_model(self, meta: dict[str, Any]) -> Table | None:
        """Open the table of a model's files; None: it has none."""
        name = name_model(meta)
        if name is None:
            return None
        _, commit = self._load_view()
        if name not in commit.tables:
            raise DamagedStoreError(self.location, f"{name}.lance", "is named by no commit")
        return self._open_database().open(name, commit.tables[name].version)


def _find_local_folder(location: str) -> Path | None:
    """Return the local folder of a location; None: it is in object storage."""
    if location.startswith("file://"):
        return Path(unquote(urlsplit(location).path))
    return None if SCHEME.match(location) else Path(location)


def _see_same(one: Commit, other: Commit) -> bool:
    """Whether searches see no difference between two commits."""
    if one.identity != other.identity:
        return False
    successors = [
        {name_vectors(commit.meta["successor"]), name_model(commit.meta["successor"])}
        if commit.meta.get("successor")
        else set()
        for commit in (one, other)
    ]
    used = [
        {name: state for name, state in commit.tables.items() if name not in unseen}
        for commit, unseen in zip((one, other), successors, strict=True)
    ]
    return used[0] == used[1] and {**one.meta, "successor": None} == {
        **other.meta,
        "successor": None,
    }
