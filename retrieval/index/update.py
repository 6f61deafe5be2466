"""Making an index, and bringing one up to date with its folder of videos."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from base.config import resolve_config
from data_loader.readers.container import VIDEO_EXTENSIONS
from parsing.config_builder import build_config
from parsing.json_files import read_config
from retrieval.errors import IndexFolderError
from retrieval.index import database, identity, layout
from retrieval.index.ann import LEAST_ROWS, build_ann, is_ann_current
from retrieval.index.database import ContentStamp, KnownVideo, decode_path, encode_path
from retrieval.index.embedding import ModelFile, WindowEncoder, embed_videos
from retrieval.index.ocr_text import OcrSource
from retrieval.index.plan import UpdatePlan, plan_update
from retrieval.index.video_file import ReadingParams, VideoFile
from retrieval.index.windows import STRIDE_S, WINDOW_S, check_windows
from retrieval.index.writer import IndexWriter, lock_index
from utils.errors import UserError
from utils.files import FileListing, list_files, write_json


@dataclass(frozen=True)
class IndexOptions:
    """How an index is made.

    Attributes:
        window_s: seconds of an entry; None: as the index has it, a new one ``WINDOW_S``.
        stride_s: seconds between the starts of two entries; None likewise, ``STRIDE_S``.
    """

    window_s: float | None = None
    stride_s: float | None = None
    batch_size: int = 16  # windows that are embedded at a time
    ann: bool = False  # whether a FAISS index is wanted, too
    device: torch.device = torch.device("cpu")  # where the model is


@dataclass
class UpdateResult:
    """What an update did."""

    plan: UpdatePlan  # what was to be done
    failed: dict[str, str] = field(default_factory=dict)  # path -> why the video could not be read
    num_videos: int = 0  # in the index, now
    num_entries: int = 0  # in the index, now
    recall: float | None = None  # of the FAISS index, where one was made: see ``build_ann``


def preview_update(videos: Path, out: Path, source: OcrSource) -> UpdatePlan:
    """Compare a folder of videos with an index; nothing is written.

    Raises:
        UserError: there are no videos, or the index is one of another folder.
    """
    names, meta = list_videos(videos).names, read_index_meta(out)
    if meta is None:
        return plan_update(videos, names, {}, source)
    _check_folder(videos, out, meta)
    with closing(database.connect(out)) as connection:
        return plan_update(videos, names, database.read_videos(connection), source)


def update_index(
    videos: Path, out: Path, model: ModelFile, source: OcrSource, options: IndexOptions
) -> UpdateResult:
    """Make an index, or bring one up to date.

    A video counts as soon as it is complete, so that a run which is stopped has lost little;
    searches in the meantime see the state of the last one that was.

    Args:
        out: the index folder; made if need be.
        model: embeds the videos; must be that of the index.

    Raises:
        UserError: there are no videos, the model or the windows are not those of the index, the
            index can't be used, or the disk is full.
    """
    listing = list_videos(videos)
    read_index_meta(out)  # before anything is written to a folder that is none of ours
    load = cache(partial(model.load, options.device))  # not at all where nothing has changed
    with _explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with _explain_write_errors(out), lock_index(out):
        meta = read_index_meta(out)
        windows = _choose_windows(out, meta, options.window_s, options.stride_s)
        if meta is None:
            _create_index(videos, out, model, windows, load())
            own = {}
        else:
            _check_folder(videos, out, meta)
            own = {"model": check_model(out, meta["model"], model)}
        with IndexWriter(out) as writer:
            writer.remove_leftovers()
            known = writer.read_videos()
            result = UpdateResult(plan_update(videos, listing.names, known, source))
            result.failed |= result.plan.failed
            writer.update_stamps(result.plan.touch)
            linked = [encode_path(folder) for folder in listing.link_targets]
            writer.set_meta(ocr=source.settings(), link_targets=linked, **own)
            writer.write((), [known[name].id for name in result.plan.drop])
            if result.plan.add or result.plan.update:
                source.prepare()
                open_file = partial(_open_file, videos, model.reading_params(*windows), source)
                _write_videos(writer, known, result, open_file, load(), options.batch_size)
            _finish(writer, options.ann, result)
    return result


def list_videos(folder: Path) -> FileListing:
    """List the videos within a folder.

    Raises:
        UserError: there are none, or it can't be read.
    """
    listing = list_files(folder, VIDEO_EXTENSIONS)
    if not listing.names:
        raise UserError(
            f"{folder}: holds no video; is a disk not there? (An index of it is left as it is; to "
            "be rid of that, delete its folder.)"
        )
    return listing


def read_index_meta(out: Path) -> dict[str, Any] | None:
    """Return what is kept by name in an index; None where there is none as yet.

    Raises:
        IndexFolderError: the folder holds something else, or an index that can't be read.
    """
    begun = (out / layout.LOCK).exists()
    if (out / database.DATABASE).exists() and not (begun and _is_unfinished(out)):
        with closing(database.connect(out)) as connection:
            return database.read_meta(connection)
    if not begun and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise IndexFolderError(f"{out}: holds something else than an index; name another --out")
    return None


def _is_unfinished(out: Path) -> bool:
    """Whether the making of the index was stopped before there was one."""
    try:
        with closing(sqlite3.connect(out / database.DATABASE)) as connection:
            return connection.execute("PRAGMA user_version").fetchone()[0] == 0
    except sqlite3.Error:
        return False


def _create_index(
    videos: Path, out: Path, model: ModelFile, windows: tuple[float, float], encoder: WindowEncoder
) -> None:
    """Make an empty index in a locked folder."""
    (out / database.DATABASE).unlink(missing_ok=True)  # of one whose making was stopped
    checksum, width = encoder.save_query_encoder(out / layout.QUERY_ENCODER)
    write_json(out / layout.CONFIG, resolve_config(model.config))
    file = identity.identify_file(model.path, model.config.name)
    meta = {
        "folder": encode_path(videos.absolute()),
        "model": _complete_identity(file, model, identity.hash_weights(model.path)),
        "query_encoder": checksum,
        "windows": list(windows),
    }
    IndexWriter.create(out, width, encoder.parts_left_out(), meta)


def check_model(out: Path, own: dict[str, Any], model: ModelFile) -> dict[str, Any]:
    """Compare a model with the one that an index is of, its identity being of any format.

    Returns:
        The identity that the index should have.

    Raises:
        IndexFolderError: the weights, or settings that change embeddings, are others.
    """
    file = identity.identify_file(model.path, model.config.name)
    identity.check_weights(out, own, file)
    is_complete = own.get("format") == identity.FORMAT
    settings = own["settings"] if is_complete else _read_old_settings(out)
    if settings is not None:
        identity.check_settings(out, file["name"], settings, model.settings())
    weights = own["weights"] if is_complete else identity.hash_weights(model.path)
    return _complete_identity(file, model, weights)


def _complete_identity(file: dict[str, Any], model: ModelFile, weights: str) -> dict[str, Any]:
    known = {"format": identity.FORMAT, "weights": weights, "settings": model.settings()}
    return file | known


def _read_old_settings(out: Path) -> dict[str, Any] | None:
    """Return the settings of an index of format 1, by the configuration that it was made with.

    None where this release does not read that configuration: the weights are the same, and what
    can't be compared must not keep anyone from their index.
    """
    path = str(out / layout.CONFIG)
    try:
        data, errors = read_config(path)
        return ModelFile(out, build_config(data, path, (), errors)).settings()
    except UserError:
        return None


def _check_folder(videos: Path, out: Path, meta: dict[str, Any]) -> None:
    """Raise ``IndexFolderError`` where an index is one of another folder."""
    own = decode_path(meta["folder"])
    if own.resolve() != videos.resolve():
        raise IndexFolderError(
            f"{out}: is the index of {own}, not of {videos}; give that folder, or another --out"
        )


def _choose_windows(
    out: Path, meta: dict[str, Any] | None, window_s: float | None, stride_s: float | None
) -> tuple[float, float]:
    """Return length and distance of entries, seconds: as asked for, else as the index has them.

    Raises ``UserError`` where it has others, or they make no sense.
    """
    own = (WINDOW_S, STRIDE_S) if meta is None else tuple(meta["windows"])
    wanted = (own[0] if window_s is None else window_s, own[1] if stride_s is None else stride_s)
    check_windows(*wanted)
    if meta is not None and wanted != own:
        raise UserError(
            f"{out}: has windows of {own[0]:g} s every {own[1]:g} s, not of {wanted[0]:g} every "
            f"{wanted[1]:g}; leave out --window and --stride, or give another --out"
        )
    return wanted


def _write_videos(
    writer: IndexWriter,
    known: Mapping[str, KnownVideo],
    result: UpdateResult,
    open_file: Callable[[str], VideoFile],
    encoder: WindowEncoder,
    batch_size: int,
) -> None:
    """Add and update, as fast as videos are complete."""
    names = sorted(result.plan.add + result.plan.update)
    bar = tqdm(names, desc="indexing", unit="video", dynamic_ncols=True)
    for group in embed_videos(bar, open_file, encoder, batch_size):
        # What the index has of a video that has changed and can't be read is no longer true.
        writer.write(group.videos, [known[name].id for name in group.failed if name in known])
        result.failed |= group.failed


def _open_file(videos: Path, params: ReadingParams, source: OcrSource, name: str) -> VideoFile:
    # What it was before it is read: what changes meanwhile is found by the next run.
    stamps = ContentStamp.of(videos / name), source.get_stamp(name, None)
    return VideoFile(videos, name, stamps, params, source)


def _finish(writer: IndexWriter, ann: bool, result: UpdateResult) -> None:
    """Drop dead rows, and make the FAISS index where one is wanted or was there."""
    had_ann = writer.meta.get("ann") is not None
    writer.compact()
    if ann or had_ann and not is_ann_current(writer) and writer.meta["num_rows"] >= LEAST_ROWS:
        result.recall = build_ann(writer)
    writer.remove_leftovers()
    result.num_videos = len(writer.read_videos())
    result.num_entries = writer.meta["num_rows"] - writer.count_dead_rows()


@contextmanager
def _explain_write_errors(out: Path) -> Iterator[None]:
    """Say of whatever the disk has against it that the index is as it was."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise IndexFolderError(
            f"{out}: can't be written ({error}); what was finished before is kept: free some "
            "space, or give access, and run the command again"
        ) from error
