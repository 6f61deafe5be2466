"""What was computed of a run's checkpoint, kept beside it for the next report."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.files import write_json

logger = logging.getLogger(__name__)

FOLDER = "report"
VERSION = 1


def fingerprint(path: Path) -> list[Any]:
    """Return what tells a file from another one: its path, size and time; None where it is not."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return [str(path), None, None]
    return [str(path), found.st_size, found.st_mtime_ns]


def content_sum(path: Path) -> str:
    """Return the SHA-256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def array_sum(array: NDArray) -> str:
    """Return the SHA-256 of an array's type, shape and values."""
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


class Cache:
    """A folder of values that hold for one key.

    A value that can't be written costs time only: that is said, and the report is made.

    Args:
        folder: made when something is written.
        key: JSON values; what was written with another one is not found.
        fresh: find nothing that was written before now.
    """

    def __init__(self, folder: Path, key: list[Any], fresh: bool = False) -> None:
        self.folder = folder
        self.key = [VERSION, *key]
        self.fresh = fresh

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a value, or None where there is none for this key."""
        if self.fresh:
            return None
        try:
            kept = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None  # it is computed anew
        if not isinstance(kept, dict) or kept.get("key") != self.key:
            return None
        return kept.get("value")

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Keep a value."""
        try:
            self.folder.mkdir(exist_ok=True)
            write_json(self.folder / f"{name}.json", {"key": self.key, "value": value})
        except OSError as error:
            logger.warning("%s: not kept for the next report (%s)", self.folder, error.strerror)

    def read_matrix(self, name: str, checksum: str) -> NDArray | None:
        """Return a matrix, or None where there is none with this ``array_sum``."""
        try:
            matrix = np.load(self.folder / f"{name}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError):
            return None
        same = isinstance(matrix, np.ndarray) and array_sum(matrix) == checksum
        return matrix if same else None

    def write_matrix(self, name: str, matrix: NDArray) -> None:
        """Keep a matrix; to be written before the value that vouches for it."""
        try:
            self.folder.mkdir(exist_ok=True)
            temporary = self.folder / f".{name}.npy.tmp"
            with temporary.open("wb") as file:
                np.save(file, matrix)
            temporary.replace(self.folder / f"{name}.npy")
        except OSError as error:
            logger.warning("%s: not kept for the next report (%s)", self.folder, error.strerror)
