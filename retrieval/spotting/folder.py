"""Text spotting in every video of a folder; documents that are finished are kept."""

import errno
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from data_loader.ocr.ocr_words import load_ocr_document
from data_loader.ocr.paths import find_documents, name_document
from data_loader.readers.base_reader import VideoError
from data_loader.readers.container import (
    SEARCHABLE_EXTENSIONS,
    list_searchable,
)
from data_loader.readers.opening import open_container
from data_loader.readers.video_stream import choose_video_stream
from retrieval.printing import escape
from retrieval.spotting.journal import name_journal
from retrieval.spotting.text_spotter import TextSpotter, check_engine, describe_identity
from retrieval.spotting.video import EVERY_S, READER, spot_video
from utils.errors import UserError
from utils.files import write_json, write_text
from utils.processes import (
    BAR_DELAY_S,
    RunTasks,
    TaskDone,
    TaskError,
    TaskFailed,
    TaskProgress,
    Work,
    run_tasks,
)
from utils.ray_pool import check_shared

IDENTITY_FILE = ".spotting.json"  # TextSpotter.identity; hidden: it is no video's document
_MIXED = {"engine": "several, since a run with --overwrite was stopped"}
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_MIN_FRAME_BYTES = 16  # of a frame in a file, about
_OPENING_S = 5.0  # for the lengths of all videos, before the first one is spotted


@dataclass
class Outcome:
    """Counts of what ``spot_folder`` did."""

    num_spotted: int = 0  # videos
    num_kept: int = 0  # videos whose documents were there
    num_failed: int = 0  # videos
    num_lines: int = 0  # tracked lines of text in the videos that were spotted


class _Written(NamedTuple):
    """A document that was written."""

    num_lines: int
    damage: str  # what of the video can't be decoded; empty: nothing


def spot_folder(
    folder: Path,
    out: Path,
    spotter: TextSpotter,
    *,
    every: float = EVERY_S,
    reader: str = READER,
    workers: int = 1,
    overwrite: bool = False,
    exclude: Iterable[str] = (),
    run: RunTasks | None = None,
) -> Outcome:
    """Write a document for each video below a folder, in a mirror of its folders.

    ``a/b.mp4`` has the document ``a/b.mp4.json``; ``a/b.json`` is kept where it can be no other
    video's (``data_loader.ocr.paths``). A document is written completely or not at all; one that is
    there is kept unless ``overwrite`` is given, so that the next run goes on where one was stopped,
    and within a video at the last look (``a/b.mp4.json.part``, see ``retrieval.spotting.journal``).
    A video that can't be read, or not all of it, is named on standard error, in one line.

    Args:
        folder: of the videos.
        out: made if need be.
        spotter: not loaded; each process loads its own.
        every, reader: see ``spot_video``.
        workers: processes, at least 1.
        overwrite: spot everything anew.
        exclude: patterns of what is left out, see ``utils.files.list_files``.
        run: does the work in the place of processes of this machine.

    Raises:
        UserError: there are no videos, another engine has spotted ``out``, the engine can't be
            loaded, the reader is not installed, or the disk is full.
        OSError: ``out`` can't be made.
    """
    listing = list_searchable(folder, exclude)
    names = listing.names
    if said := listing.describe_left_out():
        tqdm.write(f"{escape(folder)}: {escape(said)}", file=sys.stderr)
    if not names:
        kinds = " ".join(SEARCHABLE_EXTENSIONS)
        raise UserError(f"{folder}: holds no video (a file with an extension of: {kinds})")
    identity = spotter.identity()
    out.mkdir(parents=True, exist_ok=True)
    _check_engine(out, identity, overwrite)
    documents = dict(zip(names, find_documents(out, names), strict=True))
    unfinished = [name for name in names if overwrite or not _is_finished(documents[name])]
    for name in names if overwrite else set(names) - set(unfinished):
        name_journal(out / name_document(name)).unlink(missing_ok=True)
    outcome = Outcome(num_kept=len(names) - len(unfinished))
    arguments = spotter, folder, out, every, reader
    if run is None:
        events = run_tasks(partial(_make_work, *arguments), unfinished, workers)
    else:
        events = run(partial(_make_work_elsewhere, identity, *arguments), unfinished)
    num_looks = estimate_looks([folder / name for name in unfinished], every)
    for event in show_progress(events, unfinished, num_looks, "text"):
        if isinstance(event, TaskDone):
            outcome.num_spotted += 1
            outcome.num_lines += event.result.num_lines
            reason = event.result.damage and f"{event.result.damage}; the rest is read"
        else:
            outcome.num_failed += 1
            reason = " ".join(event.reason.split())
        if reason:
            tqdm.write(f"{escape(folder / unfinished[event.number])}: {reason}", file=sys.stderr)
    write_json(out / IDENTITY_FILE, identity)
    return outcome


def _check_engine(out: Path, identity: dict[str, str], overwrite: bool) -> None:
    """Refuse a folder that another engine has spotted, else write down which one does.

    Documents of earlier versions have no such file, and are taken for this engine's.
    """
    file = out / IDENTITY_FILE
    try:
        known = dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = identity
    except (ValueError, TypeError):
        known = {"engine": f"unknown, {IDENTITY_FILE} is damaged"}
    if known != identity and not overwrite:
        before, now = describe_identity(known), describe_identity(identity)
        raise UserError(
            f"{out}: its text was spotted by another engine ({before}) than the one that is to go "
            f"on ({now}); give another folder as --out, or --overwrite to spot all anew"
        )
    write_json(file, identity if known == identity else _MIXED)


def _is_finished(document: Path | None) -> bool:
    """Whether a complete document is there; another program may have left half of one."""
    try:
        return document is not None and load_ocr_document(document) is not None
    except UserError:
        return False


def show_progress(
    events: Iterator[TaskProgress | TaskDone | TaskFailed],
    names: Sequence[str],
    num_looks: Sequence[int],
    label: str,
) -> Iterator[TaskDone | TaskFailed]:
    """Pass on what has ended; show a bar on standard error that counts looks at the videos."""
    done: dict[int, int] = {}  # looks, by the videos' numbers
    num_ended = 0
    with tqdm(
        total=sum(num_looks),
        desc=label,
        bar_format=_BAR,
        smoothing=0,  # a video that stands still is done much faster than others
        delay=BAR_DELAY_S,
        mininterval=0.5 if sys.stderr.isatty() else 10,  # seconds; a log file keeps every line
        dynamic_ncols=True,
    ) as bar:
        for event in events:
            number = event.number
            has_ended = not isinstance(event, TaskProgress)
            now = math.ceil((1.0 if has_ended else event.share) * num_looks[number])
            added = now - done.get(number, 0)
            # What an earlier run has done, and what can't be done, says nothing about the speed.
            if isinstance(event, TaskFailed):
                bar.initial += added
            elif number not in done:
                bar.initial += max(0, added - 1)
            done[number] = now
            num_ended += has_ended
            videos = f"{num_ended} of {len(names)} videos, {escape(names[number])}"
            bar.set_postfix_str(videos, refresh=False)
            bar.update(added)
            if has_ended:
                yield event


def estimate_looks(videos: Sequence[Path], every: float) -> list[int]:
    """Return about how many frames of each video are looked at, at least 1.

    Where the file doesn't say how long it is, or there are too many files to open, the number is
    that of a video of this size.
    """
    until = time.monotonic() + _OPENING_S
    sizes = [_get_size(video) for video in videos]
    known: dict[int, float] = {}
    for number, video in enumerate(videos):
        if time.monotonic() < until and (looks := _read_looks(video, every)) is not None:
            known[number] = looks
    rate = sum(known.values()) / sum(sizes[number] for number in known) if known else 1.0
    looks = [known.get(number, size * rate) for number, size in enumerate(sizes)]
    return [max(1, math.ceil(number)) for number in looks]


def _read_looks(video: Path, every: float) -> float | None:
    """Return how many frames are looked at by what a file's head says; None: it doesn't say."""
    import av

    try:
        with open_container(video) as container:
            seconds = container.duration / av.time_base if container.duration else None
            stream = choose_video_stream(container)
            num_frames = 0 if stream is None else stream.frames
    except (av.error.FFmpegError, OSError, ValueError):  # spotting it says what is wrong
        return None
    if seconds is None:
        return None
    # By the time stamps it may last for years: there are no more frames than bytes for them.
    return min(seconds / every, num_frames or math.inf, _get_size(video) / _MIN_FRAME_BYTES)


def _get_size(video: Path) -> int:
    try:
        return max(1, video.stat().st_size)
    except OSError:  # a broken link, for one: opening it says so
        return 1


def _make_work_elsewhere(
    identity: dict[str, str], spotter: TextSpotter, folder: Path, out: Path, *how: Any
) -> Work:
    check_shared([folder, out])
    check_engine(spotter, identity)
    return _make_work(spotter, folder, out, *how)


def _make_work(spotter: TextSpotter, folder: Path, out: Path, every: float, reader: str) -> Work:
    spotter.load()

    def write_document(name: str, report_progress: Callable[[float], None]) -> _Written:
        file = out / name_document(name)
        journal = name_journal(file)
        damage: list[str] = []
        try:
            document = spot_video(
                folder / name, spotter, every, reader, report_progress, journal, damage.append
            )
        except VideoError as error:
            raise TaskError(f"{error.reason}; {error.remedy}") from error
        try:
            _write_document(file, document, journal)
        except OSError as error:
            if error.errno in _DISK_FULL:  # no other video's would fit, either
                raise
            raise TaskError(
                f"{escape(file)} can't be written ({error.strerror}); give another --out, or "
                "another name to the video"
            ) from error
        return _Written(len(document), "".join(damage))

    return write_document


def _write_document(file: Path, document: dict[str, Any], journal: Path) -> None:
    """Write a document in the place of its journal; raises ``OSError``."""
    text = json.dumps(document, ensure_ascii=False) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_text(file, text)
    except OSError as error:
        journal.unlink(missing_ok=True)
        if error.errno not in _DISK_FULL:
            raise
        write_text(file, text)  # where the journal was there is room, perhaps enough
    journal.unlink(missing_ok=True)
