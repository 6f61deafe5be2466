"""What a report is about, as plain values: the page is a function of these alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Attention:
    """How the fusion layer's query token attends in a video; all shares sum to 1.

    Attributes:
        query_token: share of the query token itself.
        video: share of the video feature; None where the model sees no frames.
        words: the OCR words; empty where none was read.
        shares: of the words; one, that of the empty word, where there are none.
    """

    query_token: float
    video: float | None
    words: Sequence[str]
    shares: Sequence[float]


@dataclass(frozen=True)
class Hit:
    """A video that a query finds: its column, its similarity, and whether it is the right one."""

    video: int
    score: float
    is_right: bool


@dataclass(frozen=True)
class Example:
    """A query of the first run.

    Attributes:
        query: its row.
        score: similarity of its own video.
        top: the videos found first.
        attention: in its own video; None where the model has no fusion layer.
    """

    query: int
    score: float
    top: Sequence[Hit]
    attention: Attention | None = None


@dataclass(frozen=True)
class RunFacts:
    """What is said of a run.

    Attributes:
        letter: its short name on the page: A, B …
        name: of its configuration.
        folder: where it is.
        modalities: what of a video its model uses.
        checkpoint: name of the file that was tested.
        history: the lines of ``metrics.jsonl``.
        notes: what has to be known about it.
        scores: what ``metrics.json`` holds (``trainer.evaluator.table.scores_json``).
        histogram: ``edges`` and the counts ``right`` and ``wrong``.
        ranks: of the queries.
        annotation_file: what it was tested on.
        shuffled: whether that file is shuffled, so that nothing here means anything.
    """

    letter: str
    name: str
    folder: str
    modalities: Sequence[str]
    checkpoint: str
    history: Sequence[Mapping[str, Any]]
    scores: Mapping[str, Any]
    histogram: Mapping[str, Sequence[float]]
    ranks: Sequence[float]
    annotation_file: str
    shuffled: bool = False
    notes: Sequence[str] = field(default=())

    @property
    def label(self) -> str:
        """The letter and the name."""
        return f"{self.letter}: {self.name}"


@dataclass(frozen=True)
class Contents:
    """Everything on the page.

    Attributes:
        runs: at least one; all were tested on the same captions and videos.
        captions: Q texts.
        video_of_query: the column of each caption's video.
        ids: V names of videos.
        best: queries of the first run, the best first.
        worst: the same, the worst first.
        thumbnails: column -> JPEG; None: that video can't be read.
        made: when and with what, said at the foot.
    """

    runs: Sequence[RunFacts]
    captions: Sequence[str]
    video_of_query: Sequence[int]
    ids: Sequence[str]
    best: Sequence[Example]
    worst: Sequence[Example]
    thumbnails: Mapping[int, bytes | None]
    made: str = ""
