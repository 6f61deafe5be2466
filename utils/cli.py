"""End of a command: its exit code, and what the user sees when something is wrong."""

import argparse
import errno
import io
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from utils.dist_info import get_dist_info
from utils.errors import UserError, escape_unprintable
from utils.interrupt import Stopped

USER_ERROR = 2  # what argparse ends with, too
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED = 141  # 128 + SIGPIPE

_FIRST_ONE_S = 3.0

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def run_cli(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and end the process with its exit code (``None`` is 0).

    A ``UserError``, and an ``OSError`` that names a file or says that the disk is full, end with
    their text on stderr and code 2. Every other exception is an error of the program and keeps its
    traceback. What the terminal's encoding can't show is escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main() or 0
        sys.stdout.flush()  # here, so that a closed pipe is seen inside this try
    except UserError as error:
        _fail(str(error), USER_ERROR)
    except Stopped as stop:
        _fail(str(stop), stop.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) went away. Python would complain once more on its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except OSError as error:
        text = _os_error_text(error)
        if text is None:
            raise
        _fail(text, USER_ERROR)
    sys.exit(code)


def positive_int(text: str) -> int:
    """Read a number of an option that must be at least 1 (a ``type`` of argparse)."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def large_int(text: str) -> int:
    """Read a number of at least 1 that may be written as 1e6 (a ``type`` of argparse)."""
    try:
        number = float(text)
        is_right = number >= 1 and number == int(number)
    except (ValueError, OverflowError):
        is_right = False
    if not is_right:
        raise argparse.ArgumentTypeError(f"expected a whole number such as 5000 or 1e6, got {text}")
    return int(number)


def add_exclude_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--exclude PATTERN``, which may be given several times (``utils.files.list_files``)."""
    parser.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="leave out files and folders by path or name, as '*/raw/*' or 'draft*'; may be given "
        "several times",
    )


def _os_error_text(error: OSError) -> str | None:
    """Return one line about a file or disk, or None when the error is about neither."""
    reason = error.strerror or type(error).__name__
    if error.filename is not None:
        where = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
        other = f" -> {os.fsdecode(error.filename2)}" if error.filename2 is not None else ""
        return escape_unprintable(f"{where}{other}: {reason}")
    if error.errno in _NO_ROOM:
        return f"{reason}: free some space, or write to another folder"
    return None


def _fail(text: str, code: int) -> NoReturn:
    place = get_dist_info()
    if not place.is_main:
        # An error of all processes is shown once: when the first one ends, the others are stopped.
        time.sleep(_FIRST_ONE_S)
        text = f"process {place.rank}: {text}"
    sys.stderr.write(text + "\n")
    sys.exit(code)
