"""Embeddings of a long video's first windows, kept on disk until all of them are there.

An index gets a video as a whole. What a run that is stopped has embedded of one until then is here,
so that the next run of the same model goes on within the video.
"""

import hashlib
import json
import shutil
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.index.records import NewEntry, NewVideo
from utils.files import atomic_write

FOLDER = "unfinished"  # in the work folder of an index
FORM = 2  # of the windows: other ones than before that
SAVE_S = 10.0  # seconds of work that may be lost: what comes faster is written together
_ARRAY = "embedding."


class UnfinishedVideos:
    """The parts of videos that are embedded; each video has a folder of numbered files.

    Args:
        folder: work folder of the index.
        identity: of the model (``retrieval.index.identity``).
        settings: what else embeddings depend on, as JSON values.
        with_text: whether they depend on the video's text.
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], settings: list[Any], with_text: bool
    ) -> None:
        self._folder = folder / FOLDER
        weights = identity.get("weights", identity.get("sha256"))
        self._settings = [FORM, weights, identity["settings"], *settings]
        self._with_text = with_text
        self._num_saved: dict[Path, int] = {}  # entries of the videos that this run has begun
        self._saved_at = time.monotonic()

    def load(self, video: NewVideo) -> list[NewEntry]:
        """Return the first entries of a video, as many as were kept of it."""
        folder, entries = self._locate(video), []
        with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # a part that is damaged
            while (part := folder / f"{len(entries):06}.npz").exists():
                entries += _read_part(part)
        self._num_saved[folder] = len(entries)
        self._saved_at = time.monotonic()
        return entries

    def save(self, video: NewVideo) -> None:
        """Keep the entries that a video has so far, now and then."""
        folder, now = self._locate(video), time.monotonic()
        start, stop = self._num_saved.get(folder, 0), len(video.entries)
        if start == stop or now - self._saved_at < SAVE_S:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _write_part(folder / f"{start:06}.npz", video.entries[start:])
        self._num_saved[folder], self._saved_at = stop, now

    def remove(self, video: NewVideo) -> None:
        """Remove what was kept of a video that the index has by now."""
        shutil.rmtree(self._locate(video), ignore_errors=True)

    def _locate(self, video: NewVideo) -> Path:
        text = video.ocr_stamp.sha256 if self._with_text and video.ocr_stamp else None
        key = json.dumps([video.stamp.sha256, text, self._settings], sort_keys=True)
        return self._folder / hashlib.sha256(key.encode()).hexdigest()[:32]


def remove_unfinished(folder: Path) -> None:
    """Remove what is kept of any video in a work folder, where nothing is to be gone on with."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _write_part(path: Path, entries: list[NewEntry]) -> None:
    arrays = {"count": np.array(len(entries))}
    for number, entry in enumerate(entries):
        arrays[f"{number}.span"] = np.array([entry.start_s, entry.end_s])
        arrays[f"{number}.times"] = np.array(entry.frame_times, dtype=np.float64)
        arrays[f"{number}.thumbnail"] = np.frombuffer(entry.thumbnail, dtype=np.uint8)
        for name, array in entry.embeddings.items():
            arrays[f"{number}.{_ARRAY}{name}"] = array
    with atomic_write(path, durable=True) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _read_part(path: Path) -> list[NewEntry]:
    entries = []
    with np.load(path, allow_pickle=False) as arrays:
        for number in range(int(arrays["count"])):
            start = f"{number}.{_ARRAY}"
            embeddings = {
                name.removeprefix(start): arrays[name]
                for name in arrays.files
                if name.startswith(start)
            }
            thumbnail = arrays[f"{number}.thumbnail"].tobytes()
            times = arrays[f"{number}.times"].tolist()
            span = arrays[f"{number}.span"].tolist()
            entries.append(NewEntry(*span, thumbnail, embeddings, times))
    return entries
