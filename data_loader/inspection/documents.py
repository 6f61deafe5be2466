"""What a data set's OCR documents hold: words a video, faults, captions that need reading."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from base.base_dataset import VideoEntry
from data_loader.inspection.pool import run_all
from data_loader.inspection.tracks import shorten
from data_loader.ocr_words import OcrParams, load_ocr_document, ocr_words
from data_loader.reading import needs_reading
from utils.errors import UserError

_NO_LIMIT = 10**9
_CHUNK = 16


class DocumentTask(NamedTuple):
    """A document to read and the captions of its video."""

    path: str
    captions: tuple[str, ...]
    params: OcrParams


@dataclass(frozen=True)
class Document:
    """What one document holds.

    Attributes:
        path: the file.
        size: bytes.
        num_words: words that the rules allow, before ``max_words`` cuts them; None: not read.
        num_skipped: records without a track.
        reading: for each caption of the video, whether it shares a word with the document.
        fault: why the file can't be used.
    """

    path: str
    size: int = 0
    num_words: int | None = None
    num_skipped: int = 0
    reading: tuple[bool, ...] = ()
    fault: str | None = None


@dataclass(frozen=True)
class Spread:
    """Least, middle, mean and greatest of some numbers."""

    min: float
    median: float
    mean: float
    max: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> "Spread | None":
        """Return the spread of ``numbers``; None where there are none."""
        numbers = list(numbers)
        if not numbers:
            return None
        return cls(min(numbers), median(numbers), fmean(numbers), max(numbers))


@dataclass
class OcrFacts:
    """What the documents of one split hold.

    Attributes:
        named: entries that name a document.
        bytes: size of those that were read.
        words: words of a video under the configuration's rules.
        without_words: videos whose document leaves no word under these rules.
        cut: videos with more words than ``max_words``.
        skipped_records: records without a track.
        reading: captions that share a word with their video's document.
        compared: captions whose video's document was read.
        missing: paths.
        faulty: path -> what is wrong.
    """

    named: int
    bytes: int = 0
    words: Spread | None = None
    without_words: int = 0
    cut: int = 0
    skipped_records: int = 0
    reading: int = 0
    compared: int = 0
    missing: list[str] = field(default_factory=list)
    faulty: dict[str, str] = field(default_factory=dict)


def inspect_documents(
    entries: Iterable[VideoEntry], params: OcrParams, workers: int, label: str
) -> OcrFacts:
    """Read every OCR document that the entries name."""
    tasks = [
        DocumentTask(str(entry.ocr), entry.captions, params)
        for entry in entries
        if entry.ocr is not None
    ]
    documents = run_all(read_document, tasks, workers, f"{label}: OCR documents", _CHUNK)
    return summarise(documents, params.max_words)


def summarise(documents: list[Document], max_words: int) -> OcrFacts:
    """Add up what the documents hold."""
    read = [document for document in documents if document.num_words is not None]
    faulty = {document.path: document.fault for document in documents if document.fault}
    lost = [item.path for item in documents if item.num_words is None and not item.fault]
    return OcrFacts(
        named=len(documents),
        bytes=sum({document.path: document.size for document in read}.values()),
        words=Spread.of(min(document.num_words, max_words) for document in read),
        without_words=sum(document.num_words == 0 for document in read),
        cut=sum(document.num_words > max_words for document in read),
        skipped_records=sum(document.num_skipped for document in read),
        reading=sum(sum(document.reading) for document in read),
        compared=sum(len(document.reading) for document in read),
        missing=sorted(set(lost)),
        faulty=dict(sorted(faulty.items())),
    )


def read_document(task: DocumentTask) -> Document:
    """Read one document; what is wrong with it is a value, so that the others are read, too."""
    path, captions, params = task
    rules = params.model_copy(update={"max_words": _NO_LIMIT})
    try:
        document = _read_quickly(path)
        if document is None:
            document = load_ocr_document(path)
        if document is None:
            return Document(path)
        read = ocr_words(merged(document) or document, rules, path)
    except UserError as error:
        return Document(path, fault=str(error))
    texts = " ".join(record["text"] for record in document.values() if record["tracks"])
    words = " ".join(set(texts.lower().split()))  # once each; the order does not matter
    return Document(
        path,
        size=Path(path).stat().st_size,
        num_words=len(read.words),
        num_skipped=read.num_skipped,
        reading=tuple(needs_reading(caption, [words]) for caption in captions),
    )


def _read_quickly(path: str) -> dict[str, Any] | None:
    """A document with one frame a track; None where its tracks are not plainly good."""
    try:
        data = shorten(Path(path).read_bytes())
        document = None if data is None else json.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # load_ocr_document will say what is wrong
    return document if isinstance(document, dict) else None


def merged(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return a document of one record that has the same words in the same order.

    The words are the same whatever the tracks, which take long to sum up. None where a record is
    not plainly good; ``ocr_words`` is to judge the document then.
    """
    texts = []
    for record in document.values():
        if not isinstance(record, dict) or not _is_plainly_good(record):
            return None
        texts.append(record["text"])
    return {"0": {"text": " ".join(texts), "score": 0, "tracks": {"0": [0] * 8}}}


def _is_plainly_good(record: dict[str, Any]) -> bool:
    """Whether ``ocr_words`` takes the record for sure; False says nothing."""
    text, score, tracks = record.get("text"), record.get("score"), record.get("tracks")
    if not isinstance(text, str) or not isinstance(tracks, dict) or not tracks:
        return False
    if not all(map(str.isdecimal, tracks)) or set(map(type, tracks.values())) != {list}:
        return False
    if not set(map(len, tracks.values())) <= {8, 10}:
        return False
    numbers = [_as_number(score), *chain.from_iterable(tracks.values())]
    try:  # the sum is quicker than a look at each; a sum beyond every float says nothing
        return set(map(type, numbers)) <= {int, float} and math.isfinite(sum(numbers))
    except OverflowError:
        return False


def _as_number(score: Any) -> Any:
    """The number that a string holds; anything else as it is."""
    try:
        return float(score) if isinstance(score, str) else score
    except ValueError:
        return None
