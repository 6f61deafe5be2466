"""Report of the data that could not be used: counted, listed, never silent."""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from base.batch import Batch, Unreadable
from utils.distributed import gather_objects
from utils.files import write_json

logger = logging.getLogger(__name__)

MAX_LOGGED = 10


@dataclass
class DataReport:
    """The videos that were replaced by black clips and the OCR documents that were not there.

    Attributes:
        unreadable: path and reason of each video (``loading: lax``).
        ocr_missing: paths of OCR documents; their videos count as having no words.
        ocr_skipped: video id -> records of its OCR document left out: without a track, or written
            again under the same key.
    """

    unreadable: dict[str, str] = field(default_factory=dict)
    ocr_missing: set[str] = field(default_factory=set)
    ocr_skipped: dict[str, int] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        """Take in a batch; what is seen for the first time is logged."""
        for video in batch.unreadable:
            self._add_unreadable(video)
        for path in batch.ocr_missing:
            self._add_missing(path)
        self.ocr_skipped |= batch.ocr_skipped

    def take(self, other: "SilentReport") -> None:
        """Take in a report of which nothing was logged; what is new is logged now."""
        for path, reason in other.unreadable.items():
            self._add_unreadable(Unreadable(path, reason))
        for path in sorted(other.ocr_missing):
            self._add_missing(path)
        self.ocr_skipped |= other.ocr_skipped

    def merge(self, other: "DataReport") -> None:
        """Take in another report."""
        self.unreadable |= other.unreadable
        self.ocr_missing |= other.ocr_missing
        self.ocr_skipped |= other.ocr_skipped

    def gather(self) -> "DataReport":
        """Return the report of all processes; every one of them has to call this."""
        whole = DataReport()
        for part in gather_objects(self):
            whole.merge(part)
        return whole

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return asdict(self) | {"ocr_missing": sorted(self.ocr_missing)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "DataReport":
        """Return the report that a checkpoint kept."""
        return cls(**state | {"ocr_missing": set(state["ocr_missing"])})

    def _add_unreadable(self, video: Unreadable) -> None:
        if video.path not in self.unreadable:
            self.unreadable[video.path] = video.reason
            text = "%s: %s; a black clip stands in"
            self._warn(len(self.unreadable), text, video.path, video.reason)

    def _add_missing(self, path: str) -> None:
        if path not in self.ocr_missing:
            self.ocr_missing.add(path)
            text = "no OCR document: %s; its video has no words"
            self._warn(len(self.ocr_missing), text, path)

    @staticmethod
    def _warn(number: int, text: str, *values: str) -> None:
        """Log the first of a kind; thousands of lines would hide everything else."""
        if number <= MAX_LOGGED:
            logger.warning(text, *values)
        if number == MAX_LOGGED:
            logger.warning("further ones of this kind are listed in the run's data report only")

    def counts(self) -> dict[str, int]:
        """Return the counts that a metrics file holds."""
        return {
            "unreadable_videos": len(self.unreadable),
            "missing_ocr_documents": len(self.ocr_missing),
            "skipped_ocr_records": sum(self.ocr_skipped.values()),
        }

    def write(self, path: Path) -> None:
        """Write the full lists as JSON; what can't be written is said, and the run goes on."""
        value: dict[str, Any] = {
            "unreadable_videos": dict(sorted(self.unreadable.items())),
            "missing_ocr_documents": sorted(self.ocr_missing),
            "skipped_ocr_records": dict(sorted(self.ocr_skipped.items())),
        }
        try:
            write_json(path, value)
        except OSError as error:
            logger.error("NOT WRITTEN: %s (%s)", path, error.strerror)


class SilentReport(DataReport):
    """A report of which nothing is logged: whoever it is sent to says it (``DataReport.take``)."""

    @staticmethod
    def _warn(number: int, text: str, *values: str) -> None:
        """Say nothing."""
