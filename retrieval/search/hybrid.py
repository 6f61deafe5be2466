"""Hybrid search: the semantic and the keyword list, fused, and what is said of each hit.

Fusion is by weighted reciprocal ranks (Cormack, Clarke, Büttcher 2009). Shapes: N entries, E width
of the common space.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.results import MODES, Explanation, Hit, Mode, rename_mode
from retrieval.search.keyword import TermMatch, find_matches, match_terms, score_entries
from retrieval.search.query import parse_terms
from retrieval.search.semantic import find_nearest
from retrieval.search.snapshot import Snapshot, read_entry, read_tracks
from utils.errors import UserError

MAX_QUERY = 1000  # characters
DEPTH = 1000  # how many entries of each list are fused
OFFSET = 60  # the paper's k: how little the very first ranks stand out


class RankedList(NamedTuple):
    """A list of entries."""

    ids: NDArray  # (N,) int64, best first
    scores: NDArray  # (N,), descending
    ranks: NDArray  # (N,) int64 from 1; equal scores share the best of their ranks

    def find_rank(self, entry: int) -> int | None:
        """Return the rank of an entry, or None where it is not in the list."""
        place = np.flatnonzero(self.ids == entry)
        return int(self.ranks[place[0]]) if len(place) else None


def add_ranks(ids: NDArray, scores: NDArray) -> RankedList:
    """Return a list, (N,) ids best first and (N,) scores descending, with its ranks."""
    is_first = np.diff(scores, prepend=np.inf) != 0
    ranks = np.maximum.accumulate(np.where(is_first, np.arange(1, len(ids) + 1), 0))
    return RankedList(ids, scores, ranks)


def fuse_lists(lists: Sequence[RankedList], weights: Sequence[float]) -> RankedList:
    """Return every entry of the lists, best first, then by id.

    A score is the sum over the lists of weight / (``OFFSET`` + rank).
    """
    ids, place = np.unique(np.concatenate([each.ids for each in lists]), return_inverse=True)
    parts = [w / (OFFSET + each.ranks) for each, w in zip(lists, weights, strict=True)]
    scores = np.bincount(place, weights=np.concatenate(parts), minlength=len(ids))
    order = np.lexsort((ids, -scores))
    return add_ranks(ids[order], scores[order])


@dataclass(frozen=True)
class SearchRequest:
    """What is asked for; see ``VideoIndex.search``."""

    query: str
    k: int
    mode: Mode  # also by its name in a former release
    folder: str | None
    explain: bool
    exact: bool
    words_weight: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", rename_mode(self.mode))

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


def run_search(
    connection: sqlite3.Connection,
    snapshot: Snapshot,
    request: SearchRequest,
    query: NDArray | None,
) -> list[Hit]:
    """Return the hits, best first.

    Args:
        connection: within a transaction that sees the snapshot.
        query: embedding (E,) of length 1; None in the mode ``keyword``.
    """
    rows = None if request.folder is None else snapshot.find_rows(connection, request.folder)
    matches: list[TermMatch] = []
    lists: dict[Mode, RankedList] = {}
    depth = max(DEPTH, request.k)
    if request.mode != "keyword":
        nearest = find_nearest(snapshot, query, depth, rows, request.exact)
        lists["semantic"] = add_ranks(*nearest)
    if request.mode != "semantic":
        matches = match_terms(connection, snapshot, parse_terms(request.query))
        inside = None if rows is None else snapshot.ids[rows]
        lists["keyword"] = _cut_list(*score_entries(matches), depth, inside)
    if request.mode == "hybrid":
        both = [lists["semantic"], lists["keyword"]]
        lists["hybrid"] = fuse_lists(both, [1.0, request.words_weight])
    best = lists[request.mode]
    hits = []
    for number, score in zip(best.ids[: request.k], best.scores[: request.k], strict=True):
        entry, row = read_entry(connection, int(number))
        tracks = read_tracks(connection, entry.id) if matches else []
        ranks = {mode: ranked.find_rank(entry.id) for mode, ranked in lists.items()}
        similarity = None if query is None else float(snapshot.embeddings[row] @ query)
        explain = request.explain and similarity is not None
        hits.append(
            Hit(
                id=entry.id,
                video=entry.video,
                start_s=entry.start_s,
                end_s=entry.end_s,
                score=float(score),
                similarity=similarity,
                semantic_rank=ranks.get("semantic"),
                keyword_rank=ranks.get("keyword"),
                words=find_matches(tracks, matches),
                explanation=_explain(snapshot, row, query, similarity) if explain else None,
            )
        )
    return hits


def _cut_list(ids: NDArray, scores: NDArray, depth: int, inside: NDArray | None) -> RankedList:
    """Return the first ``depth`` entries, of those inside, and all of the last one's score."""
    if inside is not None:
        kept = np.isin(ids, inside)
        ids, scores = ids[kept], scores[kept]
    count = len(ids)
    if count > depth:
        count = int(np.searchsorted(-scores, -scores[depth - 1], side="right"))
    return add_ranks(ids[:count], scores[:count])


def _explain(snapshot: Snapshot, row: int, query: NDArray, similarity: float) -> Explanation:
    without = {part: float(rows[row] @ query) for part, rows in snapshot.without.items()}
    losses = {part: max(0.0, similarity - left) for part, left in without.items()}
    total = sum(losses.values())
    return Explanation(
        similarity=similarity,
        without_vision=without.get("vision"),
        without_ocr=without.get("ocr"),
        vision=losses["vision"] / total if total > 0 else None,
        ocr=losses["ocr"] / total if total > 0 else None,
    )
