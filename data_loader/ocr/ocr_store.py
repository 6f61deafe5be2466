"""Store of the words of many OCR documents: one file that processes map into memory and share.

The file has the form of safetensors: a JSON header, then plain little-endian arrays. Its legend:
D documents, W words of all of them, V distinct words, L tracked lines that words stand in.

    names, name_bounds              paths of the documents, see ``_join_texts``
    sizes, mtimes, digests          (D,), (D,) int64, (D, 16) uint8: the documents when last read
    num_skipped                     (D,) int64
    word_bounds                     (D + 1,) int64: document d has words word_bounds[d : d + 2]
    words, lines                    (W,), (W,) int32: numbers of a distinct word and of a line
    vocabulary, vocabulary_bounds   the V distinct words, see ``_join_texts``
    tracks                          (L, 12) float64, in frames and pixels
"""

import json
import math
import mmap
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save

from data_loader.ocr.ocr_words import TRACK_SIZE, OcrWords
from utils.files import write_bytes

DIGEST_SIZE = 16  # bytes
UNKNOWN_TIME = -1
_DTYPES = {"F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "<u1"}
_CHECKSUM = "crc32"


class DocumentStamp(NamedTuple):
    """What tells one state of a document from another.

    Attributes:
        size: bytes.
        mtime: last change, nanoseconds; ``UNKNOWN_TIME`` where it was so recent that the next one
            might have the same.
        digest: BLAKE2b of the content.
    """

    size: int
    mtime: int
    digest: bytes


@dataclass(frozen=True)
class StoredDocument:
    """The words of a document, each line's track vector once.

    Attributes:
        stamp: of the document.
        words: W words.
        lines: (W,) the row of ``tracks`` of each word.
        tracks: (L, 12) float64.
        num_skipped: see ``OcrWords``.
    """

    stamp: DocumentStamp
    words: list[str]
    lines: np.ndarray
    tracks: np.ndarray
    num_skipped: int

    @classmethod
    def from_words(cls, stamp: DocumentStamp, read: OcrWords) -> "StoredDocument":
        """Make it of a document's words; equal neighbours share a track, compared bit by bit."""
        bits = np.ascontiguousarray(read.tracks).view(np.uint64)
        is_first = np.ones(len(bits), dtype=bool)
        is_first[1:] = (bits[1:] != bits[:-1]).any(axis=1)
        lines = np.cumsum(is_first) - 1
        return cls(stamp, read.words, lines, read.tracks[is_first], read.num_skipped)


class OcrStore:
    """A store, open.

    Attributes:
        path: the file.
        checksum: of all that it holds.
        rows: path of a document -> its number here.
        stamps: path of a document -> its stamp.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        arrays, self.checksum = _map_arrays(path)
        self._word_bounds, self._words = arrays["word_bounds"], arrays["words"]
        self._lines, self._tracks = arrays["lines"], arrays["tracks"]
        self._num_skipped = arrays["num_skipped"]
        self._vocabulary = memoryview(arrays["vocabulary"])
        self._vocabulary_bounds = arrays["vocabulary_bounds"]
        names = _split_texts(memoryview(arrays["names"]), arrays["name_bounds"].tolist())
        self.rows = {name: row for row, name in enumerate(names)}
        stamps = zip(
            arrays["sizes"].tolist(),
            arrays["mtimes"].tolist(),
            map(bytes, arrays["digests"]),
            strict=True,
        )
        self.stamps = dict(zip(names, map(DocumentStamp._make, stamps), strict=True))

    def read_words(self, row: int) -> OcrWords:
        """Return what ``extract_words`` made of a document, bit for bit."""
        start, end = self._word_bounds[row : row + 2]
        tracks = self._tracks[self._lines[start:end]]
        return OcrWords(self._read_texts(start, end), tracks, int(self._num_skipped[row]))

    def read_document(self, name: str) -> StoredDocument:
        """Return a document as it was given to ``write_store``."""
        return StoredDocument.from_words(self.stamps[name], self.read_words(self.rows[name]))

    def _read_texts(self, start: int, end: int) -> list[str]:
        numbers, bounds = self._words[start:end], self._vocabulary_bounds
        spans = zip(bounds[numbers].tolist(), bounds[numbers + 1].tolist(), strict=True)
        return [_decode_text(self._vocabulary[first:last]) for first, last in spans]


def write_store(path: Path, documents: Mapping[str, StoredDocument]) -> None:
    """Write a store of the documents, named by their paths; the old file stays until it is whole.

    Raises:
        OSError: it can't be written.
    """
    parts = list(documents.values())
    numbers: dict[str, int] = {}
    words = [numbers.setdefault(word, len(numbers)) for part in parts for word in part.words]
    line_bounds = _make_bounds(len(part.tracks) for part in parts)
    lines = [part.lines + first for part, first in zip(parts, line_bounds[:-1], strict=True)]
    arrays = {
        "sizes": np.array([part.stamp.size for part in parts], np.int64),
        "mtimes": np.array([part.stamp.mtime for part in parts], np.int64),
        "digests": np.frombuffer(b"".join(part.stamp.digest for part in parts), np.uint8),
        "num_skipped": np.array([part.num_skipped for part in parts], np.int64),
        "word_bounds": _make_bounds(len(part.words) for part in parts),
        "words": np.array(words, np.int32),
        "lines": np.concatenate([np.empty(0), *lines]).astype(np.int32),
        "tracks": np.concatenate([np.empty((0, TRACK_SIZE)), *(part.tracks for part in parts)]),
    }
    arrays["digests"] = arrays["digests"].reshape(-1, DIGEST_SIZE)
    arrays["names"], arrays["name_bounds"] = _join_texts(documents)
    arrays["vocabulary"], arrays["vocabulary_bounds"] = _join_texts(numbers)
    write_bytes(path, save(arrays, {_CHECKSUM: str(_compute_checksum(arrays))}))


def _map_arrays(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Map a file's arrays, after a look at all of it; raises ``ValueError``."""
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        checksum = int(header.pop("__metadata__")[_CHECKSUM])
        arrays = {}
        for name, entry in header.items():
            shape, (first, end) = entry["shape"], entry["data_offsets"]
            values = np.frombuffer(data, _DTYPES[entry["dtype"]], math.prod(shape), start + first)
            if values.nbytes != end - first:
                raise ValueError(f"its header says that {name} ends elsewhere")
            arrays[name] = values.reshape(shape)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"no header of a store ({error!r})") from error
    if _compute_checksum(arrays) != checksum:
        raise ValueError("its checksum is wrong")
    return arrays, checksum


def _compute_checksum(arrays: Mapping[str, np.ndarray]) -> int:
    checksum = 0
    for name, array in sorted(arrays.items()):
        head = f"{name} {array.dtype} {array.shape}".encode()
        checksum = zlib.crc32(np.ascontiguousarray(array), zlib.crc32(head, checksum))
    return checksum


def _join_texts(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """N texts as UTF-8 end to end, (bytes,) uint8, and (N + 1,) int64 where each begins."""
    # JSON may hold halves of characters, and file names what is no UTF-8.
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    return np.frombuffer(b"".join(parts), np.uint8), _make_bounds(map(len, parts))


def _split_texts(data: memoryview, bounds: list[int]) -> list[str]:
    return [_decode_text(data[a:b]) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _decode_text(data: memoryview) -> str:
    return str(data, "utf-8", "surrogatepass")


def _make_bounds(lengths: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)
