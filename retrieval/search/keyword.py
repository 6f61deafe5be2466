"""Keyword search: which words of the videos a query's words match, and how well.

Of a term's matches in an entry the best one counts: exact before variant (the same word with other
signs, marks or digits: ``retrieval.index.words``) before pieces (one word that is written as
several, or several as one) before prefix before substring before fuzzy
(``retrieval.search.misreading``), and a longer share of the word before a shorter one. What is said
counts as what is read; the words of a file's name count less.

The evidence of a match is in nats: how surprising it would be of an entry that was drawn at random,
which is ``ln(1 + entries / entries that match at least as well)`` (the inverse document frequency,
Sparck Jones 1972), times the score of the match. An entry's evidence is the sum over the terms, and
something for terms that stand in one line, more where they stand beside each other and in the
query's order. Its *coverage* is the share of what it would have if it had every term of the query
as well as any entry has it, those that no entry has among them; its *share of terms* is the same
for an entry that matches the same terms as well as any.

Shapes: N entries, P places of a term, L lines.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_loader.readers.container import SEARCHABLE_EXTENSIONS
from retrieval.index.records import Line, Postings
from retrieval.index.store import StoreReader
from retrieval.index.words import (
    find_joined,
    fold_formerly,
    get_words,
    is_unspaced,
    list_pieces,
    measure_pieces,
    reduce_word,
    split_at_signs,
)
from retrieval.results import MatchKind, WordMatch
from retrieval.search.misreading import (
    LOOKALIKE_SCORE,
    get_max_edits,
    is_plausible,
    score_edits,
)
from retrieval.search.snapshot import MAX_LETTERS, Snapshot, Vocabulary

MAX_WORDS = 500  # that contain a term: the shortest
MAX_SENTENCES = 5000  # the same where words are whole sentences, in scripts without blanks
MAX_PLACES = 2000  # of the rarest piece of a word; more is a word of its own
MAX_JOINED = 4  # words of a query, or of a line, that may be one word
_MAX_JOINED_LETTERS = 3  # the same of words without digits
MAX_MATCHES = 50  # of a hit
# Least score of a match of a kind, and what the covered share of the word adds.
_SCORES = {"exact": (1.0, 0.0), "prefix": (0.65, 0.3), "substring": (0.35, 0.3)}
# The same of a match of reduced forms, times that of the written ones; and of pieces: with few
# letters these are mostly words by themselves.
_VARIANT_SCORE, _PIECES_SCORE, _SHORT_PIECES_SCORE = 0.97, 0.95, 0.5
# Share of a word without blanks that has to be there in pieces, and its score: less than a part's.
_MIN_PIECES, _SCATTERED_SCORE = 0.75, 0.35
# Of a term of few letters, which has nothing to do with most of the longer words that begin with it
# or have it within: at least, and what the cube of the covered share adds at a beginning.
_SHORT_SCORE, _SHORT_PREFIX = 0.1, 0.8
_MIN_LETTERS = 4  # of a term that says more
# Of a word of like meaning, times the cosine: even of a rare one less than a fuzzy match.
_SIMILAR_SCORE = 0.05
NAME_SCORE = 0.8  # of the name of a file, times that of the match
_TRIGRAM = 3
# What terms in one line add, as a share of all but the best of them: at least, and at most where
# they stand in the query's order, beside each other.
_SAME_LINE, _ADJACENT = 0.25, 0.5
_MAX_READ = 200  # lines that have several terms, whose order is looked at: the best
# Words that make a sentence and name nothing; they count where a query has no other, or in quotes.
FUNCTION_WORDS = frozenset(
    "a an the and or but nor so as at by for from in into of on onto over to under with without "
    "is are was were be been being am do does did has have had can could will would it its "
    "he she they we you i his her their our your my me him them us this that these those there "
    "here which who whom whose what when where while how than then like against toward towards "
    "between behind beside during through some someone somebody something showing shows".split()
)
# How people begin a query, which says nothing of what they look for.
_OPENING = re.compile(
    r"\s*((please\s+)?(show|find)\s+me\s+|(i\s+am|i'm)?\s*looking\s+for\s+)?"
    r"((an?|the|some|any|all)\s+)?"
    r"((videos?|clips?|films?|movies?|footage|scenes?|shots?|recordings?|pictures?|images?|photos?)"
    r"\s+(of|showing|with|about|where|in\s+which|that\s+shows?)\b)?",
    re.IGNORECASE,
)
_ENDING = re.compile(f"({'|'.join(map(re.escape, SEARCHABLE_EXTENSIONS))})$")
_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|„([^“”]*)[“”]|«([^»]*)»')


@dataclass(frozen=True)
class Term:
    """A word that is looked for, or a quoted phrase."""

    text: str  # folded; the words of a phrase are one blank apart
    quoted: bool = False  # whether it is found only as it stands
    like_meaning: bool = False  # whether words of like meaning match it, too
    # What it is as one word with its neighbours in the query, reduced; says nothing of the term.
    joined: tuple[str, ...] = field(default=(), compare=False)

    @property
    def reduced(self) -> str:
        """Its reduced form."""
        return reduce_word(self.text)

    @property
    def words(self) -> list[str]:
        """The words of a phrase, or the one word."""
        return self.text.split(" ")

    @property
    def max_distance(self) -> int:
        """How many letters of a fuzzy match may be other ones, missing, extra, or swapped.

        None in what is quoted, in short words, in numbers, and in words that name nothing.
        """
        if self.quoted or self.text in FUNCTION_WORDS:
            return 0
        return get_max_edits(self.text)


def parse_terms(query: str, like_meaning: bool = False) -> list[Term]:
    """Return the words and quoted phrases of a query, each once; all of it is plain text.

    A quotation mark without a partner is punctuation. A query of punctuation has no term.
    """
    phrases = [Term(" ".join(get_words("".join(found))), True) for found in _QUOTED.findall(query)]
    phrases = [phrase for phrase in phrases if phrase.text]
    rest = _QUOTED.sub(" ", query)
    for text in (rest[_OPENING.match(rest).end() :], rest):  # type: ignore[union-attr]
        words = _join_neighbours([Term(w, like_meaning=like_meaning) for w in get_words(text)])
        naming = [word for word in words if word.text not in FUNCTION_WORDS]
        if naming or phrases:
            return list(dict.fromkeys(phrases + naming))
    return list(dict.fromkeys(words))


def _join_neighbours(terms: Sequence[Term]) -> list[Term]:
    """Return terms that know what they are as one word with their neighbours."""
    if len(terms) < 2:
        return list(terms)
    reduced = [term.reduced for term in terms]
    joined: list[list[str]] = [[] for _ in terms]
    for first in range(len(terms)):
        for end in range(first + 2, min(first + MAX_JOINED, len(terms)) + 1):
            text = "".join(reduced[first:end])
            for number in range(first, end if len(text) <= MAX_LETTERS else first):
                joined[number].append(text)
    return [replace(term, joined=tuple(of)) for term, of in zip(terms, joined, strict=True)]


@dataclass(frozen=True)
class VocabularyMatch:
    """A word of the videos that a term matches."""

    word_id: int
    text: str  # folded; words that stand beside each other are one blank apart
    kind: MatchKind
    score: float  # in (0, 1]


_NO_ENTRIES = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class TermMatch:
    """A term and where it is matched."""

    term: Term
    words: dict[str, VocabularyMatch]  # text -> match; of a phrase none
    idf: float  # the most that a match of the term says
    entries: NDArray  # (N,) int64 ids of the entries that have it, ascending
    evidence: NDArray  # (N,) float64, of the best match in each
    place_entries: (
        NDArray  # (P,) int64 ids: an entry, ascending, and a line of it that has the term
    )
    place_tracks: NDArray  # (P,) int64 ids
    place_evidence: NDArray  # (P,) float64
    line_tracks: NDArray  # (L,) int64 ids of the lines, ascending
    line_evidence: NDArray  # (L,) float64, of the best match in each
    # (M,) int64 ids of the entries in whose lines it is several words
    in_pieces: NDArray = field(default_factory=lambda: _NO_ENTRIES)

    def find_best(self, words: Sequence[str]) -> VocabularyMatch | None:
        """Return the best match of the term in the words of a line, or None."""
        phrase = self.term.text if self.term.quoted else _split_path(self.term.text)
        if phrase is not None and _has_phrase(words, phrase):
            return VocabularyMatch(0, phrase, "exact", 1.0)
        matches = [self.words[word] for word in words if word in self.words]
        if len(self.in_pieces) or self._spaced_words:
            joined = find_joined(words, self.term.reduced)
            if joined is None:
                joined = next((w for w in self._spaced_words if _has_phrase(words, w)), None)
            if joined is not None:
                score = _score_pieces(self.term.reduced)
                matches.append(VocabularyMatch(0, joined, "pieces", score))
        return max(matches, key=lambda match: match.score, default=None)

    @cached_property
    def _spaced_words(self) -> list[str]:
        """Those of its words whose letters stand apart."""
        return [word for word in self.words if " " in word]

    @property
    def is_phrase(self) -> bool:
        """Whether its words stand beside each other, and not as one."""
        return self.term.quoted or _split_path(self.term.text) is not None

    @property
    def kind(self) -> MatchKind | None:
        """How it is matched at best; None: it is not."""
        if not len(self.entries):
            return None
        best = next(iter(self.words.values()), None)
        if len(self.in_pieces) and (best is None or best.score < _score_pieces(self.term.reduced)):
            return "pieces"
        return "exact" if best is None else best.kind

    def count_numbers(self) -> int:
        """Return how many numbers its arrays have."""
        return 2 * (len(self.entries) + len(self.line_tracks)) + 3 * len(self.place_entries)


class WordScores(NamedTuple):
    """The entries that match a query's words, best first, then by id."""

    ids: NDArray  # (N,) int64
    evidence: NDArray  # (N,) float64, nats
    coverage: NDArray  # (N,) float64, in [0, 1]
    share: NDArray  # (N,) float64, of terms, in [0, 1], at least the coverage


def match_terms(reader: StoreReader, snapshot: Snapshot, terms: Sequence[Term]) -> list[TermMatch]:
    """Look up terms; those that no entry has have no entries."""

    def match(term: Term) -> TermMatch:
        if not snapshot.has_reduced:
            term = replace(term, text=" ".join(map(fold_formerly, term.words)), joined=())
        if term.quoted:
            return snapshot.keep(
                term, partial(_match_phrase, reader, snapshot, term), TermMatch.count_numbers
            )
        joined = _find_joined_words(snapshot.load_vocabulary(reader), term)
        make = partial(_match_word, reader, snapshot, term, joined)
        return snapshot.keep((term, *joined), make, TermMatch.count_numbers)

    return [match(term) for term in terms]


def _find_joined_words(vocabulary: Vocabulary, term: Term) -> list[VocabularyMatch]:
    """Return the words that a term is together with its neighbours in the query."""
    return [
        VocabularyMatch(*word, "pieces", _score_pieces(text))
        for text in term.joined
        for word in vocabulary.find_same(text)
    ]


def _score_pieces(reduced: str) -> float:
    is_short = len(reduced) < _MIN_LETTERS and reduced.isascii() and reduced.isalpha()
    return _SHORT_PIECES_SCORE if is_short else _PIECES_SCORE


def score_entries(reader: StoreReader, matches: Sequence[TermMatch]) -> WordScores:
    """Return the entries that have a term, and the evidence that their words are."""
    total = sum(match.idf for match in matches)
    matches = [match for match in matches if len(match.entries)]
    if not matches:
        return WordScores(np.zeros(0, np.int64), *np.zeros((3, 0)))
    sums, possible = np.zeros((2, 1 + max(match.entries[-1] for match in matches)))  # of each id
    for match in matches:
        sums[match.entries] += match.evidence
        possible[match.entries] += match.idf
    ids = np.flatnonzero(possible)
    coverage, share = sums[ids] / total, possible[ids] / total
    shared = _score_shared_lines(reader, matches)
    if shared is not None:
        sums[shared[0]] += shared[1]
    order = np.argsort(-sums[ids], kind="stable")
    return WordScores(ids[order], sums[ids][order], coverage[order], share[order])


def _score_shared_lines(
    reader: StoreReader, matches: Sequence[TermMatch]
) -> tuple[NDArray, NDArray] | None:
    """Return entries (N,) and what lines with several terms add to their evidence (N,)."""
    if len(matches) < 2:
        return None
    tracks = _find_shared_lines(matches)
    if not len(tracks):
        return None
    places = [np.searchsorted(match.line_tracks, tracks) for match in matches]
    places = [np.minimum(p, len(m.line_tracks) - 1) for p, m in zip(places, matches, strict=True)]
    of_terms = np.stack(
        [
            np.where(match.line_tracks[place] == tracks, match.line_evidence[place], 0.0)
            for place, match in zip(places, matches, strict=True)
        ]
    )  # (terms, L)
    sums = of_terms.sum(axis=0)
    shares = np.full(len(tracks), _SAME_LINE)
    best = np.argsort(-sums, kind="stable")[:_MAX_READ]
    lines = reader.read_lines(tracks[best].tolist())
    for position in best.tolist():
        words = lines[int(tracks[position])].words
        shares[position] += (_ADJACENT - _SAME_LINE) * _measure_order(words, matches)
    more = shares * (sums - of_terms.max(axis=0))
    ids, of_place = [], []
    for match in matches:  # each line of several terms is among the places of two at least
        at = np.minimum(np.searchsorted(tracks, match.place_tracks), len(tracks) - 1)
        is_shared = tracks[at] == match.place_tracks
        ids.append(match.place_entries[is_shared])
        of_place.append(more[at[is_shared]])
    entries, inverse = np.unique(np.concatenate(ids), return_inverse=True)
    most = np.zeros(len(entries))
    np.maximum.at(most, inverse, np.concatenate(of_place))
    return entries, most


def _find_shared_lines(matches: Sequence[TermMatch]) -> NDArray:
    """Return the ids (L,) of the lines that have several of the terms, ascending."""
    by_length = sorted((match.line_tracks for match in matches), key=len)
    shared = [np.zeros(0, np.int64)]
    for number, few in enumerate(by_length):
        for many in by_length[number + 1 :]:
            at = np.minimum(np.searchsorted(many, few), len(many) - 1)
            shared.append(few[many[at] == few])
    return np.unique(np.concatenate(shared))


def _measure_order(words: Sequence[str], matches: Sequence[TermMatch]) -> float:
    """Return the share of neighbouring terms that are neighbours in a line, in this order.

    Words that name nothing are no neighbours. Terms that the line doesn't have don't count.
    """
    places = []
    kept = [word for word in words if word not in FUNCTION_WORDS] or words
    for match in matches:
        if match.term.quoted:
            found = {
                n
                for n in range(len(kept))
                if kept[n : n + len(match.term.words)] == match.term.words
            }
        else:
            found = {number for number, word in enumerate(kept) if word in match.words}
        if found:
            places.append((found, len(match.term.words) if match.term.quoted else 1))
    pairs = list(pairwise(places))
    beside = [
        any(place + length in after for place in found) for (found, length), (after, _) in pairs
    ]
    return sum(beside) / len(beside) if beside else 0.0


class LineMatch(NamedTuple):
    """What terms match in one line of an entry."""

    track: int  # id of the line
    line: Line
    words: tuple[WordMatch, ...]  # best first
    evidence: float  # the sum over the terms


def find_matches(
    reader: StoreReader, matches: Sequence[TermMatch], entries: Sequence[int]
) -> dict[int, list[LineMatch]]:
    """Return the lines of entries that terms match, best first, then by time.

    An entry without any is left out; of one with many lines, only the best are there.
    """
    wanted = np.array(sorted(set(entries)), dtype=np.int64)
    of_entry: dict[int, dict[int, dict[int, float]]] = {}  # entry -> line -> term -> evidence
    for number, match in enumerate(matches):
        for place in _find_places(match, wanted):
            lines = of_entry.setdefault(int(match.place_entries[place]), {})
            terms = lines.setdefault(int(match.place_tracks[place]), {})
            terms[number] = max(terms.get(number, 0.0), float(match.place_evidence[place]))
    for entry, lines in of_entry.items():
        if len(lines) > MAX_MATCHES:
            best = sorted(lines, key=lambda track: -sum(lines[track].values()))[:MAX_MATCHES]
            of_entry[entry] = {track: lines[track] for track in best}
    read = reader.read_lines(sorted({t for lines in of_entry.values() for t in lines}))
    words = {track: line.words for track, line in read.items()}
    found = {}
    for entry, lines in of_entry.items():
        own = [
            LineMatch(track, read[track], _match_line(read[track], words[track], matches, terms),
                      sum(terms.values()))
            for track, terms in lines.items()
        ]  # fmt: skip
        found[entry] = sorted(own, key=lambda one: (-one.evidence, one.line.start_s))
    return found


def _find_places(match: TermMatch, entries: NDArray) -> NDArray:
    """Return which places (P,) of a term are in these entries, ascending."""
    if not len(entries) or not len(match.place_entries):
        return np.zeros(0, dtype=np.int64)
    firsts = np.searchsorted(match.place_entries, entries, side="left")
    stops = np.searchsorted(match.place_entries, entries, side="right")
    return np.concatenate(
        [np.arange(first, stop) for first, stop in zip(firsts, stops, strict=True)]
    )


def _match_line(
    line: Line, words: Sequence[str], matches: Sequence[TermMatch], terms: dict[int, float]
) -> tuple[WordMatch, ...]:
    found, box = [], line.box
    for number in sorted(terms, key=lambda number: -terms[number]):
        best = matches[number].find_best(words)
        if best is not None:
            place = line.text, line.start_s, line.end_s, box, line.kind
            found.append(WordMatch(matches[number].term.text, best.text, best.kind, *place))
    return tuple(found)


def list_words(lines: Iterable[LineMatch]) -> tuple[WordMatch, ...]:
    """Return the words of an entry's lines, best first, at most ``MAX_MATCHES``."""
    return tuple(word for line in lines for word in line.words)[:MAX_MATCHES]


def fold_lines(lines: Iterable[LineMatch]) -> frozenset[str]:
    """Return the folded texts of lines that are read or said."""
    return frozenset(" ".join(get_words(one.line.text)) for one in lines if one.line.kind != "name")


def find_entries_showing(reader: StoreReader, snapshot: Snapshot, terms: Sequence[Term]) -> NDArray:
    """Return the ids (N,) of the entries that show one of these words or phrases exactly."""
    phrases = [Term(term.text, quoted=True) for term in terms]
    found = [_match_phrase(reader, snapshot, phrase).entries for phrase in phrases]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))


def _match_word(
    reader: StoreReader,
    snapshot: Snapshot,
    term: Term,
    joined: Sequence[VocabularyMatch],
) -> TermMatch:
    words = _match_vocabulary(reader, snapshot, term, joined)
    postings = snapshot.find_postings(reader, [word.word_id for word in words])
    found = [postings[word.word_id] for word in words]
    scores = [np.full(len(own.entries), word.score) for own, word in zip(found, words, strict=True)]
    parts = _split_path(term.text)
    if parts is not None:  # the words of names stand apart: IMG_4711.mp4 is "IMG 4711"
        found.append(Postings(*_find_phrase(reader, parts)))
        scores.append(np.ones(len(found[-1].entries)))
    in_pieces = _find_pieces(reader, snapshot.load_vocabulary(reader), term)
    if len(in_pieces.entries):
        found.append(in_pieces)
        scores.append(np.full(len(in_pieces.entries), _score_pieces(term.reduced)))
    places = _join([own.entries for own in found]), _join([own.tracks for own in found])
    by_text = {word.text: word for word in words}
    match = _weigh_places(reader, snapshot, term, by_text, places, _join(scores, np.float64))
    if not len(in_pieces.entries):
        return match
    return replace(match, in_pieces=np.unique(in_pieces.entries))


def _find_pieces(reader: StoreReader, vocabulary: Vocabulary, term: Term) -> Postings:
    """Return where a term stands in pieces: ``CA SINO``, ``555 0123``."""
    has_digits = any(map(str.isdecimal, term.reduced))
    cuts = vocabulary.list_cuts(term.reduced, MAX_JOINED if has_digits else _MAX_JOINED_LETTERS)
    found: set[tuple[int, int]] = set()
    for cut in cuts:
        words = [[word for word, _ in vocabulary.find_same(piece)] for piece in cut]
        found |= reader.find_together(words, MAX_PLACES)
    if not found:  # mostly
        return Postings(_NO_ENTRIES, _NO_ENTRIES)
    lines = reader.read_lines(sorted({track for _, track in found}))
    fitting = {
        track for track, line in lines.items() if find_joined(line.words, term.reduced) is not None
    }
    places = sorted(place for place in found if place[1] in fitting)
    entries, tracks = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return Postings(np.ascontiguousarray(entries), np.ascontiguousarray(tracks))


def _join(parts: Sequence[NDArray], dtype: type = np.int64) -> NDArray:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _weigh_places(
    reader: StoreReader,
    snapshot: Snapshot,
    term: Term,
    words: dict[str, VocabularyMatch],
    places: tuple[NDArray, NDArray],
    scores: NDArray,
) -> TermMatch:
    """Return a term with the evidence of its places, given entries, lines, and scores (P,)."""
    order = np.argsort(places[0], kind="stable")
    entries, tracks, scores = places[0][order], places[1][order], scores[order]
    if not len(entries):
        idf = len(term.words) * _compute_idf(0, snapshot.num_entries)
        places = entries, tracks, scores
        return TermMatch(term, words, idf, entries, scores, *places, tracks, scores)
    names = snapshot.load_names(reader)
    scores = np.where(np.isin(tracks, names, kind="sort"), NAME_SCORE * scores, scores)
    firsts = np.flatnonzero(np.diff(entries, prepend=-1))
    best = np.maximum.reduceat(scores, firsts)
    levels = np.sort(best)

    def weigh(values: NDArray) -> NDArray:
        """Return the evidence of matches with these scores, by how many are as good."""
        num_with = np.maximum(1, len(levels) - np.searchsorted(levels, values))
        return values * len(term.words) * np.log1p(snapshot.num_entries / num_with)

    top = len(levels) - np.searchsorted(levels, levels[-1])
    idf = len(term.words) * _compute_idf(int(top), snapshot.num_entries)
    evidence = weigh(scores)
    lines, inverse = np.unique(tracks, return_inverse=True)
    of_lines = np.zeros(len(lines))
    np.maximum.at(of_lines, inverse, evidence)
    of_entries = entries[firsts], weigh(best)
    return TermMatch(term, words, idf, *of_entries, entries, tracks, evidence, lines, of_lines)


def _match_vocabulary(
    reader: StoreReader,
    snapshot: Snapshot,
    term: Term,
    joined: Sequence[VocabularyMatch],
) -> list[VocabularyMatch]:
    """Return the words of the videos that an unquoted term matches, best first."""
    vocabulary = snapshot.load_vocabulary(reader)
    found = _match_parts(reader, snapshot, term)
    found += joined
    if term.text not in FUNCTION_WORDS:
        found += _match_fuzzily(vocabulary, term)
    if term.like_meaning:
        words = snapshot.load_similar_words(reader)
        for word_id, text, cosine in words.find_similar(term.text):
            similar = VocabularyMatch(word_id, text, "similar", _SIMILAR_SCORE * cosine)
            found.append(similar)
    best: dict[int, VocabularyMatch] = {}
    for match in sorted(found, key=lambda match: -match.score):
        best.setdefault(match.word_id, match)
    return list(best.values())


def _match_parts(reader: StoreReader, snapshot: Snapshot, term: Term) -> list[VocabularyMatch]:
    """Return the words that contain a term, in their written form or in the reduced one."""
    reduced = term.reduced
    by_pieces = snapshot.has_reduced and is_unspaced(reduced)
    # One letter matches only the word that it is.
    limit = MAX_SENTENCES if by_pieces else MAX_WORDS
    rows = reader.find_words_containing(term.text, reduced, by_pieces, limit)
    found = [_match_part(term.text, reduced, *row) for row in rows]
    if min(len(term.text), len(reduced)) < _TRIGRAM and not by_pieces:
        same = snapshot.load_vocabulary(reader).find_same(reduced)
        found += [_match_part(term.text, reduced, *word, reduced) for word in same]
    elif by_pieces and len(reduced) >= _TRIGRAM:
        found += _match_scattered(reader, reduced)
    return [match for match in found if match is not None]


def _match_part(
    written: str, reduced: str, word_id: int, text: str, form: str | None
) -> VocabularyMatch | None:
    """Return the match of a word, given its reduced form, with a part of it, or all of it."""
    form = text if form is None else form
    if written in text and " " not in text:
        kind = _name_part(written, text)
        return VocabularyMatch(word_id, text, kind, _score_part(written, text, kind))
    if reduced not in form:
        return None
    score = _score_part(reduced, form, _name_part(reduced, form))
    if " " in text:  # letters that are spaced out
        return VocabularyMatch(word_id, text, "pieces", _score_pieces(reduced) * score)
    return VocabularyMatch(word_id, text, "variant", _VARIANT_SCORE * score)


def _name_part(part: str, word: str) -> MatchKind:
    if part == word:
        return "exact"
    return "prefix" if word.startswith(part) else "substring"


def _score_part(part: str, word: str, kind: MatchKind) -> float:
    """Return the score of a match with the part of a word, or all of it."""
    least, more = _SCORES[kind]
    share = len(part) / len(word)
    is_short = len(part) < _MIN_LETTERS and part.isascii() and part.isalpha()
    if is_short and kind != "exact":
        return _SHORT_SCORE + (_SHORT_PREFIX * share**3 if kind == "prefix" else 0.0)
    return least + more * share


def _match_fuzzily(vocabulary: Vocabulary, term: Term) -> list[VocabularyMatch]:
    """Return the words that a term may have been misread as, or mistyped for."""
    found = [
        VocabularyMatch(word_id, text, "fuzzy", LOOKALIKE_SCORE)
        for word_id, text in vocabulary.find_lookalikes(term.text, term.reduced)
    ]
    found += [
        VocabularyMatch(word_id, text, "fuzzy", score_edits(term.text, distance))
        for word_id, text, distance in vocabulary.find_similar(term.text, term.max_distance)
        if is_plausible(term.text, text)
    ]
    return [word for word in found if word.text not in FUNCTION_WORDS]


def _match_scattered(reader: StoreReader, reduced: str) -> list[VocabularyMatch]:
    """Return the words of a script without blanks in which a term stands in pieces."""
    pieces = [piece for piece in list_pieces(reduced) if len(piece) > 1]
    least = math.ceil(_MIN_PIECES * len(reduced) / 2)  # as many of its neighbours, if it stands so
    rows = reader.find_words_with_pieces(pieces, min(least, len(pieces)), MAX_SENTENCES)
    shares = [
        (word_id, text, measure_pieces(reduced, text if form is None else form))
        for word_id, text, form in rows
    ]
    return [
        VocabularyMatch(word_id, text, "pieces", _SCATTERED_SCORE * share)
        for word_id, text, share in shares
        if share >= _MIN_PIECES
    ]


@lru_cache(1024)
def _split_path(text: str) -> str | None:
    """Return the words of a term that may be a file's name, or None where it is one word."""
    if not any(map(str.isalpha, text)):
        return None  # 18.4 is a number
    if text.endswith(("#", "++")):
        return None  # C++ is a word
    words = split_at_signs(_ENDING.sub("", text))
    return words if words and words != text else None


def _match_phrase(reader: StoreReader, snapshot: Snapshot, term: Term) -> TermMatch:
    """Find lines that have the words of a phrase beside each other."""
    places = _find_phrase(reader, term.text)
    scores = np.ones(len(places[0]))
    return _weigh_places(reader, snapshot, term, {}, places, scores)


def _find_phrase(reader: StoreReader, text: str) -> tuple[NDArray, NDArray]:
    """Return the entries (P,) and lines (P,) that have these words beside each other."""
    entries, tracks = reader.find_lines_with_words(list(dict.fromkeys(text.split(" "))))
    if " " in text:
        lines = reader.read_lines(np.unique(tracks).tolist())
        fitting = [track for track, line in lines.items() if _has_phrase(line.words, text)]
        fits = np.isin(tracks, np.array(fitting, dtype=np.int64))
        entries, tracks = entries[fits], tracks[fits]
    return entries, tracks


def _has_phrase(words: Sequence[str], text: str) -> bool:
    return f" {text} " in f" {' '.join(words)} "


def _compute_idf(num_with: int, num_entries: int) -> float:
    """Return the inverse document frequency, ln(1 + entries / entries with the word)."""
    return math.log(1 + num_entries / max(1, num_with))
