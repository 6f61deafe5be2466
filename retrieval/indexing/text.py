"""Where the text of a video comes from, and what of it is in which window."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.ocr_words import OcrLine, document_lines, load_ocr_document
from retrieval.indexing.windows import Window
from retrieval.spotting.video import EVERY_S, spot_video
from retrieval.storage.contents import NewTrack, Stamp
from utils.errors import UserError


class OcrSource:
    """No text at all; the subclasses say where it comes from."""

    kind = "none"

    def settings(self) -> dict[str, Any]:
        """Return what ``source_of`` makes the same source of, as JSON values."""
        return {"kind": self.kind}

    def prepare(self) -> None:
        """Load what ``lines`` needs; raises ``UserError`` where that is no video's fault."""

    def stamp(self, video: str, known: Stamp | None) -> Stamp | None:
        """Return what stands for a video's text now; None: it has none.

        Args:
            video: path within the folder of videos.
            known: the stamp when the video was indexed; returned where nothing has changed.

        Raises:
            UserError: it can't be read.
        """
        return None

    def lines(self, video: str, file: Path) -> list[OcrLine]:
        """Return the lines of text of a video; raises ``UserError``."""
        return []


class OcrFolder(OcrSource):
    """OCR documents that mirror the videos' paths: ``a/b.mp4`` has ``a/b.json``.

    Raises:
        UserError: there is no such folder.
    """

    kind = "folder"

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give that of the OCR documents as --ocr")
        self.folder = folder

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": self.kind, "folder": os.fsencode(self.folder.absolute()).hex()}

    def document(self, video: str) -> Path:
        """Return where the document of a video is, if it has one."""
        return (self.folder / video).with_suffix(".json")

    def stamp(self, video: str, known: Stamp | None) -> Stamp | None:  # noqa: D102
        file = self.document(video)
        if not file.exists():
            return None
        return known if known is not None and known.is_like(file) else Stamp.of(file)

    def lines(self, video: str, file: Path) -> list[OcrLine]:  # noqa: D102
        document = load_ocr_document(self.document(video))
        return [] if document is None else document_lines(document, str(self.document(video)))


class Spotted(OcrSource):
    """Text that is spotted while the index is made.

    Args:
        script: of the text, as ``RapidOcrSpotter`` knows it.
        every: seconds from one frame that is looked at to the next.
    """

    kind = "spotted"

    def __init__(self, script: str = "latin", every: float = EVERY_S) -> None:
        self.script, self.every = script, every
        self._spotter: Any = None

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": self.kind, "script": self.script, "every": self.every}

    def stamp(self, video: str, known: Stamp | None) -> Stamp | None:  # noqa: D102
        return Stamp(0, 0, f"spotted: {self.script}, every {self.every:g} s")

    def prepare(self) -> None:  # noqa: D102
        from retrieval.spotting.rapid_ocr import RapidOcrSpotter

        self._spotter = RapidOcrSpotter(self.script)

    def lines(self, video: str, file: Path) -> list[OcrLine]:  # noqa: D102
        return document_lines(spot_video(file, self._spotter, self.every), str(file))


def source_of(settings: dict[str, Any]) -> OcrSource:
    """Return the source that ``OcrSource.settings`` has described; raises ``UserError``."""
    if settings["kind"] == OcrFolder.kind:
        return OcrFolder(Path(os.fsdecode(bytes.fromhex(settings["folder"]))))
    if settings["kind"] == Spotted.kind:
        return Spotted(settings["script"], settings["every"])
    return OcrSource()


def tracks_of(
    lines: Sequence[OcrLine],
    times: np.ndarray,
    size: tuple[int, int],
    windows: Sequence[Window],
) -> list[NewTrack]:
    """Return the lines as an index keeps them; those that are seen in no frame are left out.

    Args:
        lines: of the video.
        times: (N,) when each frame is shown, seconds.
        size: width and height of a frame, pixels.
        windows: of the video.
    """
    tracks = []
    for line in lines:
        frames = sorted(frame for frame in line.frames if frame < len(times))
        if not frames:
            continue
        quads = np.array([line.frames[frame] for frame in frames]).reshape(-1, 4, 2)
        quads = np.clip(quads / np.array(size), 0.0, 1.0)
        corners = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
        boxes = np.column_stack([times[frames], corners]).astype(np.float32)
        text = line.text.encode("utf-8", "replace").decode()  # JSON may hold half characters
        span = float(times[frames[0]]), float(times[frames[-1]])
        tracks.append(NewTrack(text, line.score, *span, boxes, seen_in(line, windows)))
    return tracks


def seen_in(line: OcrLine, windows: Sequence[Window]) -> tuple[int, ...]:
    """Return the positions of the windows in which a line is seen in some frame."""
    frames = np.sort(np.array(list(line.frames), dtype=np.int64))
    firsts, stops = (np.array([getattr(w, name) for w in windows]) for name in ("first", "stop"))
    there = np.searchsorted(frames, stops) > np.searchsorted(frames, firsts)
    return tuple(np.flatnonzero(there).tolist())
