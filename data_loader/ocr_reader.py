"""The OCR words of a data set's videos: from a store, where there is one, or from the documents.

A store is a file of the cache folder for one folder of documents and one set of rules; see
``ocr_update`` for when it is made. Nothing but time depends on it.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from base.base_dataset import VideoEntry
from data_loader.ocr_store import OcrStore
from data_loader.ocr_update import opened, states, updated, vouches, warn_once
from data_loader.ocr_words import OcrParams, OcrWords, read_ocr_words
from utils.files import CACHE_OFF

# To be raised when the arrays of a store, or what ``ocr_words`` makes of a document, become others.
FORMAT = 1
_NOT_STORED = -1


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

        A document that is missing or faulty is not in it: reading that says what is wrong. Where
        nothing can be written, which is said once, documents are read that the store has not.

        Raises:
            UserError: a process that helped died.
        """
        if self.cache_dir is None:
            return
        names = [entry.ocr and os.path.abspath(entry.ocr) for entry in self.entries]
        found = states(filter(None, names))
        if not any(found.values()):
            return  # not even a folder is made where there are no documents
        path = self.cache_dir / store_name(self.params, self.folder)
        try:
            store = updated(path, found, self.params)
            good = [name for name, state in found.items() if state is not None]
        except OSError as error:
            warn_once(
                f"{self.cache_dir}: OCR words can't be kept there ({error.strerror}), so documents "
                "are read whenever their words are needed; make room there, or set "
                f'data_loader.args.cache_dir to another folder or to "{CACHE_OFF}"'
            )
            store = opened(path)
            good = [name for name, state in found.items() if store and vouches(store, name, state)]
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
            return self._store.words(self._rows[index])
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
            store = opened(path)
            # Replaced meanwhile, its rows are others: documents are read.
            self._store = store if store is not None and store.checksum == checksum else None


def store_name(params: OcrParams, folder: Path) -> str:
    """Return the file name of the store for a folder of documents and rules."""
    key = json.dumps([FORMAT, params.model_dump(), os.path.abspath(folder)])
    return f"ocr-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.safetensors"
