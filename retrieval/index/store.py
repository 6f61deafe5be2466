"""Store of an index: what search, update and export ask of it, whatever keeps it.

The default is a folder (``retrieval.index.folder_store``); ``retrieval.index.location.open_store``
says what keeps the index at a location. ``tests/retrieval/test_store_contract.py`` holds any store
to what is said here.

An index has entries (windows of videos), lines of text, and the words of these. A *commit* is one
state of all of it, which a reader sees to its end, whatever is written meanwhile. Ids of videos,
entries, lines and words are integers from 1; those of videos and entries are never given twice, and
later ones are larger. Each entry has a *row* of vectors, which are numbered from 0; those of videos
that are gone are dead, where a store has such rows, until the rows are compacted. Texts of words
are folded, and a word may have a reduced form, which is None where it is the text itself: see
``retrieval.index.words``.

``meta`` is what an index says of itself, by key, as JSON values; a key that is missing is as one
that is None. It has ``commits`` and ``generation``, numbers that grow with each commit and each new
numbering of the rows, ``num_rows``, ``num_frames`` (None: no vectors of frames), ``width`` (None:
words only), ``leaves_out``, ``windows``, ``model`` (``retrieval.index.identity``),
``query_encoder``, ``ann`` (``num_rows``: how many rows the index of nearest neighbours covers),
``successor`` (``StoreWriter.begin_successor``), and what an update keeps there.

Shapes: N rows, E width of the common space, K or M found, P places of a word, Q queries.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from typing_extensions import Self

from retrieval.index.records import (
    Damage,
    EntryTable,
    KnownEntry,
    KnownLine,
    KnownVideo,
    Line,
    NewEntry,
    NewVideo,
    Postings,
    Stamps,
)
from retrieval.index.vectors import BestFrame, EntryVectors
from retrieval.results import Entry, TextTrack, TrackKind, Video

# A search skips the rows of videos that are gone; beyond this share they are dropped.
MAX_DEAD = 0.25
MIN_VECTORS = 10_000  # of an index of nearest neighbours; below, comparing all of them is as fast

Word = tuple[int, str, str | None]  # id, folded text, reduced form


class VectorReader(Protocol):
    """The vectors of all rows of one commit, dead ones among them; any thread may use it.

    A score is the cosine of a row's window with a query, or with vectors of frames the mean of that
    and of its best frame's: see ``retrieval.index.vectors``. All vectors have length 1.

    Attributes:
        width: E; 0 for an index of words only.
        num_rows: N.
        num_frames: of all rows together; None: there are no vectors of frames.
        parts: those of ``vision`` and ``ocr`` without which the windows are embedded, too.
    """

    width: int
    num_rows: int
    num_frames: int | None
    parts: tuple[str, ...]

    def check(self) -> None:
        """Check what is to be compared, as far as that takes no time, or was not done before.

        Raises ``DamagedIndexError`` where vectors are not what was written.
        """

    def score_together(self, queries: Sequence[NDArray]) -> list[NDArray]:
        """Return the scores (N,) float32 of every row for each of Q queries (E,)."""

    def score_rows(self, query: NDArray, rows: NDArray) -> NDArray:
        """Return the scores (K,) float32 of some rows (K,) for a query (E,)."""

    def score_all_without(self, part: str, query: NDArray) -> NDArray:
        """Return the products (N,) of a query (E,) with the windows without a part."""

    def read_windows(self, rows: NDArray) -> NDArray:
        """Return the vectors (K, E) float32 of the windows of some rows (K,)."""

    def read_without(self, part: str, rows: NDArray) -> NDArray:
        """Return those (K, E) float32 without a part."""

    def take(self, rows: NDArray) -> EntryVectors:
        """Return all vectors of some rows (K,), in memory."""

    def find_best_frame(self, query: NDArray, row: int) -> BestFrame | None:
        """Return the best frame of a row, the first of equal ones; None without frame vectors."""

    def find_candidates(self, query: NDArray, count: int) -> NDArray | None:
        """Return distinct rows (K,) among which the nearest to a query (E,) should be.

        They are up to ``count`` that an index of nearest neighbours finds, and all rows that it
        does not cover. Dead rows may be among them. None: there is no such index.
        """


class StoreReader(Protocol):
    """One commit of an index, for one thread at a time.

    Ids that are asked for may be of what is gone, or of nothing, except where it is said otherwise.

    Attributes:
        meta: of the commit.
        state: equal to that of another reader where both see the same, so that what was looked up
            by the one holds for the other.
        has_reduced: whether words have reduced forms; not in an index of a former release.
    """

    meta: dict[str, Any]
    state: object
    has_reduced: bool

    def open_vectors(self) -> VectorReader:
        """Return the vectors, which stay those of this commit when the reader has ended."""

    def read_ids(self) -> NDArray:
        """Return the entry (N,) int64 of each row; of a dead one the one that it was."""

    def read_dead_rows(self) -> NDArray:
        """Return the rows (M,) int64 of videos that are gone, ascending."""

    def read_entry_table(self) -> EntryTable:
        """Return where the entry of each row is."""

    def find_rows_within(self, folder: str) -> NDArray:
        """Return the rows (M,) int64 of the entries in a folder and below.

        ``folder`` is spelled as in the paths of videos, without a slash at its end.
        """

    def read_videos(self) -> dict[int, Video]:
        """Return all videos by id, ascending."""

    def read_known_videos(self) -> dict[str, KnownVideo]:
        """Return all videos by path, with their stamps."""

    def read_video(self, video_id: int) -> Video | None:
        """Return a video; None where there is no such one."""

    def find_video(self, path: str) -> Video | None:
        """Return the video with this path; None where there is none."""

    def read_entries(self, ids: Sequence[int]) -> dict[int, Entry]:
        """Return entries by their ids."""

    def list_entries(self, video_id: int) -> list[tuple[int, float, float]]:
        """Return id, start and end of each entry of a video, by id."""

    def read_words(self) -> list[Word]:
        """Return all distinct words, in any order."""

    def find_words_containing(
        self, text: str, reduced: str, by_pieces: bool, limit: int
    ) -> list[Word]:
        """Return the words that contain a text, in their written or in their reduced form.

        The shortest come first, by their reduced forms, then those of lower ids; ``limit`` at most.
        Which words it are:

        - ``by_pieces`` and a reduced text of fewer than three letters: those whose reduced form
          has a piece (``retrieval.index.words.list_pieces``) that begins with it;
        - one ASCII letter: the word that it is;
        - another text of fewer than three letters: those whose written form contains it;
        - else those whose written or reduced form contains the text, or the reduced text where
          that has three letters.

        Args:
            text: folded.
            reduced: its reduced form.
            by_pieces: whether it is of a script without blanks.
        """

    def find_words_with_pieces(self, pieces: Sequence[str], least: int, limit: int) -> list[Word]:
        """Return the words whose reduced forms have at least ``least`` of these distinct pieces.

        The shortest come first, by their written forms, then those of lower ids; ``limit`` at most.
        """

    def read_postings(self, words: Sequence[int]) -> dict[int, Postings]:
        """Return where each word (by id) stands: by entry, then by line."""

    def find_together(self, pieces: Sequence[Sequence[int]], most: int) -> set[tuple[int, int]]:
        """Return the (entry, line) places where a word of each list of words (by id) stands.

        None where the words of every list stand in more than ``most`` places.
        """

    def find_lines_with_words(self, words: Sequence[str]) -> Postings:
        """Return the places (P,) of lines that have all of these words, given as folded texts.

        By entry, then by line.
        """

    def read_lines(self, ids: Sequence[int]) -> dict[int, Line]:
        """Return lines of text by their ids."""

    def read_name_lines(self) -> NDArray:
        """Return the ids (M,) int64 of the lines that are names of videos, ascending."""

    def read_tracks(self, entry_id: int) -> list[TextTrack]:
        """Return the lines that are seen or said within an entry, and its video's name.

        By time, then by id.
        """

    def read_video_tracks(self, video_id: int) -> list[TextTrack]:
        """Return all lines of a video, and its name, by time, then by id."""

    def find_videos_with_text(self) -> frozenset[int]:
        """Return the ids of the videos in which anything is read or said."""

    def read_clear_lines(
        self, video_id: int, min_score: float, max_letters: int, limit: int
    ) -> list[str]:
        """Return lines that were read in a video with at least this confidence.

        Those of the highest confidence, rounded to tenths, come first, then the longest, then those
        of lower ids.

        Args:
            max_letters: of a line.
            limit: lines that are returned, at most.
        """

    def read_latest_lines(self, min_score: float, limit: int) -> list[tuple[int, str, TrackKind]]:
        """Return video, text and kind of the last lines that are read or said, the last one first.

        Only those with at least this confidence, ``limit`` at most.
        """

    def read_thumbnail(self, entry_id: int) -> bytes:
        """Return the picture of an entry, a JPEG; raises ``MissingFileError``."""


class StoreWriter(Protocol):
    """Writes to a store that is locked; the end of a ``with`` block closes it.

    Each method is one commit, made completely or not at all, and durable when it returns.

    Attributes:
        meta: as of now. Its ``successor``, where there is one, has what another model's embeddings
            bring with them, and ``num_rows``, how many of them are there already.
    """

    meta: dict[str, Any]

    def __enter__(self) -> Self:
        """Return the writer."""

    def __exit__(self, *_: object) -> None:
        """Close it."""

    def read_videos(self) -> dict[str, KnownVideo]:
        """Return all videos by path."""

    def read_entries(self) -> dict[int, list[KnownEntry]]:
        """Return the entries of each video (by id) that has any, in their order."""

    def read_starts(self, video_id: int) -> list[float]:
        """Return when the entries of a video begin, in their order, in seconds."""

    def read_lines(self, video_id: int) -> list[KnownLine]:
        """Return the lines that were read in a video, in the order in which they came."""

    def update_stamps(self, stamps: dict[int, Stamps]) -> None:
        """Write new stamps of videos (by id) whose content is unchanged."""

    def rename_videos(self, names: Mapping[int, str]) -> None:
        """Give videos (by id) other paths; their entries stay, with the words of the new names."""

    def replace_tracks(self, video_id: int, video: NewVideo) -> None:
        """Give a video other lines and other stamps; its entries stay as they are."""

    def set_meta(self, **values: Any) -> None:
        """Set values of ``meta``; None deletes one."""

    def write(self, videos: Sequence[NewVideo], drop: Sequence[int] = ()) -> None:
        """Add or replace videos (by path), and drop others (by id), in one commit.

        A video also gets a line of the kind ``name``, see ``records.build_name_track``.
        """

    def count_dead_rows(self) -> int:
        """Return how many rows belong to videos that are gone."""

    def compact(self, max_dead: float = MAX_DEAD) -> bool:
        """Drop dead rows where they are more than this share; returns whether they were.

        Words that no line has any more go with them, and so does the index of nearest neighbours.
        """

    def next_generation(self) -> int:
        """Return the number of the next generation of rows."""

    def begin_successor(self, values: dict[str, Any]) -> None:
        """Begin embeddings by another model, beside those that are searched.

        Searches see no difference until ``switch_to_successor``.

        Args:
            values: what is to be set in ``meta`` when they take over: ``generation``, that of
                ``next_generation``, ``width``, ``leaves_out``, and all that is the model's; also
                ``num_frames``, 0, or None without frame vectors.
        """

    def read_succeeded(self) -> NDArray:
        """Return the entries (M,) that the successor has embeddings of, by its rows."""

    def change_successor(self, values: dict[str, Any]) -> None:
        """Set values that a successor brings with it, whose embeddings stay as they are."""

    def write_successor(self, entries: Sequence[tuple[int, NewEntry]]) -> None:
        """Give the successor embeddings of entries (by id) that the index has."""

    def switch_to_successor(self) -> None:
        """Let the successor's embeddings take over, in one commit.

        Entries stay what they are. Videos that it has no embeddings of, of every entry, are gone,
        and so is the index of nearest neighbours.
        """

    def build_ann(self, min_vectors: int = MIN_VECTORS) -> float:
        """Make an index of nearest neighbours; readers find it when it is complete.

        Returns:
            Recall on a sample of entries: the share of an entry's ten nearest that it finds.

        Raises:
            UserError: there are fewer vectors, or what makes it is not installed.
        """

    def remove_leftovers(self) -> None:
        """Remove what is of no use any more, and what a writer that was killed has left."""


class IndexStore(Protocol):
    """A place where an index is kept, or will be.

    Attributes:
        location: of the index as the user gave it, for messages.
        work_folder: on this machine; it has what a run keeps for the next one (videos that are not
            embedded to their end), and the files of a model before ``save_model_files``. It need
            not be there yet.
    """

    location: str
    work_folder: Path

    def read_meta(self) -> dict[str, Any] | None:
        """Return ``meta`` as last committed; None where there is no index as yet.

        Raises:
            IndexFolderError: there is something else, or an index that can't be read.
        """

    def reading(self) -> AbstractContextManager[StoreReader]:
        """Return a ``with`` block's reader of the last commit.

        Threads may each have one at a time. Another index that is put in its place is read from
        then on, also by readers that are reused.

        Raises:
            IndexFolderError: there is no index, it can't be read, or is of a newer version.
        """

    def close(self) -> None:
        """Release files and memory; the store may be used on."""

    def locking(self) -> AbstractContextManager[None]:
        """Keep other writers out during a ``with`` block; makes the place if need be.

        Raises:
            IndexFolderError: another one is writing, or, also within the block, something can't be
                written.
        """

    def create(self, width: int | None, leaves_out: Sequence[str], meta: dict[str, Any]) -> None:
        """Make an empty index in a store that is locked, completely or not at all.

        Args:
            width: E; None: without embeddings.
            leaves_out: ``vision`` and ``ocr``, where embeddings without them are kept, too.
            meta: further values; ``num_frames`` is 0 where the vectors of frames are kept, too.
        """

    def open_writer(self) -> StoreWriter:
        """Open the index of a store that is locked for writing; raises ``IndexFolderError``."""

    def check_completely(self) -> None:
        """Check what an update will build on; raises ``DamagedIndexError``."""

    def verify(self) -> list[Damage] | None:
        """Return all that is wrong with the index; None: it has nothing to tell that by as yet.

        Raises ``IndexFolderError`` where it can't be read.
        """

    def save_model_files(self, meta: dict[str, Any]) -> None:
        """Take the files of a model from the work folder, before a commit that names them.

        Args:
            meta: values that name them, as ``retrieval.index.layout`` has them.
        """

    def open_model_folder(self, meta: dict[str, Any]) -> Path:
        """Return a folder on this machine with the files of a model, laid out as those above.

        Raises ``DamagedIndexError`` where one is not what was written; the weights are compared
        when they are read.
        """

    def find_model_damage(self, meta: dict[str, Any]) -> list[Damage]:
        """Return what is wrong with the files of a model, its weights among them."""
