"""Overview of an index: its latest videos, what can be read in them, and words to search for."""

from retrieval.index.store import StoreReader
from retrieval.index.words import get_words
from retrieval.results import ExampleWord, LatestVideo, LibraryOverview, TrackKind, Video
from retrieval.search.keyword import FUNCTION_WORDS
from retrieval.search.snapshot import Snapshot

NUM_LATEST = 12  # videos
NUM_LINES = 4  # of a video
NUM_EXAMPLES = 8
MIN_LETTERS = 4  # of an example
MIN_SCORE = 0.8  # confidence of its reading
_MAX_LENGTH = 40  # letters of a line that is shown
_NUM_CHOSEN = 50  # lines of a video that are chosen from, the best
_NUM_SCANNED = 4000  # lines that examples are taken from, the latest


def describe_library(reader: StoreReader, snapshot: Snapshot) -> LibraryOverview:
    """Return the overview of an index, within a transaction that sees the snapshot."""
    videos = list(snapshot.load_videos(reader).values())
    videos.sort(key=lambda video: (-video.modified_s, video.id))
    latest = [LatestVideo(video, _pick_lines(reader, video)) for video in videos[:NUM_LATEST]]
    return LibraryOverview(
        num_videos=len(videos),
        num_entries=snapshot.num_entries,
        duration_s=sum(video.duration_s for video in videos),
        latest=tuple(latest),
        examples=_pick_examples(reader),
    )


def _pick_lines(reader: StoreReader, video: Video) -> tuple[str, ...]:
    """Return distinct lines of a video: those that were read best, then the longest."""
    lines = reader.read_clear_lines(video.id, MIN_SCORE, _MAX_LENGTH, _NUM_CHOSEN)
    texts: dict[str, str] = {}
    for text in lines:
        texts.setdefault(" ".join(get_words(text)), text)
    return tuple(text for folded, text in texts.items() if folded)[:NUM_LINES]


def _pick_examples(reader: StoreReader) -> tuple[ExampleWord, ...]:
    """Return words that were read or heard with confidence, those in most videos first."""
    videos: dict[tuple[str, TrackKind], set[int]] = {}
    for video, text, kind in reader.read_latest_lines(MIN_SCORE, _NUM_SCANNED):
        for word in get_words(text):
            if len(word) >= MIN_LETTERS and word.isalpha() and word not in FUNCTION_WORDS:
                videos.setdefault((word, kind), set()).add(video)
    ranked = sorted(videos, key=lambda one: (-len(videos[one]), -len(one[0]), one))
    first = {word: kind for word, kind in reversed(ranked)}  # of both kinds the more frequent one
    chosen = [one for one in ranked if first[one[0]] == one[1]]
    return tuple(ExampleWord(*one) for one in chosen[:NUM_EXAMPLES])
