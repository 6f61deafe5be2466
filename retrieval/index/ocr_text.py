"""Source of the text in videos: OCR documents, a text spotter, or none."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import retrieval.registrations  # noqa: F401
from data_loader.ocr.ocr_words import OcrLine, load_ocr_document, parse_document
from data_loader.ocr.paths import find_documents
from retrieval.errors import IndexFolderError
from retrieval.index.records import ContentStamp, decode_path, encode_path
from retrieval.spotting.text_spotter import build_spotter, check_engine, describe_identity
from retrieval.spotting.video import EVERY_S, spot_video
from utils.errors import UserError

logger = logging.getLogger(__name__)


class OcrSource:
    """No text at all; the subclasses say where it comes from.

    Videos are named by their paths within the folder.
    """

    kind = "none"
    is_costly = False  # whether reading a video's text again takes long

    def settings(self) -> dict[str, Any]:
        """Return what ``load_source`` makes the same source of, as JSON values."""
        return {"kind": self.kind}

    def find_documents(self, videos: Sequence[str], moved: Mapping[str, str] | None = None) -> None:
        """Find the text of all videos of the folder, before ``get_stamp`` and ``read_lines``.

        Args:
            moved: name of a video -> the one that its document may still have.
        """

    def count_missing(self, videos: Sequence[str]) -> int:
        """Return how many of these videos should have a document and have none."""
        return 0

    def move_documents(self, moved: Mapping[str, str]) -> None:
        """Rename the documents of videos that have moved (new name -> old), where they are ours."""

    def prepare(self) -> None:
        """Load what ``read_lines`` needs; a ``UserError`` concerns all videos."""

    def prepare_elsewhere(self) -> None:
        """Prepare on another machine; a ``UserError``, too, where its engine is another one."""
        self.prepare()

    def get_stamp(self, video: str, known: ContentStamp | None) -> ContentStamp | None:
        """Return what identifies a video's text now; None: it has none.

        ``known``, the stamp when it was indexed, is returned where nothing has changed. Raises
        ``UserError`` where the text can't be read.
        """
        return None

    def read_lines(self, video: str, file: Path) -> list[OcrLine]:
        """Return the lines of text of a video; a ``UserError`` concerns this one only."""
        return []


class OcrFolder(OcrSource):
    """OCR documents that mirror the videos' paths; see ``data_loader.ocr.paths``."""

    kind = "folder"

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give that of the OCR documents as --ocr")
        self.folder = folder
        self._documents: dict[str, Path | None] = {}

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": self.kind, "folder": encode_path(self.folder.absolute())}

    def find_documents(  # noqa: D102
        self, videos: Sequence[str], moved: Mapping[str, str] | None = None
    ) -> None:
        self._documents = dict(zip(videos, find_documents(self.folder, videos), strict=True))

    def count_missing(self, videos: Sequence[str]) -> int:  # noqa: D102
        return sum(not self._has_document(video) for video in videos)

    def _has_document(self, video: str) -> bool:
        file = self._documents[video]
        return file is not None and os.path.isfile(file)

    def get_stamp(self, video: str, known: ContentStamp | None) -> ContentStamp | None:  # noqa: D102
        file = self._documents[video]
        if file is None or not self._has_document(video):
            return None
        if known is not None and known.matches_size_and_time(file):
            return known
        return ContentStamp.of(file)

    def read_lines(self, video: str, file: Path) -> list[OcrLine]:  # noqa: D102
        path = self._documents[video]
        document = None if path is None else load_ocr_document(path)
        if document is None:
            return []
        if document.num_repeated:
            logger.warning(
                "%s: %d members are written again under the same key; the last of each counts",
                path, document.num_repeated,
            )  # fmt: skip
        return parse_document(document, str(path))


@dataclass
class SpottedText(OcrSource):
    """Text that is spotted while the index is made; raises ``UserError`` for an unknown engine."""

    kind = "spotted"
    is_costly = True
    engine: str = "rapidocr"
    script: str | None = None  # None: as the engine chooses
    every: float = EVERY_S  # seconds from one frame that is read to the next
    identity: dict[str, str] | None = None  # of an engine that is not installed, and can't spot
    # Whether text of an unknown engine, as indexes of former releases have it, is as that of this.
    accepts_unknown: bool = True

    def __post_init__(self) -> None:
        self._spotter = build_spotter(self.engine, {"script": self.script})
        with suppress(UserError):  # ``prepare`` raises it, where there is something to spot
            self.identity = self._spotter.identity()

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": self.kind, **asdict(self)}

    def get_stamp(self, video: str, known: ContentStamp | None) -> ContentStamp | None:  # noqa: D102
        former = f"spotted: {self.script or 'latin'}, every {self.every:g} s"
        if self.accepts_unknown and known is not None and known.sha256 == former:
            return known
        engine = describe_identity(self.identity or {})
        return ContentStamp(0, 0, f"spotted: {engine}, every {self.every:g} s")

    def prepare(self) -> None:  # noqa: D102
        self._spotter.load()

    def prepare_elsewhere(self) -> None:  # noqa: D102
        check_engine(self._spotter, self.identity)
        self.prepare()

    def read_lines(self, video: str, file: Path) -> list[OcrLine]:  # noqa: D102
        return parse_document(spot_video(file, self._spotter, self.every), str(file))


def load_source(out: str | Path, settings: dict[str, Any]) -> OcrSource:
    """Return the source with these ``OcrSource.settings``.

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
    """Return a source of spotted text for an index whose source has had these ``settings``."""
    before, source = settings or {}, SpottedText(engine, script)
    is_same = before.get("identity") in (None, source.identity)
    source.accepts_unknown = before.get("accepts_unknown", True) and is_same
    return source
