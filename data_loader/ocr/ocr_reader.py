"""OCR words of a data set's videos, from a store where there is one, else from the documents.

A store is a file of the cache folder for one folder of documents and one set of rules; only time
depends on it. It is up to date with a document of the same size and time of change. Where these
differ the content is compared, so that a copied or touched document is not parsed again.

A store at a URL, as ``export_stores`` makes it, is read and never written; it names documents by
their videos, so that it needs none of them here. One that is here comes first, if it differs.
"""

import functools
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from base.base_dataset import VideoEntry, hash_unordered
from data_loader.ocr.ocr_store import (
    DIGEST_SIZE,
    UNKNOWN_TIME,
    OcrStore,
    RemoteOcrStore,
    StoredDocument,
    write_store,
)
from data_loader.ocr.ocr_words import MAX_BYTES, OcrParams, OcrWords, read_ocr_words
from utils.distributed import show_progress
from utils.errors import UserError
from utils.files import CACHE_OFF, FileStamp, lock_file, read_bytes
from utils.processes import count_cpus, map_tasks
from utils.remote_files import Location, RemoteFolder

logger = logging.getLogger(__name__)

# To be raised when the arrays of a store, or the words made of a document, change.
FORMAT = 2
RECENT_NS = 2 * 10**9  # the coarsest clock of a file system (FAT), nanoseconds
_NOT_STORED = -1
MAX_READ = 20_000  # documents that no store has and that are read for their digest alone
_BYTES_A_PROCESS = 4 << 20  # less is read sooner than a process starts
_CHUNK = 16  # documents that a process is handed at a time
_REMEDY = f'Free some memory, or set data_loader.args.cache_dir to "{CACHE_OFF}"'

# A caption needs reading where it shares a word of this many letters with its video. Every word of
# the document counts, whatever an experiment's rules: the split of the captions must not change
# with an ablation.
MIN_LETTERS = 4
ALL_WORDS = OcrParams(max_words=10**9, min_length=1, max_char=None, duplicates="drop")

Stamps = Mapping[str, FileStamp | None]  # path of a document -> its present stamp; None: missing


class OcrReader:
    """Reads the words of videos.

    Args:
        entries: the videos.
        params: which words are kept.
        folder: of the documents; it names the store, so it is needed with ``cache_dir``.
        cache_dir: where stores lie, a folder or a URL; None: there are none.
    """

    def __init__(
        self,
        entries: Sequence[VideoEntry],
        params: OcrParams,
        folder: Path | None = None,
        cache_dir: Location | None = None,
    ) -> None:
        self.entries = entries
        self.params = params
        self.folder = folder
        self.cache_dir = cache_dir
        self._store: OcrStore | None = None
        self._rows = np.empty(0, np.int32)  # of each video's document in the store
        self._keys: list[str | None] = []  # of each video: the name in the store, if it has one

    def open_store(self) -> None:
        """Read from a store from now on; it is made, or brought up to date.

        A document that is missing or can't be used is not in it: ``read`` says what is wrong.
        Where nothing can be written, one warning says so, and documents that the store lacks are
        read whenever they are needed.

        Raises:
            UserError: a process that helped died, or the store at a URL can't be read.
        """
        if self.cache_dir is None:
            return
        if isinstance(self.cache_dir, str):
            self._open_remote_store(self.cache_dir)
            return
        paths = (entry.ocr for entry in self.entries)
        names = [None if path is None else os.path.abspath(path) for path in paths]
        stamps = {name: _get_stamp(name) for name in dict.fromkeys(filter(None, names))}
        if not any(stamps.values()):
            return  # not even a folder is made where there are no documents
        key = json.dumps([FORMAT, self.params.rules(), os.path.abspath(self.folder)])
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        path = self.cache_dir / f"ocr-{digest}.safetensors"
        try:
            store = refresh_store(path, stamps, self.params)
        except OSError as error:
            warn_once(
                f"{self.cache_dir}: OCR words can't be kept there ({error.strerror}), so documents "
                "are read whenever their words are needed; free some space there, or set "
                f'data_loader.args.cache_dir to another folder or to "{CACHE_OFF}"'
            )
            store = open_store(path)
            if store is not None:
                changed = {n for n, stamp in stamps.items() if store.stamps.get(n) != stamp}
                names = [None if name in changed else name for name in names]
        if store is not None:
            self._use_store(store, names)

    def _use_store(self, store: OcrStore, keys: list[str | None]) -> None:
        self._store, self._keys = store, keys
        self._rows = np.array([store.rows.get(key, _NOT_STORED) for key in keys], np.int32)

    def _open_remote_store(self, url: str) -> None:
        name = name_portable_store(self.params)
        try:
            store = RemoteOcrStore(RemoteFolder(url, "OCR words at a URL"), name)
        except FileNotFoundError as error:
            raise UserError(
                f"{url}: holds no OCR words of these ocr_params ({name}); make them with "
                "python -m tools.cache_words -c CONFIG --out FOLDER and copy them there, or set "
                "data_loader.args.cache_dir to a folder"
            ) from error
        keys = [entry.id if self._is_current(store, entry) else None for entry in self.entries]
        self._use_store(store, keys)

    def _is_current(self, store: OcrStore, entry: VideoEntry) -> bool:
        """Whether a video's words are in a store as its document here, if it is here, has them."""
        stamp = None if entry.ocr is None else _get_stamp(str(entry.ocr))
        if entry.id not in store.rows or stamp in (None, store.stamps[entry.id]):
            return entry.id in store.rows
        return _hash_document(str(entry.ocr)) == store.digests[entry.id]

    def list_documents(self) -> dict[str, StoredDocument]:
        """Return what is to be exported: the documents by the ids of their videos.

        Raises ``UserError`` where one can't be read.
        """
        found = {}
        for index, entry in enumerate(self.entries):
            read = self.read(index)
            if read is None:
                continue
            stamp, digest = FileStamp.of(entry.ocr), _hash_document(str(entry.ocr))
            found[entry.id] = StoredDocument.from_words(stamp, digest, read)
        return found

    def read(self, index: int) -> OcrWords | None:
        """Return the words of a video; None: it has no document.

        Raises:
            UserError: the document can't be read.
        """
        if self._store is not None and self._rows[index] != _NOT_STORED:
            return self._store.read_words(self._rows[index])
        document = self.entries[index].ocr
        return None if document is None else read_ocr_words(document, self.params)

    def hash_documents(self) -> str | None:
        """Return a digest of the content of all documents; None: they are too many to read.

        Those in the store are not read again.
        """
        known = {} if self._store is None else self._store.digests
        names = [entry.ocr and os.path.abspath(entry.ocr) for entry in self.entries]
        pairs = list(zip(self._keys or names, names, strict=True))
        if sum(name is not None and key not in known for key, name in pairs) > MAX_READ:
            return None
        digests = (
            known[key].hex() if key in known else name and (_hash_document(name) or b"").hex()
            for key, name in pairs
        )
        return hash_unordered(zip((entry.id for entry in self.entries), digests, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        store = self._store
        return vars(self) | {"_store": store and (store.reopen, store.checksum)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the same store in a process that was not forked."""
        vars(self).update(state)
        if self._store is not None:
            reopen, checksum = state["_store"]
            store = reopen()
            # A store that was replaced meanwhile has other rows: documents are read then.
            self._store = store if store is not None and store.checksum == checksum else None


def name_portable_store(params: OcrParams) -> str:
    """Return the name of a store of the words that some rules choose, on whatever machine."""
    key = json.dumps([FORMAT, params.rules()])
    return f"words-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.safetensors"


def export_stores(readers: Sequence[OcrReader], folder: Path) -> int:
    """Write stores for a URL: of the words that readers choose, one for all of the same rules.

    Returns:
        The number of documents.

    Raises:
        UserError: a document can't be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stores: dict[str, dict[str, StoredDocument]] = {}
    for reader in readers:
        stores.setdefault(name_portable_store(reader.params), {}).update(reader.list_documents())
    for name, documents in stores.items():
        write_store(folder / name, documents)
    return max(map(len, stores.values()), default=0)


def _hash_document(name: str) -> bytes | None:
    """Return the digest of a document as a store has it; None where it can't be read."""
    try:
        return hashlib.blake2b(Path(name).read_bytes(), digest_size=DIGEST_SIZE).digest()
    except OSError:
        return None


def open_store(path: Path) -> OcrStore | None:
    """Open a store; None where there is none, or none that can be used."""
    try:
        return OcrStore(path)
    except ValueError as error:
        warn_once(f"{path}: is damaged ({error}), so it is not used")
    except OSError:
        pass  # there is none yet; any other reason is reported when the store is written
    return None


@functools.cache
def warn_once(text: str) -> None:
    """Warn once in a process: training, validation and test each have a reader."""
    logger.warning(text)


def refresh_store(path: Path, stamps: Stamps, params: OcrParams) -> OcrStore | None:
    """Open a store of the documents that have ``stamps``, written anew where it is out of date.

    Raises:
        OSError: it can't be written; the old one is still there.
        UserError: a process that helped died.
    """
    store = open_store(path)
    if _is_up_to_date(store, stamps):
        return store
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(path.with_suffix(".lock")):
        store = open_store(path)  # another process may have written it meanwhile
        if _is_up_to_date(store, stamps):
            return store
        documents = _collect_documents(store, stamps, params)
        new_stamps = {name: document.stamp for name, document in documents.items()}
        digests = {name: document.digest for name, document in documents.items()}
        if store is not None and (new_stamps, digests) == (store.stamps, store.digests):
            return store  # the documents that it lacks can't be used
        write_store(path, documents)
        logger.info("%s: keeps the words of %d OCR documents", path, len(documents))
        return open_store(path)


def _get_stamp(name: str) -> FileStamp | None:
    """Return the stamp of a document; None where it is missing or out of reach."""
    try:
        return FileStamp.of(name)
    except OSError:
        return None


def _is_up_to_date(store: OcrStore | None, stamps: Stamps) -> bool:
    """Whether a store has every document that is there, as it is now, and none of those gone."""
    return store is not None and all(store.stamps.get(n) == stamp for n, stamp in stamps.items())


class _Task(NamedTuple):
    name: str
    params: OcrParams
    digest: bytes | None  # of the content that the store knows


def _collect_documents(
    store: OcrStore | None, stamps: Stamps, params: OcrParams
) -> dict[str, StoredDocument]:
    """Collect what a store is to hold: its documents that are unchanged, and what is read now."""
    documents, digests = {}, {}
    for name, stamp in store.stamps.items() if store is not None else ():
        # Those of another split stay; whether they have changed is seen when they are wanted.
        is_valid = stamps[name] == stamp if name in stamps else os.path.exists(name)
        if is_valid:
            documents[name] = store.read_document(name)
        else:
            digests[name] = store.digests[name]
    tasks = [
        _Task(name, params, digests.get(name))
        for name, stamp in stamps.items()
        if stamp is not None and name not in documents
    ]
    size = sum(stamps[task.name].size for task in tasks)
    workers = min(count_cpus(), 1 + size // _BYTES_A_PROCESS)
    results = map_tasks(_examine_document, tasks, workers, "OCR documents", _CHUNK, _REMEDY)
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, FileStamp):
            documents[task.name] = replace(store.read_document(task.name), stamp=result)
        elif result is not None:
            documents[task.name] = result
    return documents


def _examine_document(task: _Task) -> StoredDocument | FileStamp | None:
    """Read a document; only its stamp where its content is known; None where it can't be used."""
    try:
        stamp = FileStamp.of(task.name)  # first: a later change is seen at the next opening
        content = read_bytes(task.name, MAX_BYTES)
        if time.time_ns() - stamp.mtime_ns < RECENT_NS:
            stamp = replace(stamp, mtime_ns=UNKNOWN_TIME)
        digest = hashlib.blake2b(content, digest_size=DIGEST_SIZE).digest()
        if digest == task.digest:
            return stamp
        read = read_ocr_words(task.name, task.params)
    except (OSError, UserError):
        return None  # reported where the words are needed
    return None if read is None else StoredDocument.from_words(stamp, digest, read)


def flag_captions_that_need_reading(
    entries: Sequence[VideoEntry], ocr_dir: Path | None = None, cache_dir: Location | None = None
) -> list[bool]:
    """Return for each caption of each entry, in order, whether it needs reading.

    A video without a document has no words, so its captions do not. ``ocr_dir`` and ``cache_dir``
    are those of ``OcrReader``, which raises ``UserError`` where a document can't be read.
    """
    reader = OcrReader(entries, ALL_WORDS, ocr_dir, cache_dir)
    reader.open_store()
    flags = []
    for index, entry in enumerate(show_progress(entries, "reading OCR documents", " videos")):
        read = reader.read(index)
        words = [] if read is None else read.words
        flags += [needs_reading(caption, words) for caption in entry.captions]
    return flags


def needs_reading(caption: str, words: Iterable[str]) -> bool:
    """Whether a caption shares a word of at least four letters with the OCR words of its video."""
    spotted = {part for word in words for part in _find_long_words(word)}
    return not spotted.isdisjoint(_find_long_words(caption))


def _find_long_words(text: str) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    return {word for word in words if sum(map(str.isalpha, word)) >= MIN_LETTERS}
