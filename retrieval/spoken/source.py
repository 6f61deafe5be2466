"""Source of an index's lines of text: what is read in the videos, and what is said in them."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_loader.ocr.ocr_words import OcrLine
from retrieval.index.database import ContentStamp
from retrieval.index.ocr_text import OcrSource
from retrieval.spoken.embedded import read_embedded_subtitles
from retrieval.spoken.subtitles import SpokenLine, find_subtitle_files, read_subtitle_file
from retrieval.spoken.timeline import read_start_times
from utils.errors import UserError

logger = logging.getLogger(__name__)

_SEPARATOR = "; subtitles "  # in the stamp of a text, before the checksum of its subtitles


class WithSubtitles(OcrSource):
    """The text of another source, and the subtitles of the videos: beside them, and in them.

    A video is indexed again when a subtitle file beside it has come, changed or gone. One that
    can't be read is named in the log, and left out.

    Args:
        text: where the other lines come from.
        folder: of the videos.
    """

    def __init__(self, text: OcrSource, folder: Path) -> None:
        self.text, self._folder = text, folder
        self.kind, self.is_costly = text.kind, text.is_costly
        self._files: dict[str, list[Path]] = {}

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return self.text.settings()

    def find_documents(self, videos: Sequence[str]) -> None:  # noqa: D102
        self.text.find_documents(videos)
        self._files = find_subtitle_files(self._folder, videos)

    def prepare(self) -> None:  # noqa: D102
        self.text.prepare()

    def get_stamp(self, video: str, known: ContentStamp | None) -> ContentStamp | None:  # noqa: D102
        if known is not None:  # what the other source knows is without the subtitles
            known = replace(known, sha256=known.sha256.partition(_SEPARATOR)[0])
        stamp = self.text.get_stamp(video, known)
        if not self._files.get(video):
            return stamp
        stamp = ContentStamp(0, 0, "") if stamp is None else stamp
        checksum = hash_files(self._files[video])
        return replace(stamp, sha256=f"{stamp.sha256}{_SEPARATOR}{checksum}")

    def read_lines(self, video: str, file: Path) -> list[OcrLine]:  # noqa: D102
        lines = self.text.read_lines(video, file)
        spoken = read_subtitles(file, self._files.get(video, ()))
        return lines + [
            OcrLine(line.text, line.score, {}, "spoken", (line.start_s, line.end_s))
            for line in spoken
        ]


def hash_files(files: Sequence[Path]) -> str:
    """Return the SHA-256 of files' names and contents; one that can't be read counts as empty."""
    checksum = hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError:
            content = b""
        checksum.update(f"{file.name!a} {len(content)}\n".encode() + content)
    return checksum.hexdigest()


def read_subtitles(video: Path, files: Sequence[Path]) -> list[SpokenLine]:
    """Return what a video's subtitles say, each line once, in seconds from its first frame.

    What can't be read is named in the log; what is said before the first frame is left out.

    Args:
        files: beside the video.
    """
    spoken: dict[tuple[str, int], SpokenLine] = {}
    try:
        start = read_start_times(video)
        embedded = read_embedded_subtitles(video)
    except UserError as error:
        logger.warning("%s", error)
        return []
    sources = [(embedded, -start.first_frame_s)]
    for file in files:
        try:
            # Players count from where the first of the streams begins.
            sources.append((read_subtitle_file(file), start.file_s - start.first_frame_s))
        except UserError as error:
            logger.warning("%s", error)
    for lines, offset_s in sources:
        for line in lines:
            start_s, end_s = max(0.0, line.start_s + offset_s), line.end_s + offset_s
            if end_s > 0:
                # The same subtitles may be beside a video and in it.
                key = line.text, round(start_s)
                spoken.setdefault(key, line._replace(start_s=start_s, end_s=end_s))
    return sorted(spoken.values(), key=lambda line: (line.start_s, line.end_s))
