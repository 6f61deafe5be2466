"""Text of a video: where it comes from, and what of it is seen in which window."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import retrieval.registrations  # noqa: F401
from data_loader.ocr.ocr_words import OcrLine, load_ocr_document, parse_document
from data_loader.ocr.paths import find_documents
from retrieval.errors import IndexFolderError
from retrieval.index.database import ContentStamp, NewTrack, decode_path, encode_path
from retrieval.index.windows import Window, find_windows
from retrieval.spotting.text_spotter import build_spotter, describe_identity
from retrieval.spotting.video import EVERY_S, spot_video
from utils.errors import UserError


class OcrSource:
    """No text at all; the subclasses say where it comes from."""

    kind = "none"

    def settings(self) -> dict[str, Any]:
        """Return what ``load_source`` makes the same source of, as JSON values."""
        return {"kind": self.kind}

    def find_documents(self, videos: Sequence[str]) -> None:
        """Look for the text of all videos of the folder, before ``get_stamp`` and ``read_lines``.

        Videos are named by their paths within the folder.
        """

    def prepare(self) -> None:
        """Load what ``read_lines`` needs; raises ``UserError`` where that is no video's error."""

    def get_stamp(self, video: str, known: ContentStamp | None) -> ContentStamp | None:
        """Return what stands for a video's text now; None: it has none.

        ``known``, the stamp when it was indexed, is returned where nothing has changed. Raises
        ``UserError`` where the text can't be read.
        """
        return None

    def read_lines(self, video: str, file: Path) -> list[OcrLine]:
        """Return the lines of text of a video; raises ``UserError``."""
        return []


class OcrFolder(OcrSource):
    """OCR documents that mirror the videos' paths; see ``data_loader.ocr.paths``.

    Raises:
        UserError: there is no such folder.
    """

    kind = "folder"

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give that of the OCR documents as --ocr")
        self.folder = folder
        self._documents: dict[str, Path | None] = {}

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": self.kind, "folder": encode_path(self.folder.absolute())}

    def find_documents(self, videos: Sequence[str]) -> None:  # noqa: D102
        self._documents = dict(zip(videos, find_documents(self.folder, videos), strict=True))

    def get_stamp(self, video: str, known: ContentStamp | None) -> ContentStamp | None:  # noqa: D102
        file = self._documents[video]
        if file is None or not file.exists():
            return None
        same = known is not None and known.has_size_and_time_of(file)
        return known if same else ContentStamp.of(file)

    def read_lines(self, video: str, file: Path) -> list[OcrLine]:  # noqa: D102
        path = self._documents[video]
        document = None if path is None else load_ocr_document(path)
        return [] if document is None else parse_document(document, str(path))


class SpottedText(OcrSource):
    """Text that is spotted while the index is made.

    Args:
        script: of the text; None: as the engine chooses.
        every: seconds from one frame that is looked at to the next.
        identity: of the engine so far, where that is not installed; nothing can be spotted then.
        accepts_unknown: whether text whose engine was not noted, as in indexes of former releases,
            counts as that of this engine.

    Raises:
        UserError: there is no such engine, or it has no such script.
    """

    kind = "spotted"

    def __init__(
        self,
        engine: str = "rapidocr",
        script: str | None = None,
        every: float = EVERY_S,
        identity: dict[str, str] | None = None,
        accepts_unknown: bool = True,
    ) -> None:
        self.engine, self.script, self.every = engine, script, every
        self.accepts_unknown = accepts_unknown
        self._spotter = build_spotter(engine, {"script": script})
        try:
            self.identity = self._spotter.identity()
        except UserError:  # ``prepare`` says so, where there is something to spot
            self.identity = identity

    def settings(self) -> dict[str, Any]:  # noqa: D102
        names = ("kind", "engine", "script", "every", "identity", "accepts_unknown")
        return {name: getattr(self, name) for name in names}

    def get_stamp(self, video: str, known: ContentStamp | None) -> ContentStamp | None:  # noqa: D102
        former = f"spotted: {self.script or 'latin'}, every {self.every:g} s"
        if self.accepts_unknown and known is not None and known.sha256 == former:
            return known
        engine = describe_identity(self.identity or {})
        return ContentStamp(0, 0, f"spotted: {engine}, every {self.every:g} s")

    def prepare(self) -> None:  # noqa: D102
        self._spotter.load()

    def read_lines(self, video: str, file: Path) -> list[OcrLine]:  # noqa: D102
        return parse_document(spot_video(file, self._spotter, self.every), str(file))


def load_source(out: Path, settings: dict[str, Any]) -> OcrSource:
    """Return the source that ``OcrSource.settings`` has described.

    Raises:
        IndexFolderError: the text of the index was spotted by another engine.
        UserError: there is no such folder of documents.
    """
    if settings["kind"] == OcrFolder.kind:
        return OcrFolder(decode_path(settings["folder"]))
    if settings["kind"] != SpottedText.kind:
        return OcrSource()
    source = SpottedText(**{name: value for name, value in settings.items() if name != "kind"})
    before = settings.get("identity")
    if before is not None and before != source.identity:
        raise IndexFolderError(
            f"{out}: its text was spotted by {describe_identity(before)}, but "
            f"{describe_identity(source.identity)} is installed, and what two engines read can't "
            "be mixed: install the first one, give --spot, which spots the text of all videos "
            "anew, or another --out"
        )
    return source


def spot_anew(engine: str, script: str | None, settings: dict[str, Any] | None) -> SpottedText:
    """Return a source of spotted text for an index with the ``settings`` of another, or of none."""
    before, source = settings or {}, SpottedText(engine, script)
    is_same = before.get("identity") in (None, source.identity)
    source.accepts_unknown = before.get("accepts_unknown", True) and is_same
    return source


def build_tracks(
    lines: Sequence[OcrLine], times: np.ndarray, size: tuple[int, int], windows: Sequence[Window]
) -> list[NewTrack]:
    """Return the lines as an index keeps them; those that are seen in no frame are left out.

    ``times`` (N,) says when each frame is shown, in seconds; ``size`` is (width, height) in pixels.
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
        places = find_windows(list(line.frames), windows)
        tracks.append(NewTrack(text, line.score, *span, boxes, places))
    return tracks
