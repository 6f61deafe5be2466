"""Hybrid search: the semantic and the keyword list, fused by weighted reciprocal ranks.

Source: Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion", SIGIR 2009. Shapes: N entries, E width
of the common space.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import WordsOnlyError
from retrieval.results import MODES, Explanation, Hit, Mode, rename_mode
from retrieval.search.calibration import MIN_Z_SCORE, ExpectedBest
from retrieval.search.keyword import (
    TermMatch,
    find_matches,
    match_terms,
    parse_terms,
    score_entries,
    sum_scores,
)
from retrieval.search.semantic import find_nearest
from retrieval.search.snapshot import Snapshot, read_entry, read_tracks
from utils.errors import UserError

MAX_QUERY = 1000  # characters
DEPTH = 1000  # entries of each list that are fused, at least
OFFSET = 60  # k in the paper: the larger, the less the first ranks stand out


class RankedList(NamedTuple):
    """Entries, best first."""

    ids: NDArray  # (N,) int64, best first
    scores: NDArray  # (N,), descending
    ranks: NDArray  # (N,) int64 from 1; equal scores share the best of their ranks

    def find_rank(self, entry: int) -> int | None:
        """Return the rank of an entry, or None where it is not in the list."""
        position = np.flatnonzero(self.ids == entry)
        return int(self.ranks[position[0]]) if len(position) else None


def add_ranks(ids: NDArray, scores: NDArray) -> RankedList:
    """Return ids (N,), best first, and scores (N,), descending, with their ranks."""
    is_first = np.diff(scores, prepend=np.inf) != 0
    ranks = np.maximum.accumulate(np.where(is_first, np.arange(1, len(ids) + 1), 0))
    return RankedList(ids, scores, ranks)


def fuse_lists(lists: Sequence[RankedList], weights: Sequence[float]) -> RankedList:
    """Return every entry of the lists, best first, then by id.

    A score is the sum over the lists of weight / (``OFFSET`` + rank).
    """
    scores = [w / (OFFSET + each.ranks) for each, w in zip(lists, weights, strict=True)]
    return add_ranks(*sum_scores([each.ids for each in lists], scores))


@dataclass(frozen=True)
class SearchRequest:
    """Arguments of ``VideoIndex.search``; raises ``UserError`` where it can't answer them."""

    query: str
    k: int
    mode: Mode  # or its name in a former release
    folder: str | None
    explain: bool
    exact: bool
    words_weight: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", rename_mode(self.mode))
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


def choose_mode(mode: Mode, snapshot: Snapshot) -> Mode:
    """Return the mode of a search: without a model, ``hybrid`` has but the one list to fuse.

    Raises:
        WordsOnlyError: the mode is ``semantic``, and the index has no model.
    """
    if snapshot.model is not None or mode == "keyword":
        return mode
    if mode == "semantic":
        raise WordsOnlyError
    return "keyword"


def run_search(
    connection: sqlite3.Connection,
    snapshot: Snapshot,
    request: SearchRequest,
    query: NDArray | None,
    unrelated: NDArray | None = None,
) -> list[Hit]:
    """Return the hits: those that are likely, best first, then the others, best first.

    Args:
        connection: within a transaction that sees the snapshot.
        query: embedding (E,) of length 1; None in the mode ``keyword``.
        unrelated: embeddings (U, E) of texts, by which similarities are judged; None: by nothing.
    """
    rows = None if request.folder is None else snapshot.find_rows(connection, request.folder)
    matches: list[TermMatch] = []
    lists: dict[Mode, RankedList] = {}
    depth = max(DEPTH, request.k)
    if request.mode != "keyword":
        lists["semantic"] = add_ranks(*find_nearest(snapshot, query, depth, rows, request.exact))
    if request.mode != "semantic":
        matches = match_terms(connection, snapshot, parse_terms(request.query))
        inside = None if rows is None else snapshot.ids[rows]
        lists["keyword"] = _cut_list(*score_entries(matches), depth, inside)
    if request.mode == "hybrid":
        both = [lists["semantic"], lists["keyword"]]
        lists["hybrid"] = fuse_lists(both, [1.0, request.words_weight])
    ranked, hits = lists[request.mode], []
    calibration = None
    if query is not None and unrelated is not None:
        calibration = snapshot.load_calibration(unrelated)
    expected = None if calibration is None else calibration.expect_best(query)
    likely = _find_likely(ranked, lists, expected, request)
    for place in np.argsort(~likely, kind="stable")[: request.k]:
        entry, row = read_entry(connection, int(ranked.ids[place]))
        tracks = read_tracks(connection, entry.id) if matches else []
        ranks = {mode: found.find_rank(entry.id) for mode, found in lists.items()}
        similarity = None if query is None else float(snapshot.embeddings[row] @ query)
        best = None if query is None else snapshot.vectors.find_best_frame(query, row)
        explain = request.explain and similarity is not None
        z_score = None
        if expected is not None:
            (nearness,) = snapshot.vectors.score_rows(query, np.array([row]))
            z_score = float(expected.compute_z_scores(nearness))
        hits.append(
            Hit(
                id=entry.id,
                video=entry.video,
                start_s=entry.start_s,
                end_s=entry.end_s,
                score=float(ranked.scores[place]),
                similarity=similarity,
                semantic_rank=ranks.get("semantic"),
                keyword_rank=ranks.get("keyword"),
                words=find_matches(tracks, matches),
                explanation=_explain(snapshot, row, query, similarity) if explain else None,
                time_s=None if best is None else best.time_s,
                frame_similarity=None if best is None else best.cosine,
                z_score=z_score,
                likely=None if expected is None else bool(likely[place]),
            )
        )
    return hits


def _find_likely(
    ranked: RankedList,
    lists: Mapping[Mode, RankedList],
    expected: ExpectedBest | None,
    request: SearchRequest,
) -> NDArray:
    """Return which entries (N,) of a list are like the query; all where nothing is judged.

    An entry that has a word of the query was found, whatever its similarity.
    """
    if expected is None:
        return np.ones(len(ranked.ids), dtype=bool)
    nearest = lists["semantic"]
    found = nearest.ids[expected.compute_z_scores(nearest.scores) >= MIN_Z_SCORE]
    if request.mode == "hybrid" and request.words_weight > 0:
        found = np.concatenate([found, lists["keyword"].ids])
    return np.isin(ranked.ids, found)


def _cut_list(ids: NDArray, scores: NDArray, depth: int, inside: NDArray | None) -> RankedList:
    """Return the first ``depth`` entries that are ``inside``, and all with the last one's score."""
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
