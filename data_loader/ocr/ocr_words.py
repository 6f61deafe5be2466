"""OCR words of a video and where each was seen, from its document (TextVR, arXiv 2305.03347).

A document is one JSON object per video; each member is one tracked line of text::

    "17": {"text": "SALE UP TO 60 OFF", "score": 0.93,
           "tracks": {"0": [x1, y1, x2, y2, x3, y3, x4, y4, a, b], "5": [...]}}

What is said, in subtitles or speech, may stand beside it. It has a time and no place; models are
not given it::

    "18": {"text": "everything must go", "score": 1.0, "kind": "spoken",
           "start_s": 12.5, "end_s": 14.0}

A record that is written twice (under one key) counts once, as in the published code: the last is
taken, and the others are counted.

Track vectors have 12 numbers: first frame, last frame, number of tracked frames, mean x, mean y,
width, height, ex, ey, growth of the width, growth of the height, score; frames and pixels until
``normalise_tracks`` makes them shares of the video's length and size. First and last are those of
``track_order``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from base.config import ConfigModel
from utils.errors import UserError
from utils.files import read_text
from utils.unicode_text import replace_surrogates

TRACK_SIZE = 12

# The bounds of a document: far beyond any video's, and so near that float32 holds whatever is made
# of such numbers. One that exceeds them is damaged, or no OCR document.
MAX_BYTES = 512 << 20  # a day of video, read twice a second, has a tenth of them
MAX_CHARACTERS = 100_000  # of a line
MAX_SCORE = 1e6
MAX_COORDINATE = 1e6  # pixels, on both sides of 0
MAX_FRAME_DIGITS = 9
MAX_SECONDS = 1e8

# The word of a video without words, with a zero track vector (published behaviour).
EMPTY_WORD = " "


class OcrParams(ConfigModel):
    """Which words of a document are kept; the defaults are those of the published weights.

    ``drop_words`` and ``noise`` change what training reads, see ``data_loader/ocr/ocr_noise.py``.
    """

    max_words: int = Field(200, ge=1, description="most words of a video, those of highest score")
    min_length: int = Field(3, ge=1, description="fewest characters of a word")
    max_char: int | None = Field(
        123, ge=0, description="largest allowed character code; null allows all (accents, Chinese)"
    )
    duplicates: Literal["published", "drop", "keep"] = Field(
        "published",
        description="published: a word is dropped when it is already there exactly as written, "
        "while kept words are lower-cased (so SALE stays twice, sale once); drop: no word twice, "
        "case ignored; keep: every word",
    )
    track_order: Literal["document", "time"] = Field(
        "document",
        description="which of a line's frames are its first and last, for where and how large it "
        "ends: document: as the document lists them, published; time: by their numbers",
    )
    drop_words: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="training: probability that a word of a video is left out; a video may be left "
        "without words",
    )
    noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="training: probability that a character is misread, as text spotters do "
        "(0 for o, m for rn, a letter lost or doubled, a blank too many or too few); a word that "
        "is then shorter than min_length is left out",
    )

    @property
    def disturbs_words(self) -> bool:
        """Whether training reads other words than validation, test and index."""
        return self.drop_words > 0 or self.noise > 0

    def rules(self, exclude_defaults: bool = False) -> dict[str, Any]:
        """Return what decides on the words of a document, as JSON values: not training's noise."""
        return self.model_dump(
            mode="json", exclude={"drop_words", "noise"}, exclude_defaults=exclude_defaults
        )


LineKind = Literal["read", "spoken"]


class OcrLine(NamedTuple):
    """A record of a document: the text, its score, and frame -> 8 coordinates (4 corners).

    The frames are in the document's order. A spoken line has none, but when it begins and ends, in
    seconds from the video's first frame.
    """

    text: str
    score: float
    frames: dict[int, list[float]]
    kind: LineKind = "read"
    span_s: tuple[float, float] | None = None

    def within(self, first: int, stop: int) -> "OcrLine":
        """Return the line as it is seen in the frames ``first`` … ``stop - 1``, then from 0."""
        frames = {f - first: quad for f, quad in self.frames.items() if first <= f < stop}
        return self._replace(frames=frames)


@dataclass(frozen=True)
class OcrWords:
    """The words of one video, best score first.

    Attributes:
        words: W, lower-cased.
        tracks: (W, 12) float64 in frames and pixels, see the module's docstring; finite.
        num_skipped: records left out: their ``tracks`` are empty (no position), or they are
            written again under the same key.
    """

    words: list[str]
    tracks: np.ndarray
    num_skipped: int = 0


class OcrDocument(dict[str, Any]):
    """The records of a document by their keys.

    Attributes:
        num_repeated: records, or members of them, that are written again under the same key.
    """

    num_repeated = 0


def load_ocr_document(path: str | Path) -> OcrDocument | None:
    """Read an OCR document, None when it is missing; raises ``UserError``."""
    try:
        text = read_text(path, MAX_BYTES)
        records = json.loads(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON
        # As text: the error itself would hold this frame, which holds the error.
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path}: no readable OCR document ({reason}); download it again, or delete it to "
            "use the video without words"
        ) from error
    if not isinstance(records, dict):
        raise UserError(
            f"{path}: an OCR document is a JSON object of tracked lines, but this file holds a "
            f"{type(records).__name__}; write one object per video"
        )
    document = OcrDocument(records)
    document.num_repeated = _count_repeated(text, records)
    return document


def _count_repeated(text: str, records: dict[str, Any]) -> int:
    """Return how many members of a document are written again under the same key.

    Every member has a colon: where there are no more of them than members and colons in texts, no
    member was lost. Only then is the document parsed again, pair by pair, which takes longer.
    """
    num_kept = num_in_texts = 0
    for record in records.values():
        num_kept += 1
        if isinstance(record, dict):
            num_kept += len(record)
            for value in record.values():
                if isinstance(value, dict):
                    num_kept += len(value)
                elif isinstance(value, str):
                    num_in_texts += value.count(":")
    is_escaped = "\\u003a" in text or "\\u003A" in text
    if text.count(":") == num_kept + num_in_texts and not is_escaped:
        return 0
    num_repeated = 0

    def count(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal num_repeated
        members = dict(pairs)
        num_repeated += len(pairs) - len(members)
        return members

    json.loads(text, object_pairs_hook=count)
    return num_repeated


def read_ocr_words(path: str | Path, params: OcrParams) -> OcrWords | None:
    """Read the words of an OCR document, None when it is missing; raises ``UserError``."""
    document = load_ocr_document(path)
    return None if document is None else extract_words(document, params, str(path))


def parse_document(document: Mapping[Any, Any], source: str = "") -> list[OcrLine]:
    """Check a document and return its lines; ``UserError`` names the source and the record."""
    source = source or "OCR document"
    return [_parse_record(item, f"{source}: record {key!r}") for key, item in document.items()]


def extract_words(document: Mapping[str, Any], params: OcrParams, source: str = "") -> OcrWords:
    """Choose the words of a document that the model reads; see ``parse_document``."""
    found = select_words(parse_document(document, source), params)
    num_repeated = getattr(document, "num_repeated", 0)
    return replace(found, num_skipped=found.num_skipped + num_repeated)


def select_words(lines: Sequence[OcrLine], params: OcrParams) -> OcrWords:
    """Split lines into words and choose those that the model reads.

    A line that is read in no frame is counted and left out: spotters write such records. One that
    is spoken is left out.
    """
    kept: list[tuple[str, np.ndarray]] = []
    seen: set[str] = set()
    read = [line for line in lines if line.kind == "read"]
    tracked = [line for line in read if line.frames]
    for text, score, frames, *_ in tracked:
        numbers = sorted(frames) if params.track_order == "time" else list(frames)
        track = _make_track_vector({number: frames[number] for number in numbers}, score)
        for piece in text.split(" "):
            if len(piece) < params.min_length:  # counted before it is stripped
                continue
            if params.max_char is not None and any(ord(char) > params.max_char for char in piece):
                continue
            word = piece.strip()
            # Published weights compare the word as written with the lower-cased ones.
            compared = word if params.duplicates == "published" else word.lower()
            if params.duplicates != "keep" and compared in seen:
                continue
            kept.append((word.lower(), track))
            seen.add(word.lower())
    # sorted() is stable: words of equal score stay in document order.
    kept = sorted(kept, key=lambda pair: -pair[1][-1])[: params.max_words]
    tracks = np.array([track for _, track in kept], dtype=np.float64).reshape(-1, TRACK_SIZE)
    return OcrWords([word for word, _ in kept], tracks, len(read) - len(tracked))


def normalise_tracks(tracks: np.ndarray, num_frames: int, width: int, height: int) -> np.ndarray:
    """Turn (W, 12) frames and pixels into float32 shares of the video's length and decoded size."""
    if min(num_frames, width, height) < 1:
        raise UserError(
            f"a video of {num_frames} frames and {width} x {height} pixels can't scale OCR "
            "tracks; replace the file"
        )
    scale = np.array([num_frames] * 3 + [width, height] * 3 + [1, 1, 1], dtype=np.float64)
    return (np.asarray(tracks, dtype=np.float64) / scale).astype(np.float32)


def _make_track_vector(frames: dict[int, list[float]], score: float) -> np.ndarray:
    """Summarise one line's quadrangles as (12,) float64; see the module's docstring."""
    numbers = list(frames)
    quads = np.array(list(frames.values())).reshape(-1, 4, 2)  # (N, corner, x/y)
    mean_x, mean_y = quads.mean(axis=(0, 1))
    width, height = np.ptp(quads.mean(axis=0), axis=0)
    end_x, end_y = (quads[-1] - quads[-1, 0]).mean(axis=0)
    grow_x, grow_y = np.ptp(quads[-1], axis=0) / (np.ptp(quads[0], axis=0) + 1e-6)
    position = [mean_x, mean_y, width, height, end_x, end_y, grow_x, grow_y]
    return np.array([numbers[0], numbers[-1], len(numbers), *position, score], dtype=np.float64)


def _parse_record(record: Any, where: str) -> OcrLine:
    """Check a record: the one place that says what may stand in it."""

    def error(expected: str, found: Any) -> UserError:
        return UserError(
            f"{where}: expected {expected}, found {_show(found)}; correct the file, or delete it "
            "to use the video without words"
        )

    if not isinstance(record, dict):
        raise error("an object with text, score and tracks", record)
    text, tracks = record.get("text"), record.get("tracks")
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise error(f'a string "text" of at most {MAX_CHARACTERS:,} characters', text)
    text = replace_surrogates(text)
    score = _parse_number(record.get("score"), MAX_SCORE)
    if score is None:
        what = f'a finite number "score" (or a string of one), at most {MAX_SCORE:,.0f}'
        raise error(what, record.get("score"))
    kind = record.get("kind", "read")
    if kind == "spoken":
        span = record.get("start_s"), record.get("end_s")
        start_s, end_s = (_parse_number(value, MAX_SECONDS) for value in span)
        if start_s is None or end_s is None or not 0 <= start_s <= end_s:
            limit = f"{MAX_SECONDS:,.0f}"
            raise error(f"seconds of a spoken line, 0 <= start_s <= end_s <= {limit}", span)
        return OcrLine(text, score, {}, "spoken", (start_s, end_s))
    if kind != "read":
        raise error('a "kind" of "read" or "spoken"', kind)
    if not isinstance(tracks, dict):
        raise error('an object "tracks" of frame numbers', tracks)
    frames = {}
    for name, values in tracks.items():
        if not name.isdecimal() or len(name) > MAX_FRAME_DIGITS:
            digits = f"of at most {MAX_FRAME_DIGITS} digits"
            raise error(f'frame numbers from 0, {digits}, as the keys of "tracks"', name)
        # Corners only, or corners and the two numbers that are not used.
        if not isinstance(values, list) or len(values) not in (8, 10):
            raise error(f"four corners and two numbers for frame {name}", values)
        corners = [_parse_number(value, MAX_COORDINATE) for value in values[:8]]
        if None in corners:
            limit = f"from -{MAX_COORDINATE:,.0f} to {MAX_COORDINATE:,.0f}"
            raise error(f"finite coordinates for frame {name}, {limit}", values)
        frames[int(name)] = corners
    if len(frames) < len(tracks):  # 7 and 07
        raise error('each frame once as a key of "tracks"', sorted(tracks, key=int))
    return OcrLine(text, score, frames)


def _show(value: Any) -> str:
    """Return the beginning of a value, whatever it is, for a message."""
    text = value[:80] if isinstance(value, str | list) else value
    try:
        return repr(text)[:80]
    except ValueError:  # an integer of thousands of digits
        return f"a number of {value.bit_length():,} bits"


def _parse_number(value: Any, limit: float) -> float | None:
    """Return a number, or that of a string, as a float; None: it is none, or beyond the limit."""
    if type(value) is float:  # nearly all are, and a document has many thousands
        return value if -limit <= value <= limit else None  # NaN is not
    if isinstance(value, str):
        try:
            return _parse_number(float(value), limit)
        except ValueError:
            return None
    return float(value) if type(value) is int and -limit <= value <= limit else None
