"""Source of an index's lines of text: what is read in the videos, and what is said in them."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_loader.ocr.ocr_words import OcrLine, parse_document
from retrieval.index.ocr_text import OcrSource
from retrieval.index.records import ContentStamp
from retrieval.index.remote_videos import Place
from retrieval.spoken.embedded import read_embedded_subtitles
from retrieval.spoken.subtitles import SpokenLine, find_subtitle_files, read_subtitle_file
from retrieval.spoken.timeline import read_start_times
from retrieval.spoken.transcription import (
    find_model,
    identify_recogniser,
    make_records,
    transcribe_video,
)
from retrieval.spotting.text_spotter import describe_identity
from utils.errors import UserError

logger = logging.getLogger(__name__)

_SEPARATOR = "; "  # in a stamp, between what is read and what is said


class SpokenSource(OcrSource):
    """The text of another source, and what is said: subtitles beside the videos and in them.

    A video is indexed again when a subtitle file beside it has come, changed or gone. One that
    can't be read is named in the log, and left out.

    Args:
        text: where the other lines come from, those of documents that hold speech among them.
        locate: gives the place of a video.
        speech: whether videos without subtitles and without speech in their documents are
            transcribed.
    """

    def __init__(
        self, text: OcrSource, locate: Callable[[str], Place], speech: bool = False
    ) -> None:
        self.text, self.speech, self._locate = text, speech, locate
        self.kind, self.is_costly = text.kind, text.is_costly or speech
        self._files: dict[str, list[Place]] = {}

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return self.text.settings() | ({"speech": True} if self.speech else {})

    def find_documents(self, videos: Sequence[str], *others: Any) -> None:  # noqa: D102
        self.text.find_documents(videos, *others)
        self._files = find_subtitle_files({video: self._locate(video) for video in videos})

    def count_missing(self, videos: Sequence[str]) -> int:  # noqa: D102
        return self.text.count_missing(videos)

    def move_documents(self, moved: Mapping[str, str]) -> None:  # noqa: D102
        self.text.move_documents(moved)

    def prepare(self) -> None:  # noqa: D102
        self.text.prepare()
        if self.speech:
            find_model()

    def prepare_elsewhere(self) -> None:  # noqa: D102
        self.text.prepare_elsewhere()
        self.prepare()

    def get_stamp(self, video: str, known: ContentStamp | None) -> ContentStamp | None:  # noqa: D102
        if known is not None:  # what the other source knows is without the subtitles
            known = replace(known, sha256=known.sha256.partition(_SEPARATOR)[0])
        stamp, spoken = self.text.get_stamp(video, known), ""
        if self._files.get(video):
            spoken = f"subtitles {hash_files(self._files[video])}"
        elif self.speech:
            spoken = f"speech {describe_identity(identify_recogniser())}"
        if not spoken:
            return stamp
        stamp = ContentStamp(0, 0, "") if stamp is None else stamp
        return replace(stamp, sha256=f"{stamp.sha256}{_SEPARATOR}{spoken}")

    def read_lines(self, video: str, file: Path) -> list[OcrLine]:  # noqa: D102
        lines = self.text.read_lines(video, file)
        spoken = make_records(read_subtitles(file, self._files.get(video, ())))
        if self.speech and not spoken and all(line.kind != "spoken" for line in lines):
            spoken = transcribe_video(file)
        return lines + parse_document(dict(enumerate(spoken)), str(file))


def hash_files(files: Sequence[Place]) -> str:
    """Return the SHA-256 of files' names and contents; one that can't be read counts as empty.

    Of files at a URL size, time and ETag stand for the content, so that nothing is read for it.
    """
    checksum = hashlib.sha256()
    for file in files:
        try:
            if isinstance(file, Path):
                content = file.read_bytes()
            else:
                content = repr(file.get_status().make_stamp()).encode()
        except (UserError, OSError):
            content = b""
        checksum.update(f"{file.name!a} {len(content)}\n".encode() + content)
    return checksum.hexdigest()


def read_subtitles(video: Path, files: Sequence[Place]) -> list[SpokenLine]:
    """Return what a video's subtitles say, each line once, in seconds from its first frame.

    What can't be read is named in the log; what is said before the first frame is left out.

    Args:
        files: beside the video.
    """
    spoken: dict[tuple[str, int], SpokenLine] = {}
    try:
        embedded = read_embedded_subtitles(video)
        if not embedded and not files:  # as of most videos
            return []
        start = read_start_times(video)
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
