"""Videos are read and embedded; the windows of several short ones share a batch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from retrieval.indexing.encoder import SpoiltModelError, WindowEncoder
from retrieval.indexing.reading import VideoFile, WindowSample
from retrieval.storage.contents import NewEntry, NewVideo
from utils.errors import UserError


@dataclass
class Encoded:
    """What came of some of the videos.

    Attributes:
        videos: complete.
        failed: path -> why it could not be read.
    """

    videos: list[NewVideo] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class _Batch:
    """Windows that wait until there are enough of them; then each becomes an entry."""

    def __init__(self, encoder: WindowEncoder, size: int) -> None:
        self._encoder, self._size = encoder, size
        self._waiting: list[tuple[NewVideo, WindowSample]] = []

    def add(self, video: NewVideo, sample: WindowSample) -> None:
        self._waiting.append((video, sample))
        if len(self._waiting) == self._size:
            self.embed()

    def forget(self, video: NewVideo) -> None:
        self._waiting = [pair for pair in self._waiting if pair[0] is not video]

    def has(self, video: NewVideo) -> bool:
        return any(waiting is video for waiting, _ in self._waiting)

    def embed(self) -> None:
        if not self._waiting:
            return
        embeddings = self._encoder.embed([sample.sample for _, sample in self._waiting])
        for (video, sample), arrays in zip(self._waiting, embeddings, strict=True):
            span = sample.window.start_s, sample.window.end_s
            video.entries.append(NewEntry(*span, arrays, sample.thumbnail))
        self._waiting = []


def encode(
    names: Iterable[str],
    open_file: Callable[[str], AbstractContextManager[VideoFile]],
    encoder: WindowEncoder,
    batch_size: int,
) -> Iterator[Encoded]:
    """Yield the videos in groups, in order, as they are complete.

    Args:
        names: of the videos.
        open_file: opens one; raises ``UserError`` where it can't be read.
        encoder: embeds windows.
        batch_size: windows a batch.

    Raises:
        SpoiltModelError: no video's fault.
    """
    batch, read = _Batch(encoder, batch_size), []
    for name in names:
        current: NewVideo | None = None
        try:
            with open_file(name) as file:
                current = file.video
                for sample in file.samples():
                    batch.add(current, sample)
            read.append(current)
        except SpoiltModelError:
            raise
        except UserError as error:
            if current is not None:
                batch.forget(current)
            yield Encoded(failed={name: str(error)})
        complete = [video for video in read if not batch.has(video)]
        if complete:
            yield Encoded(complete)
            read = [video for video in read if batch.has(video)]
    batch.embed()
    if read:
        yield Encoded(read)
