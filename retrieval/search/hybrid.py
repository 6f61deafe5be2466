"""Hybrid search: what is seen and what is read or said, added up as evidence.

Both kinds of evidence are in nats (natural logarithms of how improbable it is that an entry matches
by chance), so that they can be added, and a rare word outweighs a vague resemblance:

- **seen**: -ln P(the best of all entries is as similar to a text that has nothing to do with the
  videos), by the calibration of similarities (``retrieval.search.calibration``). It is 0.7 for what
  is as similar as such texts find, 3 for what just counts as found (z-score 2), and grows by 1.3
  with each standard deviation; what is less similar has next to none. Where nothing is calibrated
  (few entries, or a search by example), the k-th most similar of N counts like a word that k
  entries have: ln(1 + N / k).
- **read or said** (``retrieval.search.keyword``): the sum M over the terms of the query of the
  evidence of their matches, times the share of the terms that are matched, for the one word of
  many that happens to match says little. Beside it, the same share, less where a match is not
  exact (``coverage``), of the most that is seen in any entry: a query all of whose words can be
  read somewhere means these words, and no resemblance is better than reading all of them. Below a
  coverage of ``MIN_COVERAGE`` words say nothing.

So an entry's evidence is

    seen + words_weight * (share of terms * M + coverage * most seen).

``python -m benchmarks.search_quality`` measures on judged queries that this finds at least what the
better one of both lists finds, for every kind of query. (Reciprocal rank fusion, Cormack, Clarke,
Büttcher, SIGIR 2009, drops how good matches are: there the only entry that shows three rare words
of a query can come ninth.) Entries of equal evidence are in the order of their similarity.

Shapes: N entries, E width of the common space.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import WordsOnlyError
from retrieval.index.store import StoreReader
from retrieval.index.vectors import BestFrame
from retrieval.results import (
    MODES,
    Box,
    Entry,
    Evidence,
    Explanation,
    Hit,
    Mode,
    TrackKind,
    rename_mode,
)
from retrieval.search.calibration import MIN_Z_SCORE, ExpectedBest
from retrieval.search.example import MAX_EXAMPLES, Like, Picture
from retrieval.search.grouping import NEAR_DUPLICATE, SCANNED, Group, group_entries
from retrieval.search.keyword import (
    LineMatch,
    TermMatch,
    WordScores,
    find_entries_showing,
    find_matches,
    fold_lines,
    list_words,
    match_terms,
    parse_terms,
    score_entries,
)
from retrieval.search.semantic import find_nearest
from retrieval.search.snapshot import Snapshot
from utils.errors import UserError

MAX_QUERY = 1000  # characters
DEPTH = 1000  # entries of each list that are fused, at least
MIN_COVERAGE = 0.05  # of the query's words, below which they say nothing
_NOTHING = np.zeros(0, dtype=np.int64)  # ids of entries
_NO_WORDS = WordScores(_NOTHING, *np.zeros((3, 0)))


class RankedList(NamedTuple):
    """Entries, best first."""

    ids: NDArray  # (N,) int64, best first
    scores: NDArray  # (N,), descending
    ranks: NDArray  # (N,) int64 from 1; equal scores share the best of their ranks

    def find_ranks(self, entries: NDArray) -> NDArray:
        """Return the ranks (M,) of entries (M,); 0 where one is not in the list."""
        of_entry = np.zeros(1 + max(self.ids.max(initial=0), entries.max(initial=0)), np.int64)
        of_entry[self.ids] = self.ranks
        return of_entry[entries]


def add_ranks(ids: NDArray, scores: NDArray) -> RankedList:
    """Return ids (N,), best first, and scores (N,), descending, with their ranks."""
    is_first = np.diff(scores, prepend=np.inf) != 0
    ranks = np.maximum.accumulate(np.where(is_first, np.arange(1, len(ids) + 1), 0))
    return RankedList(ids, scores, ranks)


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


@dataclass(frozen=True)
class Ranking:
    """Entries in the order in which they are found, and why.

    All arrays of numbers are (N,) and in that order.
    """

    ids: NDArray  # int64
    scores: NDArray  # what they are ordered by, as ``Hit.score``
    likely: NDArray  # bool; the likely ones come first
    seen: NDArray  # evidence, nats; 0 in the mode ``keyword``
    from_words: NDArray  # evidence, nats; 0 in the mode ``semantic``
    has_words: NDArray  # bool; whether enough of the query is read, said, or in the name
    similarities: NDArray | None  # as semantic search has them; None in the mode ``keyword``
    mode: Mode
    words_weight: float
    lists: dict[Mode, RankedList]  # of the modes that were searched
    matches: Sequence[TermMatch]  # of the query's terms
    expected: ExpectedBest | None  # by which similarities are judged

    def score_line(self, place: int, evidence: float) -> float:
        """Return the score that the entry at a place of the list would have by one of its lines."""
        if self.mode == "semantic":
            return float(self.scores[place])
        if self.mode == "keyword":
            return evidence or float(self.scores[place])
        if evidence:
            total, most_seen = self._limits
            share = min(1.0, evidence / total)
            line = WordScores(self.ids[place], *map(np.float64, (evidence, share, share)))
            evidence = self.words_weight * float(weigh_words(line, most_seen))
        return float(self.seen[place]) + evidence

    @cached_property
    def _limits(self) -> tuple[float, float]:
        """The most evidence that words can have, and that anything seen has."""
        return sum(match.idf for match in self.matches), float(self.seen.max())

    @property
    def words_found(self) -> NDArray:
        """Whether entries (N,) have a word of the query, however little that says."""
        return self.from_words > 0


@dataclass(frozen=True)
class EmbeddedQuery:
    """The embeddings of a search; ``whole`` is None in the mode ``keyword``.

    Attributes:
        whole: (E,) of length 1.
        unrelated: (U, E) of texts, by which similarities are judged; None: by nothing.
        seen: a part of it that is given apart, see ``retrieval.search.example``.
        left_out: ids (M,) of entries that are not to be found.
    """

    whole: NDArray | None = None
    unrelated: NDArray | None = None
    seen: NDArray | None = None
    left_out: NDArray = field(default_factory=lambda: _NOTHING)

    def compare_rows(self, snapshot: Snapshot, rows: NDArray) -> NDArray:
        """Return the cosines (M,) of the windows of rows (M,).

        Row by row, so that last digits don't depend on what else is compared.
        """
        cosines = np.vecdot(snapshot.vectors.read_windows(rows), self.whole)
        if self.seen is None:
            return cosines
        return cosines + np.vecdot(snapshot.vectors.read_without("ocr", rows), self.seen)

    def find_best_frame(self, snapshot: Snapshot, row: int) -> BestFrame | None:
        """Return the frame of a row that is most similar; None without frame vectors."""
        whole = self.whole if self.seen is None else self.whole + self.seen
        return snapshot.vectors.find_best_frame(whole, row)

    def score_rows(self, snapshot: Snapshot, rows: NDArray) -> NDArray:
        """Return the scores (M,) of rows (M,), as semantic search has them."""
        scores = snapshot.vectors.score_rows(self.whole, rows)
        if self.seen is None:
            return scores
        return scores + snapshot.vectors.read_without("ocr", rows) @ self.seen


def rank_entries(
    reader: StoreReader,
    snapshot: Snapshot,
    request: SearchRequest,
    query: EmbeddedQuery,
    depth: int,
    rows: NDArray | None = None,
) -> Ranking:
    """Return the entries that are found, those of each list down to ``depth`` at least.

    Args:
        reader: that sees the snapshot.
        rows: the only ones that are searched; None: all.
    """
    matches: list[TermMatch] = []
    lists: dict[Mode, RankedList] = {}
    words = _NO_WORDS
    expected = _expect_best(snapshot, query)
    if request.mode != "keyword":
        count = depth + len(query.left_out)
        found = find_nearest(snapshot, query.whole, count, rows, request.exact, query.seen)
        lists["semantic"] = add_ranks(*_leave_out(found.ids, found.scores, query.left_out))
    if request.mode != "semantic":
        terms = parse_terms(request.query, request.like_meaning)
        matches = match_terms(reader, snapshot, terms)
        showing = find_entries_showing(reader, snapshot, parse_terms(request.minus))
        inside = None if rows is None else snapshot.ids[rows]
        words = _keep_entries(score_entries(reader, matches), inside, query.left_out, showing)
        words = _cut_list(words, depth)
        lists["keyword"] = add_ranks(words.ids, words.evidence)
    if request.mode == "hybrid":
        rows = snapshot.find_rows_of(np.setdiff1d(words.ids, lists["semantic"].ids))
        all_scores = found.all_scores
        of_rows = query.score_rows(snapshot, rows) if all_scores is None else all_scores[rows]
        others = snapshot.ids[rows], of_rows
        return _fuse_evidence(snapshot, request, lists, others, words, matches, expected)
    return _rank_alone(request, lists, words, matches, expected)


def _rank_alone(
    request: SearchRequest,
    lists: dict[Mode, RankedList],
    words: WordScores,
    matches: Sequence[TermMatch],
    expected: ExpectedBest | None,
) -> Ranking:
    """Return the entries of the one list that was searched."""
    ranked, has_words = lists[request.mode], request.mode == "keyword"
    nothing, likely = np.zeros(len(ranked.ids)), np.ones(len(ranked.ids), dtype=bool)
    if not has_words and expected is not None:
        likely = expected.compute_z_scores(ranked.scores) >= MIN_Z_SCORE
    return Ranking(
        ids=ranked.ids,
        scores=ranked.scores,
        likely=likely,
        seen=nothing,
        from_words=words.evidence if has_words else nothing,
        has_words=words.coverage >= MIN_COVERAGE if has_words else nothing > 0,
        similarities=None if has_words else ranked.scores,
        mode=request.mode,
        words_weight=request.words_weight,
        lists=lists,
        matches=matches,
        expected=expected,
    )


def _expect_best(snapshot: Snapshot, query: EmbeddedQuery) -> ExpectedBest | None:
    if query.whole is None or query.unrelated is None:
        return None
    calibration = snapshot.load_calibration(query.unrelated)
    return None if calibration is None else calibration.expect_best(query.whole)


def _fuse_evidence(
    snapshot: Snapshot,
    request: SearchRequest,
    lists: dict[Mode, RankedList],
    others: tuple[NDArray, NDArray],
    words: WordScores,
    matches: Sequence[TermMatch],
    expected: ExpectedBest | None,
) -> Ranking:
    """Return the entries of both lists by the sum of what is seen and what is read or said.

    Args:
        others: ids and scores of the entries that only the keyword list has.
    """
    nearest = lists["semantic"]
    ids = np.concatenate([nearest.ids, others[0]])
    similarities = np.concatenate([nearest.scores, others[1]])
    if expected is None:
        last = np.full(len(others[0]), snapshot.num_entries)
        seen = np.log1p(snapshot.num_entries / np.concatenate([nearest.ranks, last]))
    else:
        seen = expected.compute_evidence(similarities)
    of_entry = np.zeros(1 + ids.max(initial=0))
    of_entry[words.ids] = request.words_weight * weigh_words(words, seen.max(initial=0.0))
    from_words = of_entry[ids]
    scores = seen + from_words
    has_words = from_words > 0
    likely = np.ones(len(ids), dtype=bool)
    if expected is not None:
        likely = has_words | (expected.compute_z_scores(similarities) >= MIN_Z_SCORE)
    order = np.lexsort((ids, -similarities, -scores, ~likely))
    return Ranking(
        ids=ids[order],
        scores=scores[order],
        likely=likely[order],
        seen=seen[order],
        from_words=from_words[order],
        has_words=has_words[order],
        similarities=similarities[order],
        mode=request.mode,
        words_weight=request.words_weight,
        lists=lists,
        matches=matches,
        expected=expected,
    )


def weigh_words(words: WordScores, most_seen: float) -> NDArray:
    """Return what the words of entries (N,) add to the evidence of what is seen.

    That is nothing below ``MIN_COVERAGE``.
    """
    evidence = words.share * words.evidence + words.coverage * most_seen
    return np.where(words.coverage < MIN_COVERAGE, 0.0, evidence)


def run_search(
    reader: StoreReader,
    snapshot: Snapshot,
    request: SearchRequest,
    query: EmbeddedQuery,
) -> list[Hit]:
    """Return the hits: those that are likely, best first, then the others, best first.

    Args:
        reader: that sees the snapshot.
    """
    rows = None if request.folder is None else snapshot.find_rows(reader, request.folder)
    depth = max(DEPTH, SCANNED * request.k if request.group else request.k)
    ranking = rank_entries(reader, snapshot, request, query, depth, rows)
    groups = _form_groups(reader, snapshot, request, ranking.ids, ranking.matches)
    places = np.array([group.position for group in groups], dtype=np.int64)
    ids = ranking.ids[places]
    entries = reader.read_entries(ids.tolist())
    lines = find_matches(reader, ranking.matches, ids.tolist())
    ranks = {mode: found.find_ranks(ids) for mode, found in ranking.lists.items()}
    similar = _Similarities(snapshot, query, ids, ranking.expected)
    hits = []
    for number, (group, place) in enumerate(zip(groups, places.tolist(), strict=True)):
        entry = entries[int(ids[number])]
        own = lines.get(entry.id, [])
        best = similar.find_best_frame(number)
        moment_s, box = find_moment(entry, own, best)
        hits.append(
            Hit(
                id=entry.id,
                video=entry.video,
                start_s=entry.start_s,
                end_s=entry.end_s,
                score=float(ranking.scores[place]),
                similarity=similar.get(similar.cosines, number),
                semantic_rank=_get_rank(ranks, "semantic", number),
                keyword_rank=_get_rank(ranks, "keyword", number),
                words=list_words(own),
                explanation=similar.explain(number) if request.explain else None,
                time_s=None if best is None else best.time_s,
                frame_similarity=None if best is None else best.cosine,
                z_score=similar.get(similar.z_scores, number),
                likely=None if ranking.expected is None else bool(ranking.likely[place]),
                num_also=group.num_others,
                also=group.others,
                evidence=split_evidence(ranking, place, own) if request.mode == "hybrid" else None,
                moment_s=moment_s,
                moment_box=box,
            )
        )
    return hits


def find_moment(
    entry: Entry, lines: Sequence[LineMatch], best: BestFrame | None
) -> tuple[float, Box | None]:
    """Return when an entry is best played from, and the box of what is to be looked at then.

    That is where its best matched line begins, or is first seen within the entry; without lines the
    best frame, else the entry's start. The name of a file has no time.
    """
    for line in (one.line for one in lines if one.line.kind != "name"):
        time_s = min(line.find_first(entry.start_s), entry.end_s)
        return time_s, line.find_box(time_s)
    return entry.start_s if best is None else best.time_s, None


def split_evidence(ranking: Ranking, place: int, lines: Sequence[LineMatch]) -> Evidence:
    """Return the evidence of an entry by its kinds: that of words in the shares of their lines."""
    shares = dict.fromkeys(get_args(TrackKind), 0.0)
    best: dict[str, tuple[float, TrackKind]] = {}  # term -> its best line
    for one in lines:
        for word in one.words:
            best.setdefault(word.query, (one.evidence / len(one.words), one.line.kind))
    for evidence, kind in best.values():
        shares[kind] += evidence
    total = sum(shares.values()) or 1.0
    whole = float(ranking.from_words[place])
    parts = {kind: whole * share / total for kind, share in shares.items()}
    return Evidence(float(ranking.seen[place]), parts["read"], parts["spoken"], parts["name"])


class _Similarities:
    """How similar hits (N,) are to the query, by their ids; nothing in the mode ``keyword``."""

    def __init__(
        self,
        snapshot: Snapshot,
        query: EmbeddedQuery,
        ids: NDArray,
        expected: ExpectedBest | None,
    ) -> None:
        self._snapshot, self._query = snapshot, query
        self.cosines = self.z_scores = None
        if query.whole is None:
            return
        self._rows = snapshot.find_rows_of(ids)
        self.cosines = query.compare_rows(snapshot, self._rows)
        if expected is not None:
            score = partial(snapshot.vectors.score_rows, query.whole)
            scores = [score(self._rows[number : number + 1]) for number in range(len(ids))]
            self.z_scores = expected.compute_z_scores(np.array(scores).ravel())

    @staticmethod
    def get(values: NDArray | None, number: int) -> float | None:
        """Return one of the values, where there are any."""
        return None if values is None else float(values[number])

    def find_best_frame(self, number: int) -> BestFrame | None:
        """Return the frame of a hit that is most similar; None without frame vectors."""
        if self.cosines is None:
            return None
        return self._query.find_best_frame(self._snapshot, int(self._rows[number]))

    def explain(self, number: int) -> Explanation | None:
        """Return where the similarity comes from."""
        if self.cosines is None:
            return None
        similarity, row = float(self.cosines[number]), int(self._rows[number])
        return _explain(self._snapshot, row, self._query.whole, self._query.seen, similarity)


def _get_rank(ranks: dict[Mode, NDArray], mode: Mode, number: int) -> int | None:
    return (int(ranks[mode][number]) or None) if mode in ranks else None


def _form_groups(
    reader: StoreReader,
    snapshot: Snapshot,
    request: SearchRequest,
    ids: NDArray,
    matches: Sequence[TermMatch],
) -> list[Group]:
    """Return the first ``k`` groups of near-duplicates; without ``group`` each entry is one."""
    if not request.group:
        return [Group(position) for position in range(min(request.k, len(ids)))]

    def find_lines(entries: Sequence[int]) -> dict[int, frozenset[str]]:
        found = find_matches(reader, matches, entries)
        return {entry: fold_lines(lines) for entry, lines in found.items()}

    return group_entries(reader, snapshot, ids, request.k, request.near_duplicate, find_lines)


def _leave_out(ids: NDArray, scores: NDArray, left_out: NDArray) -> tuple[NDArray, NDArray]:
    if not len(left_out):
        return ids, scores
    kept = ~np.isin(ids, left_out)
    return ids[kept], scores[kept]


def _keep_entries(words: WordScores, inside: NDArray | None, *left_out: NDArray) -> WordScores:
    """Return the entries that are ``inside`` (None: anywhere) and not among others."""
    kept = np.ones(len(words.ids), dtype=bool)
    if inside is not None:
        kept &= np.isin(words.ids, inside)
    for ids in left_out:
        if len(ids):
            kept &= ~np.isin(words.ids, ids)
    return words if kept.all() else WordScores(*(part[kept] for part in words))


def _cut_list(words: WordScores, depth: int) -> WordScores:
    """Return the first ``depth`` entries, and all with the last one's evidence."""
    if len(words.ids) <= depth:
        return words
    count = int(np.searchsorted(-words.evidence, -words.evidence[depth - 1], side="right"))
    return WordScores(*(part[:count] for part in words))


def _explain(
    snapshot: Snapshot, row: int, query: NDArray, seen: NDArray | None, similarity: float
) -> Explanation:
    vectors = snapshot.vectors
    parts = vectors.parts if seen is None else ()  # a picture is compared with one of them
    rows = np.array([row])
    without = {part: float(vectors.read_without(part, rows)[0] @ query) for part in parts}
    losses = {part: max(0.0, similarity - left) for part, left in without.items()}
    total = sum(losses.values())
    return Explanation(
        similarity=similarity,
        without_vision=without.get("vision"),
        without_ocr=without.get("ocr"),
        vision=losses["vision"] / total if total > 0 else None,
        ocr=losses["ocr"] / total if total > 0 else None,
    )
