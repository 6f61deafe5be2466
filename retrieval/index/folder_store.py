"""Store of an index in a folder: SQLite, mapped arrays and files; see ``retrieval.index.store``."""

import os
import queue
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval.errors import IndexFolderError
from retrieval.index import database
from retrieval.index.checksums import TABLES
from retrieval.index.folder_reader import FolderReader
from retrieval.index.integrity import (
    VectorCheck,
    check_completely,
    check_model_files,
    check_opening,
    find_file_damage,
    verify_index,
)
from retrieval.index.mapped_vectors import MappedVectors
from retrieval.index.records import Damage
from retrieval.index.writer import IndexWriter, lock_index, read_index_meta


class FolderStore:
    """An index folder; what its methods do is said by ``retrieval.index.store.IndexStore``.

    Readers are kept for the next block that reads. The files of a model are where a run puts them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = self.work_folder = folder
        self.location = str(folder)
        self._idle: queue.LifoQueue[FolderReader] = queue.LifoQueue()
        self._mapped: tuple[object, MappedVectors] | None = None  # of which state, and the last one
        self._checked: tuple[int, int] | None = None  # the database that was, when it was opened
        self._check = VectorCheck(folder)

    def read_meta(self) -> dict[str, Any] | None:
        """Return ``meta``; None where there is no index as yet."""
        return read_index_meta(self.folder)

    @contextmanager
    def reading(self) -> Iterator[FolderReader]:
        """Yield a reader of the last commit."""
        reader = self._begin_reading()
        try:
            yield reader
            reader.connection.execute("COMMIT")
        except database.READ_ERRORS as error:
            reader.connection.close()
            raise database.explain_read_error(self.folder, error) from error
        except BaseException:
            reader.connection.rollback()
            self._idle.put(reader)
            raise
        self._idle.put(reader)

    def close(self) -> None:
        """Release files and memory."""
        while not self._idle.empty():
            self._idle.get().connection.close()
        self._mapped = None

    @contextmanager
    def locking(self) -> Iterator[None]:
        """Keep other writers out, and explain what can't be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with lock_index(self.folder):
                yield
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(
                error, sqlite3.OperationalError
            ):
                raise database.explain_read_error(self.folder, error) from error
            raise IndexFolderError(
                f"{self.folder}: can't be written ({error}); what was finished before is kept: "
                "free some space, or give access, and run the command again"
            ) from error

    def create(self, width: int | None, leaves_out: Sequence[str], meta: dict[str, Any]) -> None:
        """Make an empty index, in the place of one whose making was stopped."""
        (self.folder / database.DATABASE).unlink(missing_ok=True)
        IndexWriter.create(self.folder, width, leaves_out, meta)

    def open_writer(self) -> IndexWriter:
        """Open the index for writing."""
        return IndexWriter(self.folder)

    def check_completely(self) -> None:
        """Check what an update will build on."""
        check_completely(self.folder)

    def verify(self) -> list[Damage] | None:
        """Return all that is wrong; None: the index has no checksums as yet."""
        found = verify_index(self.folder)
        has_checksums = TABLES in (self.read_meta() or {})
        return found if found or has_checksums else None

    def save_model_files(self, meta: dict[str, Any]) -> None:
        """Do nothing: they are in the folder already."""

    def open_model_folder(self, meta: dict[str, Any]) -> Path:
        """Return the folder, with the files of a model that are right."""
        check_model_files(self.folder, meta)
        return self.folder

    def find_model_damage(self, meta: dict[str, Any]) -> list[Damage]:
        """Return what is wrong with the files of a model."""
        return list(find_file_damage(self.folder, meta, complete=True))

    def _begin_reading(self) -> FolderReader:
        """Begin a transaction in the index that is there now, which another may have replaced."""
        while True:
            reader = self._open_reader()
            try:
                self._begin(reader)
            except (*database.READ_ERRORS, IndexFolderError) as error:
                reader.connection.close()
                if identify_database(self.folder) != reader.identity:
                    continue
                if isinstance(error, database.READ_ERRORS):
                    raise database.explain_read_error(self.folder, error) from error
                raise
            if identify_database(self.folder) == reader.identity:
                return reader
            reader.connection.close()  # its arrays may be those of the other index

    def _open_reader(self) -> FolderReader:
        """Return a reader of the database that is there now; raises ``IndexFolderError``."""
        identity = identify_database(self.folder)
        while True:
            try:
                reader = self._idle.get_nowait()
            except queue.Empty:
                return FolderReader(self.folder, identity)
            if reader.identity == identity:
                return reader
            reader.connection.close()  # another index has been put in its place

    def _begin(self, reader: FolderReader) -> None:
        """Begin a transaction, again where a writer replaces the arrays before they are mapped."""
        while True:
            reader.begin()
            mapped = self._mapped
            if mapped is not None and mapped[0] == reader.state:
                reader.state, reader.vectors = mapped
                return
            try:
                if self._checked != reader.identity:
                    check_opening(self.folder, reader.meta, reader.connection)
                    self._checked, self._check = reader.identity, VectorCheck(self.folder)
                reader.vectors = MappedVectors(self.folder, reader.meta, self._check)
                self._mapped = reader.state, reader.vectors
                return
            except IndexFolderError:
                reader.connection.rollback()
                if database.read_meta(reader.connection)["generation"] == reader.meta["generation"]:
                    raise


def identify_database(folder: Path) -> tuple[int, int] | None:
    """Return what tells the file of an index's database from others; None: there is none."""
    try:
        status = os.stat(folder / database.DATABASE)
    except OSError:
        return None
    return status.st_dev, status.st_ino
