"""Keyword search: which words of the videos a query's words match, and how well.

Of a term's matches in an entry the best one counts: exact before prefix before substring before
fuzzy, and a longer share of the word before a shorter one. A term weighs the more, the fewer
entries have it (inverse document frequency, Sparck Jones 1972); an entry's score is the sum over
the terms.
"""

import math
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.index.words import get_words
from retrieval.results import MatchKind, TextTrack, WordMatch
from retrieval.search.snapshot import Snapshot, select_in

MAX_WORDS = 500  # that contain a term: the shortest
MAX_MATCHES = 50  # of a hit
# Least score of a match of a kind and what the covered share of the word adds; they never overlap.
_SCORES = {"exact": (1.0, 0.0), "prefix": (0.6, 0.2), "substring": (0.35, 0.2)}
_FUZZY_SCORES = {1: 0.3, 2: 0.15}  # by edit distance
# Of a word of like meaning, times the cosine: even of a rare one less than a fuzzy match.
_SIMILAR_SCORE = 0.05
_TRIGRAM = 3
# Words that make a sentence and name nothing; they count where a query has no other, or in quotes.
FUNCTION_WORDS = frozenset(
    "a an the and or but nor so as at by for from in into of on onto over to under with without "
    "is are was were be been being am do does did has have had can could will would it its "
    "he she they we you i his her their our your my me him them us this that these those there "
    "here which who whom whose what when where while how".split()
)
_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|„([^“”]*)[“”]|«([^»]*)»')


@dataclass(frozen=True)
class Term:
    """A word that is looked for, or a quoted phrase."""

    text: str  # folded; the words of a phrase are one blank apart
    quoted: bool = False  # whether it is found only as it stands
    like_meaning: bool = False  # whether words of like meaning match it, too

    @property
    def words(self) -> list[str]:
        """The words of a phrase, or the one word."""
        return self.text.split(" ")

    @property
    def max_distance(self) -> int:
        """How many letters of a fuzzy match may be other ones, missing, extra, or swapped.

        None in short words, and in numbers: a number with another digit is another number.
        """
        if self.quoted or self.text.isdecimal() or len(self.text) < 4:
            return 0
        return 1 if len(self.text) < 8 else 2


def parse_terms(query: str, like_meaning: bool = False) -> list[Term]:
    """Return the words and quoted phrases of a query, each once; all of it is plain text.

    A quotation mark without a partner is punctuation. A query of punctuation has no term.
    """
    phrases = [Term(" ".join(get_words("".join(found))), True) for found in _QUOTED.findall(query)]
    words = [Term(word, like_meaning=like_meaning) for word in get_words(_QUOTED.sub(" ", query))]
    phrases = [phrase for phrase in phrases if phrase.text]
    naming = [word for word in words if word.text not in FUNCTION_WORDS]
    return list(dict.fromkeys(phrases + (naming or ([] if phrases else words))))


@dataclass(frozen=True)
class VocabularyMatch:
    """A word of the videos that a term matches."""

    word_id: int
    text: str  # folded
    kind: MatchKind
    score: float  # in (0, 1]


@dataclass(frozen=True)
class TermMatch:
    """A term and the entries that have it."""

    term: Term
    words: dict[str, VocabularyMatch]  # text -> match; of a phrase none
    idf: float  # the weight of the term
    entries: NDArray  # (N,) int64 ids, ascending
    scores: NDArray  # (N,) float64, of the best match in each

    def find_best(self, words: Sequence[str]) -> VocabularyMatch | None:
        """Return the best match of the term in the words of a line, or None."""
        if self.term.quoted:
            if not _has_phrase(words, self.term):
                return None
            return VocabularyMatch(0, self.term.text, "exact", 1.0)
        matches = [self.words[word] for word in words if word in self.words]
        return max(matches, key=lambda match: match.score, default=None)


def match_terms(
    connection: sqlite3.Connection, snapshot: Snapshot, terms: Sequence[Term]
) -> list[TermMatch]:
    """Look up terms; those that no entry has are left out."""
    matches = []
    for term in terms:
        match_term = _match_phrase if term.quoted else _match_word
        matches.append(match_term(connection, snapshot, term))
    return [match for match in matches if len(match.entries)]


def score_entries(matches: Sequence[TermMatch]) -> tuple[NDArray, NDArray]:
    """Return ids (N,) and scores (N,) of the entries that have a term, best first, then by id."""
    if not matches:
        return np.zeros(0, np.int64), np.zeros(0)
    weighted = [match.idf * match.scores for match in matches]
    return sum_scores([match.entries for match in matches], weighted)


def sum_scores(ids: Sequence[NDArray], scores: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
    """Sum the scores of equal ids over several lists; returns (N,) each, best first, then by id.

    No list has an id twice.
    """
    sums = np.zeros(1 + max(part.max(initial=0) for part in ids))  # of each id
    for part, of_part in zip(ids, scores, strict=True):
        sums[part] += of_part
    found = np.zeros(len(sums), dtype=bool)
    for part in ids:
        found[part] = True
    distinct = np.flatnonzero(found)
    order = np.argsort(-sums[distinct], kind="stable")
    return distinct[order], sums[distinct][order]


def find_matches(
    tracks: Sequence[TextTrack], matches: Sequence[TermMatch]
) -> tuple[WordMatch, ...]:
    """Return what terms match in an entry's lines, best first, then by time."""
    found = []
    for track in tracks:
        words = get_words(track.text)
        for match in matches:
            best = match.find_best(words)
            if best is not None:
                line = track.text, track.start_s, track.end_s, track.box
                word = WordMatch(match.term.text, best.text, best.kind, *line, track.kind)
                found.append((-match.idf * best.score, track.start_s, word))
    found.sort(key=lambda item: item[:2])
    return tuple(word for _, _, word in found[:MAX_MATCHES])


def find_lines(
    connection: sqlite3.Connection, matches: Sequence[TermMatch], entries: Sequence[int]
) -> dict[int, frozenset[str]]:
    """Return the lines that terms match in these entries: entry -> their folded texts.

    An entry without any is left out.
    """
    if not matches:
        return {}
    of_phrases = {word for match in matches if match.term.quoted for word in match.term.words}
    marks = ", ".join("?" * len(of_phrases))
    found = connection.execute(f"SELECT id FROM words WHERE text IN ({marks})", [*of_phrases])
    words = {word_id for (word_id,) in found}
    words |= {word.word_id for match in matches for word in match.words.values()}
    columns = "SELECT entry_id, word_id, track_id FROM postings INDEXED BY postings_of_entry"
    postings = select_in(connection, f"{columns} WHERE entry_id", entries)
    pairs = [(entry, track) for entry, word, track in postings if word in words]
    tracks = sorted({track for _, track in pairs})
    texts = {}
    for track, text in select_in(connection, "SELECT id, text FROM tracks WHERE id", tracks):
        folded = get_words(text)
        if any(match.find_best(folded) for match in matches):
            texts[track] = " ".join(folded)
    lines: dict[int, set[str]] = {}
    for entry, track in pairs:
        if track in texts:
            lines.setdefault(entry, set()).add(texts[track])
    return {entry: frozenset(found) for entry, found in lines.items()}


def find_entries_showing(
    connection: sqlite3.Connection, snapshot: Snapshot, terms: Sequence[Term]
) -> NDArray:
    """Return the ids (N,) of the entries that show one of these words or phrases exactly."""
    phrases = [Term(term.text, quoted=True) for term in terms]
    found = [_match_phrase(connection, snapshot, phrase).entries for phrase in phrases]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))


def _match_word(connection: sqlite3.Connection, snapshot: Snapshot, term: Term) -> TermMatch:
    words = _match_vocabulary(connection, snapshot, term)
    if not words:
        return TermMatch(term, {}, 0.0, np.zeros(0, np.int64), np.zeros(0))
    by_word = snapshot.find_entries(connection, [word.word_id for word in words])
    best = np.zeros(1 + max(by_word[word.word_id].max(initial=0) for word in words))  # of each id
    for word in reversed(words):  # the words come best first
        best[by_word[word.word_id]] = word.score
    entries = np.flatnonzero(best)
    scores = best[entries]
    least = min(word.score for word in words if word.kind == words[0].kind)
    idf = _compute_idf(np.count_nonzero(scores >= least), snapshot.num_entries)
    return TermMatch(term, {word.text: word for word in words}, idf, entries, scores)


def _match_vocabulary(
    connection: sqlite3.Connection, snapshot: Snapshot, term: Term
) -> list[VocabularyMatch]:
    """Return the words of the videos that an unquoted term matches, best first."""
    found = {}
    for word_id, text in _find_containing(connection, term.text):
        kind: MatchKind = "prefix" if text.startswith(term.text) else "substring"
        kind = "exact" if text == term.text else kind
        least, more = _SCORES[kind]
        score = least + more * len(term.text) / len(text)
        found[word_id] = VocabularyMatch(word_id, text, kind, score)
    vocabulary = snapshot.load_vocabulary(connection)
    for word_id, text, distance in vocabulary.find_similar(term.text, term.max_distance):
        fuzzy = VocabularyMatch(word_id, text, "fuzzy", _FUZZY_SCORES[distance])
        found.setdefault(word_id, fuzzy)
    if term.like_meaning:
        for word_id, text, cosine in snapshot.load_similar_words(connection).find_similar(
            term.text
        ):
            similar = VocabularyMatch(word_id, text, "similar", _SIMILAR_SCORE * cosine)
            found.setdefault(word_id, similar)
    return sorted(found.values(), key=lambda word: -word.score)


def _find_containing(connection: sqlite3.Connection, text: str) -> list[tuple[int, str]]:
    """Return id and text of the words that contain a text, shortest first.

    One letter matches only the word that it is.
    """
    if len(text) == 1 and text.isascii():
        rows = connection.execute("SELECT id, text FROM words WHERE text = ?", (text,))
    elif len(text) < _TRIGRAM:  # too short for the index of trigrams
        rows = connection.execute(
            "SELECT id, text FROM words WHERE instr(text, ?) ORDER BY length(text) LIMIT ?",
            (text, MAX_WORDS),
        )
    else:
        quoted = '"' + text.replace('"', '""') + '"'
        rows = connection.execute(
            "SELECT rowid, text FROM words_fts WHERE words_fts MATCH ? "
            "ORDER BY length(text) LIMIT ?",
            (quoted, MAX_WORDS),
        )
    return [(word_id, word) for word_id, word in rows if text in word]


def _match_phrase(connection: sqlite3.Connection, snapshot: Snapshot, term: Term) -> TermMatch:
    """Find lines that have the words of a phrase beside each other."""
    words = list(dict.fromkeys(term.words))
    of_word = (
        "SELECT entry_id, track_id FROM postings "
        "WHERE word_id = (SELECT id FROM words WHERE text = ?)"
    )
    lines = connection.execute(" INTERSECT ".join([of_word] * len(words)), words).fetchall()
    if len(term.words) > 1:
        fits = {}
        for track in {track for _, track in lines}:
            row = connection.execute("SELECT text FROM tracks WHERE id = ?", (track,)).fetchone()
            fits[track] = _has_phrase(get_words(row[0]), term)
        lines = [(entry, track) for entry, track in lines if fits[track]]
    entries = np.unique(np.array([entry for entry, _ in lines], dtype=np.int64))
    idf = len(term.words) * _compute_idf(len(entries), snapshot.num_entries)
    return TermMatch(term, {}, idf, entries, np.ones(len(entries)))


def _has_phrase(words: Sequence[str], term: Term) -> bool:
    return f" {term.text} " in f" {' '.join(words)} "


def _compute_idf(num_with: int, num_entries: int) -> float:
    """Return the inverse document frequency, ln(1 + entries / entries with the word)."""
    return math.log(1 + num_entries / max(1, num_with))
