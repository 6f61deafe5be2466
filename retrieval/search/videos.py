"""Results by video: each video once, with the moments of it that fit a query.

A video is as good as its best entry. Its moments are the times at which a line begins that the
query matches, each line once, however many windows it is seen in; and the best frames of what is
seen, where no moment and no better window has the same time.

Shapes: N entries, M videos.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.records import EntryTable
from retrieval.index.store import StoreReader
from retrieval.results import (
    SORTS,
    QueryTerm,
    Sort,
    Video,
    VideoHit,
    VideoMoment,
    VideoResults,
)
from retrieval.search.calibration import MIN_Z_SCORE
from retrieval.search.hybrid import EmbeddedQuery, Ranking, SearchRequest, rank_entries
from retrieval.search.keyword import LineMatch, TermMatch, find_matches, list_words
from retrieval.search.snapshot import Snapshot
from utils.errors import UserError

MAX_RANKED = 20_000  # entries whose videos are listed: the best
MAX_MOMENTS = 20  # of a video
MIN_APART_S = 1.0  # from one moment to the next
_MAX_ENTRIES = 100  # of a video, whose lines and looks are its moments: the best


@dataclass(frozen=True)
class VideoFilter:
    """Which videos may be found, how they are ordered, and which of them are wanted.

    Raises:
        UserError: an option can't be met.
    """

    after_s: float | None = None  # least time of change, seconds since 1970, UTC
    before_s: float | None = None  # time of change below it
    min_length_s: float | None = None
    max_length_s: float | None = None
    has_text: bool | None = None  # whether anything is read or said in it
    sort: Sort = "relevance"
    offset: int = 0
    k: int = 24

    def __post_init__(self) -> None:
        if self.sort not in SORTS:
            raise UserError(f'the order is "{self.sort}"; give one of: {", ".join(SORTS)}')
        if self.k < 1 or self.offset < 0:
            raise UserError(
                f"videos {self.offset} to {self.offset + self.k} are none; ask for one or more, "
                "from 0 on"
            )

    @property
    def is_given(self) -> bool:
        """Whether it asks for anything, so that a search needs no query."""
        return self.sort != "relevance" or self.has_limits

    @property
    def has_limits(self) -> bool:
        """Whether there are videos that it may not accept."""
        limits = (self.after_s, self.before_s, self.min_length_s, self.max_length_s, self.has_text)
        return any(limit is not None for limit in limits)

    def accepts(self, video: Video, has_text: bool) -> bool:
        """Whether a video is within the limits."""
        if self.after_s is not None and video.modified_s < self.after_s:
            return False
        if self.before_s is not None and video.modified_s >= self.before_s:
            return False
        if self.min_length_s is not None and video.duration_s < self.min_length_s:
            return False
        if self.max_length_s is not None and video.duration_s > self.max_length_s:
            return False
        return self.has_text is None or has_text == self.has_text


def run_video_search(
    reader: StoreReader,
    snapshot: Snapshot,
    request: SearchRequest,
    query: EmbeddedQuery,
    wanted: VideoFilter,
) -> VideoResults:
    """Return a page of the videos that fit a query: those that are found, then the others.

    Args:
        reader: that sees the snapshot.
    """
    videos = select_videos(reader, snapshot, wanted, request.folder)
    table, rows = snapshot.load_table(reader), None
    if len(videos) < len(snapshot.load_videos(reader)):
        rows = np.flatnonzero(np.isin(table.videos, np.array([*videos], dtype=np.int64)))
    depth = min(snapshot.num_entries, MAX_RANKED)
    ranking = rank_entries(reader, snapshot, request, query, depth, rows)
    found = _RankedVideos(snapshot, table, ranking)
    order = _sort_found(found, videos, wanted)
    page = order[wanted.offset : wanted.offset + wanted.k]
    finder = _MomentFinder(reader, snapshot, request, query, found, page)
    is_judged = ranking.expected is not None
    return VideoResults(
        videos=tuple(finder.describe(videos[number]) for number in page),
        num_with_words=len(np.unique(found.videos[ranking.has_words])),
        num_likely=int(found.likely.sum()) if is_judged else len(order),
        num_videos=len(order),
        terms=tuple(
            _describe_term(reader, snapshot, table, match, videos) for match in ranking.matches
        ),
    )


def list_videos(
    reader: StoreReader, snapshot: Snapshot, wanted: VideoFilter, folder: str | None
) -> VideoResults:
    """Return a page of all videos, without a query: the last changed first, or as is asked."""
    videos = select_videos(reader, snapshot, wanted, folder)
    key = make_sort_key("newest" if wanted.sort == "relevance" else wanted.sort)
    found = sorted(videos.values(), key=key)
    page = found[wanted.offset : wanted.offset + wanted.k]
    hits = tuple(VideoHit(video, 0.0, None, None, False, (), 0) for video in page)
    return VideoResults(hits, 0, len(found), len(found), ())


def select_videos(
    reader: StoreReader, snapshot: Snapshot, wanted: VideoFilter, folder: str | None
) -> dict[int, Video]:
    """Return the videos (by id) within a filter's limits and a folder; None: anywhere.

    Raises:
        UserError: there is no such folder.
    """
    videos = snapshot.load_videos(reader)
    if folder is not None:
        inside = f"{snapshot.spell_folder(reader, folder)}/"
        videos = {n: video for n, video in videos.items() if video.video.startswith(inside)}
    if not wanted.has_limits:
        return videos
    with_text: frozenset[int] = frozenset()
    if wanted.has_text is not None:
        with_text = snapshot.keep("videos with text", reader.find_videos_with_text, len)
    return {n: video for n, video in videos.items() if wanted.accepts(video, n in with_text)}


def make_sort_key(sort: Sort) -> Callable[[Video], Any]:
    """Return what videos are sorted by, in an order other than by relevance."""
    keys: dict[str, Callable[[Video], Any]] = {
        "newest": lambda video: -video.modified_s,
        "oldest": lambda video: video.modified_s,
        "longest": lambda video: -video.duration_s,
        "shortest": lambda video: video.duration_s,
        "name": lambda video: video.video.casefold(),
    }
    return lambda video: (keys[sort](video), video.id)


class _RankedVideos:
    """The videos of a ranking, as good as their best entries.

    Attributes:
        videos: (N,) id of the video of each entry, in the order of the ranking.
        numbers: (M,) ids of the videos, best first.
        firsts: (M,) where the best entry of each is in the ranking.
        likely: (M,) whether it is like the query.
    """

    def __init__(self, snapshot: Snapshot, table: EntryTable, ranking: Ranking) -> None:
        self.ranking, self.table = ranking, table
        self.rows = snapshot.find_rows_of(ranking.ids)
        self.videos = table.videos[self.rows]
        numbers, firsts = np.unique(self.videos, return_index=True)
        order = np.argsort(firsts)
        self.numbers, self.firsts = numbers[order], firsts[order]
        self.likely = ranking.likely[self.firsts]
        self._by_video = np.argsort(self.videos, kind="stable")

    def find_places(self, video: int) -> NDArray:
        """Return where the entries of a video are in the ranking, best first."""
        ends = [
            np.searchsorted(self.videos, video, side=side, sorter=self._by_video)
            for side in ("left", "right")
        ]
        return self._by_video[ends[0] : ends[1]]


def _sort_found(found: _RankedVideos, videos: dict[int, Video], wanted: VideoFilter) -> list[int]:
    """Return the ids of the videos in the order that is wanted, those that are found first."""
    numbers = found.numbers.tolist()
    if wanted.sort == "relevance":
        return numbers
    key, likely = make_sort_key(wanted.sort), dict(zip(numbers, found.likely.tolist(), strict=True))
    return sorted(numbers, key=lambda number: (not likely[number], key(videos[number])))


def _describe_term(
    reader: StoreReader,
    snapshot: Snapshot,
    table: EntryTable,
    match: TermMatch,
    videos: dict[int, Video],
) -> QueryTerm:
    """Return in how many of the videos a term has a match of its best kind."""
    best = [word.word_id for word in match.words.values() if word.kind == match.kind]
    entries = match.in_pieces if match.kind == "pieces" else match.entries
    if best and not match.is_phrase:
        postings = snapshot.find_postings(reader, best)
        more = match.in_pieces if match.kind == "pieces" else match.in_pieces[:0]
        entries = np.concatenate([more, *(found.entries for found in postings.values())])
    numbers = np.unique(table.videos[snapshot.find_rows_of(entries)])
    count = sum(number in videos for number in numbers.tolist())
    return QueryTerm(match.term.text, count, match.kind if count else None)


class _MomentFinder:
    """The moments of the videos of a page."""

    def __init__(
        self,
        reader: StoreReader,
        snapshot: Snapshot,
        request: SearchRequest,
        query: EmbeddedQuery,
        found: _RankedVideos,
        page: Sequence[int],
    ) -> None:
        self._snapshot, self._request, self._query = snapshot, request, query
        self._found, self._ranking = found, found.ranking
        self._places = {video: found.find_places(video) for video in page}
        with_words = [
            places[self._ranking.words_found[places]][:_MAX_ENTRIES]
            for places in self._places.values()
        ]
        entries = [int(self._ranking.ids[place]) for places in with_words for place in places]
        self._lines = find_matches(reader, self._ranking.matches, entries)

    def describe(self, video: Video) -> VideoHit:
        """Return a video with its moments."""
        ranking, places = self._ranking, self._places[video.id]
        moments, num_moments = self._find_moments(places)
        is_judged = ranking.expected is not None
        z_score = None
        if ranking.expected is not None and ranking.similarities is not None:
            best = ranking.similarities[places].max()
            z_score = float(ranking.expected.compute_z_scores(best))
        return VideoHit(
            video=video,
            score=float(ranking.scores[places[0]]),
            likely=bool(ranking.likely[places[0]]) if is_judged else None,
            z_score=z_score,
            has_words=bool(ranking.has_words[places].any()),
            moments=tuple(moments),
            num_moments=num_moments,
        )

    def _find_moments(self, places: NDArray) -> tuple[list[VideoMoment], int]:
        """Return the best moments of a video, and the number of all.

        Args:
            places: where its entries are in the ranking.
        """
        found: list[_Candidate] = []
        for one in sorted(self._list_lines(places), key=lambda one: (-one.score, one.time_s)):
            if all(abs(one.time_s - other.time_s) >= MIN_APART_S for other in found):
                found.append(one)
        taken: list[tuple[float, float]] = []
        for place in self._find_looks(places, bool(found)):
            start, end = self._get_span(place)
            is_free = not any(start <= one.time_s < end for one in found) and not any(
                start < other_end and other_start < end for other_start, other_end in taken
            )
            if is_free:
                score = self._ranking.score_line(place, 0.0)
                found.append(_Candidate(score, self._find_best_time(place), place, None))
                taken.append((start, end))
        found.sort(key=lambda one: (-one.score, one.time_s))
        return [self._make_moment(one) for one in found[:MAX_MOMENTS]], len(found)

    def _get_span(self, place: int) -> tuple[float, float]:
        row = self._found.rows[place]
        return float(self._found.table.starts[row]), float(self._found.table.ends[row])

    def _find_looks(self, places: NDArray, has_lines: bool) -> list[int]:
        """Return where the entries are that look like the query; one where there are no lines."""
        ranking = self._ranking
        if ranking.expected is not None and ranking.similarities is not None:
            z_scores = ranking.expected.compute_z_scores(ranking.similarities[places])
            likely = places[z_scores >= MIN_Z_SCORE][:_MAX_ENTRIES]
            if len(likely):
                return likely[np.argsort(-ranking.similarities[likely], kind="stable")].tolist()
        return [] if has_lines else [int(places[0])]

    def _list_lines(self, places: NDArray) -> list["_Candidate"]:
        """Return when each line that is matched is first seen or said."""
        of_line: dict[int, tuple[int, LineMatch]] = {}
        for place in places.tolist():
            for one in self._lines.get(int(self._ranking.ids[place]), ()):
                if one.line.kind == "name":
                    continue
                known = of_line.get(one.track)
                begins = one.line.start_s
                if known is None or (
                    self._holds(place, begins) and not self._holds(known[0], begins)
                ):
                    of_line[one.track] = place, one
        found = []
        for place, one in of_line.values():
            start, end = self._get_span(place)
            time_s = min(one.line.find_first(start), end)
            score = self._ranking.score_line(place, one.evidence)
            found.append(_Candidate(score, time_s, place, one))
        return found

    def _holds(self, place: int, time_s: float) -> bool:
        start, end = self._get_span(place)
        return start <= time_s < end

    def _find_best_time(self, place: int) -> float:
        """Return the time of an entry's best frame, or its start."""
        if self._query.whole is not None:
            best = self._query.find_best_frame(self._snapshot, int(self._found.rows[place]))
            if best is not None:
                return best.time_s
        return self._get_span(place)[0]

    def _make_moment(self, one: "_Candidate") -> VideoMoment:
        ranking, match = self._ranking, one.match
        entry = int(ranking.ids[one.place])
        lines, box = self._lines.get(entry, []), None
        likely = bool(ranking.likely[one.place])
        if match is not None:
            box, likely = match.line.find_box(one.time_s), True
            lines = [match, *(other for other in lines if _is_beside(other, match, one.time_s))]
        return VideoMoment(
            entry_id=entry,
            time_s=one.time_s,
            start_s=self._get_span(one.place)[0],
            end_s=self._get_span(one.place)[1],
            score=one.score,
            similarity=self._compare(one.place),
            likely=None if ranking.expected is None else likely,
            box=box,
            words=list_words(lines),
        )

    def _compare(self, place: int) -> float | None:
        """Return the cosine of an entry and the query; None in the mode ``keyword``."""
        if self._query.whole is None:
            return None
        rows = self._found.rows[place : place + 1]
        return float(self._query.compare_rows(self._snapshot, rows)[0])


class _Candidate(NamedTuple):
    """A time that may be a moment, and the line that begins there; None: it is a look."""

    score: float
    time_s: float
    place: int  # of the entry in the ranking
    match: LineMatch | None


def _is_beside(other: LineMatch, match: LineMatch, time_s: float) -> bool:
    """Whether another line is seen or said at about that time."""
    is_near = other.line.start_s < time_s + MIN_APART_S and (
        other.line.end_s > time_s - MIN_APART_S
    )
    return other.track != match.track and is_near
