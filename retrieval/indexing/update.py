"""An index is made, or brought up to date with its folder of videos."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from tqdm import tqdm

from retrieval.errors import IndexFolderError
from retrieval.identity import check_model
from retrieval.indexing.ann import LEAST_ROWS, build_ann, is_current
from retrieval.indexing.begin import (
    check_folder,
    chosen_windows,
    create,
    list_videos,
    read_settings,
)
from retrieval.indexing.changes import Changes, compare
from retrieval.indexing.encoder import ModelFile, WindowEncoder
from retrieval.indexing.encoding import encode
from retrieval.indexing.reading import ReadingParams, VideoFile
from retrieval.indexing.text import OcrSource
from retrieval.storage import database
from retrieval.storage.contents import Stamp
from retrieval.storage.rows import KnownVideo, known_videos
from retrieval.storage.writer import IndexWriter, locked


@dataclass(frozen=True)
class IndexOptions:
    """How an index is made.

    Attributes:
        window_s: seconds of an entry; None: as the index has it, a new one ``WINDOW_S``.
        stride_s: seconds between the starts of two entries; None likewise, ``STRIDE_S``.
        batch_size: windows that are embedded at a time.
        ann: whether a FAISS index is wanted, too.
        device: where the model is.
    """

    window_s: float | None = None
    stride_s: float | None = None
    batch_size: int = 16
    ann: bool = False
    device: torch.device = torch.device("cpu")


@dataclass
class Outcome:
    """What an update did.

    Attributes:
        changes: what was to be done.
        failed: path -> why the video could not be read.
        num_videos: in the index, now.
        num_entries: in the index, now.
        recall: of the FAISS index, where one was made: see ``build_ann``.
    """

    changes: Changes
    failed: dict[str, str] = field(default_factory=dict)
    num_videos: int = 0
    num_entries: int = 0
    recall: float | None = None


def find_changes(videos: Path, out: Path, source: OcrSource) -> Changes:
    """Compare a folder of videos with an index; nothing is written.

    Raises:
        UserError: there are no videos, or the index is one of another folder.
    """
    names, settings = list_videos(videos), read_settings(out)
    if settings is None:
        return compare(videos, names, {}, source)
    check_folder(videos, out, settings)
    with closing(database.connect(out)) as connection:
        return compare(videos, names, known_videos(connection), source)


def update_index(
    videos: Path, out: Path, model: ModelFile, source: OcrSource, options: IndexOptions
) -> Outcome:
    """Make an index, or bring one up to date.

    A video counts as soon as it is complete, so that a run which is stopped has lost little;
    searches in the meantime see the state of the last one that was.

    Args:
        videos: the folder of videos.
        out: the index folder; made if need be.
        model: embeds the videos; must be that of the index.
        source: of the text in them.
        options: further settings.

    Raises:
        UserError: there are no videos, the model or the windows are not those of the index, the
            index can't be used, or the disk is full.
    """
    names = list_videos(videos)
    read_settings(out)  # before anything is written to a folder that is none of ours
    load = cache(partial(model.load, options.device))  # not at all where nothing has changed
    with _full_disk_told(out):
        out.mkdir(parents=True, exist_ok=True)
    with _full_disk_told(out), locked(out):
        settings = read_settings(out)
        windows = chosen_windows(out, settings, options.window_s, options.stride_s)
        if settings is None:
            create(videos, out, model, windows, load())
        else:
            check_folder(videos, out, settings)
            check_model(out, settings["model"], model.identity())
        with IndexWriter(out) as writer:
            writer.remove_leftovers()
            known = writer.videos()
            outcome = Outcome(compare(videos, names, known, source))
            outcome.failed |= outcome.changes.failed
            writer.touch(outcome.changes.touch)
            writer.set_meta(ocr=source.settings())
            writer.write((), [known[name].id for name in outcome.changes.drop])
            params = model.reading(*windows)
            opened = partial(_opened, videos, params, source)
            if outcome.changes.add or outcome.changes.update:
                source.prepare()
                _write_videos(writer, known, outcome, opened, load(), options.batch_size)
            _finish(writer, options.ann, outcome)
    return outcome


def _write_videos(
    writer: IndexWriter,
    known: Mapping[str, KnownVideo],
    outcome: Outcome,
    opened: Callable[[str], VideoFile],
    encoder: WindowEncoder,
    batch_size: int,
) -> None:
    """Add and update, as fast as videos are complete."""
    names = sorted(outcome.changes.add + outcome.changes.update)
    bar = tqdm(names, desc="indexing", unit="video", dynamic_ncols=True)
    for group in encode(bar, opened, encoder, batch_size):
        # What the index has of a video that has changed and can't be read is no longer true.
        writer.write(group.videos, [known[name].id for name in group.failed if name in known])
        outcome.failed |= group.failed


def _opened(videos: Path, params: ReadingParams, source: OcrSource, name: str) -> VideoFile:
    # What it was before it is read: what changes meanwhile is found by the next run.
    stamps = Stamp.of(videos / name), source.stamp(name, None)
    return VideoFile(videos, name, stamps, params, source)


def _finish(writer: IndexWriter, ann: bool, outcome: Outcome) -> None:
    """Drop dead rows, and make the FAISS index where one is wanted or was there."""
    had_ann = writer.meta.get("ann") is not None
    writer.compact()
    if ann or had_ann and not is_current(writer) and writer.meta["num_rows"] >= LEAST_ROWS:
        outcome.recall = build_ann(writer)
    writer.remove_leftovers()
    outcome.num_videos = len(writer.videos())
    outcome.num_entries = writer.meta["num_rows"] - writer.num_dead()


@contextmanager
def _full_disk_told(out: Path) -> Iterator[None]:
    """Say of whatever the disk has against it that the index is as it was."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise IndexFolderError(
            f"{out}: can't be written ({error}); what was finished before is kept: free some "
            "space, or give access, and run the command again"
        ) from error
