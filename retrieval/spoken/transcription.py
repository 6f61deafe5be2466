"""Speech of a video as lines of text, by Moonshine (``moonshine-voice``, English, offline).

The model comes inside the package, in this version and not in later ones. Its voice activity
detector leaves out silence, noise and music. What it finds depends on all that it has heard before,
so that each part of a video is given to a process of its own: a run that was stopped and goes on
then gives the lines of one that was not.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.spoken.sound import RATE, read_duration, stream_sound
from retrieval.spoken.subtitles import SpokenLine
from retrieval.spoken.timeline import read_start_times
from utils.errors import UserError
from utils.files import FileStamp, write_json

VERSION = "0.0.62"  # those after it have the model no more
_INSTALL = (
    f'speech recognition needs Moonshine: pip install "moonshine-voice=={VERSION}" (later versions '
    "come without the model)"
)
PART_S = 120.0  # seconds of sound that are transcribed together
_TAIL_S = 1.0  # a line that ends this near to the end of a part may go on after it
_LEAD_S = 0.3  # of sound before a line that is transcribed with the next part
SUFFIX = ".speech.part"
FORM = 1  # of a journal, and of how sound is cut into parts
_CHILD = "from retrieval.spoken.moonshine import main; main()"


def find_model() -> Path:
    """Return the folder of the packaged model, without importing it; raises ``UserError``."""
    package = find_spec("moonshine_voice")
    if package is None or package.origin is None:
        raise UserError(_INSTALL)
    folder = Path(package.origin).parent / "assets" / "tiny-en"
    if not (folder / "encoder_model.ort").is_file():
        raise UserError(f"{folder}: this version of moonshine-voice has no model; {_INSTALL}")
    return folder


def identify_recogniser() -> dict[str, str]:
    """Return what transcriptions depend on; raises ``UserError`` where it is not installed."""
    find_model()
    try:
        number = version("moonshine-voice")
    except PackageNotFoundError:
        number = "unknown"
    return {"engine": "moonshine-voice", "version": number, "model": "tiny-en"}


def name_journal(document: Path) -> Path:
    """Return the path of the journal beside a document: ``a.mp4.json.speech.part``."""
    return document.with_name(document.name + SUFFIX)


def transcribe_video(
    path: str | Path,
    progress: Callable[[float], None] | None = None,
    journal: Path | None = None,
) -> list[dict[str, Any]]:
    """Return what is said in a video, as records of its OCR document.

    Args:
        path: of the video.
        progress: called with the share of the video that is done, in (0, 1].
        journal: file in which finished parts are kept, see ``name_journal``: the next run goes on
            behind them. It is removed by whoever has written the document. None: nothing is kept.

    Returns:
        ``{"text", "score", "kind": "spoken", "start_s", "end_s"}``, by time, in seconds from the
        video's first frame; none where there is no sound. What is said before is left out.

    Raises:
        UserError: Moonshine is not installed, or the file can't be read.
    """
    path = Path(path)
    first_frame_s, duration_s = read_start_times(path).first_frame_s, read_duration(path)
    header = _describe_run(path)
    done, records = _read_journal(journal, header)
    for part in _transcribe_parts(path, done):
        records += make_records(part.lines, first_frame_s)
        if journal is not None:
            journal.parent.mkdir(parents=True, exist_ok=True)
            write_json(journal, {"run": header, "samples": part.stop, "records": records})
        if progress is not None:
            end_s = part.stop / RATE
            progress(min(1.0, end_s / duration_s) if duration_s > 0 else 1.0)
    return records


def make_records(lines: "list[SpokenLine]", first_frame_s: float = 0.0) -> list[dict[str, Any]]:
    """Return spoken lines as records of an OCR document; what ends before the video is left out."""
    return [
        {
            "text": line.text,
            "score": round(line.score, 4),
            "kind": "spoken",
            "start_s": round(max(0.0, line.start_s - first_frame_s), 3),
            "end_s": round(line.end_s - first_frame_s, 3),
        }
        for line in lines
        if line.end_s > first_frame_s
    ]


def _describe_run(path: Path) -> dict[str, Any]:
    try:
        stamp = FileStamp.of(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); give access to it") from error
    file = {"form": FORM, "size": stamp.size, "mtime_ns": stamp.mtime_ns}
    return file | identify_recogniser()


def _read_journal(journal: Path | None, header: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """Return how many samples are done, and their records; 0 of a journal of anything else."""
    try:
        kept = json.loads(journal.read_text(encoding="utf-8")) if journal is not None else {}
        if kept.get("run") == header:
            return int(kept["samples"]), list(kept["records"])
    except (OSError, ValueError, KeyError, AttributeError):
        pass  # there is none, or another program has written it
    return 0, []


class _Part(NamedTuple):
    """Lines of sound that was transcribed together, and where the next part begins."""

    lines: list[SpokenLine]  # by the file's clock
    stop: int  # samples of the video's sound


class _Stretch:
    """Sound without a gap that is still to be transcribed."""

    def __init__(self, first: int, first_s: float) -> None:
        self._first, self._first_s = first, first_s  # its first sample, and the time of that
        self._start = first  # of what is held
        self._pieces: list[NDArray] = []
        self.length = 0  # samples that are held

    def add(self, samples: NDArray) -> None:
        self._pieces.append(samples)
        self.length += len(samples)

    def skip(self, count: int) -> None:
        """Leave out samples where nothing is held."""
        self._start += count

    def transcribe(self, size: int, is_last: bool) -> _Part:
        """Transcribe the first ``size`` samples that are held, and hold the rest of them."""
        held = np.concatenate(self._pieces)
        lines, cut_s = transcribe_samples(held[:size]), size / RATE
        if not is_last:
            lines, cut_s = _leave_unfinished(lines, cut_s)
        shift_s = self._first_s + (self._start - self._first) / RATE
        lines = [
            line._replace(start_s=line.start_s + shift_s, end_s=line.end_s + shift_s)
            for line in lines
        ]
        taken = min(size, math.ceil(cut_s * RATE))
        self._start += taken
        self._pieces, self.length = [held[taken:]], len(held) - taken
        return _Part(lines, self._start)


def _leave_unfinished(lines: list[SpokenLine], end_s: float) -> tuple[list[SpokenLine], float]:
    """Return the lines of sound of ``end_s`` seconds that goes on, and when the next part begins.

    A line that may go on after the end is left to that.
    """
    if lines and lines[-1].end_s > end_s - _TAIL_S and lines[-1].start_s > end_s / 2:
        *lines, unfinished = lines
        begins_s = unfinished.start_s - _LEAD_S
    else:
        begins_s = end_s - _TAIL_S
    return lines, max([begins_s, *(line.end_s for line in lines)])


def _transcribe_parts(path: Path, done: int) -> Iterator[_Part]:
    """Yield the parts of a video's sound, in order, behind the samples that are done."""
    size = int(PART_S * RATE)
    stretch, position = _Stretch(0, 0.0), 0
    for samples, start_s in stream_sound(path):
        if start_s is not None:
            if stretch.length:
                yield stretch.transcribe(stretch.length, True)
            stretch = _Stretch(position, start_s)
        skipped = min(max(0, done - position), len(samples))  # by an earlier run
        stretch.skip(skipped)
        stretch.add(samples[skipped:])
        position += len(samples)
        while stretch.length >= size:
            yield stretch.transcribe(size, False)
    if stretch.length:
        yield stretch.transcribe(stretch.length, True)


def transcribe_samples(samples: NDArray) -> list[SpokenLine]:
    """Return what is said in (N,) float32 samples, in a process of its own.

    Raises:
        UserError: the recogniser can't be loaded.
        RuntimeError: its process ended.
    """
    find_model()
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _CHILD],
        input=np.ascontiguousarray(samples, np.float32).tobytes(),
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    if found.returncode:
        reason = " ".join(found.stderr.decode("utf-8", "replace").split())[-300:]
        raise RuntimeError(f"Moonshine's process ended ({found.returncode}): {reason}")
    return [SpokenLine(*line) for line in json.loads(found.stdout)]
