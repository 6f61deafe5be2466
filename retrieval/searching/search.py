"""A search: both lists, joined, and what is said of each hit.

Shapes: E width of the common space.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.results import MODES, Explanation, Hit, Mode
from retrieval.searching.lookup import entry_row, lines_of, matches_in
from retrieval.searching.meaning import nearest
from retrieval.searching.query import parse_terms
from retrieval.searching.ranking import fuse, ranks_of
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
    lists, scores = {}, {}
    depth = max(DEPTH, request.k)
    if request.mode != "words":
        ids, cosines = nearest(snapshot, query, depth, rows, request.exact)
        lists["meaning"] = ranks_of(ids, cosines)
        scores = dict(zip(ids.tolist(), cosines.tolist(), strict=True))
    if request.mode != "meaning":
        met = meet(connection, snapshot, parse_terms(request.query))
        ids, worths = scored(met)
        if rows is not None:
            inside = np.isin(ids, snapshot.ids[rows])
            ids, worths = ids[inside], worths[inside]
        # All that share a rank are in the list, or none of them would be there by its merit.
        count = int(np.sum(worths >= worths[depth - 1])) if len(worths) > depth else len(worths)
        lists["words"] = ranks_of(ids[:count], worths[:count])
        if request.mode == "words":
            scores = dict(zip(ids[:count].tolist(), worths[:count].tolist(), strict=True))
    if request.mode == "fused":
        best = fuse(lists, {"meaning": 1.0, "words": request.words_weight})
    else:
        best = list(scores.items())
    describe = _Describing(connection, snapshot, query, met, lists, request.explain)
    return [describe(entry, score) for entry, score in best[: request.k]]


@dataclass(frozen=True)
class _Describing:
    """Makes hits of entries and scores."""

    connection: sqlite3.Connection
    snapshot: Snapshot
    query: NDArray | None
    met: Sequence[MetTerm]
    lists: dict[str, dict[int, int]]
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
            meaning_rank=self.lists.get("meaning", {}).get(number),
            words_rank=self.lists.get("words", {}).get(number),
            words=matches_in(lines, self.met),
            explanation=explanation,
        )

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
