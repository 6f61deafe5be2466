"""Every point at which a process changes a folder, and a SIGKILL at one of them.

A point lies before each file that is opened for writing, made, renamed, linked, removed or synced;
behind the opening, where the file is there and empty; and in the middle of its first write.
"""

import builtins
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BY_PATH = ("rename", "replace", "link", "unlink", "remove", "truncate", "mkdir", "rmdir")


@dataclass(frozen=True)
class KillPoint:
    """Ends this process at a point; called in it, before anything is written.

    Attributes:
        folder: what lies elsewhere does not count, nor does train.log.
        log: file that a line is added to for each point: what is about to be done.
        number: of the point, from 1; 0: at none.
        at: the line of the point, in place of its number.
        nth: which of the points of that line.
        without_links: let the file system have no hard links.
    """

    folder: Path
    log: Path
    number: int = 0
    at: str = ""
    nth: int = 1
    without_links: bool = False

    def __call__(self) -> None:
        """Watch every change from now on."""
        log, passed = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), []

        def pass_point(what: str, path: Any) -> None:
            if not isinstance(path, str | bytes | os.PathLike):
                return
            path = Path(os.path.abspath(os.fsdecode(path)))
            if not path.is_relative_to(self.folder) or path.name == "train.log":
                return
            if what in ("unlink", "remove") and not path.exists():
                return
            name = path.name.replace(f".{os.getpid()}.", ".PID.")
            if name.startswith("events.out"):
                name = "events"
            line = f"{what} {name}"
            if name == "events" and ("half" not in what or line in passed[-1:]):
                return  # a dozen are written at a time, and each opens the file
            passed.append(line)
            os.write(log, f"{line}\n".encode())
            if len(passed) == self.number or (line == self.at and passed.count(line) == self.nth):
                os.kill(os.getpid(), signal.SIGKILL)

        for name in _BY_PATH:
            setattr(os, name, _watch_call(getattr(os, name), name, pass_point))
        opened, fsync = io.open, os.fsync
        builtins.open = io.open = _watch_open(opened, pass_point)

        def watch_sync(number: Any) -> None:
            if isinstance(number, int):
                pass_point("fsync", os.readlink(f"/proc/self/fd/{number}"))
            fsync(number)

        os.fsync = watch_sync
        if self.without_links:
            os.link = _refuse


def _watch_call(call: Callable[..., Any], name: str, pass_point: Callable[..., None]) -> Any:
    def watched(path: Any, *args: Any, **kwargs: Any) -> Any:
        pass_point(name, args[0] if args and name in ("rename", "replace", "link") else path)
        return call(path, *args, **kwargs)

    return watched


def _watch_open(opened: Callable[..., Any], pass_point: Callable[..., None]) -> Any:
    def watched(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wax+"):
            return opened(path, mode, *args, **kwargs)
        pass_point("open", path)
        file = opened(path, mode, *args, **kwargs)
        pass_point("opened", path)
        return _TornFile(file, lambda: pass_point("half written", path))

    return watched


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError(95, "Operation not supported")


class _TornFile:
    """A file whose first write is done in two parts, with a point between them."""

    def __init__(self, file: Any, pass_point: Callable[[], None]) -> None:
        self._file, self._pass_point, self._is_first = file, pass_point, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_TornFile":
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def write(self, data: Any) -> int:
        if self._is_first and len(data) > 1:
            self._is_first = False
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            self._pass_point()
            self._file.write(data[len(data) // 2 :])
            return len(data)
        return self._file.write(data)
