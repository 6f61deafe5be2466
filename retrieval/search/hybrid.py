"""Hybrid search: the semantic and the keyword list, fused by weighted reciprocal ranks.

Source: Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion", SIGIR 2009. Shapes: N entries, E width
of the common space.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import WordsOnlyError
from retrieval.results import MODES, Explanation, Hit, Mode, rename_mode
from retrieval.search.calibration import MIN_Z_SCORE, ExpectedBest
from retrieval.search.example import MAX_EXAMPLES, Like, Picture
from retrieval.search.grouping import NEAR_DUPLICATE, SCANNED, Group, group_entries
from retrieval.search.keyword import (
    TermMatch,
    find_entries_showing,
    find_lines,
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
_NOTHING = np.zeros(0, dtype=np.int64)  # ids of entries
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
    like: tuple[Like, ...] = ()
    image: tuple[Picture, ...] = ()
    minus: str = ""
    minus_like: tuple[Like, ...] = ()
    minus_image: tuple[Picture, ...] = ()
    group: bool = False
    near_duplicate: float = NEAR_DUPLICATE
    like_meaning: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", rename_mode(self.mode))
        if not self.query.strip() and not (self.like or self.image):
            if self.minus.strip() or self.minus_like or self.minus_image:
                raise UserError(
                    "only what is not wanted is given; say what to look for, too: with words, a "
                    "moment of a video, or a picture"
                )
            raise UserError("the query is empty; say what to look for")
        for name, text in (("query", self.query), ("text of what is not wanted", self.minus)):
            if len(text) > MAX_QUERY:
                raise UserError(
                    f"the {name} has {len(text):,} characters; give at most {MAX_QUERY:,}"
                )
        if self.k < 1:
            raise UserError(f"k is {self.k}; ask for at least 1 hit")
        if self.mode not in MODES:
            raise UserError(f'the mode is "{self.mode}"; give one of: {", ".join(MODES)}')
        if not 0 <= self.words_weight < float("inf"):
            raise UserError(f"the weight of words is {self.words_weight}; give 0 or more")
        examples = (self.like, self.image, self.minus_like, self.minus_image)
        if self.mode == "keyword" and self.has_examples:
            raise UserError(
                'the mode "keyword" compares words, of which an example has none; search in the '
                'mode "semantic" or "hybrid"'
            )
        if max(map(len, examples)) > MAX_EXAMPLES:
            raise UserError(f"too many examples; give at most {MAX_EXAMPLES} of each kind")
        if not 0 < self.near_duplicate <= 1:
            raise UserError(
                f"near-duplicates have a cosine of {self.near_duplicate} or more; give a number "
                "above 0 and at most 1"
            )

    @property
    def has_examples(self) -> bool:
        """Whether there is anything beside words."""
        return any((self.like, self.image, self.minus_like, self.minus_image))


def choose_mode(request: SearchRequest, snapshot: Snapshot) -> Mode:
    """Return the mode of a search: without a model, ``hybrid`` has but the one list to fuse.

    Raises:
        WordsOnlyError: the index has no model, and the mode is ``semantic`` or there is an example.
    """
    if snapshot.model is not None or request.mode == "keyword":
        return request.mode
    if request.mode == "semantic" or request.has_examples:
        raise WordsOnlyError
    return "keyword"


def run_search(
    connection: sqlite3.Connection,
    snapshot: Snapshot,
    request: SearchRequest,
    query: NDArray | None,
    unrelated: NDArray | None = None,
    seen: NDArray | None = None,
    left_out: NDArray = _NOTHING,
) -> list[Hit]:
    """Return the hits: those that are likely, best first, then the others, best first.

    Args:
        connection: within a transaction that sees the snapshot.
        query: embedding (E,) of length 1; None in the mode ``keyword``.
        unrelated: embeddings (U, E) of texts, by which similarities are judged; None: by nothing.
        seen: a part of it that is given apart, see ``retrieval.search.example``.
        left_out: ids (M,) of entries that are not to be found.
    """
    rows = None if request.folder is None else snapshot.find_rows(connection, request.folder)
    matches: list[TermMatch] = []
    lists: dict[Mode, RankedList] = {}
    depth = max(DEPTH, SCANNED * request.k if request.group else request.k)
    if request.mode != "keyword":
        found = find_nearest(snapshot, query, depth + len(left_out), rows, request.exact, seen)
        lists["semantic"] = add_ranks(*_leave_out(*found, left_out))
    if request.mode != "semantic":
        matches = match_terms(
            connection, snapshot, parse_terms(request.query, request.like_meaning)
        )
        inside = None if rows is None else snapshot.ids[rows]
        showing = find_entries_showing(connection, snapshot, parse_terms(request.minus))
        scored = _leave_out(*score_entries(matches), np.concatenate([left_out, showing]))
        lists["keyword"] = _cut_list(*scored, depth, inside)
    if request.mode == "hybrid":
        both = [lists["semantic"], lists["keyword"]]
        lists["hybrid"] = fuse_lists(both, [1.0, request.words_weight])
    ranked, hits = lists[request.mode], []
    calibration = None
    if query is not None and unrelated is not None:
        calibration = snapshot.load_calibration(unrelated)
    expected = None if calibration is None else calibration.expect_best(query)
    likely = _find_likely(ranked, lists, expected, request)
    places = np.argsort(~likely, kind="stable")  # in the list: the likely ones first
    for group in _form_groups(connection, snapshot, request, ranked.ids[places], matches):
        place = places[group.position]
        entry, row = read_entry(connection, int(ranked.ids[place]))
        tracks = read_tracks(connection, entry.id) if matches else []
        ranks = {mode: found.find_rank(entry.id) for mode, found in lists.items()}
        similarity = best = None
        if query is not None:
            similarity = float(snapshot.embeddings[row] @ query)
            if seen is not None:
                similarity += float(snapshot.without["ocr"][row] @ seen)
            whole = query if seen is None else query + seen
            best = snapshot.vectors.find_best_frame(whole, row)
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
                explanation=_explain(snapshot, row, query, seen, similarity) if explain else None,
                time_s=None if best is None else best.time_s,
                frame_similarity=None if best is None else best.cosine,
                z_score=z_score,
                likely=None if expected is None else bool(likely[place]),
                num_also=group.num_others,
                also=group.others,
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


def _form_groups(
    connection: sqlite3.Connection,
    snapshot: Snapshot,
    request: SearchRequest,
    ids: NDArray,
    matches: Sequence[TermMatch],
) -> list[Group]:
    """Return the first ``k`` groups of near-duplicates; without ``group`` each entry is one."""
    if not request.group:
        return [Group(position) for position in range(min(request.k, len(ids)))]
    find = partial(find_lines, connection, matches)
    return group_entries(connection, snapshot, ids, request.k, request.near_duplicate, find)


def _leave_out(ids: NDArray, scores: NDArray, left_out: NDArray) -> tuple[NDArray, NDArray]:
    if not len(left_out):
        return ids, scores
    kept = ~np.isin(ids, left_out)
    return ids[kept], scores[kept]


def _cut_list(ids: NDArray, scores: NDArray, depth: int, inside: NDArray | None) -> RankedList:
    """Return the first ``depth`` entries that are ``inside``, and all with the last one's score."""
    if inside is not None:
        kept = np.isin(ids, inside)
        ids, scores = ids[kept], scores[kept]
    count = len(ids)
    if count > depth:
        count = int(np.searchsorted(-scores, -scores[depth - 1], side="right"))
    return add_ranks(ids[:count], scores[:count])


def _explain(
    snapshot: Snapshot, row: int, query: NDArray, seen: NDArray | None, similarity: float
) -> Explanation:
    arrays = snapshot.without if seen is None else {}  # a picture is compared with one of them
    without = {part: float(rows[row] @ query) for part, rows in arrays.items()}
    losses = {part: max(0.0, similarity - left) for part, left in without.items()}
    total = sum(losses.values())
    return Explanation(
        similarity=similarity,
        without_vision=without.get("vision"),
        without_ocr=without.get("ocr"),
        vision=losses["vision"] / total if total > 0 else None,
        ocr=losses["ocr"] / total if total > 0 else None,
    )
