"""Snapshot of an index: one commit of it, and what searches have looked up there.

Shapes: N rows, E width of the common space, M found, W words.
"""

import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import OSA

from retrieval.errors import UnknownEntryError
from retrieval.index.layout import name_query_encoder
from retrieval.index.records import EntryTable, Postings
from retrieval.index.store import StoreReader
from retrieval.results import Entry, Video
from retrieval.search.calibration import MIN_ENTRIES, Calibration
from retrieval.search.misreading import MIN_ALIKE, fold_lookalikes
from utils.batching import Batcher
from utils.errors import UserError
from utils.unicode_text import compose

if TYPE_CHECKING:
    from retrieval.search.word_vectors import SimilarWords

MAX_CACHED = 4_000_000  # places of words, 16 bytes each
MAX_KEPT = 4_000_000  # numbers of what terms match, 8 bytes each
MAX_TOGETHER = 8  # queries that are compared with all vectors at a time
MAX_LETTERS = 32  # of a word that fuzzy search compares, or that is looked for in pieces
MAX_CUTS = 50  # ways to cut a word into pieces: those whose shortest piece is the longest
_MAX_LISTED = 1000  # of them, of which these are chosen

Kept = TypeVar("Kept")


class Snapshot:
    """What searches have looked up in one commit of an index.

    Any number of threads may use it at once, each with a reader of its own that sees that commit.
    What one finds is kept for the others. No thread waits while another reads the store, except for
    the vocabulary and the calibration, which are made once.

    Attributes:
        state: of the readers that see this commit.
        number: of the commit.
        meta: the values that the index has of itself.
        model: identity of the model, see ``retrieval.index.identity``; None: words only.
        query_encoder: name of the folder of its query encoder, and checksum; None: words only.
        vectors: of all rows; dead rows are among them.
        ids: (N,) int64: row -> entry.
        dead: rows of videos that are gone.
        num_entries: N without the dead ones.
        has_reduced: whether it has the reduced forms of words (``retrieval.index.words``).
    """

    def __init__(self, reader: StoreReader) -> None:
        meta = reader.meta
        self.state, self.number, self.meta = reader.state, meta["commits"], meta
        self.model: dict[str, Any] | None = meta.get("model")
        self.query_encoder: tuple[str, str] | None = None
        if self.model is not None:
            self.query_encoder = name_query_encoder(meta), meta["query_encoder"]
        self.vectors = reader.open_vectors()
        self.ids = reader.read_ids()
        # A model that came later has embedded the videos in another order, perhaps.
        is_sorted = bool((np.diff(self.ids) > 0).all())
        self._by_id = None if is_sorted else np.argsort(self.ids)
        self.dead = reader.read_dead_rows()
        self.num_entries = len(self.ids) - len(self.dead)
        self.has_reduced = reader.has_reduced
        self._scores = Batcher(self.vectors.score_together, MAX_TOGETHER)
        self._load_lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._calibration: Calibration | None = None
        self._vocabulary: Vocabulary | None = None
        self._similar_words: SimilarWords | None = None
        self._postings: dict[int, Postings] = {}
        self._num_cached = 0
        self._kept: dict[Hashable, Any] = {}
        self._num_kept = 0
        self._names: NDArray | None = None
        self._table: EntryTable | None = None
        self._videos: dict[int, Video] | None = None
        self._folders: dict[str, NDArray] = {}

    def score_all(self, query: NDArray) -> NDArray:
        """Return the score (N,) of every row, dead or alive, for a query (E,) of length 1.

        What takes time is to read the vectors; so they are read once for all threads that wait.
        """
        return self._scores.ask(query)

    def load_calibration(self, unrelated: NDArray) -> Calibration | None:
        """Return what similarities say, made when it is first needed; None with too few entries.

        Args:
            unrelated: embeddings (U, E) of texts that have nothing to do with the videos.
        """
        if self.num_entries < MIN_ENTRIES:
            return None
        with self._load_lock:
            if self._calibration is None:
                alive = np.setdiff1d(np.arange(len(self.ids)), self.dead)
                self._calibration = Calibration(self.vectors, alive, unrelated)
            return self._calibration

    def load_vocabulary(self, reader: StoreReader) -> "Vocabulary":
        """Return the distinct words, read when they are first needed."""
        with self._load_lock:
            if self._vocabulary is None:
                words = reader.read_words()
                reduced = {number: form for number, _, form in words if form is not None}
                self._vocabulary = Vocabulary([word[:2] for word in words], reduced)
            return self._vocabulary

    def load_similar_words(self, reader: StoreReader) -> "SimilarWords":
        """Return the distinct words by their meaning, made when they are first needed.

        Raises ``UserError`` where the vectors are not installed.
        """
        from retrieval.search.word_vectors import SimilarWords

        words = self.load_vocabulary(reader).words
        with self._load_lock:
            if self._similar_words is None:
                self._similar_words = SimilarWords(words)
            return self._similar_words

    def load_names(self, reader: StoreReader) -> NDArray:
        """Return the ids (M,) of the lines that are names of videos, ascending."""
        with self._load_lock:
            if self._names is None:
                self._names = reader.read_name_lines()
            return self._names

    def load_table(self, reader: StoreReader) -> EntryTable:
        """Return where the entry of each row is, read when it is first needed."""
        with self._load_lock:
            if self._table is None:
                self._table = reader.read_entry_table()
            return self._table

    def load_videos(self, reader: StoreReader) -> dict[int, Video]:
        """Return the videos by id, read when they are first needed."""
        with self._load_lock:
            if self._videos is None:
                self._videos = reader.read_videos()
            return self._videos

    def find_postings(self, reader: StoreReader, words: Sequence[int]) -> dict[int, Postings]:
        """Return where each word stands."""
        with self._cache_lock:
            found = {word: self._postings[word] for word in words if word in self._postings}
        missing = [word for word in words if word not in found]
        if missing:
            fresh = reader.read_postings(missing)
            with self._cache_lock:
                self._postings |= fresh
                self._num_cached += sum(len(postings.entries) for postings in fresh.values())
                if self._num_cached > MAX_CACHED:
                    self._postings, self._num_cached = {}, 0
            found |= fresh
        return found

    def keep(self, key: Hashable, make: Callable[[], Kept], measure: Callable[[Kept], int]) -> Kept:
        """Return what ``make`` returns, made once for each key as long as there is room.

        Args:
            measure: how many numbers it holds.
        """
        with self._cache_lock:
            if key in self._kept:
                return self._kept[key]
        made = make()
        with self._cache_lock:
            self._num_kept += 1 + measure(made)
            if self._num_kept > MAX_KEPT:
                self._kept, self._num_kept = {}, 0
            self._kept[key] = made
        return made

    def find_rows(self, reader: StoreReader, folder: str) -> NDArray:
        """Return the rows (M,) of the entries in a folder and below; ``UserError`` without any."""
        if folder not in self._folders:
            inside = self.spell_folder(reader, folder)
            self._folders[folder] = reader.find_rows_within(inside)
        return self._folders[folder]

    def spell_folder(self, reader: StoreReader, folder: str) -> str:
        """Return a folder of videos as the index spells it; ``UserError`` where it has none.

        One that is spelled as asked for comes first, then one of another normal form of Unicode.
        """
        asked = folder.strip("/")
        names = [video.video for video in self.load_videos(reader).values()]
        spellings = [(str, f"{asked}/"), (compose, f"{compose(asked)}/")]
        for spell, start in spellings:
            found = next((name for name in names if spell(name).startswith(start)), None)
            if found is not None:
                return "/".join(found.split("/")[: start.count("/")])
        raise UserError(f"{folder}: the index has no video in such a folder")

    def list_paths(self, reader: StoreReader) -> list[str]:
        """Return the paths of all videos, by their bytes."""
        return sorted((video.video for video in self.load_videos(reader).values()), key=os.fsencode)

    def spell_video(self, reader: StoreReader, name: str) -> str:
        """Return a video's path as the index spells it; as asked for where it has no such video."""
        if name.isascii() or reader.find_video(name) is not None:
            return name
        names = self.list_paths(reader)
        return next((other for other in names if compose(other) == compose(name)), name)

    def find_rows_of(self, ids: NDArray) -> NDArray:
        """Return the rows (M,) of entries (M,) of the index."""
        if self._by_id is None:  # mostly: later entries have later rows
            return np.searchsorted(self.ids, ids)
        return self._by_id[np.searchsorted(self.ids, ids, sorter=self._by_id)]


def read_entry(reader: StoreReader, entry_id: int) -> Entry:
    """Return an entry; raises ``UnknownEntryError``."""
    found = reader.read_entries([entry_id]) if isinstance(entry_id, int) else {}
    if entry_id not in found:
        raise UnknownEntryError(f"{entry_id}: the index has no such entry (any more); search again")
    return found[entry_id]


def read_video(reader: StoreReader, video_id: int) -> Video:
    """Return a video; raises ``UnknownEntryError``."""
    return _expect_video(video_id, reader.read_video(video_id))


def find_video(reader: StoreReader, snapshot: Snapshot, name: str) -> Video:
    """Return the video of a path, spelled in any normal form; raises ``UnknownEntryError``."""
    return _expect_video(name, reader.find_video(snapshot.spell_video(reader, name)))


def _expect_video(asked: int | str, video: Video | None) -> Video:
    if video is None:
        raise UnknownEntryError(f"{asked}: the index has no such video (any more); search again")
    return video


class Vocabulary:
    """The distinct words of an index, given as (id, folded text), for fuzzy search.

    Args:
        reduced: their reduced forms by id, where these are not their texts.
    """

    def __init__(
        self, words: Sequence[tuple[int, str]], reduced: Mapping[int, str] | None = None
    ) -> None:
        self.words = [word for word in words if len(word[1]) <= MAX_LETTERS]
        self._reduced = reduced or {}
        texts = [text for _, text in self.words]
        self._lengths = np.array([len(text) for text in texts], dtype=np.int16)
        self._letters = _list_letters(texts)
        self._alike: dict[str, list[int]] = {}  # what look-alikes share -> positions of the words
        forms = [self._reduced.get(*word) for word in self.words]
        self._forms = set(forms)
        for position, form in enumerate(forms):
            for key in {fold_lookalikes(form), fold_lookalikes(texts[position])}:
                self._alike.setdefault(key, []).append(position)

    def find_same(self, reduced: str) -> list[tuple[int, str]]:
        """Return (id, word) of the words with this reduced form."""
        if reduced not in self._forms:
            return []
        found = [self.words[position] for position in self._alike[fold_lookalikes(reduced)]]
        return [word for word in found if self._reduced.get(*word) == reduced]

    def find_lookalikes(self, text: str, reduced: str) -> list[tuple[int, str]]:
        """Return (id, word) of the other words that are the same but for letters that look alike.

        See ``retrieval.search.misreading``.
        """
        if len(reduced) < MIN_ALIKE:
            return []
        keys = {fold_lookalikes(reduced), fold_lookalikes(text)}
        found = [self.words[position] for key in keys for position in self._alike.get(key, ())]
        return [word for word in found if word[1] != text and " " not in word[1]]

    def list_cuts(self, reduced: str, most: int) -> list[tuple[str, ...]]:
        """Return ways to cut a reduced word into 2 … ``most`` words, by their reduced forms.

        More than two words have two letters each at least.
        """
        if len(reduced) > MAX_LETTERS:
            return []
        has_digits = any(map(str.isdecimal, reduced))
        cuts = [
            pieces
            for pieces in islice(self._cut(reduced, most), _MAX_LISTED)
            if len(pieces) == 2 or (len(pieces) > 2 and (has_digits or min(map(len, pieces)) > 1))
        ]
        return sorted(cuts, key=lambda pieces: (-min(map(len, pieces)), len(pieces)))[:MAX_CUTS]

    def _cut(self, text: str, most: int) -> Iterator[tuple[str, ...]]:
        forms = self._forms
        if text in forms:
            yield (text,)
        for end in range(1, len(text) if most > 1 else 0):
            if text[:end] in forms:
                for rest in self._cut(text[end:], most - 1):
                    yield text[:end], *rest

    def find_similar(self, text: str, max_distance: int) -> list[tuple[int, str, int]]:
        """Return (id, word, distance) of the words at a distance of 1 … ``max_distance``.

        The edit distance counts other, missing and extra letters, and neighbours that are swapped
        (optimal string alignment).
        """
        if not max_distance or not self.words or len(text) > MAX_LETTERS:
            return []
        # Their lengths and letters exclude most words, before edit distances are computed.
        near = np.abs(self._lengths - len(text)) <= max_distance
        # An edit takes one letter out of the set of letters, puts one in, or both.
        other = _list_letters([text])[0] ^ self._letters
        near &= np.bitwise_count(other) <= 2 * max_distance
        found = []
        for position in np.flatnonzero(near):
            word_id, word = self.words[position]
            distance = OSA.distance(text, word, score_cutoff=max_distance)
            if 0 < distance <= max_distance:
                found.append((word_id, word, distance))
        return found


def _list_letters(texts: Sequence[str]) -> NDArray:
    """Return (W,) uint64: which letters each text has, by code modulo 64."""
    if not texts:
        return np.zeros(0, dtype=np.uint64)
    codes = np.array(texts, dtype=f"<U{MAX_LETTERS}").view("<u4").reshape(len(texts), MAX_LETTERS)
    bits = np.left_shift(np.uint64(1), (codes % 64).astype(np.uint64))
    return np.bitwise_or.reduce(np.where(codes > 0, bits, np.uint64(0)), axis=1)
