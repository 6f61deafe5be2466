"""Search by words: which words of the videos a query's words meet, and what that is worth.

Of a term's matches in an entry the best one counts: exact before prefix before substring before
edits, and a longer share of the word before a shorter one. A term weighs the more, the fewer
entries have it (inverse document frequency, Sparck Jones 1972); an entry's score is the sum over
the terms.
"""

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.results import MatchKind
from retrieval.searching.query import Term
from retrieval.searching.snapshot import Snapshot
from retrieval.storage.text import words_of

MOST_WORDS = 500  # of a kind, for a term: those nearest in length
# Least worth of a match of a kind and what the covered share of the word adds; they never overlap.
_WORTH = {"exact": (1.0, 0.0), "prefix": (0.6, 0.2), "substring": (0.35, 0.2)}
_EDITS_WORTH = {1: 0.3, 2: 0.15}
_TRIGRAM = 3
_SHIFT = 32  # a line of an entry has one key of 64 bits


@dataclass(frozen=True)
class MetWord:
    """A word of the videos that a term meets.

    Attributes:
        number: of the word.
        text: folded.
        kind: how it is met.
        worth: in (0, 1].
    """

    number: int
    text: str
    kind: MatchKind
    worth: float


@dataclass(frozen=True)
class MetTerm:
    """A term and where it was met.

    Attributes:
        term: of the query.
        words: text -> what is met; of a phrase, the words that it is made of.
        weight: of an exact match, by rarity.
        entries: (N,) int64 ids, ascending.
        worths: (N,) float64, of the best match in each.
    """

    term: Term
    words: dict[str, MetWord]
    weight: float
    entries: NDArray
    worths: NDArray

    def best_in(self, words: Sequence[str]) -> MetWord | None:
        """Return the best match of the term in the words of a line, or None."""
        if self.term.quoted:
            if not _has_phrase(words, self.term):
                return None
            return MetWord(0, self.term.text, "exact", 1.0)
        met = [self.words[word] for word in words if word in self.words]
        return max(met, key=lambda word: word.worth, default=None)


def meet(
    connection: sqlite3.Connection, snapshot: Snapshot, terms: Sequence[Term]
) -> list[MetTerm]:
    """Look up terms; those that are nowhere are left out."""
    look_up = {True: _meet_phrase, False: _meet_word}
    met = (look_up[term.quoted](connection, snapshot, term) for term in terms)
    return [term for term in met if len(term.entries)]


def scored(met: Sequence[MetTerm]) -> tuple[NDArray, NDArray]:
    """Return ids (N,) and scores (N,) of the entries that have a term, best first, then by id."""
    if not met:
        return np.zeros(0, np.int64), np.zeros(0)
    ids, place = np.unique(np.concatenate([term.entries for term in met]), return_inverse=True)
    worth = np.concatenate([term.weight * term.worths for term in met])
    scores = np.bincount(place, weights=worth, minlength=len(ids))
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]


def met_words(connection: sqlite3.Connection, snapshot: Snapshot, term: Term) -> list[MetWord]:
    """Return the words that an unquoted term meets, best first."""
    found = [_worthy(number, text, term) for number, text in _containing(connection, term.text)]
    known = {word.number for word in found}
    for number, text, edits in snapshot.vocabulary(connection).within(term.text, term.edits):
        if number not in known:
            found.append(MetWord(number, text, "edits", _EDITS_WORTH[edits]))
    return sorted(found, key=lambda word: -word.worth)


def _containing(connection: sqlite3.Connection, text: str) -> list[tuple[int, str]]:
    """The words that contain a text, shortest first; of a single Latin letter, the word itself."""
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


def _worthy(number: int, text: str, term: Term) -> MetWord:
    kind: MatchKind = "substring"
    if text == term.text:
        kind = "exact"
    elif text.startswith(term.text):
        kind = "prefix"
    least, more = _WORTH[kind]
    return MetWord(number, text, kind, least + more * len(term.text) / len(text))


def _meet_word(connection: sqlite3.Connection, snapshot: Snapshot, term: Term) -> MetTerm:
    words = met_words(connection, snapshot, term)
    by_word = snapshot.entries_of(connection, [word.number for word in words])
    every = [by_word[word.number] for word in words] or [np.zeros(0, np.int64)]
    worths = np.repeat([word.worth for word in words], [len(ids) for ids in every[: len(words)]])
    # The words come best first, and unique keeps the first of equal ids.
    entries, first = np.unique(np.concatenate(every), return_index=True)
    best = [by_word[word.number] for word in words if word.kind == words[0].kind]
    num_best = len(best[0]) if len(best) == 1 else len(np.unique(np.concatenate(best or every)))
    weight = rarity(num_best, snapshot.num_entries)
    return MetTerm(term, {word.text: word for word in words}, weight, entries, worths[first])


def _meet_phrase(connection: sqlite3.Connection, snapshot: Snapshot, term: Term) -> MetTerm:
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
        right = [_has_phrase(words_of(snapshot.line(connection, int(i))), term) for i in distinct]
        entries = entries[np.array(right, dtype=bool)[place]]
    entries = np.unique(entries)
    weight = len(term.words) * rarity(len(entries), snapshot.num_entries)
    return MetTerm(term, {}, weight, entries, np.ones(len(entries)))


def _has_phrase(words: Sequence[str], term: Term) -> bool:
    return f" {term.text} " in f" {' '.join(words)} "


def rarity(num_with: int, num_entries: int) -> float:
    """Return the inverse document frequency, ln(1 + entries / entries with the word)."""
    return math.log(1 + num_entries / max(1, num_with))
