"""OCR documents of a data set: words a video, errors, captions that need reading."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median

from base.base_dataset import VideoEntry
from data_loader.ocr.ocr_reader import needs_reading
from data_loader.ocr.ocr_words import OcrParams, load_ocr_document, parse_document, select_words
from utils.errors import UserError
from utils.processes import map_tasks

_NO_LIMIT = 10**9
_CHUNK = 16  # documents that a process is handed at a time


@dataclass(frozen=True)
class Document:
    """What one document holds."""

    path: str
    size: int = 0  # bytes
    num_words: int | None = None  # that the rules allow, before max_words cuts; None: not read
    num_skipped: int = 0  # records without a track, or written again under the same key
    reading: tuple[bool, ...] = ()  # for each caption of the video, whether it shares a word
    error: str | None = None  # why the file can't be used


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
    """What the documents of one split hold."""

    named: int  # entries that name a document
    bytes: int = 0  # of those that were read
    words: Spread | None = None  # of a video, under the configuration's rules
    without_words: int = 0  # videos whose document leaves no word under these rules
    cut: int = 0  # videos with more words than max_words
    skipped_records: int = 0  # as ``Document.num_skipped``
    reading: int = 0  # captions that share a word with their video's document
    compared: int = 0  # captions whose video's document was read
    missing: list[str] = field(default_factory=list)
    faulty: dict[str, str] = field(default_factory=dict)  # path -> what is wrong


def check_documents(
    entries: Iterable[VideoEntry], params: OcrParams, workers: int, label: str
) -> OcrFacts:
    """Read every OCR document that the entries name, in several processes."""
    tasks = [(str(entry.ocr), entry.captions) for entry in entries if entry.ocr is not None]
    documents = map_tasks(
        partial(read_document, params), tasks, workers, f"{label}: OCR documents", _CHUNK
    )
    read = [document for document in documents if document.num_words is not None]
    missing = {item.path for item in documents if item.num_words is None and not item.error}
    return OcrFacts(
        named=len(documents),
        bytes=sum({document.path: document.size for document in read}.values()),
        words=Spread.of(min(document.num_words, params.max_words) for document in read),
        without_words=sum(document.num_words == 0 for document in read),
        cut=sum(document.num_words > params.max_words for document in read),
        skipped_records=sum(document.num_skipped for document in read),
        reading=sum(sum(document.reading) for document in read),
        compared=sum(len(document.reading) for document in read),
        missing=sorted(missing),
        faulty=dict(sorted((item.path, item.error) for item in documents if item.error)),
    )


def read_document(params: OcrParams, task: tuple[str, tuple[str, ...]]) -> Document:
    """Read one document as training does, and compare its words with its video's captions.

    What is wrong with it is a value, so that the others are read, too. ``max_words`` is not
    applied.
    """
    path, captions = task
    try:
        document = load_ocr_document(path)
        if document is None:
            return Document(path)
        lines = parse_document(document, path)
    except UserError as error:
        return Document(path, error=str(error))
    read = select_words(lines, params.model_copy(update={"max_words": _NO_LIMIT}))
    texts = {line.text for line in lines if line.frames}  # each once; their order doesn't matter
    return Document(
        path,
        size=Path(path).stat().st_size,
        num_words=len(read.words),
        num_skipped=read.num_skipped + document.num_repeated,
        reading=tuple(needs_reading(caption, texts) for caption in captions),
    )
