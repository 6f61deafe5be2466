"""Journal of a video that is being spotted: its looks so far, kept so that the next run goes on.

A file of JSON lines beside the future document. The first line says of what the looks are: the
video, the engine and how it was asked; each further one is a look, written as soon as it is done.
A line that was cut short is dropped, and a journal of anything else is begun anew.
"""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from typing_extensions import Self

from data_loader.readers.base_reader import VideoError
from retrieval.spotting.text_spotter import TextLine, TextSpotter
from utils.files import FileLockedError, FileStamp, lock_file

logger = logging.getLogger(__name__)

SUFFIX = ".part"
FORM = 2  # of the lines, and of what decides on which frames are read
_WAIT_S = 10.0  # for a process of a killed run, which ends when its picture is read


class VideoLook(NamedTuple):
    """What a look at a frame gave.

    ``lines`` is None where the frame looks like the one before; ``changed`` says of each line
    whether the picture differs there from the frame that was read before; ``noticed`` is
    ``TextSpotter.noticed``.
    """

    frame: int
    lines: list[TextLine] | None = None
    changed: list[bool] = []  # noqa: RUF012 - never changed
    noticed: Any = None


def name_journal(document: Path) -> Path:
    """Return the path of the journal beside a document: ``a.mp4.json.part``."""
    return document.with_name(document.name + SUFFIX)


def describe_spotting(
    video: str | Path, spotter: TextSpotter, every: float, reader: str
) -> dict[str, Any]:
    """Return what the looks at a video depend on, as JSON values; raises ``OSError``."""
    stamp = FileStamp.of(video)
    return {
        "form": FORM,
        "size": stamp.size,
        "mtime_ns": stamp.mtime_ns,
        "engine": spotter.identity(),
        "every": every,
        "reader": reader,
    }


class Journal:
    """The journal at a path, for a ``with`` block in which one process uses it.

    A journal that can't be written (a full disk, no access) is given up with a warning: the
    spotting goes on without one.

    Args:
        path: its folder is made if need be; None: nothing is kept.
        header: of ``describe_spotting``.
        frames: that are looked at, ascending.
    """

    def __init__(self, path: Path | None, header: dict[str, Any], frames: Sequence[int]) -> None:
        self.looks: list[VideoLook] = []  # that were there
        self._path, self._header, self._frames = path, header, frames
        self._file: BinaryIO | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._lock(self._path)
                self._file = self._stack.enter_context(self._path.open("r+b"))
                self._read_looks(self._file)
            except FileLockedError:
                logger.warning(f"{self._path}: another process is at work on this video")
            except OSError as error:
                self._give_up(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, VideoError) and self._file is not None:
            self._remove()  # the next run fails there, too
        self._stack.close()

    def append(self, look: VideoLook) -> None:
        """Write a look; it is kept even when the process is killed right after."""
        if self._file is not None:
            try:
                self._write_line(self._file, _pack_look(look))
            except OSError as error:
                self._give_up(error)

    def _lock(self, path: Path) -> None:
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                self._stack.enter_context(lock_file(path, wait=False))
                return
            except FileLockedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def _read_looks(self, file: BinaryIO) -> None:
        """Read the looks that hold, and cut off the rest."""
        lines = file.read().split(b"\n")[:-1]
        end = 0
        if lines and lines[0] == _encode(self._header):
            end = len(lines[0]) + 1
            coming = iter(self._frames)
            for line in lines[1:]:
                look = _unpack_look(line)
                # Frames that can't be decoded have none: they are passed over.
                if look is None or look.frame not in coming:
                    break
                self.looks.append(look)
                end += len(line) + 1
        # A first look that is no reading can't be gone on from.
        if not self.looks or self.looks[0].lines is None:
            self.looks, end = [], 0
        file.seek(end)
        file.truncate()
        if not end:
            self._write_line(file, self._header)

    def _write_line(self, file: BinaryIO, value: Any) -> None:
        file.write(_encode(value) + b"\n")
        file.flush()

    def _give_up(self, error: OSError) -> None:
        logger.warning(
            f"{self._path}: can't be written ({error.strerror}); if the run is stopped, this video "
            "begins anew"
        )
        self._remove()

    def _remove(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what is still to be written can't be
                file.close()
        with suppress(OSError):  # a folder without access, where there is none
            self._path.unlink(missing_ok=True)


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode("ascii")


def _pack_look(look: VideoLook) -> dict[str, Any]:
    if look.lines is None:
        return {"frame": look.frame}
    lines = [
        [text, float(score), np.asarray(corners, dtype=np.float64).ravel().tolist(), bool(changed)]
        for (text, score, corners), changed in zip(look.lines, look.changed, strict=True)
    ]
    noticed = {} if look.noticed is None else {"noticed": look.noticed}
    return {"frame": look.frame, "lines": lines} | noticed


def _unpack_look(line: bytes) -> VideoLook | None:
    """Return the look of a line, None where it is damaged."""
    try:
        look = json.loads(line)
        if "lines" not in look:
            return VideoLook(look["frame"])
        lines = [
            TextLine(text, score, np.array(corners, dtype=np.float64).reshape(4, 2))
            for text, score, corners, _ in look["lines"]
        ]
        changed = [changed for *_, changed in look["lines"]]
        return VideoLook(look["frame"], lines, changed, look.get("noticed"))
    except (ValueError, TypeError, KeyError):
        return None
