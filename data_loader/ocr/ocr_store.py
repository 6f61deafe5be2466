"""Store of the words of many OCR documents: one file that processes map into memory and share.

At a URL words, lines and tracks are read by ranges, when those of a document are wanted, and the
other arrays at once; each range is compared with its checksum.

The file has the form of safetensors: a JSON header, then plain little-endian arrays. Its legend:
D documents, W words of all of them, V distinct words, L tracked lines.

    names, name_bounds              paths of the documents, end to end
    sizes, mtimes, digests          (D,), (D,) int64, (D, 16) uint8: the documents when last read
    num_skipped                     (D,) int64
    word_bounds                     (D + 1,) int64: document d has words word_bounds[d : d + 2]
    words, lines                    (W,), (W,) int32: numbers of a distinct word and of a line
    vocabulary, vocabulary_bounds   the V distinct words, end to end
    tracks                          (L, 12) float64, in frames and pixels
    line_bounds                     (D + 1,) int64: of the lines of a document, as word_bounds
    document_checksums              (D, 3) int64: CRC-32 of a document's words, lines and tracks
    array_checksums                 (A,) int64: CRC-32 of the A arrays above, by their sorted names

Files of former releases lack the last three arrays, and can't be read from a URL.
"""

import json
import math
import mmap
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from data_loader.ocr.ocr_words import TRACK_SIZE, OcrWords
from utils.files import FileStamp, write_bytes
from utils.remote_files import RemoteError, RemoteFolder

DIGEST_SIZE = 16  # bytes
UNKNOWN_TIME = -1  # of a change so recent that the next one may have the same time
_DTYPES = {"F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "<u1"}
_CHECKSUM, _ARRAY_CHECKSUMS = "crc32", "array_checksums"
_IN_RANGES = ("words", "lines", "tracks")
_MAX_HEADER = 1 << 20  # bytes


@dataclass(frozen=True)
class StoredDocument:
    """The words of a document, each line's track vector once."""

    stamp: FileStamp
    digest: bytes  # BLAKE2b of the content
    words: list[str]  # W words
    lines: np.ndarray  # (W,) the row of tracks of each word
    tracks: np.ndarray  # (L, 12) float64
    num_skipped: int  # see OcrWords

    @classmethod
    def from_words(cls, stamp: FileStamp, digest: bytes, read: OcrWords) -> "StoredDocument":
        """Build it from a document's words; equal neighbours share a track, compared bitwise."""
        bits = np.ascontiguousarray(read.tracks).view(np.uint64)
        is_first = np.ones(len(bits), dtype=bool)
        is_first[1:] = (bits[1:] != bits[:-1]).any(axis=1)
        lines = np.cumsum(is_first) - 1
        return cls(stamp, digest, read.words, lines, read.tracks[is_first], read.num_skipped)


class OcrStore:
    """An open store.

    Attributes:
        checksum: of all arrays.
        reopen: opens it in another process, or returns None where it can't be used any more.
        rows, stamps, digests: path of a document -> its number here, its stamp, its content's
            BLAKE2b.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reopen = partial(_reopen, path)
        arrays, self.checksum = _map_arrays(path)
        self._words, self._lines, self._tracks = (arrays[name] for name in _IN_RANGES)
        self._use_index(arrays)

    def _use_index(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._word_bounds = arrays["word_bounds"]
        self._num_skipped = arrays["num_skipped"]
        self._vocabulary = memoryview(arrays["vocabulary"])
        self._vocabulary_bounds = arrays["vocabulary_bounds"]
        bounds = arrays["name_bounds"]
        names = _decode_texts(memoryview(arrays["names"]), bounds[:-1], bounds[1:])
        self._names = names
        self.rows = {name: row for row, name in enumerate(names)}
        stamps = map(FileStamp, arrays["sizes"].tolist(), arrays["mtimes"].tolist())
        self.stamps = dict(zip(names, stamps, strict=True))
        self.digests = dict(zip(names, map(bytes, arrays["digests"]), strict=True))

    def read_words(self, row: int) -> OcrWords:
        """Return what ``extract_words`` made of a document, bit for bit."""
        numbers, tracks = self._read_arrays(row)
        bounds = self._vocabulary_bounds
        words = _decode_texts(self._vocabulary, bounds[numbers], bounds[numbers + 1])
        return OcrWords(words, tracks, int(self._num_skipped[row]))

    def _read_arrays(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (W,) the numbers of a document's words, and (W, 12) their tracks."""
        start, end = self._word_bounds[row : row + 2]
        return self._words[start:end], self._tracks[self._lines[start:end]]

    def read_document(self, name: str) -> StoredDocument:
        """Return a document as it was given to ``write_store``."""
        read = self.read_words(self.rows[name])
        return StoredDocument.from_words(self.stamps[name], self.digests[name], read)


def _reopen(path: Path) -> OcrStore | None:
    try:
        return OcrStore(path)
    except (OSError, ValueError):
        return None


class RemoteOcrStore(OcrStore):
    """A store at a URL.

    Raises:
        FileNotFoundError: there is no such file.
        RemoteError: it can't be read, or is damaged.
    """

    def __init__(self, folder: RemoteFolder, name: str) -> None:
        self.reopen = partial(RemoteOcrStore, folder, name)
        self._folder, self._name = folder, name
        url = folder.name_file(name)
        try:
            size = int.from_bytes(folder.read_range(name, (0, 8)), "little")
            if not 0 < size <= _MAX_HEADER:
                raise ValueError(f"a header of {size:,} bytes")
            header = json.loads(folder.read_range(name, (8, 8 + size)))
            self.checksum = int(header.pop("__metadata__")[_CHECKSUM])
            self._places = {
                key: (8 + size + entry["data_offsets"][0], _DTYPES[entry["dtype"]], entry["shape"])
                for key, entry in header.items()
            }
            names = sorted(self._places.keys() - {_ARRAY_CHECKSUMS})
            span = self._get_span(_ARRAY_CHECKSUMS, 0, len(names))
            found = self._parse(_ARRAY_CHECKSUMS, folder.read_range(name, span)).tolist()
            checksums = dict(zip(names, found, strict=True))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, RemoteError):
                raise
            raise RemoteError(
                f"{url}: is no store of OCR words that can be read from a URL ({error}); make it "
                "with python -m tools.cache_words, and copy it there"
            ) from error
        index = [key for key in names if key not in _IN_RANGES]
        spans = [self._get_span(key, 0, self._places[key][2][0]) for key in index]
        crcs = [checksums[key] for key in index]
        parts = folder.read_ranges(name, spans, crcs, "the index of OCR words")
        arrays = {key: self._parse(key, part) for key, part in zip(index, parts, strict=True)}
        self._line_bounds = arrays["line_bounds"]
        self._document_checksums = arrays["document_checksums"]
        self._use_index(arrays)

    def _get_span(self, key: str, first: int, last: int) -> tuple[int, int]:
        """Return where the rows of an array lie in the file."""
        start, dtype, shape = self._places[key]
        size = np.dtype(dtype).itemsize * math.prod(shape[1:])
        return start + int(first) * size, start + int(last) * size

    def _parse(self, key: str, part: bytes) -> np.ndarray:
        _, dtype, shape = self._places[key]
        return np.frombuffer(part, dtype).reshape(-1, *shape[1:])

    def _read_arrays(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        (start, end), (first, last) = (
            bounds[row : row + 2] for bounds in (self._word_bounds, self._line_bounds)
        )
        rows = {"words": (start, end), "lines": (start, end), "tracks": (first, last)}
        spans = [self._get_span(key, *rows[key]) for key in _IN_RANGES]
        crcs = self._document_checksums[row].tolist()
        what = f"the OCR words of {self._names[row]}"
        parts = self._folder.read_ranges(self._name, spans, crcs, what)
        words, lines, tracks = map(self._parse, _IN_RANGES, parts)
        return words, tracks[lines - first]


def write_store(path: Path, documents: Mapping[str, StoredDocument]) -> None:
    """Write a store of documents by their paths; on ``OSError`` the old file stays."""
    parts = list(documents.values())
    numbers: dict[str, int] = {}
    words = [numbers.setdefault(word, len(numbers)) for part in parts for word in part.words]
    line_bounds = _make_bounds(len(part.tracks) for part in parts)
    lines = [part.lines + first for part, first in zip(parts, line_bounds[:-1], strict=True)]
    arrays = {
        "sizes": np.array([part.stamp.size for part in parts], np.int64),
        "mtimes": np.array([part.stamp.mtime_ns for part in parts], np.int64),
        "num_skipped": np.array([part.num_skipped for part in parts], np.int64),
        "word_bounds": _make_bounds(len(part.words) for part in parts),
        "words": np.array(words, np.int32),
        "lines": np.concatenate([np.empty(0), *lines]).astype(np.int32),
        "tracks": np.concatenate([np.empty((0, TRACK_SIZE)), *(part.tracks for part in parts)]),
    }
    arrays["line_bounds"] = line_bounds
    arrays["document_checksums"] = _compute_document_checksums(arrays)
    digests = b"".join(part.digest for part in parts)
    arrays["digests"] = np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_SIZE)
    arrays["names"], arrays["name_bounds"] = _join_texts(documents)
    arrays["vocabulary"], arrays["vocabulary_bounds"] = _join_texts(numbers)
    each = [zlib.crc32(np.ascontiguousarray(array)) for _, array in sorted(arrays.items())]
    arrays[_ARRAY_CHECKSUMS] = np.array(each, np.int64)
    write_bytes(path, save(arrays, {_CHECKSUM: str(_compute_checksum(arrays))}))


def _compute_document_checksums(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (D, 3) int64, of the words, lines and tracks of each document."""
    words, lines = (arrays[name].tolist() for name in ("word_bounds", "line_bounds"))
    found = [
        [
            zlib.crc32(np.ascontiguousarray(arrays[name][bounds[row] : bounds[row + 1]]))
            for name, bounds in zip(_IN_RANGES, (words, words, lines), strict=True)
        ]
        for row in range(len(words) - 1)
    ]
    return np.array(found, np.int64).reshape(-1, len(_IN_RANGES))


def _map_arrays(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Map a file's arrays and verify their checksum; raises ``ValueError``."""
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
    """Return N texts as UTF-8 end to end, (bytes,) uint8, and (N + 1,) int64 their bounds."""
    # JSON may hold half a surrogate pair, and file names bytes that are not UTF-8.
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    return np.frombuffer(b"".join(parts), np.uint8), _make_bounds(map(len, parts))


def _decode_texts(data: memoryview, starts: np.ndarray, ends: np.ndarray) -> list[str]:
    spans = zip(starts.tolist(), ends.tolist(), strict=True)
    return [str(data[start:end], "utf-8", "surrogatepass") for start, end in spans]


def _make_bounds(lengths: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)
