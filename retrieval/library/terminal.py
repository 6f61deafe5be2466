"""Progress of the work on a library in the terminal."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from retrieval.library.folder import Library
from retrieval.library.status import read_status
from retrieval.printing import escape, format_time

_PERIOD_S = 0.5
_WIDTH = 100  # of the line that says what is in hand


class ShownWork:
    """What the work is at, as ``/api/library`` has it, and in the end its exit code."""

    def __init__(self, library: Library, process: BaseProcess) -> None:
        self._library, self._process = library, process
        self.exit_code = 0

    def read(self) -> dict[str, Any] | None:
        """Return what the process has last said; that it has ended, where it couldn't."""
        work = read_status(self._library.status_file)
        if work is not None and not self._process.is_alive() and work["state"] == "working":
            work |= {"state": "stopped", "video": None, "remaining_s": None}
            work["message"] = f"the work has ended unexpectedly, see {self._library.log_file}"
        return work


@contextmanager
def show_work(library: Library, process: BaseProcess) -> Iterator[ShownWork]:
    """Show on standard error what is in hand, who can't be read, and in the end what was done."""
    shown, ended = ShownWork(library, process), threading.Event()
    terminal = Terminal()

    def follow() -> None:
        while not ended.wait(_PERIOD_S):
            terminal.show(shown.read())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield shown
    finally:
        ended.set()
        thread.join()
        last = shown.read()
        terminal.show(last)
        terminal.clear()
        if process.exitcode is not None and process.exitcode > 0:
            shown.exit_code = process.exitcode
        elif last is not None and last["num_failed"]:
            shown.exit_code = 1


class Terminal:
    """Says on standard error what is new, and on a terminal what is in hand."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._failed: set[str] = set()
        self._message: str | None = None

    def show(self, work: dict[str, Any] | None) -> None:
        """Say what of the work has not been said yet."""
        if work is None:
            return
        for one in work["failed"]:
            if one["video"] not in self._failed:
                self._failed.add(one["video"])
                self._write(f"failed  {escape(one['video'])}: {one['reason']}")
        if work["message"] is not None and work["message"] != self._message:
            self._message = work["message"]
            self._write(escape(work["message"]))
        if self._is_terminal and work["state"] == "working":
            sys.stderr.write("\r\x1b[K" + format_work(work)[:_WIDTH])
            sys.stderr.flush()

    def clear(self) -> None:
        """Take away the line that says what is in hand."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _write(self, line: str) -> None:
        self.clear()
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def format_work(work: dict[str, Any]) -> str:
    """Return one line: step, how many videos are done, how long it takes, which is in hand."""
    parts = [work["step"]]
    if work["num_total"]:
        parts[0] += f" {work['num_done']} of {work['num_total']}"
    if work["remaining_s"] is not None:
        parts.append(f"{format_time(round(work['remaining_s']))} left")
    if work["video"] is not None:
        parts.append(f"{escape(work['video'])} {work['share']:.0%}")
    return ", ".join(parts)
