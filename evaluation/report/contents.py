"""Contents of a report as plain values: the page is a function of these alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.examples import WordAttention


@dataclass(frozen=True)
class Results:
    """Results of a run on the test split, Q captions and V videos; all are JSON values."""

    captions: Sequence[str]  # Q
    ids: Sequence[str]  # V names of videos
    video_of_query: Sequence[int]  # Q positions in ids
    annotation_file: str
    shuffled: bool  # whether that file is shuffled, so that every number is chance
    scores: Mapping[str, Any]  # what metrics.json holds
    histogram: Mapping[str, Sequence[float]]  # edges and the counts right and wrong
    ranks: Sequence[float]  # Q, of each caption's own video
    own_scores: Sequence[float]  # Q similarities of each caption's own video
    margins: Sequence[float]  # Q, how far they are above the best of the others
    top: Sequence[Sequence[tuple[int, float]]]  # Q times the videos found first, and similarities


@dataclass(frozen=True)
class RunContents:
    """What the page shows of a run."""

    letter: str  # its short name: A, B …
    name: str  # of its configuration
    folder: str
    modalities: Sequence[str]
    checkpoint: str  # name of the file that was tested
    history: Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl
    notes: Sequence[str]  # warnings
    results: Results

    @property
    def label(self) -> str:
        """The letter and the name."""
        return f"{self.letter}: {self.name}"


@dataclass(frozen=True)
class Contents:
    """Everything on the page; all runs were tested on the same captions and videos."""

    runs: Sequence[RunContents]  # at least one
    best: Sequence[int]  # queries of the first run, the best first
    worst: Sequence[int]  # the worst first
    attention: Mapping[int, WordAttention]  # of the first run by video; empty: no fusion layer
    thumbnails: Mapping[int, bytes | None]  # video -> JPEG; None: it can't be read
    made: str = ""  # when and with what
