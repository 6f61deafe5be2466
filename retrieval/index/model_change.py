"""Another model for an index, or its first one: all entries are embedded anew, in place.

Words, lines of text, entries and thumbnails stay as they are, so no text is spotted again. The
embeddings grow in files of their own and take over in one commit: until then the index is searched
as it was, by the model that it had. A run that is stopped has lost little; the next one with the
same model goes on.

A video of which not every entry could be embedded (its file is gone or damaged, or another one than
the index has) is dropped when they take over: an index has only what its model has embedded. The
update that follows takes such a file for a new one, and reports it where it can't be read.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_loader.ocr.ocr_words import OcrLine
from data_loader.readers.tolerant_reader import open_tolerantly
from retrieval.index.arrays import WITHOUT, keeps_frames
from retrieval.index.checksums import FILES, hash_files
from retrieval.index.layout import CONFIG, QUERY_ENCODER, config_file, list_model_files
from retrieval.index.ocr_text import OcrSource
from retrieval.index.query_embedder import QueryEmbedder, save_query_encoder
from retrieval.index.records import KnownEntry, KnownLine, KnownVideo
from retrieval.index.roots import Roots
from retrieval.index.store import IndexStore, StoreWriter
from retrieval.index.unfinished import UnfinishedVideos
from retrieval.index.vectors import Vectors
from retrieval.index.video_file import ReadingParams, VideoFile, choose_start
from retrieval.index.video_work import VideoTask, VideoWork, WorkerModel, read_by_workers
from retrieval.index.window_batches import embed_videos
from utils.errors import UserError
from utils.files import write_json

if TYPE_CHECKING:
    from retrieval.index.embedding import ModelFile, WindowEncoder
    from utils.ray_pool import RayPool

logger = logging.getLogger(__name__)


def save_model(
    store: IndexStore,
    model: "ModelFile",
    identity: dict[str, Any],
    encoder: "WindowEncoder",
    vectors: Vectors | None = None,
    generation: int | None = None,
) -> dict[str, Any]:
    """Keep a model's query encoder and configuration in an index.

    Args:
        vectors: that are to be kept; None: those of frames where the model embeds frames.
        generation: of the embeddings of a model that is not the first one; part of the names.

    Returns:
        What ``meta`` says of the model.

    Raises:
        UserError: the model does not embed frames.
    """
    embeds_frames = encoder.model.embeds_frames
    if vectors == "frames" and not embeds_frames:
        raise UserError(
            f"--vectors frames: {model.name} ({model.config.arch.type}) embeds windows as a whole, "
            "not their frames; leave it out, or give a model that embeds frames"
        )
    number = "" if generation is None else f"-{generation:06}"
    names: dict[str, Any] = {
        "query_encoder_folder": QUERY_ENCODER + number,
        "config_file": Path(CONFIG).stem + number + Path(CONFIG).suffix,
    }
    out = store.work_folder
    folder = out / names["query_encoder_folder"]
    checksum = save_query_encoder(folder, encoder.model, model.config, encoder.collate)
    embedder = QueryEmbedder(folder, checksum)  # as it is when read again
    width = embedder.save_unrelated().shape[1]
    fuses = set(WITHOUT) == set(model.model_input.modalities)
    write_json(config_file(out, names), model.resolve_config())
    names[FILES] = hash_files(out, list_model_files(out, names))
    store.save_model_files(names)
    return names | {
        "model": identity,
        "query_encoder": checksum,
        "precision": encoder.precision.name,
        "width": width,
        "leaves_out": sorted(WITHOUT) if fuses else [],
        "num_frames": 0 if embeds_frames and vectors != "windows" else None,
    }


class EmbeddingProgress(Protocol):
    """Is told how far all videos are embedded anew."""

    def begin(self, names: Sequence[str]) -> None:
        """Take note of the videos that are to be embedded."""

    def advance(self, name: str, share: float) -> None:
        """Take note of the share of a video that is read."""


def embed_anew(
    store: IndexStore,
    writer: StoreWriter,
    roots: Roots,
    model: "ModelFile",
    identity: dict[str, Any],
    source: OcrSource,
    windows: tuple[float, float],
    load_encoder: "Callable[[], WindowEncoder]",
    batch_size: int,
    vectors: Vectors | None = None,
    progress: EmbeddingProgress | None = None,
    pool: "RayPool | None" = None,
) -> int:
    """Embed all entries of an index by another model, and switch to it.

    Args:
        roots: the folders that were indexed.
        identity: of the model.
        source: that has found the documents of the folders' videos.
        vectors: as in ``save_model``.
        progress: told what is embedded, in the place of a bar.
        pool: reads and embeds the videos, in the place of this process.

    Returns:
        How many videos have their embeddings.

    Raises:
        UserError: no video can be read at all; the index stays as it is.
    """
    known = writer.read_videos()
    if not _goes_on(writer, identity, vectors):
        generation = writer.next_generation()
        saved = save_model(store, model, identity, load_encoder(), vectors, generation)
        writer.begin_successor(saved | {"generation": generation})
    elif store.find_model_damage(writer.meta["successor"]):
        generation = writer.meta["successor"]["generation"]
        saved = save_model(store, model, identity, load_encoder(), vectors, generation)
        del saved["num_frames"]  # what is there, stays
        writer.change_successor(saved)
    entries = writer.read_entries()
    done = set(writer.read_succeeded().tolist())
    left = [
        name
        for name, video in sorted(known.items(), key=lambda item: item[1].id)
        if not done.issuperset(entry.id for entry in entries[video.id])
        and _has_content(roots, name, video)
    ]
    params, encoder = model.reading_params(*windows), load_encoder()
    describe = partial(_describe_known, writer, known, entries)
    if progress is not None:
        progress.begin(left)
    reasons: dict[str, str] = {}
    frames = keeps_frames(writer.meta["successor"])
    settings = [windows, encoder.precision.name, frames]
    unfinished = UnfinishedVideos(store.work_folder, identity, settings, params.uses_ocr)
    if pool is None:
        bar = tqdm(left, desc="embedding", unit="video", dynamic_ncols=True, disable=bool(progress))
        embedded = embed_videos(
            bar,
            lambda name: describe(name).open(roots, params, source),
            encoder,
            batch_size,
            frames,
            unfinished,
            progress and progress.advance,
        )
    else:
        work = VideoWork(
            roots,
            store.work_folder.absolute(),
            params,
            source,
            WorkerModel.of(model, encoder, pool),
            batch_size,
            frames,
            unfinished,
            spots_text=False,
        )
        tasks = _KnownVideos(left, partial(describe, sent_with=params.uses_ocr))
        read = read_by_workers(pool, work, tasks, "embedding")
        embedded = (
            ([], {name: found}) if isinstance(found, str) else ([found.video], {})
            for name, found in zip(left, read, strict=True)
        )
    for complete, failed in embedded:
        reasons |= failed
        for video in complete:
            ids = (entry.id for entry in entries[known[video.path].id])
            writer.write_successor(list(zip(ids, video.entries, strict=True)))
            unfinished.remove(video)
    for name, reason in reasons.items():
        logger.info("%s: not embedded anew: %s", name, reason)
    if known and not len(writer.read_succeeded()):
        detail = next(iter(reasons.values()), "none of their files is what it was")
        raise UserError(
            f"{roots.describe()}: none of the {len(known)} videos can be embedded ({detail}); the "
            "index is left as it was: give access to them, or make another one with --out"
        )
    writer.switch_to_successor()
    return len(writer.read_videos())


def _goes_on(writer: StoreWriter, identity: dict[str, Any], vectors: Vectors | None) -> bool:
    """Whether there are such embeddings by the same model, of a run that was stopped."""
    successor = writer.meta.get("successor")
    if successor is None:
        return False
    if vectors is not None and keeps_frames(successor) != (vectors == "frames"):
        return False
    before = successor["model"]
    return all(before.get(key) == identity.get(key) for key in ("format", "weights", "settings"))


def _has_content(roots: Roots, name: str, video: KnownVideo) -> bool:
    """Whether a video is there and, by size and time or else by content, that of the index."""
    try:
        return roots.find_same(name, video.stamp) is not None
    except (UserError, OSError):
        return False


@dataclass(frozen=True)
class _KnownVideo(VideoTask):
    """A video of the index; the windows of its file are embedded that it has entries of.

    Attributes:
        known: what the index has of it.
        before: when its entries begin, in seconds.
        read_stored: gives the lines of text that the index has of it.
    """

    known: KnownVideo
    before: list[float]
    read_stored: Callable[[], list[KnownLine]]

    @contextmanager
    def open(self, roots: Roots, params: ReadingParams, source: OcrSource) -> Iterator[VideoFile]:
        """Open its file; raises ``UserError`` where its windows are others by now."""
        video = self.known
        with (
            roots.open_video(self.name) as opened,
            open_tolerantly(opened.path, params.reader) as reader,
        ):
            lines: Sequence[OcrLine] = ()
            if params.uses_ocr:
                size = reader.width, reader.height
                times = reader.times() + choose_start(reader, self.before)
                stored = self.read_stored
                lines = _read_lines(source, self.name, opened.path, video, stored, times, size)
            stamps = video.stamp, video.ocr_stamp
            file = VideoFile(self.name, stamps, reader, lines, params, self.before)
            if not file.has_windows_at(self.before):
                raise UserError(f"{self.name}: is cut into other windows than when it was indexed")
            yield file


def _describe_known(
    writer: StoreWriter,
    known: Mapping[str, KnownVideo],
    entries: Mapping[int, Sequence[KnownEntry]],
    name: str,
    sent_with: bool | None = None,
) -> _KnownVideo:
    """Describe a video of the index.

    Args:
        sent_with: whether its lines are sent with it to another process; None: it stays here, and
            they are read where they are needed.
    """
    video = known[name]
    # Windows of which nothing can be decoded have no entry.
    before = [entry.start_s for entry in entries[video.id]]
    read_stored = partial(writer.read_lines, video.id)
    if sent_with is not None:
        read_stored = partial(list, read_stored() if sent_with else ())
    return _KnownVideo(name, None, video, before, read_stored)


class _KnownVideos(Sequence[_KnownVideo]):
    """Videos of the index that are described when they are sent: all their lines would be many."""

    def __init__(self, names: Sequence[str], describe: Callable[[str], _KnownVideo]) -> None:
        self._names, self._describe = names, describe

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> _KnownVideo:
        return self._describe(self._names[number])


def _read_lines(
    source: OcrSource,
    name: str,
    path: Path,
    video: KnownVideo,
    read_stored: Callable[[], list[KnownLine]],
    times: NDArray,
    size: tuple[int, int],
) -> list[OcrLine]:
    """Return the lines of text of a video that the index has, as a model is given them.

    Those of a document that has not changed are read again. Others are taken from the index, which
    keeps upright boxes in the place of quadrangles.
    """
    if not source.is_costly:
        found, before = source.get_stamp(name, video.ocr_stamp), video.ocr_stamp
        if found is not None and before is not None and found.sha256 == before.sha256:
            return source.read_lines(name, path)
    return [restore_line(line, times, size) for line in read_stored()]


def restore_line(line: KnownLine, times: NDArray, size: tuple[int, int]) -> OcrLine:
    """Return a line of the index as a document has it.

    Args:
        times: (N,) when each frame of the video is shown, in seconds.
        size: (width, height) of a frame, in pixels.
    """
    after = np.clip(np.searchsorted(times, line.boxes[:, 0]), 1, max(1, len(times) - 1))
    nearer = [after - 1, np.minimum(after, len(times) - 1)]
    distances = [np.abs(times[frames] - line.boxes[:, 0]) for frames in nearer]
    frames = np.where(distances[0] <= distances[1], *nearer)
    corners = line.boxes[:, [1, 2, 3, 2, 3, 4, 1, 4]].astype(np.float64)  # clockwise, x and y
    quads = corners * np.tile(np.array(size, dtype=np.float64), 4)
    frames_of = dict(zip(frames.tolist(), quads.tolist(), strict=True))
    return OcrLine(line.text, line.score, frames_of)


def describe_stopped(out: str | Path, meta: dict[str, Any]) -> str | None:
    """Return one line about a change of models that was stopped; None where there is none."""
    successor = meta.get("successor")
    if successor is None:
        return None
    name = successor["model"]["name"]
    option = "-r" if "path" in successor["model"] else "--model"
    return (
        f"{out}: {successor['num_rows']} of its entries are embedded by {name}, too, by a run that "
        f"was stopped; that goes on with {option} {successor['model'].get('path', name)}"
        + (" --replace-model" if meta.get("model") else "")
    )
