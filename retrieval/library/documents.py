"""Documents of a library's videos: the lines that can be read in each, and those that are said.

A document is made in steps, one for each kind of line. What it was made from and how stands in a
hidden file beside it (``clip.mp4.json`` has ``.clip.mp4.made``), so that a step is done again
where the video, or what the user has chosen, is another one, and no other step is for that.
"""

import errno
import glob
import json
import multiprocessing
import os
import queue
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from data_loader.ocr.ocr_words import load_ocr_document, parse_document
from data_loader.ocr.paths import name_document
from data_loader.readers.base_reader import VideoError
from retrieval.index.ocr_text import OcrFolder
from retrieval.library.settings import LibrarySettings
from retrieval.spoken.embedded import has_subtitles
from retrieval.spoken.subtitles import find_subtitle_files
from retrieval.spoken.transcription import identify_recogniser, transcribe_video
from retrieval.spotting.text_spotter import TextSpotter, build_spotter
from retrieval.spotting.video import EVERY_S, spot_video
from utils.errors import UserError
from utils.files import FileStamp, write_json, write_text
from utils.processes import (
    TaskError,
    TaskFailed,
    TaskProgress,
    Work,
    end_with_parent,
    run_tasks,
)

Progress = Callable[[float], None]
_MADE, _JOURNAL = ".made", ".journal"


class DocumentStep(ABC):
    """Makes the records of one kind of a video's document.

    Attributes:
        kind: of the lines, as records name it.
        label: of what is done, for the page.
    """

    kind: ClassVar[str]
    label: ClassVar[str]

    @abstractmethod
    def describe(self, video: Path) -> Any:
        """Return what the records depend on beside the video, as JSON.

        Where it is another than before, they are made anew.
        """

    def load(self) -> None:  # noqa: B027 - a step may have nothing to load
        """Load what ``make_records`` needs; a ``UserError`` concerns all videos."""

    @abstractmethod
    def make_records(self, video: Path, journal: Path, progress: Progress) -> list[dict[str, Any]]:
        """Return the records of a video.

        Args:
            journal: file in which parts may be kept, so that a run that is stopped goes on; it is
                removed when the document is there.
            progress: called with the share of the video that is done.

        Raises:
            UserError: of this video nothing can be had.
        """


class ReadText(DocumentStep):
    """The lines that a text spotter reads in the pictures."""

    kind, label = "read", "reading text"

    def __init__(self, settings: LibrarySettings) -> None:
        self._settings = settings
        self._spotter: TextSpotter = build_spotter(settings.engine, {"script": settings.script})

    def describe(self, video: Path) -> Any:  # noqa: D102
        # Not the engine's version: what an earlier one has read is not thrown away for that.
        return {"engine": self._settings.engine, "script": self._settings.script}

    def load(self) -> None:  # noqa: D102
        self._spotter.load()

    def make_records(  # noqa: D102
        self, video: Path, journal: Path, progress: Progress
    ) -> list[dict[str, Any]]:
        document = spot_video(video, self._spotter, EVERY_S, progress=progress, journal=journal)
        return list(document.values())


class HearSpeech(DocumentStep):
    """The speech of videos that have no subtitles; those are read when a video is indexed."""

    kind, label = "spoken", "listening"

    def describe(self, video: Path) -> Any:  # noqa: D102
        return identify_recogniser()

    def make_records(  # noqa: D102
        self, video: Path, journal: Path, progress: Progress
    ) -> list[dict[str, Any]]:
        if find_subtitle_files({video.name: video})[video.name] or has_subtitles(video):
            return []
        return transcribe_video(video, progress, journal)


def list_steps(settings: LibrarySettings) -> list[DocumentStep]:
    """Return the steps in which documents are made; raises ``UserError`` for a wrong setting."""
    return [ReadText(settings), *([HearSpeech()] if settings.speech else [])]


class DocumentTask(NamedTuple):
    """A video whose document is to be made."""

    name: str
    video: Path
    document: Path


def make_document(task: DocumentTask, steps: Sequence[DocumentStep], progress: Progress) -> None:
    """Make a document, or those of its records that are missing or were made otherwise.

    Raises:
        TaskError: the video can't be read.
        OSError: the document can't be written.
    """
    made_file = _name_made_file(task.document)
    task.document.parent.mkdir(parents=True, exist_ok=True)
    try:
        stamp = asdict(FileStamp.of(task.video))  # before it is read: what changes then is found
        wanted = {step.kind: step.describe(task.video) for step in steps}
        made = _read_json(made_file)
        before = made.get("steps", {}) if made.get("video") == stamp else {}
        kept = _read_records(task.document) if before else []
        if kept is None:  # all of it is made anew
            before, kept = {}, []
        records = {kind: [] for kind in wanted}
        for record in kept:
            records.setdefault(record.get("kind", "read"), []).append(record)
        to_do = [step for step in steps if before.get(step.kind) != wanted[step.kind]]
        for number, step in enumerate(to_do):
            journal = task.document.with_name(f".{task.document.stem}.{step.kind}{_JOURNAL}")
            shares = partial(_scale_progress, progress, number, len(to_do))
            records[step.kind] = step.make_records(task.video, journal, shares)
    except VideoError as error:
        raise TaskError(f"{error.reason}; {error.remedy}") from error
    except UserError as error:
        raise TaskError(" ".join(str(error).split())) from error
    lines = [record for kind in wanted for record in records[kind]]
    document = {str(number): record for number, record in enumerate(lines)}
    # It counts when what it was made from is written: a document alone may be an older one.
    write_text(task.document, json.dumps(document, ensure_ascii=False) + "\n", durable=True)
    write_json(made_file, {"video": stamp, "steps": wanted})
    for journal in task.document.parent.glob(f".{glob.escape(task.document.stem)}.*{_JOURNAL}"):
        journal.unlink(missing_ok=True)


def _scale_progress(progress: Progress, number: int, count: int, share: float) -> None:
    progress((number + share) / count)


def _name_made_file(document: Path) -> Path:
    return document.with_name(f".{document.stem}{_MADE}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):  # it is made anew
        return {}


def _read_records(document: Path) -> list[dict[str, Any]] | None:
    """Return the records of a document that is there; None: it is damaged."""
    try:
        records = load_ocr_document(document) or {}
        parse_document(records)
    except UserError:
        return None
    return list(records.values())


class LibraryText(OcrFolder):
    """The documents of a library as the text of its index.

    Args:
        folder: of the documents; made if need be.
        steps: in which they are made.
    """

    def __init__(self, folder: Path, steps: Sequence[DocumentStep]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self._steps = steps
        self.label = " and ".join(step.label for step in steps)

    def find_documents(  # noqa: D102
        self, videos: Sequence[str], moved: Mapping[str, str] | None = None
    ) -> None:
        self._documents = {video: self.locate(video) for video in videos}
        for video, old in (moved or {}).items():
            if not os.path.exists(self.locate(video)):
                self._documents[video] = self.locate(old)

    def locate(self, video: str) -> Path:
        """Return the document of a video, which may be missing."""
        return self.folder / name_document(video)

    def move_documents(self, moved: Mapping[str, str]) -> None:  # noqa: D102
        for video, old in moved.items():
            source, target = self.locate(old), self.locate(video)
            if os.path.exists(source) and not os.path.exists(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(OSError):  # then it is made anew
                    _name_made_file(source).replace(_name_made_file(target))
                source.replace(target)
            self._documents[video] = target

    def is_current(self, video: str, file: Path) -> bool:
        """Whether a video's document is there, and is of this content and these steps."""
        document = self.locate(video)
        made = _read_json(_name_made_file(document)) if os.path.exists(document) else {}
        try:
            wanted = {step.kind: step.describe(file) for step in self._steps}
            return made == {"video": asdict(FileStamp.of(file)), "steps": wanted}
        except OSError:
            return False

    def confirm(self, video: str, file: Path) -> None:
        """Take note that a video of another time has the content that its document is of."""
        made_file = _name_made_file(self.locate(video))
        made = _read_json(made_file)
        stamp = asdict(FileStamp.of(file))
        if made and made.get("video") != stamp:
            write_json(made_file, made | {"video": stamp})

    def remove_stale(self, keep: Iterable[str]) -> int:
        """Remove the documents of all other videos than these; returns their number."""
        kept = {name_document(video) for video in keep}
        removed = 0
        for folder, _, names in os.walk(self.folder):
            place = PurePosixPath(Path(folder).relative_to(self.folder))
            for name in names:
                shown = name.removeprefix(".") if name.startswith(".") else name
                owner = shown if name == shown else f"{_strip(shown)}.json"
                if str(place / owner) not in kept:
                    Path(folder, name).unlink(missing_ok=True)
                    removed += name == shown
        return removed


def _strip(name: str) -> str:
    """Return the video's name of a hidden file's: ``clip.mp4.read.journal``, ``clip.mp4.made``."""
    if name.endswith(_MADE):
        return name.removesuffix(_MADE)
    if name.endswith(_JOURNAL):
        return name.removesuffix(_JOURNAL).rpartition(".")[0]
    return name


class DocumentMaker:
    """Makes documents in several processes, beside whatever this one is at.

    To be started before anything large is loaded: the processes are forked. They end with this one,
    however that ends.
    """

    def __init__(self, settings: LibrarySettings, workers: int) -> None:
        context = multiprocessing.get_context(
            "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
        )
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=_serve_documents, args=(other, self._connection, settings, workers)
        )
        self._process.start()
        other.close()

    def make(
        self, tasks: Sequence[DocumentTask], report: Callable[[str, float], None]
    ) -> Iterator[tuple[str, str | None]]:
        """Begin to make documents, which goes on however long the caller takes for each.

        Args:
            report: called with a video and the share of it that is done, in another thread.

        Returns:
            The name of each video that is done with, as it is, and why it has no document. Raises
            ``UserError`` where none can be made: a package is missing, or the disk is full.
        """
        found: queue.Queue[Any] = queue.Queue()
        if tasks:
            self._connection.send(list(tasks))
            arguments = (tasks, report, found)
            threading.Thread(target=self._receive, args=arguments, daemon=True).start()
        else:
            found.put(None)
        return _iterate(found)

    def _receive(
        self,
        tasks: Sequence[DocumentTask],
        report: Callable[[str, float], None],
        found: queue.Queue,
    ) -> None:
        while True:
            try:
                event = self._connection.recv()
            except (EOFError, OSError):
                event = UserError("the process that reads text has ended; start find.py again")
            if event is None or isinstance(event, UserError):
                found.put(event)
                return
            name = tasks[event.number].name
            if isinstance(event, TaskProgress):
                report(name, event.share)
            else:
                found.put((name, event.reason if isinstance(event, TaskFailed) else None))

    def close(self) -> None:
        """End the processes."""
        self._connection.close()
        self._process.terminate()
        self._process.join()


def _iterate(found: queue.Queue) -> Iterator[tuple[str, str | None]]:
    while (event := found.get()) is not None:
        if isinstance(event, UserError):
            raise event
        yield event


def _serve_documents(connection: Any, other: Any, settings: LibrarySettings, workers: int) -> None:
    """Make the documents that are asked for, until the parent has ended."""
    other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    while True:
        try:
            tasks = connection.recv()
        except EOFError:
            return
        try:
            steps = list_steps(settings)
            for event in run_tasks(partial(_make_work, steps), tasks, workers):
                connection.send(event)
            connection.send(None)
        except UserError as error:
            connection.send(error)
        except BrokenPipeError:
            return


def _make_work(steps: Sequence[DocumentStep]) -> Work:
    for step in steps:
        step.load()

    def work(task: DocumentTask, progress: Progress) -> None:
        try:
            make_document(task, steps, progress)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # no other video's would fit, either
                raise
            raise TaskError(
                f"its document can't be written ({error.strerror}); give another name to the video"
            ) from error

    return work
