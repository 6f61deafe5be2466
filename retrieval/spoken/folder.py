"""Speech of every video of a folder, added to the videos' OCR documents."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_loader.ocr.ocr_words import load_ocr_document
from data_loader.ocr.paths import find_documents, name_document
from data_loader.readers.container import list_searchable
from retrieval.printing import escape
from retrieval.spoken.embedded import has_subtitles
from retrieval.spoken.subtitles import find_subtitle_files
from retrieval.spoken.transcription import identify_recogniser, name_journal, transcribe_video
from retrieval.spotting.folder import estimate_looks, show_progress
from utils.errors import UserError
from utils.files import write_text
from utils.processes import RunTasks, TaskDone, TaskError, Work, run_tasks
from utils.ray_pool import check_shared

# Stands in a document that has been listened to, where nothing is said; it is no line of an index.
_SILENCE = {"text": "", "score": 1.0, "kind": "spoken", "start_s": 0.0, "end_s": 0.0}


@dataclass
class SpeechOutcome:
    """Counts of what ``transcribe_folder`` did."""

    num_transcribed: int = 0  # videos
    num_kept: int = 0  # videos whose documents had their speech
    num_subtitled: int = 0  # videos that were left out, since they have subtitles
    num_failed: int = 0  # videos
    num_lines: int = 0  # of speech in the videos that were transcribed

    def summarize(self) -> str:
        """Return one line with the counts."""
        text = f"{self.num_transcribed} videos transcribed (English), {self.num_lines} lines said"
        text += f"; {self.num_kept} kept" if self.num_kept else ""
        if self.num_subtitled:
            text += f"; {self.num_subtitled} have subtitles, which are used instead"
            text += " (--force_speech transcribes them, too)"
        return text + (f"; {self.num_failed} failed" if self.num_failed else "")


def transcribe_folder(
    folder: Path,
    out: Path,
    workers: int = 1,
    forced: bool = False,
    exclude: Iterable[str] = (),
    run: RunTasks | None = None,
) -> SpeechOutcome:
    """Add what is said to the documents of the videos below a folder.

    A video without a document has none of its text, and is left out. Stopped, the next run goes on,
    within a long video too (``a/b.mp4.json.speech.part``). What can't be done is named on standard
    error, in one line.

    Args:
        folder: of the videos.
        out: of their documents.
        workers: processes, at least 1.
        forced: whether videos that have subtitles are listened to, too.
        exclude: patterns of what is left out, see ``utils.files.list_files``.
        run: does the work in the place of processes of this machine.

    Raises:
        UserError: Moonshine is not installed, or the disk is full.
    """
    identify_recogniser()
    names = list_searchable(folder, exclude).names
    documents = dict(zip(names, find_documents(out, names), strict=True))
    beside = find_subtitle_files({name: folder / name for name in names})
    outcome, unfinished = SpeechOutcome(), []
    for name in names:
        document = _load_document(documents[name])
        if document is None:
            continue
        if any(record.get("kind") == "spoken" for record in document.values()):
            outcome.num_kept += 1
        elif not forced and (beside[name] or _has_subtitles(folder / name)):
            outcome.num_subtitled += 1
        else:
            unfinished.append(name)
    if run is None:
        events = run_tasks(partial(_make_work, folder, out, documents), unfinished, workers)
    else:
        events = run(partial(_make_work_elsewhere, folder, out, documents), unfinished)
    seconds = estimate_looks([folder / name for name in unfinished], every=1.0)
    for event in show_progress(events, unfinished, seconds, "speech"):
        if isinstance(event, TaskDone):
            outcome.num_transcribed += 1
            outcome.num_lines += event.result
        else:
            outcome.num_failed += 1
            reason = " ".join(event.reason.split())
            tqdm.write(f"{escape(folder / unfinished[event.number])}: {reason}", file=sys.stderr)
    return outcome


def _load_document(path: Path | None) -> dict[str, Any] | None:
    try:
        return None if path is None else load_ocr_document(path)
    except UserError:  # half of one; what reads the video's text makes it anew
        return None


def _has_subtitles(video: Path) -> bool:
    try:
        return has_subtitles(video)
    except UserError:  # listening to it says what is wrong
        return False


def add_speech(
    document: dict[str, Any], records: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return a document with what is said, in the place of what was said in it before."""
    kept = {key: record for key, record in document.items() if record.get("kind") != "spoken"}
    first = 1 + max((int(key) for key in kept if key.isdecimal()), default=-1)
    spoken = {str(number): record for number, record in enumerate(records or [_SILENCE], first)}
    return kept | spoken


def _make_work_elsewhere(folder: Path, out: Path, documents: dict[str, Path | None]) -> Work:
    check_shared([folder, out])
    identify_recogniser()
    return _make_work(folder, out, documents)


def _make_work(folder: Path, out: Path, documents: dict[str, Path | None]) -> Work:
    def add_to_document(name: str, report_progress: Callable[[float], None]) -> int:
        file, journal = documents[name], name_journal(out / name_document(name))
        try:
            records = transcribe_video(folder / name, report_progress, journal)
            document = load_ocr_document(file)
        except (UserError, RuntimeError) as error:
            raise TaskError(str(error)) from error
        if document is None:
            raise TaskError(f"{escape(file)} is gone; run the command again")
        text = json.dumps(add_speech(document, records), ensure_ascii=False) + "\n"
        write_text(file, text)
        journal.unlink(missing_ok=True)
        return len(records)

    return add_to_document
