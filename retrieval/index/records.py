"""Records of an index: what is written to it, and what is read from it, whatever keeps it.

A path is kept as the bytes that it is: names need not be text. Shapes: E width of the common space.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from retrieval.index.words import fold_formerly, get_words, split_at_signs
from retrieval.results import Box, TrackKind
from utils.errors import UserError
from utils.files import FileStamp, hash_file

WINDOW_S, STRIDE_S = 10.0, 5.0  # of the entries of a new index


@dataclass(frozen=True)
class ContentStamp(FileStamp):
    """Size, time of change, and ``sha256`` of the content of a file when it was indexed."""

    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> Self:
        """Look at a file and read it; raises ``UserError``."""
        try:
            found = FileStamp.of(path)
            return cls(found.size, found.mtime_ns, hash_file(Path(path)))
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror})") from error

    def matches_size_and_time(self, path: Path) -> bool:
        """Whether a file still has this size and time; raises ``OSError``."""
        return FileStamp(self.size, self.mtime_ns) == FileStamp.of(path)

    def find_same(self, path: Path) -> Self | None:
        """Return the stamp of a file that still has this content; None where it has another.

        A file of the same size and time counts as unchanged; otherwise its content decides. Raises
        ``UserError`` or ``OSError`` where it can't be read.
        """
        if self.matches_size_and_time(path):
            return self
        if path.stat().st_size != self.size:
            return None
        found = type(self).of(path)
        return found if found.sha256 == self.sha256 else None


@dataclass
class NewEntry:
    """A window of a video."""

    start_s: float
    end_s: float
    thumbnail: bytes  # a JPEG
    # Name of array -> (E,) float32; frame vectors are (F, E).
    embeddings: dict[str, NDArray] = field(default_factory=dict)
    frame_times: Sequence[float] = ()  # (F,) of the frames that the model is shown, seconds


@dataclass(frozen=True)
class NewTrack:
    """A line of text of a video."""

    text: str  # as it was read
    score: float  # confidence of the reading
    start_s: float  # when it is first seen
    end_s: float  # when it was last seen
    boxes: NDArray  # (N, 5) float32: time, left, top, right, bottom; by time
    seen_in: tuple[int, ...]  # positions of the video's entries in which it is seen or said
    kind: TrackKind = "read"


@dataclass
class NewVideo:
    """A video with all of its entries and tracks."""

    path: str  # within the indexed folder, ``/`` between its parts
    stamp: ContentStamp  # of the file
    ocr_stamp: ContentStamp | None  # of its OCR document; None where it has none
    duration_s: float  # until the end of its last frame
    width: int  # of a frame, pixels
    height: int  # of a frame, pixels
    entries: list[NewEntry] = field(default_factory=list)
    tracks: list[NewTrack] = field(default_factory=list)


def build_name_track(path: str, duration_s: float, num_entries: int) -> NewTrack:
    """Return the words of a video's path within its folder as a line that all its entries have.

    ``2019/charlie_chaplin.mp4`` is ``2019 charlie chaplin``.
    """
    words = split_at_signs(os.path.splitext(path)[0])
    nowhere = np.zeros((0, 5), np.float32)
    return NewTrack(words, 1.0, 0.0, duration_s, nowhere, tuple(range(num_entries)), "name")


Stamps = tuple[ContentStamp, ContentStamp | None]  # of a video's file and of its OCR document


class KnownVideo(NamedTuple):
    """A video of the index, with the stamps of its file and of its OCR document."""

    id: int
    stamp: ContentStamp
    ocr_stamp: ContentStamp | None


class KnownEntry(NamedTuple):
    """A window of a video of the index."""

    id: int
    start_s: float


class KnownLine(NamedTuple):
    """A line of text that was read in a video of the index, as ``NewTrack``."""

    text: str
    score: float
    boxes: NDArray  # (N, 5) float32


class Postings(NamedTuple):
    """Where a word stands: the line (M,) and an entry (M,) that has it, by their ids, ascending."""

    entries: NDArray
    tracks: NDArray


class EntryTable(NamedTuple):
    """Where the entry of each row is: (N,) each; 0 where a row is dead."""

    videos: NDArray  # int64 ids
    starts: NDArray  # float64, seconds
    ends: NDArray


class Line(NamedTuple):
    """A line of text of a video."""

    text: str
    start_s: float
    end_s: float
    kind: TrackKind
    boxes: NDArray  # (F, 5) float32: time and corners; F is 0 without a place
    is_former: bool = False  # whether the index has its words as formats before 4

    @property
    def words(self) -> list[str]:
        """Its words, as the index has them."""
        words = get_words(self.text)
        return [fold_formerly(word) for word in words] if self.is_former else words

    @property
    def box(self) -> Box | None:
        """The mean over its frames."""
        return Box(*self.boxes[:, 1:].mean(axis=0).tolist()) if len(self.boxes) else None

    def find_box(self, time_s: float) -> Box | None:
        """Return where it is at a time: in the nearest of the frames in which it was spotted."""
        if not len(self.boxes):
            return None
        nearest = np.abs(self.boxes[:, 0] - time_s).argmin()
        return Box(*self.boxes[nearest, 1:].tolist())

    def find_first(self, start_s: float) -> float:
        """Return when it is first seen or said from a time on; if not at all, its beginning."""
        if self.start_s >= start_s or not len(self.boxes):
            return max(self.start_s, start_s)
        times = self.boxes[:, 0]
        later = times[times >= start_s]
        return float(later.min()) if len(later) else start_s


class Damage(NamedTuple):
    """What is wrong with a file of an index."""

    file: str  # within the folder
    what: str


def encode_path(path: Path) -> str:
    """Return a path as ``meta`` keeps it: its bytes, in hexadecimal."""
    return os.fsencode(path).hex()


def decode_path(text: str) -> Path:
    """Return the path that ``encode_path`` was given."""
    return Path(os.fsdecode(bytes.fromhex(text)))
