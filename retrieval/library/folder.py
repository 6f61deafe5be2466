"""Library folder: all that ``find.py`` keeps, in one place, and which videos it is of.

index/          the index folder (``retrieval.index``)
text/           a document of each video: what can be read in it, and what is said
status.json     what the process that does the work is at
work.log        what it has to say
find.lock       held by the find.py that has the library open
address.json    where that one answers
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrieval.errors import LIBRARY_LOCK, DamagedIndexError
from retrieval.index.folder_store import FolderStore
from retrieval.index.records import STRIDE_S, WINDOW_S
from retrieval.index.relocation import relocate_folder
from retrieval.index.repair import repair_index
from retrieval.index.roots import Roots
from retrieval.index.store import StoreReader, StoreWriter
from retrieval.library.documents import LibraryText
from retrieval.library.settings import LibrarySettings
from utils.errors import UserError
from utils.files import FileLockedError, lock_file, write_json

VARIABLE = "TEXTVR_LIBRARY"
_ADDRESS_S = 5.0  # that another find.py may take to say where it answers


class LibraryOpenError(Exception):
    """Another find.py has the library open; ``address`` is its page's, where it has said it."""

    def __init__(self, address: str | None) -> None:
        super().__init__(address)
        self.address = address


class Library:
    """The files of a library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index, self.text = folder / "index", folder / "text"
        self.store = FolderStore(self.index)
        self.status_file, self.log_file = folder / "status.json", folder / "work.log"
        self._lock, self._address = folder / LIBRARY_LOCK, folder / "address.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Have the library for a ``with`` block; raises ``LibraryOpenError`` where another has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with lock_file(self._lock, wait=False):
                self._address.unlink(missing_ok=True)
                yield
                self._address.unlink(missing_ok=True)
        except FileLockedError:
            raise LibraryOpenError(self._wait_for_address()) from None

    def write_address(self, address: str) -> None:
        """Say where the page of the library answers."""
        write_json(self._address, {"address": address})

    def _wait_for_address(self) -> str | None:
        end = time.monotonic() + _ADDRESS_S
        while time.monotonic() < end:
            try:
                return json.loads(self._address.read_text(encoding="utf-8"))["address"]
            except (OSError, ValueError, LookupError, TypeError):
                time.sleep(0.1)
        return None

    def read_meta(self) -> dict[str, Any]:
        """Return the ``meta`` of the index; raises ``IndexFolderError``."""
        with self._reading() as reader:
            return reader.meta

    def read_names(self) -> set[str]:
        """Return the names of the videos in the index."""
        with self._reading() as reader:
            return set(reader.read_known_videos())

    def count(self) -> tuple[int, int]:
        """Return how many videos, and how many entries, the index has."""
        with self._reading() as reader:
            num_entries = reader.meta["num_rows"] - len(reader.read_dead_rows())
            return len(reader.read_known_videos()), num_entries

    def read_roots(self) -> Roots:
        """Return the folders of the library."""
        return Roots.from_meta(self.read_meta())

    def read_settings(self) -> LibrarySettings:
        """Return how videos are read."""
        return LibrarySettings(**self.read_meta().get("library", {}))

    def open(self) -> list[str]:
        """Make an empty index of words where there is none, and repair one that is damaged.

        Returns what there is to say of that; raises ``UserError``.
        """
        said: list[str] = []
        try:
            if (meta := self.store.read_meta()) is not None:
                self.store.check_completely()
        except DamagedIndexError as error:
            result = repair_index(self.index)
            said = [f"{error.folder}: {line}" for line in result.describe()]
            meta = self.store.read_meta()
        if meta is not None:
            if "roots" not in meta:
                raise UserError(
                    f"{self.folder}: holds an index of index.py, and no library; give another "
                    "--library"
                )
            return said
        with self.store.locking():
            meta = Roots({}).to_meta() | {"windows": [WINDOW_S, STRIDE_S]}
            self.store.create(None, (), meta)
        return said

    def write_settings(self, settings: LibrarySettings) -> None:
        """Keep how videos are read."""
        with self.writing() as writer:
            writer.set_meta(library=asdict(settings))

    def write_exclude(self, patterns: Sequence[str]) -> None:
        """Keep the patterns of what in the folders is left out (``utils.files.list_files``)."""
        with self.writing() as writer:
            writer.set_meta(exclude=[pattern for pattern in patterns if pattern] or None)

    def add_folders(self, folders: Sequence[Path]) -> list[str]:
        """Add folders of videos; returns a line for each that is within another one.

        Raises:
            UserError: one is missing, or holds a folder of the library, or the library.
        """
        roots, said = self.read_roots(), []
        given = list(dict.fromkeys(map(make_absolute, folders)))
        # A folder comes before those in it, and otherwise the order is that of the user.
        for folder in sorted(given, key=lambda one: sum(one.is_relative_to(two) for two in given)):
            if not folder.is_dir():
                what = "is a file, not a folder" if folder.exists() else "no such folder"
                raise UserError(f"{folder}: {what}; give a folder of videos")
            found = roots.find_root(folder)
            if found is not None:
                if found[1] != ".":
                    inside = roots.folders[found[0]]
                    said.append(f"{folder}: lies in {inside}, which is in the library")
                continue
            for other in roots.folders.values():
                if other.resolve().is_relative_to(folder.resolve()):
                    raise UserError(
                        f"{folder}: holds {other}, which is in the library by itself; take that "
                        f"out first: python find.py --forget {other}"
                    )
            roots = roots.add(folder)
        with self.writing() as writer:
            writer.set_meta(**roots.to_meta())
        return said

    def forget_folder(self, folder: Path) -> int:
        """Take a folder, and all that is known of its videos, out; returns their number.

        The videos themselves are left alone. Raises ``UserError`` where it is none of the library.
        """
        roots = self.read_roots()
        names = [name for name, path in roots.folders.items() if path == make_absolute(folder)]
        if not names:
            raise UserError(
                f"{folder}: is none of the library's folders ({roots.describe() or 'none'})"
            )
        with self.writing() as writer:
            known = writer.read_videos()
            gone = [video.id for name, video in known.items() if roots.split(name)[0] in names]
            writer.write((), gone)
            writer.set_meta(**roots.remove(names).to_meta())
        return len(gone)

    def relocate(self, old: Path, new: Path) -> int:
        """Look for videos in ``new`` that were in ``old``; see ``retrieval.index.relocation``."""
        text = LibraryText(self.text, ())
        with self.writing() as writer:
            return relocate_folder(writer, old, new, text.move_documents)

    @contextmanager
    def _reading(self) -> Iterator[StoreReader]:
        """Yield a reader of the index, closed at once: SQLite tidies up after the last one."""
        with closing(self.store), self.store.reading() as reader:
            yield reader

    @contextmanager
    def writing(self) -> Iterator[StoreWriter]:
        """Yield a writer of the index, which is locked for a ``with`` block."""
        with self.store.locking(), self.store.open_writer() as writer:
            yield writer


def make_absolute(path: Path) -> Path:
    """Return a path from the root of the file system; links in it stay."""
    return Path(os.path.abspath(path.expanduser()))


def choose_folder(given: Path | None) -> Path:
    """Return the folder of the library: given, by the environment, or in the user's data folder."""
    if given is not None or os.environ.get(VARIABLE):
        return make_absolute(given or Path(os.environ[VARIABLE]))
    from platformdirs import user_data_dir

    return Path(user_data_dir("textvr", appauthor=False)) / "library"
