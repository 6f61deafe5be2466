"""Keyword search: which words of the videos a query's words match, and how well.

Of a term's matches in an entry the best one counts: exact before prefix before substring before
fuzzy (``fuzzy``), and a longer share of the word before a shorter one. A term weighs the more, the
fewer entries have it (inverse document frequency, Sparck Jones 1972); an entry's score is the sum
over the terms.
"""

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.index.words import get_words
from retrieval.results import MatchKind, TextTrack, WordMatch
from retrieval.search.query import Term
from retrieval.search.snapshot import Snapshot

MOST_WORDS = 500  # of a kind, for a term: those nearest in length
MOST_MATCHES = 50  # of a hit
# Least score of a match of a kind and what the covered share of the word adds; they never overlap.
_SCORES = {"exact": (1.0, 0.0), "prefix": (0.6, 0.2), "substring": (0.35, 0.2)}
_FUZZY_SCORES = {1: 0.3, 2: 0.15}  # by edit distance
_TRIGRAM = 3
_SHIFT = 32  # a line of an entry has one key of 64 bits


@dataclass(frozen=True)
class VocabularyMatch:
    """A word of the videos that a term matches: its number, folded text, and score in (0, 1]."""

    number: int
    text: str
    kind: MatchKind
    score: float


@dataclass(frozen=True)
class TermMatch:
    """A term and the entries that have it."""

    term: Term  # of the query
    words: dict[str, VocabularyMatch]  # text -> match; of a phrase none
    idf: float  # the weight of the term: of an exact match, by how rare it is
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
    """Look up terms; those that are nowhere are left out."""
    match = {True: _match_phrase, False: _match_word}
    found = (match[term.quoted](connection, snapshot, term) for term in terms)
    return [term for term in found if len(term.entries)]


def score_entries(matches: Sequence[TermMatch]) -> tuple[NDArray, NDArray]:
    """Return ids (N,) and scores (N,) of the entries that have a term, best first, then by id."""
    if not matches:
        return np.zeros(0, np.int64), np.zeros(0)
    entries = np.concatenate([match.entries for match in matches])
    ids, place = np.unique(entries, return_inverse=True)
    weights = np.concatenate([match.idf * match.scores for match in matches])
    scores = np.bincount(place, weights=weights, minlength=len(ids))
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]


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
                word = WordMatch(match.term.text, best.text, best.kind, *line)
                found.append((-match.idf * best.score, track.start_s, word))
    found.sort(key=lambda item: item[:2])
    return tuple(word for _, _, word in found[:MOST_MATCHES])


def _match_word(connection: sqlite3.Connection, snapshot: Snapshot, term: Term) -> TermMatch:
    words = _match_vocabulary(connection, snapshot, term)
    if not words:
        return TermMatch(term, {}, 0.0, np.zeros(0, np.int64), np.zeros(0))
    by_word = snapshot.find_entries(connection, [word.number for word in words])
    ids = [by_word[word.number] for word in words]
    scores = np.repeat([word.score for word in words], [len(part) for part in ids])
    # The words come best first, and unique keeps the first of equal ids.
    entries, first = np.unique(np.concatenate(ids), return_index=True)
    best = [by_word[word.number] for word in words if word.kind == words[0].kind]
    idf = compute_idf(len(np.unique(np.concatenate(best))), snapshot.num_entries)
    return TermMatch(term, {word.text: word for word in words}, idf, entries, scores[first])


def _match_vocabulary(
    connection: sqlite3.Connection, snapshot: Snapshot, term: Term
) -> list[VocabularyMatch]:
    """Return the words of the videos that an unquoted term matches, best first."""
    found = []
    for number, text in _find_containing(connection, term.text):
        kind: MatchKind = "prefix" if text.startswith(term.text) else "substring"
        kind = "exact" if text == term.text else kind
        least, more = _SCORES[kind]
        score = least + more * len(term.text) / len(text)
        found.append(VocabularyMatch(number, text, kind, score))
    known = {word.number for word in found}
    vocabulary = snapshot.load_vocabulary(connection)
    for number, text, distance in vocabulary.find_similar(term.text, term.max_distance):
        if number not in known:
            found.append(VocabularyMatch(number, text, "fuzzy", _FUZZY_SCORES[distance]))
    return sorted(found, key=lambda word: -word.score)


def _find_containing(connection: sqlite3.Connection, text: str) -> list[tuple[int, str]]:
    """Return the words that contain a text, shortest first; of one letter, the word itself."""
    if len(text) == 1 and text.isascii():
        rows = connection.execute("SELECT id, text FROM words WHERE text = ?", (text,))
    elif len(text) < _TRIGRAM:  # too short for the index of trigrams
        rows = connection.execute(
            "SELECT id, text FROM words WHERE instr(text, ?) ORDER BY length(text) LIMIT ?",
            (text, MOST_WORDS),
        )
    else:
        quoted = '"' + text.replace('"', '""') + '"'
        rows = connection.execute(
            "SELECT rowid, text FROM words_fts WHERE words_fts MATCH ? "
            "ORDER BY length(text) LIMIT ?",
            (quoted, MOST_WORDS),
        )
    return [(number, word) for number, word in rows if text in word]


def _match_phrase(connection: sqlite3.Connection, snapshot: Snapshot, term: Term) -> TermMatch:
    """Look for lines that have the words of a phrase beside each other."""
    lines: NDArray | None = None
    for word in dict.fromkeys(term.words):
        rows = connection.execute(
            "SELECT entry_id, track_id FROM postings "
            "WHERE word_id = (SELECT id FROM words WHERE text = ?)",
            (word,),
        ).fetchall()
        keys = np.array(rows, dtype=np.int64).reshape(-1, 2)
        keys = np.sort((keys[:, 0] << _SHIFT) | keys[:, 1])
        lines = keys if lines is None else np.intersect1d(lines, keys, assume_unique=True)
    entries, tracks = lines >> _SHIFT, lines & ((1 << _SHIFT) - 1)
    if len(term.words) > 1:
        distinct, place = np.unique(tracks, return_inverse=True)
        fits = [_has_phrase(_read_words(connection, int(track)), term) for track in distinct]
        entries = entries[np.array(fits, dtype=bool)[place]]
    entries = np.unique(entries)
    idf = len(term.words) * compute_idf(len(entries), snapshot.num_entries)
    return TermMatch(term, {}, idf, entries, np.ones(len(entries)))


def _read_words(connection: sqlite3.Connection, track: int) -> list[str]:
    row = connection.execute("SELECT text FROM tracks WHERE id = ?", (track,)).fetchone()
    return get_words(row[0])


def _has_phrase(words: Sequence[str], term: Term) -> bool:
    return f" {term.text} " in f" {' '.join(words)} "


def compute_idf(num_with: int, num_entries: int) -> float:
    """Return the inverse document frequency, ln(1 + entries / entries with the word)."""
    return math.log(1 + num_entries / max(1, num_with))
