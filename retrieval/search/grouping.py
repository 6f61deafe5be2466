"""Near-duplicates among hits: one hit stands for entries that show the same.

Two entries show the same where they are windows of one video that share a time, or where the cosine
of their embeddings is ``NEAR_DUPLICATE`` or more; and only where each line of text that the query
matches in the one is also matched in the other that stands for it, so that no line is hidden. The
best entry stands for the others, which are compared with it and not with each other: a long video
is not one hit because each of its windows overlaps the next. Shapes: N entries, E width of the
common space.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.index.store import StoreReader
from retrieval.results import Entry, SameEntry
from retrieval.search.snapshot import Snapshot

# Of the demonstration's test videos 98 to 100 % are found again at 0.99 when they are compressed,
# cut, brightened, halved in size or begin later; 0.4 % of the fusion's have another video there
# (2 % at 0.98, 6 % at 0.97).
NEAR_DUPLICATE = 0.99
SCANNED = 8  # entries of a list that are compared for each hit that is asked for, at least
MAX_SCANNED = 20_000
MAX_NAMED = 50  # others of a hit

Lines = Mapping[int, frozenset[str]]  # entry -> the lines of text in it that are matched


class Group:
    """An entry, and those that show the same."""

    def __init__(self, position: int, others: Sequence[Entry] = ()) -> None:
        self.position = position  # of the best one, in the list
        self.num_others = len(others)
        self.others = tuple(
            SameEntry(one.id, one.video, one.start_s, one.end_s) for one in others[:MAX_NAMED]
        )


def group_entries(
    reader: StoreReader,
    snapshot: Snapshot,
    ids: NDArray,
    num_groups: int,
    near_duplicate: float,
    find_lines: Callable[[Sequence[int]], Lines],
) -> list[Group]:
    """Return the first groups of a list of entries (N,), best first.

    Only so many entries are looked at as these groups need, at least ``SCANNED`` a group and at
    most ``MAX_SCANNED``: the others of a group are those among them.

    Args:
        find_lines: returns the lines of these entries.
    """
    most = min(len(ids), MAX_SCANNED)
    count = min(most, SCANNED * num_groups)
    while True:
        scanned = ids[:count]
        found = reader.read_entries(scanned.tolist())
        entries = [found[number] for number in scanned.tolist()]
        rows = snapshot.vectors.read_windows(snapshot.find_rows_of(scanned))  # (N, E)
        lines = find_lines(scanned.tolist())
        groups = _form_groups(entries, rows, lines, num_groups, near_duplicate)
        if len(groups) == num_groups or count == most:
            return groups
        count = min(most, 4 * count)


def _form_groups(
    entries: Sequence[Entry], rows: NDArray, lines: Lines, num_groups: int, least: float
) -> list[Group]:
    numbers: dict[str, int] = {}
    videos = np.array([numbers.setdefault(entry.video, len(numbers)) for entry in entries])
    starts, ends = (np.array([getattr(e, name) for e in entries]) for name in ("start_s", "end_s"))
    free, groups, nothing = np.ones(len(entries), dtype=bool), [], frozenset[str]()
    while len(groups) < num_groups and free.any():
        best = int(np.argmax(free))
        same = rows @ rows[best] >= least
        same |= (videos == videos[best]) & (starts < ends[best]) & (ends > starts[best])
        same[best] = False
        shown = lines.get(entries[best].id, nothing)
        others = [
            int(other)
            for other in np.flatnonzero(same & free)
            if lines.get(entries[other].id, nothing) <= shown
        ]
        free[[best, *others]] = False
        groups.append(Group(best, [entries[other] for other in others]))
    return groups
