"""An OCR store that agrees with its documents: what is new or has changed is read, by processes.

A store vouches for a document by its size and time of change. Where these differ the content is
compared, so that a copied or touched document is not parsed again.
"""

import functools
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data_loader.inspection.pool import default_workers, run_all
from data_loader.ocr_store import (
    DIGEST_SIZE,
    UNKNOWN_TIME,
    OcrStore,
    Stamp,
    StoredDocument,
    write_store,
)
from data_loader.ocr_words import OcrParams, read_ocr_words
from utils.errors import UserError
from utils.files import CACHE_OFF, alone

logger = logging.getLogger(__name__)

RECENT_NS = 2 * 10**9  # the coarsest clock of a file system (FAT), nanoseconds
_BYTES_A_PROCESS = 4 << 20  # less is read sooner than a process starts
_CHUNK = 16  # documents that a process is handed at a time
_REMEDY = f'Free some memory, or set data_loader.args.cache_dir to "{CACHE_OFF}"'


class State(NamedTuple):
    """What a look at the folder says of a document.

    Attributes:
        size: bytes.
        mtime: last change, nanoseconds.
    """

    size: int
    mtime: int


class _Task(NamedTuple):
    name: str
    params: OcrParams
    digest: bytes | None  # of the content that the store knows


def states(names: Iterable[str]) -> dict[str, State | None]:
    """Return the state of each document, each once; None where it is missing or out of reach."""
    return {name: _state(name) for name in dict.fromkeys(names)}


def _state(name: str) -> State | None:
    try:
        status = os.stat(name)
    except OSError:
        return None
    return State(status.st_size, status.st_mtime_ns)


def opened(path: Path) -> OcrStore | None:
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


def vouches(store: OcrStore, name: str, state: State | None) -> bool:
    """Whether a store has a document as it is now."""
    stamp = store.stamps.get(name)
    return stamp is not None and state == (stamp.size, stamp.mtime)


def updated(path: Path, found: Mapping[str, State | None], params: OcrParams) -> OcrStore | None:
    """Open a store, after it was made or brought up to date where that was needed.

    Args:
        path: the store.
        found: the documents that are wanted; see ``states``.
        params: which words are kept.

    Raises:
        OSError: it can't be written; what was there is still there.
        UserError: a process that helped died.
    """
    store = opened(path)
    if store is not None and _is_current(store, found):
        return store
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.with_suffix(".lock")):
        store = opened(path)  # another process may have been at it
        if store is not None and _is_current(store, found):
            return store
        documents = _documents(store, found, params)
        stamps = {name: document.stamp for name, document in documents.items()}
        if store is not None and stamps == store.stamps:
            return store  # what it lacks is faulty
        write_store(path, documents)
        logger.info("%s: keeps the words of %d OCR documents", path, len(documents))
        return opened(path)


def _is_current(store: OcrStore, found: Mapping[str, State | None]) -> bool:
    """Whether it has every document that is there, as it is, and none of those that are gone."""
    return all(
        name not in store.rows if state is None else vouches(store, name, state)
        for name, state in found.items()
    )


def _documents(
    store: OcrStore | None, found: Mapping[str, State | None], params: OcrParams
) -> dict[str, StoredDocument]:
    """What a store is to hold: what it has that is still so, and what is read now."""
    documents, digests = {}, {}
    for name, stamp in store.stamps.items() if store is not None else ():
        # Those of another split stay; whether they have changed is seen when they are wanted.
        if vouches(store, name, found[name]) if name in found else os.path.exists(name):
            documents[name] = store.document(name)
        else:
            digests[name] = stamp.digest
    tasks = [
        _Task(name, params, digests.get(name))
        for name, state in found.items()
        if state is not None and name not in documents
    ]
    size = sum(found[task.name].size for task in tasks)
    workers = min(default_workers(), 1 + size // _BYTES_A_PROCESS)
    results = run_all(_examined, tasks, workers, "OCR documents", _CHUNK, _REMEDY)
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, Stamp):
            documents[task.name] = replace(store.document(task.name), stamp=result)
        elif result is not None:
            documents[task.name] = result
    return documents


def _examined(task: _Task) -> StoredDocument | Stamp | None:
    """Read a document; only its stamp where its content is known; None where it is faulty."""
    try:
        status = os.stat(task.name)  # first: a later change is seen at the next opening
        content = Path(task.name).read_bytes()
        is_recent = time.time_ns() - status.st_mtime_ns < RECENT_NS
        digest = hashlib.blake2b(content, digest_size=DIGEST_SIZE).digest()
        stamp = Stamp(status.st_size, UNKNOWN_TIME if is_recent else status.st_mtime_ns, digest)
        if digest == task.digest:
            return stamp
        read = read_ocr_words(task.name, task.params)
    except (OSError, UserError):
        return None  # said where the words are needed
    return None if read is None else StoredDocument.of(stamp, read)
