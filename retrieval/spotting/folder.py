"""Spot the text of every video of a folder; what is finished stays finished."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data_loader.inspection.pool import QUIET_SECONDS
from data_loader.ocr_words import load_ocr_document
from data_loader.video_base import VideoError
from data_loader.video_container import VIDEO_EXTENSIONS
from retrieval.spotting.text_spotter import TextSpotter
from retrieval.spotting.video import EVERY_S, READER, spot_video
from retrieval.spotting.workers import (
    NO_ROOM,
    Done,
    Failed,
    Progress,
    TaskError,
    Work,
    run_each,
)
from retrieval.videos import find_videos, shown
from utils.errors import UserError
from utils.files import write_text

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


class Job(NamedTuple):
    """A video and the file that its document is written to."""

    video: Path
    document: Path


@dataclass
class Outcome:
    """What ``spot_folder`` did.

    Attributes:
        num_spotted: videos that were spotted now.
        num_kept: videos whose documents were there.
        num_lines: tracked lines of text in the videos that were spotted now.
        failures: the others, and why.
    """

    num_spotted: int = 0
    num_kept: int = 0
    num_lines: int = 0
    failures: list[tuple[Path, str]] = field(default_factory=list)


def document_path(video: Path, folder: Path, out: Path) -> Path:
    """Return a video's document: ``folder/a/b.mp4`` has ``out/a/b.json``, as data sets expect."""
    return (out / video.relative_to(folder)).with_suffix(".json")


def spot_folder(
    folder: Path,
    out: Path,
    make_spotter: Callable[[], TextSpotter],
    *,
    every: float = EVERY_S,
    reader: str = READER,
    workers: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Write a document for each video below a folder, in a mirror of its folders.

    A document is written whole or not at all; one that is there is kept, and so the next run goes
    on where one was stopped. A video that can't be read has none, and stops no other.

    Args:
        folder: the videos.
        out: is made if need be.
        make_spotter: makes an engine, once in each process; picklable.
        every: see ``spot_video``.
        reader: see ``spot_video``.
        workers: processes, at least 1.
        overwrite: spot everything anew.
        say: is told one line about each video that fails.

    Raises:
        UserError: there are no videos, the engine can't be made, the reader is not installed, or
            the disk is full.
        OSError: ``out`` can't be made.
    """
    videos = find_videos(folder)
    if not videos:
        kinds = " ".join(VIDEO_EXTENSIONS)
        raise UserError(f"{folder}: holds no video (a file with an extension of: {kinds})")
    out.mkdir(parents=True, exist_ok=True)
    outcome = Outcome()

    def fail(video: Path, reason: str) -> None:
        outcome.failures.append((video, reason))
        say(f"{shown(video)}: {reason}")

    jobs = []
    for job, rival in _jobs(videos, folder, out):
        if rival is not None:
            fail(job.video, f"has the same document as {shown(rival)}; rename one of them")
        elif not overwrite and _is_finished(job.document):
            outcome.num_kept += 1
        else:
            jobs.append(job)
    make_work = partial(_make_work, make_spotter, every, reader)
    for event in _with_bar(run_each(make_work, jobs, workers), jobs):
        if isinstance(event, Failed):
            fail(jobs[event.number].video, event.reason)
        else:
            outcome.num_spotted += 1
            outcome.num_lines += event.result
    return outcome


def _jobs(videos: list[Path], folder: Path, out: Path) -> Iterator[tuple[Job, Path | None]]:
    """Yield each video's job, and the earlier video that has the same document, if any."""
    owners: dict[Path, Path] = {}
    for video in videos:
        document = document_path(video, folder, out)
        owner = owners.setdefault(document, video)
        yield Job(video, document), owner if owner is not video else None


def _is_finished(document: Path) -> bool:
    """Whether a whole document is there; one that another program left half written is not."""
    try:
        return load_ocr_document(document) is not None
    except UserError:
        return False


def _with_bar(
    events: Iterator[Progress | Done | Failed], jobs: list[Job]
) -> Iterator[Done | Failed]:
    """Pass on what has ended; show a bar on standard error that counts bytes of the videos."""
    sizes = [_size(job.video) for job in jobs]
    done = [0] * len(jobs)  # bytes
    num_ended = 0
    pause = 0.5 if sys.stderr.isatty() else 10  # seconds; a log file keeps every line
    with tqdm(
        total=sum(sizes),
        desc="text",
        bar_format=_BAR,
        delay=QUIET_SECONDS,
        mininterval=pause,
        dynamic_ncols=True,
    ) as bar:
        for event in events:
            share = event.share if isinstance(event, Progress) else 1.0
            now = int(share * sizes[event.number])
            bar.update(now - done[event.number])
            done[event.number] = now
            if not isinstance(event, Progress):
                num_ended += 1
                bar.set_postfix_str(f"{num_ended} of {len(jobs)} videos", refresh=False)
                yield event


def _size(video: Path) -> int:
    try:
        return max(1, video.stat().st_size)
    except OSError:  # a broken link, for one: it is told when it is opened
        return 1


def _make_work(make_spotter: Callable[[], TextSpotter], every: float, reader: str) -> Work:
    spotter = make_spotter()

    def work(job: Job, tell: Callable[[float], None]) -> int:
        try:
            document = spot_video(job.video, spotter, every, reader, tell)
        except VideoError as error:
            raise TaskError(f"{error.reason}; {error.remedy}") from error
        try:
            job.document.parent.mkdir(parents=True, exist_ok=True)
            write_text(job.document, json.dumps(document, ensure_ascii=False) + "\n")
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            raise TaskError(
                f"{shown(job.document)} can't be written ({error.strerror}); give another --out, "
                "or another name to the video"
            ) from error
        return len(document)

    return work
