"""Subtitle files beside a video: which are a video's, and what is said in them at what time.

``a/talk.mp4`` has ``a/talk.srt``, ``a/talk.en.srt`` and ``a/talk.mp4.srt``, of every language that
is there, in the forms SubRip, WebVTT and SubStation Alpha.
"""

import codecs
import html
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from retrieval.index.remote_videos import Place, RemoteFolderPlace
from utils.errors import UserError

logger = logging.getLogger(__name__)

SUBTITLE_EXTENSIONS = (".srt", ".vtt", ".ass", ".ssa")
MAX_BYTES = 10_000_000  # of a subtitle file; a long film's has a tenth of a million
# A caption is still shown where the next one begins less than this after its end, in seconds.
_ADJACENT_S = 0.15
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What subtitles without Unicode are written in, where their letters are not Latin ones.
_NOT_LATIN = "cp1251 cp1253 cp1255 cp1256 gb18030 big5 shift_jis euc_kr".split()


class Caption(NamedTuple):
    """What is shown as one subtitle."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]  # without markup and blanks at their ends; none is empty


class SpokenLine(NamedTuple):
    """What is said from one time to another, in seconds from the video's first frame."""

    text: str
    start_s: float
    end_s: float
    score: float = 1.0  # confidence of a transcription, in [0, 1]; subtitles were written by people


def find_subtitle_files(videos: Mapping[str, Place]) -> dict[str, list[Place]]:
    """Return the subtitle files of each video (name -> file), sorted by name.

    Beside a video at a URL they are those that were there when its folder was last listed.

    A file belongs to the videos whose name, with or without extension, is the longest part of its
    own: ``talk.2.srt`` to ``talk.2.mp4`` and not to ``talk.mp4``.
    """
    owners: dict[Path | RemoteFolderPlace, dict[str, list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for video, path in videos.items():
        for name in (path.name, path.stem):
            owners[path.parent][name].append(video)
    found: dict[str, list[Place]] = {video: [] for video in videos}
    for folder, names in owners.items():
        for file in _list_subtitles(folder):
            part = file.stem
            while part not in names and "." in part:
                part = part.rpartition(".")[0]
            for video in names.get(part, ()):
                found[video].append(file)
    return found


def _list_subtitles(folder: Path | RemoteFolderPlace) -> list[Place]:
    if isinstance(folder, RemoteFolderPlace):
        return folder.list_files(SUBTITLE_EXTENSIONS)
    try:
        files = [path for path in folder.iterdir() if path.suffix.lower() in SUBTITLE_EXTENSIONS]
        return sorted(path for path in files if path.is_file())
    except OSError:  # the folder is gone, or may not be read; so are its videos
        return []


def read_subtitle_file(file: Place) -> list[SpokenLine]:
    """Return what is said by a subtitle file, by its own times.

    Raises:
        UserError: it can't be read, or holds no subtitles.
    """
    try:
        size = file.stat().st_size if isinstance(file, Path) else file.get_status().size
        if size > MAX_BYTES:
            raise UserError(
                f"{file}: is larger than {MAX_BYTES // 1_000_000} MB, so no subtitle file; give it "
                "another name"
            )
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror}); give access to it") from error
    text = decode_subtitles(content, file)
    captions = parse_captions(text, file)
    if not captions and text.strip() and "-->" not in text and "Dialogue:" not in text:
        raise UserError(
            f"{file}: holds no subtitles that can be read; replace it, or take it away from the "
            "video"
        )
    return merge_captions(captions)


def decode_subtitles(content: bytes, file: Place) -> str:
    """Return the text of a subtitle file; what is not Unicode is guessed, which is said."""
    for mark, encoding in _BOMS.items():
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    even, odd = content[:1000:2].count(0), content[1:1000:2].count(0)
    if even + odd > 0.05 * len(content[:1000]):  # UTF-16 without a mark: all digits have a zero
        return content.decode("utf-16-le" if odd > even else "utf-16-be", "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        encoding = _guess_encoding(content)
        logger.warning(
            "%s: is not UTF-8, and was read as %s, which is a guess; save it as UTF-8 if its words "
            "are wrong", file, encoding,
        )  # fmt: skip
        return content.decode(encoding, "replace")


def _guess_encoding(content: bytes) -> str:
    from charset_normalizer import from_bytes

    # Times, numbers and markup say nothing: only lines with letters that are not ASCII.
    text = b"\n".join(line for line in content.splitlines() if not line.isascii())
    num_ascii = sum(bytes([code]).isalpha() for code in text)
    if num_ascii > len(text) / 3:  # letters of other scripts stand alone, accented ones do not
        return "cp1252"
    best = from_bytes(text, cp_isolation=_NOT_LATIN).best()
    return "cp1252" if best is None else best.encoding


def parse_captions(text: str, file: Place) -> list[Caption]:
    """Return the captions of a subtitle file's text, by time; raises ``UserError``."""
    import pysubs2

    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    if text.lstrip().startswith("WEBVTT"):
        text = _keep_cues(text)
    try:
        try:
            found = pysubs2.SSAFile.from_string(text)
        except pysubs2.FormatAutodetectionError:
            form = pysubs2.formats.get_format_identifier(file.suffix.lower())
            found = pysubs2.SSAFile.from_string(text, form)
    except Exception as error:  # whatever the library makes of a strange file
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file}: holds no subtitles that can be read ({type(error).__name__}: {reason}); "
            "replace it, or take it away from the video"
        ) from error
    events = [event for event in found if event.is_text]
    captions = [
        Caption(
            event.start / 1000, max(event.start, event.end) / 1000, clean_lines(event.plaintext)
        )
        for event in events
    ]
    return sorted(caption for caption in captions if caption.lines)


def _keep_cues(text: str) -> str:
    """Return a WebVTT file's text without notes, styles and the names of its cues.

    A cue's name may be any line before that of its times, and would be taken for text.
    """
    cues = []
    text = re.sub(r"<\d[\d:.]*>", "", text)  # when a word within a cue is said: taken for a cue's
    for block in re.split(r"\n\n+", text):
        name, arrow, rest = block.partition("-->")
        if arrow:
            cues.append(f"{name.rpartition(chr(10))[2]}{arrow}{rest}")
    return "\n\n".join(["WEBVTT", *cues]) + "\n"


def clean_lines(text: str) -> tuple[str, ...]:
    """Return the lines of a caption, without entities and marks that are no text."""
    text = html.unescape(re.sub(r"</?[a-zA-Z][^<>]*>", "", text))
    text = re.sub("[\u200b\u2060\ufeff]", "", text)  # no blanks, and no text
    lines = [" ".join(line.split()) for line in text.split("\n")]
    # A storyboard names a part of a picture for each time, and is no text.
    return tuple(line for line in lines if line and "#xywh=" not in line)


def merge_captions(captions: Iterable[Caption]) -> list[SpokenLine]:
    """Return captions, by time, as lines that are said once.

    Rolling captions show each line again above the next one, and grow word by word: a line that
    goes on, or is continued, in the next caption is the same line.
    """
    spoken: list[SpokenLine] = []
    # Text of a line that was just shown -> which of ``spoken`` it is in, and until when.
    shown: dict[str, tuple[int, float]] = {}
    for caption in captions:
        earliest = caption.start_s - _ADJACENT_S
        shown = {line: (at, end) for line, (at, end) in shown.items() if end >= earliest}
        fresh = []
        for line in caption.lines:
            at = shown[line][0] if line in shown else _continue_line(spoken, shown, line)
            if at is None:
                fresh.append(line)
                continue
            end = max(spoken[at].end_s, caption.end_s)
            spoken[at] = spoken[at]._replace(end_s=end)
            shown[line] = at, end
        if fresh:
            spoken.append(SpokenLine(" ".join(fresh), caption.start_s, caption.end_s))
            shown |= {line: (len(spoken) - 1, caption.end_s) for line in fresh}
    return spoken


def _continue_line(
    spoken: list[SpokenLine], shown: dict[str, tuple[int, float]], line: str
) -> int | None:
    """Let a line take the place of one that was shown as its beginning; None: there is none."""
    for old, (at, _) in shown.items():
        if line.startswith(old) and spoken[at].text.endswith(old):
            text = spoken[at].text.removesuffix(old) + line
            spoken[at] = spoken[at]._replace(text=text)
            del shown[old]
            return at
    return None
