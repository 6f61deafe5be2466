"""Files written so that the old one stays until the new one is complete, and the cache folder."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

CACHE_VARIABLE, CACHE_FOLDER = "TEXTVR_CACHE", "~/.cache/textvr"
CACHE_OFF = "off"


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a temporary name, then rename; raises ``OSError``, and the old file stays."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text to a temporary name, then rename; raises ``OSError``, and the old file stays."""
    replaced_by(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replaced_by(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` write to a temporary name, then rename; the old file stays until then.

    Raises:
        OSError: it can't be written or renamed; nothing is left of it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # not there any more, unless something went wrong


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Be the only process that is in a ``with`` block of this lock file; the others wait.

    Where there are no locks (Windows, some network folders) no one waits, so that the block must
    be one that may run twice. The lock goes with the process, however that ends; the file stays.

    Raises:
        OSError: the file can't be made.
    """
    with open(lock, "w") as file:
        if fcntl is not None:
            _wait_for(file.fileno(), lock)
        yield


def _wait_for(number: int, lock: Path) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("%s: another process is at work there; waiting for it", lock)
        fcntl.flock(number, fcntl.LOCK_EX)
    except OSError as error:
        logger.info("%s: can't be locked here (%s)", lock, error.strerror)


def cache_folder(name: str | None) -> Path | None:
    """Return the folder of what is worked out once and kept for later runs; None: there is none.

    Args:
        name: the folder, environment variables and ``~`` are expanded; ``off``: none; None: what
            ``TEXTVR_CACHE`` says, or else ``~/.cache/textvr``.

    Raises:
        UserError: this user has no home folder.
    """
    name = name or os.environ.get(CACHE_VARIABLE) or CACHE_FOLDER
    try:
        return None if name == CACHE_OFF else Path(os.path.expandvars(name)).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{name}: this user has no home folder ({error}); set data_loader.args.cache_dir or "
            f'the environment variable {CACHE_VARIABLE} to a folder, or to "{CACHE_OFF}"'
        ) from error
