"""Cache on the disk of what was made for a player, limited in size."""

import hashlib
import logging
from contextlib import suppress
from pathlib import Path

from utils.files import atomic_write, remove_temporary_files

MAX_BYTES = 2 << 30
_ENDING = ".bin"
_DIGEST = hashlib.sha256().digest_size
logger = logging.getLogger(__name__)


class DiskCache:
    """Contents by key, the least recently used removed first; other processes may share it.

    Each file ends with the checksum of what it holds: what is not whole is never returned.

    Args:
        folder: made if need be, for this user only; None: nothing is kept.
    """

    def __init__(self, folder: Path | None, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    def get(self, key: str) -> bytes | None:
        """Return what was put under a key; None: it is not there any more."""
        if self._folder is None:
            return None
        file = self._get_file(key)
        with suppress(OSError):  # not kept, or removed by another process: it is made again
            held = file.read_bytes()
            content, digest = held[:-_DIGEST], held[-_DIGEST:]
            if hashlib.sha256(content).digest() == digest:
                file.touch()
                return content
            file.unlink()
        return None

    def put(self, key: str, content: bytes) -> None:
        """Keep something; without a word but in the log where the disk is full, for instance."""
        if self._folder is None or len(content) > self._max_bytes:
            return
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(0o700, parents=True, exist_ok=True)
                remove_temporary_files(self._folder)
            with atomic_write(self._get_file(key)) as temporary:
                temporary.write_bytes(content + hashlib.sha256(content).digest())
            self._remove_oldest()
        except OSError as error:
            logger.warning("%s: what is played can't be kept (%s)", self._folder, error.strerror)

    def _get_file(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / (
            hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() + _ENDING
        )

    def _remove_oldest(self) -> None:
        assert self._folder is not None
        files = []
        for file in self._folder.glob(f"*{_ENDING}"):
            with suppress(OSError):  # another process has removed it
                status = file.stat()
                files.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= self._max_bytes:
                return
            file.unlink(missing_ok=True)
            total -= size
