"""Videos of an index, read a window at a time, and embedded a batch of windows at a time.

Without a model nothing here needs torch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from numpy.typing import NDArray

from retrieval.errors import IndexFolderError
from retrieval.index.records import NewEntry, NewVideo
from retrieval.index.unfinished import UnfinishedVideos
from retrieval.index.video_file import VideoFile
from utils.errors import UserError

if TYPE_CHECKING:
    from base.batch import Sample


class BrokenModelError(UserError):
    """The model's embeddings are not finite, whatever the video."""


class Encoder(Protocol):
    """Embeds windows: ``retrieval.index.embedding.WindowEncoder``, or ``NoEncoder``."""

    def embed(self, samples: "Sequence[Sample]", frames: bool = False) -> list[dict[str, NDArray]]:
        """Return the embeddings of each window by their names, with ``frames`` of its frames."""


class NoEncoder:
    """Stands for the encoder of an index without a model: entries get no embeddings."""

    def embed(self, samples: "Sequence[Sample]", frames: bool = False) -> list[dict[str, NDArray]]:
        """Return nothing for each window."""
        return [{} for _ in samples]


def embed_videos(
    names: Iterable[str],
    open_file: Callable[[str], AbstractContextManager[VideoFile]],
    encoder: Encoder,
    batch_size: int,
    frames: bool = False,
    unfinished: UnfinishedVideos | None = None,
    report: Callable[[str, float], None] | None = None,
) -> Iterator[tuple[list[NewVideo], dict[str, str]]]:
    """Embed videos, whose windows share batches; raises ``BrokenModelError``.

    Args:
        open_file: opens one by its name; raises ``UserError`` where it can't be read.
        frames: whether their frames are embedded, too.
        unfinished: where parts of videos are kept, which a run that is stopped would lose.
        report: called with a video's name and the share of it that is read, after each window.

    Yields:
        Videos as they are complete, in order, and name -> why one could not be read.
    """
    waiting: list[tuple[NewVideo, NewEntry, Sample | None]] = []  # for a full batch
    are_read: list[NewVideo] = []  # with windows that wait

    def embed_waiting() -> None:
        samples = [sample for *_, sample in waiting]
        embeddings = encoder.embed(samples, frames) if waiting else []
        for (video, entry, _), arrays in zip(waiting, embeddings, strict=True):
            entry.embeddings = arrays
            video.entries.append(entry)
        waiting.clear()

    for name in names:
        current: NewVideo | None = None
        try:
            with open_file(name) as file:
                current = file.video
                if unfinished is not None:
                    current.entries += unfinished.load(current)
                kept = file.find_windows_of(current.entries)
                start = kept[-1] + 1 if kept else 0
                windows = file.read_windows(start, kept)
                for number, (entry, sample) in enumerate(windows, start + 1):
                    waiting.append((current, entry, sample))
                    if len(waiting) == batch_size:
                        embed_waiting()
                        if unfinished is not None:
                            unfinished.save(current)
                    if report is not None:
                        report(name, number / len(file.windows))
            are_read.append(current)
        except (BrokenModelError, IndexFolderError):  # not the video is to blame
            raise
        except UserError as error:
            waiting[:] = [pair for pair in waiting if pair[0] is not current]
            yield [], {name: str(error)}
        with_waiting = {id(video) for video, *_ in waiting}
        complete = [video for video in are_read if id(video) not in with_waiting]
        if complete:
            yield complete, {}
            are_read = [video for video in are_read if id(video) in with_waiting]
    embed_waiting()
    if are_read:
        yield are_read, {}
