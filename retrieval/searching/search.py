"""A search: both lists, joined, and what is said of each hit.

Shapes: E width of the common space.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.results import MODES, Explanation, Hit, Mode
from retrieval.searching.lookup import entry_row, lines_of, matches_in
from retrieval.searching.meaning import nearest
from retrieval.searching.query import parse_terms
from retrieval.searching.ranking import Ranked, fuse, ranked
from retrieval.searching.snapshot import Snapshot
from retrieval.searching.words import MetTerm, meet, scored
from utils.errors import UserError

MAX_QUERY = 1000  # characters
DEPTH = 1000  # how many entries of each list are fused


@dataclass(frozen=True)
class Request:
    """What is asked for; see ``VideoIndex.search``."""

    query: str
    k: int
    mode: Mode
    folder: str | None
    explain: bool
    exact: bool
    words_weight: float

    def check(self) -> None:
        """Raise ``UserError`` where it can't be answered."""
        if not self.query.strip():
            raise UserError("the query is empty; say what to look for")
        if len(self.query) > MAX_QUERY:
            raise UserError(
                f"the query has {len(self.query):,} characters; give at most {MAX_QUERY:,}"
            )
        if self.k < 1:
            raise UserError(f"k is {self.k}; ask for at least 1 hit")
        if self.mode not in MODES:
            raise UserError(f'the mode is "{self.mode}"; give one of: {", ".join(MODES)}')
        if not 0 <= self.words_weight < float("inf"):
            raise UserError(f"the weight of words is {self.words_weight}; give 0 or more")


def search(
    connection: sqlite3.Connection, snapshot: Snapshot, request: Request, query: NDArray | None
) -> list[Hit]:
    """Return the hits, best first.

    Args:
        connection: within a transaction that sees the snapshot.
        snapshot: of the index.
        request: checked.
        query: embedding (E,) of length 1; None in the mode ``words``.
    """
    rows = None if request.folder is None else snapshot.rows_in(connection, request.folder)
    met: list[MetTerm] = []
    lists: dict[Mode, Ranked] = {}
    depth = max(DEPTH, request.k)
    if request.mode != "words":
        lists["meaning"] = ranked(*nearest(snapshot, query, depth, rows, request.exact))
    if request.mode != "meaning":
        met = meet(connection, snapshot, parse_terms(request.query))
        lists["words"] = _deepest(*scored(met), depth, None if rows is None else snapshot.ids[rows])
    if request.mode == "fused":
        lists["fused"] = fuse([lists["meaning"], lists["words"]], [1.0, request.words_weight])
    best = lists[request.mode]
    describe = _Describing(connection, snapshot, query, met, lists, request.explain)
    pairs = zip(best.ids[: request.k].tolist(), best.scores[: request.k].tolist(), strict=True)
    return [describe(entry, score) for entry, score in pairs]


def _deepest(ids: NDArray, worths: NDArray, depth: int, inside: NDArray | None) -> Ranked:
    """The first ``depth`` entries, of those inside, and all that are worth as much as the last."""
    if inside is not None:
        kept = np.isin(ids, inside)
        ids, worths = ids[kept], worths[kept]
    count = len(ids)
    if count > depth:
        count = int(np.searchsorted(-worths, -worths[depth - 1], side="right"))
    return ranked(ids[:count], worths[:count])


@dataclass(frozen=True)
class _Describing:
    """Makes hits of entries and scores."""

    connection: sqlite3.Connection
    snapshot: Snapshot
    query: NDArray | None
    met: Sequence[MetTerm]
    lists: Mapping[Mode, Ranked]
    explain: bool

    def __call__(self, number: int, score: float) -> Hit:
        entry, row = entry_row(self.connection, number)
        explanation = similarity = None
        if self.query is not None:
            similarity = float(self.snapshot.embeddings[row] @ self.query)
            if self.explain:
                explanation = self._explanation(row, similarity)
        lines = lines_of(self.connection, number) if self.met else []
        return Hit(
            id=number,
            video=entry.video,
            start_s=entry.start_s,
            end_s=entry.end_s,
            score=score,
            similarity=similarity,
            meaning_rank=self._rank("meaning", number),
            words_rank=self._rank("words", number),
            words=matches_in(lines, self.met),
            explanation=explanation,
        )

    def _rank(self, mode: Mode, number: int) -> int | None:
        return self.lists[mode].rank_of(number) if mode in self.lists else None

    def _explanation(self, row: int, similarity: float) -> Explanation:
        without = {
            part: float(rows[row] @ self.query) for part, rows in self.snapshot.without.items()
        }
        losses = {part: max(0.0, similarity - left) for part, left in without.items()}
        total = sum(losses.values())
        return Explanation(
            similarity=similarity,
            without_vision=without.get("vision"),
            without_ocr=without.get("ocr"),
            vision=losses["vision"] / total if total > 0 else None,
            ocr=losses["ocr"] / total if total > 0 else None,
        )
