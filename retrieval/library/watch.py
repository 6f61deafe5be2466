"""Changes in folders: as they happen where the system tells of them, and now and then anyway."""

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_loader.readers.container import SEARCHABLE_EXTENSIONS

logger = logging.getLogger(__name__)

RESCAN_S = 60.0  # network drives tell of nothing, nor does a disk that is plugged in
_MOST_LOOKING = 0.05  # share of the time that may be spent on looking without being told
_STEP_MS = 500
_SUBTITLES = (".srt", ".vtt", ".ass", ".ssa")


class FolderWatcher:
    """Waits until something changes in folders; what changes between two calls of ``wait`` counts.

    Args:
        rescan_s: most seconds to wait.
    """

    def __init__(self, folders: Iterable[Path], rescan_s: float = RESCAN_S) -> None:
        self._folders, self._rescan_s = list(folders), rescan_s
        self._watched: list[Path] = []
        self._changes: Iterator[Any] | None = None
        self._begin()

    def wait(self, looking_s: float) -> bool:
        """Return when something has changed, or after a while, which is False.

        Args:
            looking_s: seconds that a look at all of the folders takes.
        """
        end = time.monotonic() + max(self._rescan_s, looking_s / _MOST_LOOKING)
        if self._list_there() != self._watched:  # a disk has come, or is gone
            self._begin()
        try:
            while time.monotonic() < end:
                if self._changes is None:
                    time.sleep(_STEP_MS / 1000)
                elif any(_concerns_videos(path) for _, path in next(self._changes)):
                    return True
        except (OSError, RuntimeError, StopIteration) as error:
            self._give_up(str(error) or "a folder is gone")
        return False

    def _list_there(self) -> list[Path]:
        return [folder for folder in self._folders if folder.is_dir()]

    def _begin(self) -> None:
        """Let the system tell of changes from now on."""
        self._watched, self._changes = self._list_there(), None
        if not self._watched:
            return
        try:
            from watchfiles import watch

            self._changes = watch(
                *self._watched, rust_timeout=_STEP_MS, yield_on_timeout=True, raise_interrupt=False
            )
            next(self._changes)
        except ImportError:
            self._give_up("watchfiles is not installed (pip install watchfiles)")
        except (OSError, RuntimeError, StopIteration) as error:  # too many folders, for one
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        logger.warning("changes are found every %g s only: %s", self._rescan_s, reason)
        self._changes = None


def _concerns_videos(path: str) -> bool:
    """Whether a changed path may be a video's, or that of a folder or of subtitles."""
    suffix = Path(path).suffix.lower()
    return (
        suffix in SEARCHABLE_EXTENSIONS or suffix in _SUBTITLES or not suffix or Path(path).is_dir()
    )
