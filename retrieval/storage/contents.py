"""What is written to an index.

Shapes: E width of the common space.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from numpy.typing import NDArray
from typing_extensions import Self

from utils.errors import UserError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Stamp:
    """What a file was when it was indexed.

    Attributes:
        size: bytes.
        mtime_ns: time of its last change.
        sha256: of its content.
    """

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at a file and read it; raises ``UserError``."""
        try:
            found = path.stat()
            return cls(found.st_size, found.st_mtime_ns, sha256_of(path))
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror})") from error

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return what ``stamp_text`` has written."""
        values = json.loads(text)
        return None if values is None else cls(**values)

    def is_like(self, path: Path) -> bool:
        """Whether size and time are still those; raises ``OSError``."""
        found = path.stat()
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)


def stamp_text(stamp: Stamp | None) -> str:
    """Return a stamp, or that there is none, as the database keeps it."""
    return json.dumps(None if stamp is None else asdict(stamp))


def sha256_of(path: Path) -> str:
    """Return the checksum of a file's content; raises ``OSError``."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass
class NewEntry:
    """A window of a video.

    Attributes:
        start_s: begin of its time span.
        end_s: end of it.
        embeddings: array name -> (E,) float32; see ``storage.writer.ARRAYS``.
        thumbnail: a JPEG.
    """

    start_s: float
    end_s: float
    embeddings: dict[str, NDArray]
    thumbnail: bytes


@dataclass(frozen=True)
class NewTrack:
    """A line of text of a video.

    Attributes:
        text: as it was read.
        score: confidence of the reading.
        start_s: when it is first seen.
        end_s: when it was last seen.
        boxes: (N, 5) float32: time, left, top, right, bottom; by time.
        seen_in: positions of the video's entries in which it is seen.
    """

    text: str
    score: float
    start_s: float
    end_s: float
    boxes: NDArray
    seen_in: tuple[int, ...]


@dataclass
class NewVideo:
    """A video with all of its entries and tracks.

    Attributes:
        path: within the indexed folder, ``/`` between its parts.
        stamp: of the file.
        ocr_stamp: of its OCR document; None where it has none of its own.
        duration_s: until the end of its last frame.
        width: of a frame, pixels.
        height: of a frame, pixels.
    """

    path: str
    stamp: Stamp
    ocr_stamp: Stamp | None
    duration_s: float
    width: int
    height: int
    entries: list[NewEntry] = field(default_factory=list)
    tracks: list[NewTrack] = field(default_factory=list)
