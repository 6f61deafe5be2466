"""OCR words of a data set's videos: from a store where there is one, else from the documents.

A store is a file of the cache folder for one folder of documents and one set of rules; nothing but
time depends on it. It is up to date with a document of the same size and time of change. Where
these differ the content is compared, so that a copied or touched document is not parsed again.
"""

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from base.base_dataset import VideoEntry
from data_loader.ocr.ocr_store import (
    DIGEST_SIZE,
    UNKNOWN_TIME,
    DocumentStamp,
    OcrStore,
    StoredDocument,
    write_store,
)
from data_loader.ocr.ocr_words import OcrParams, OcrWords, read_ocr_words
from utils.errors import UserError
from utils.files import CACHE_OFF, FileStamp, lock_file
from utils.processes import count_cpus, map_tasks

logger = logging.getLogger(__name__)

# To be raised when the arrays of a store, or what is made of a document, become others.
FORMAT = 1
RECENT_NS = 2 * 10**9  # the coarsest clock of a file system (FAT), nanoseconds
_NOT_STORED = -1
_BYTES_A_PROCESS = 4 << 20  # less is read sooner than a process starts
_CHUNK = 16  # documents that a process is handed at a time
_REMEDY = f'Free some memory, or set data_loader.args.cache_dir to "{CACHE_OFF}"'

Stamps = Mapping[str, FileStamp | None]  # path of a document -> as it is; None: missing


class OcrReader:
    """Reads the words of videos.

    Args:
        entries: the videos.
        params: which words are kept.
        folder: of the documents; it names the store, so it is given where ``cache_dir`` is.
        cache_dir: where stores lie; None: there are none.
    """

    def __init__(
        self,
        entries: Sequence[VideoEntry],
        params: OcrParams,
        folder: Path | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self.entries = entries
        self.params = params
        self.folder = folder
        self.cache_dir = cache_dir
        self._store: OcrStore | None = None
        self._rows = np.empty(0, np.int32)  # of each video's document in the store

    def open_store(self) -> None:
        """Read from a store from now on; it is made, or brought up to date.

        A document that is missing or can't be used is not in it: reading that says what is wrong.
        Where nothing can be written, which is said once, documents are read that the store has not.

        Raises:
            UserError: a process that helped died.
        """
        if self.cache_dir is None:
            return
        names = [None if path is None else os.path.abspath(path)
                 for path in (entry.ocr for entry in self.entries)]  # fmt: skip
        stamps = {name: _get_stamp(name) for name in dict.fromkeys(filter(None, names))}
        if not any(stamps.values()):
            return  # not even a folder is made where there are no documents
        path = self.cache_dir / name_store(self.params, self.folder)
        try:
            store = refresh_store(path, stamps, self.params)
            good = [name for name, stamp in stamps.items() if stamp is not None]
        except OSError as error:
            warn_once(
                f"{self.cache_dir}: OCR words can't be kept there ({error.strerror}), so documents "
                "are read whenever their words are needed; make room there, or set "
                f'data_loader.args.cache_dir to another folder or to "{CACHE_OFF}"'
            )
            store = open_store(path)
            good = [n for n, stamp in stamps.items() if store and _is_up_to_date(store, n, stamp)]
        if store is not None:
            rows = {name: store.rows.get(name, _NOT_STORED) for name in good}
            self._rows = np.array([rows.get(name, _NOT_STORED) for name in names], np.int32)
            self._store = store

    def read(self, index: int) -> OcrWords | None:
        """Return the words of a video; None: it has no document.

        Raises:
            UserError: the document can't be read.
        """
        if self._store is not None and self._rows[index] != _NOT_STORED:
            return self._store.read_words(self._rows[index])
        document = self.entries[index].ocr
        return None if document is None else read_ocr_words(document, self.params)

    def __getstate__(self) -> dict[str, Any]:
        store = self._store
        return vars(self) | {"_store": store and (store.path, store.checksum)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the same store in a process that was not forked."""
        vars(self).update(state)
        if self._store is not None:
            path, checksum = state["_store"]
            store = open_store(path)
            # Replaced meanwhile, its rows are others: documents are read.
            self._store = store if store is not None and store.checksum == checksum else None


def name_store(params: OcrParams, folder: Path) -> str:
    """Return the file name of the store for a folder of documents and rules."""
    key = json.dumps([FORMAT, params.model_dump(), os.path.abspath(folder)])
    return f"ocr-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.safetensors"


def open_store(path: Path) -> OcrStore | None:
    """Open a store; None where there is none, or none that can be used."""
    try:
        return OcrStore(path)
    except ValueError as error:
        warn_once(f"{path}: is damaged ({error}), so it is not used")
    except OSError:
        pass  # there is none yet; where it is something else, making one says what
    return None


@functools.cache
def warn_once(text: str) -> None:
    """Warn, unless that was said already: training, validation and test each have a reader."""
    logger.warning(text)


def refresh_store(path: Path, stamps: Stamps, params: OcrParams) -> OcrStore | None:
    """Open a store, after it was made or brought up to date where that was needed.

    Args:
        path: the store.
        stamps: of the documents that are wanted.
        params: which words are kept.

    Raises:
        OSError: it can't be written; what was there is still there.
        UserError: a process that helped died.
    """
    store = open_store(path)
    if store is not None and _has_all(store, stamps):
        return store
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(path.with_suffix(".lock")):
        store = open_store(path)  # another process may have been at it
        if store is not None and _has_all(store, stamps):
            return store
        documents = _collect_documents(store, stamps, params)
        known = {name: document.stamp for name, document in documents.items()}
        if store is not None and known == store.stamps:
            return store  # what it lacks can't be used
        write_store(path, documents)
        logger.info("%s: keeps the words of %d OCR documents", path, len(documents))
        return open_store(path)


def _get_stamp(name: str) -> FileStamp | None:
    """The stamp of a document; None where it is missing or out of reach."""
    try:
        return FileStamp.of(name)
    except OSError:
        return None


def _is_up_to_date(store: OcrStore, name: str, stamp: FileStamp | None) -> bool:
    """Whether a store has a document as it is now."""
    held = store.stamps.get(name)
    return held is not None and stamp == FileStamp(held.size, held.mtime)


def _has_all(store: OcrStore, stamps: Stamps) -> bool:
    """Whether a store has every document that is there, as it is, and none of those gone."""
    return all(
        name not in store.rows if stamp is None else _is_up_to_date(store, name, stamp)
        for name, stamp in stamps.items()
    )


class _Task(NamedTuple):
    name: str
    params: OcrParams
    digest: bytes | None  # of the content that the store knows


def _collect_documents(
    store: OcrStore | None, stamps: Stamps, params: OcrParams
) -> dict[str, StoredDocument]:
    """What a store is to hold: what it has that is still so, and what is read now."""
    documents, digests = {}, {}
    for name, held in store.stamps.items() if store is not None else ():
        # Those of another split stay; whether they have changed is seen when they are wanted.
        if name in stamps and _is_up_to_date(store, name, stamps[name]):
            documents[name] = store.read_document(name)
        elif name not in stamps and os.path.exists(name):
            documents[name] = store.read_document(name)
        else:
            digests[name] = held.digest
    tasks = [
        _Task(name, params, digests.get(name))
        for name, stamp in stamps.items()
        if stamp is not None and name not in documents
    ]
    size = sum(stamps[task.name].size for task in tasks)
    workers = min(count_cpus(), 1 + size // _BYTES_A_PROCESS)
    results = map_tasks(_examine_document, tasks, workers, "OCR documents", _CHUNK, _REMEDY)
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, DocumentStamp):
            documents[task.name] = replace(store.read_document(task.name), stamp=result)
        elif result is not None:
            documents[task.name] = result
    return documents


def _examine_document(task: _Task) -> StoredDocument | DocumentStamp | None:
    """Read a document; only its stamp where its content is known; None where it can't be used."""
    try:
        stamp = FileStamp.of(task.name)  # first: a later change is seen at the next opening
        content = Path(task.name).read_bytes()
        is_recent = time.time_ns() - stamp.mtime_ns < RECENT_NS
        digest = hashlib.blake2b(content, digest_size=DIGEST_SIZE).digest()
        mtime = UNKNOWN_TIME if is_recent else stamp.mtime_ns
        known = DocumentStamp(stamp.size, mtime, digest)
        if digest == task.digest:
            return known
        read = read_ocr_words(task.name, task.params)
    except (OSError, UserError):
        return None  # said where the words are needed
    return None if read is None else StoredDocument.from_words(known, read)
