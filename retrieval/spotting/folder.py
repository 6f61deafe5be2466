"""Text spotting in every video of a folder; documents that are finished are kept."""

import errno
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data_loader.ocr.ocr_words import load_ocr_document
from data_loader.ocr.paths import find_documents, name_document
from data_loader.readers.base_reader import VideoError
from data_loader.readers.container import VIDEO_EXTENSIONS
from retrieval.printing import escape
from retrieval.spotting.text_spotter import TextSpotter, describe_identity
from retrieval.spotting.video import EVERY_S, READER, spot_video
from utils.errors import UserError
from utils.files import list_files, write_json, write_text
from utils.processes import (
    BAR_DELAY_S,
    TaskDone,
    TaskError,
    TaskFailed,
    TaskProgress,
    Work,
    run_tasks,
)

IDENTITY_FILE = ".spotting.json"  # TextSpotter.identity; hidden: it is no video's document
_MIXED = {"engine": "several, since a run with --overwrite was stopped"}
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


@dataclass
class Outcome:
    """Counts of what ``spot_folder`` did."""

    num_spotted: int = 0  # videos
    num_kept: int = 0  # videos whose documents were there
    num_failed: int = 0  # videos
    num_lines: int = 0  # tracked lines of text in the videos that were spotted


def spot_folder(
    folder: Path,
    out: Path,
    spotter: TextSpotter,
    *,
    every: float = EVERY_S,
    reader: str = READER,
    workers: int = 1,
    overwrite: bool = False,
) -> Outcome:
    """Write a document for each video below a folder, in a mirror of its folders.

    ``a/b.mp4`` has the document ``a/b.mp4.json``; ``a/b.json`` is kept where it can be no other
    video's (``data_loader.ocr.paths``). A document is written completely or not at all; one that is
    there is kept unless ``overwrite`` is given, so that the next run goes on where one was stopped.
    A video that can't be read is named on standard error.

    Args:
        folder: of the videos.
        out: made if need be.
        spotter: not loaded; each process loads its own.
        every, reader: see ``spot_video``.
        workers: processes, at least 1.
        overwrite: spot everything anew.

    Raises:
        UserError: there are no videos, another engine has spotted ``out``, the engine can't be
            loaded, the reader is not installed, or the disk is full.
        OSError: ``out`` can't be made.
    """
    names = list_files(folder, VIDEO_EXTENSIONS).names
    if not names:
        kinds = " ".join(VIDEO_EXTENSIONS)
        raise UserError(f"{folder}: holds no video (a file with an extension of: {kinds})")
    identity = spotter.identity()
    out.mkdir(parents=True, exist_ok=True)
    _check_engine(out, identity, overwrite)
    documents = dict(zip(names, find_documents(out, names), strict=True))
    unfinished = [name for name in names if overwrite or not _is_finished(documents[name])]
    outcome = Outcome(num_kept=len(names) - len(unfinished))
    events = run_tasks(
        partial(_make_work, spotter, folder, out, every, reader), unfinished, workers
    )
    videos = [folder / name for name in unfinished]
    for event in _show_progress(events, videos):
        if isinstance(event, TaskDone):
            outcome.num_spotted += 1
            outcome.num_lines += event.result
        else:
            outcome.num_failed += 1
            tqdm.write(f"{escape(videos[event.number])}: {event.reason}", file=sys.stderr)
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


def _show_progress(
    events: Iterator[TaskProgress | TaskDone | TaskFailed], videos: list[Path]
) -> Iterator[TaskDone | TaskFailed]:
    """Pass on what has ended; show a bar on standard error that counts bytes of the videos."""
    sizes = [_get_size(video) for video in videos]
    done = [0] * len(videos)  # bytes
    num_ended = 0
    with tqdm(
        total=sum(sizes),
        desc="text",
        bar_format=_BAR,
        delay=BAR_DELAY_S,
        mininterval=0.5 if sys.stderr.isatty() else 10,  # seconds; a log file keeps every line
        dynamic_ncols=True,
    ) as bar:
        for event in events:
            share = event.share if isinstance(event, TaskProgress) else 1.0
            now = int(share * sizes[event.number])
            bar.update(now - done[event.number])
            done[event.number] = now
            if not isinstance(event, TaskProgress):
                num_ended += 1
                bar.set_postfix_str(f"{num_ended} of {len(videos)} videos", refresh=False)
                yield event


def _get_size(video: Path) -> int:
    try:
        return max(1, video.stat().st_size)
    except OSError:  # a broken link, for one: opening it says so
        return 1


def _make_work(spotter: TextSpotter, folder: Path, out: Path, every: float, reader: str) -> Work:
    spotter.load()

    def write_document(name: str, report_progress: Callable[[float], None]) -> int:
        try:
            document = spot_video(folder / name, spotter, every, reader, report_progress)
        except VideoError as error:
            raise TaskError(f"{error.reason}; {error.remedy}") from error
        file = out / name_document(name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(document, ensure_ascii=False) + "\n")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # no other video's would fit, either
                raise
            raise TaskError(
                f"{escape(file)} can't be written ({error.strerror}); give another --out, or "
                "another name to the video"
            ) from error
        return len(document)

    return write_document
