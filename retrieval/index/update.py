"""Update of an index from its folder of videos: what has changed, and how it is written."""

import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from base.config import PrecisionName
from data_loader.readers.container import VIDEO_EXTENSIONS
from retrieval.errors import IndexFolderError, OtherModelError
from retrieval.index import database
from retrieval.index.ann import MIN_VECTORS, build_ann, count_vectors
from retrieval.index.arrays import keeps_frames
from retrieval.index.database import KnownVideo, Stamps, decode_path, encode_path
from retrieval.index.embedding import ModelFile, NoEncoder, WindowEncoder, embed_videos
from retrieval.index.identity import check_model, describe_model, identify_model
from retrieval.index.model_change import embed_anew, save_model
from retrieval.index.ocr_text import OcrSource
from retrieval.index.vectors import Vectors
from retrieval.index.video_file import (
    STRIDE_S,
    WINDOW_S,
    ReadingParams,
    check_windows,
    open_video_file,
)
from retrieval.index.writer import LOCK, IndexWriter, lock_index
from utils.errors import UserError
from utils.files import FileListing, list_files
from utils.precision import Precision

logger = logging.getLogger(__name__)

_MIN_COVERED = 0.9  # share of the rows in a FAISS index; a search compares the others exactly


@dataclass(frozen=True)
class IndexOptions:
    """How an index is made; what is None is as the index has it, or the default of a new one."""

    window_s: float | None = None  # seconds of an entry; default ``WINDOW_S``
    stride_s: float | None = None  # seconds between the starts of two entries; ``STRIDE_S``
    batch_size: int = 16  # windows that are embedded at a time
    ann: bool = False  # whether a FAISS index is wanted, too
    device: torch.device = torch.device("cpu")
    precision: PrecisionName | None = None  # of the model; a new one: that of its configuration
    replace_model: bool = False  # whether a model that is not the index's takes its place
    vectors: Vectors | None = None  # of a new one: ``frames`` where it embeds frames


@dataclass
class UpdatePlan:
    """Videos, by their paths within the folder, and what is to be done with them."""

    add: list[str] = field(default_factory=list)
    update: list[str] = field(default_factory=list)  # the file, or its text, has changed
    drop: list[str] = field(default_factory=list)  # they are gone
    touch: dict[int, Stamps] = field(default_factory=dict)  # by id: only times have changed
    failed: dict[str, str] = field(default_factory=dict)  # path -> why it can't be compared
    num_same: int = 0
    num_anew: int = 0  # videos of the index that another model is to embed

    def summarize(self) -> str:
        """Return one line with the number of videos of each kind."""
        return (
            f"{len(self.add)} to add, {len(self.update)} to update, {len(self.drop)} to drop, "
            f"{len(self.failed)} unreadable, {self.num_same} unchanged"
        )


@dataclass
class UpdateResult:
    """What an update did; the counts are those of the index afterwards."""

    plan: UpdatePlan
    failed: dict[str, str] = field(default_factory=dict)  # path -> why the video could not be read
    num_videos: int = 0
    num_entries: int = 0
    num_anew: int = 0  # videos that another model, or the first one, has embedded
    recall: float | None = None  # of the FAISS index, where one was made: see ``build_ann``


def preview_update(
    videos: Path, out: Path, source: OcrSource, changes_model: bool = False
) -> UpdatePlan:
    """Compare a folder of videos with an index, without writing; raises ``UserError``.

    Args:
        changes_model: whether another model, or the first one, is to embed what is there.
    """
    names, meta = list_videos(videos).names, read_index_meta(out)
    if meta is None:
        return plan_update(videos, names, {}, source)
    _check_folder(videos, out, meta)
    with closing(database.connect(out)) as connection:
        plan = plan_update(videos, names, database.read_videos(connection), source)
    plan.num_anew = plan.num_same if changes_model else 0
    return plan


def update_index(
    videos: Path, out: Path, model: ModelFile | None, source: OcrSource, options: IndexOptions
) -> UpdateResult:
    """Make an index, or update one.

    Each video is committed as soon as it is complete: a run that is stopped has lost little, and
    searches in the meantime see the last commit.

    Args:
        out: the index folder; made if need be.
        model: that of the index, its first one, or with ``options.replace_model`` any; None: the
            index holds words only.

    Raises:
        UserError: there are no videos, the model or the windows are not those of the index, the
            index can't be used, or the disk is full.
    """
    if options.ann and model is None:
        raise UserError(f"{out}: --ann is for embeddings, and an index of words only has none")
    if options.vectors is not None and model is None:
        raise UserError(f"{out}: --vectors is for embeddings, and an index of words only has none")
    listing = list_videos(videos)
    read_index_meta(out)  # before anything is written to a folder that is no index
    with _explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with _explain_write_errors(out), lock_index(out):
        meta = read_index_meta(out)
        windows = _choose_windows(out, meta, options)
        precision = None if model is None else _choose_precision(meta, model, options)
        # The model is loaded only where something has changed.
        load_encoder = cache(partial(_load_encoder, out, meta, model, precision, options))
        identity, changes_model = None, False
        if meta is None:
            _create_index(videos, out, model, windows, load_encoder(), options.vectors)
        else:
            _check_folder(videos, out, meta)
            identity, changes_model = _compare_models(out, meta, model, options, load_encoder)
            if not changes_model and _changes_vectors(out, meta, options):
                identity, changes_model = identify_model(model, load_encoder), True
        with IndexWriter(out) as writer:
            writer.remove_leftovers()
            had_ann, num_anew = writer.meta.get("ann") is not None, 0
            if changes_model:
                _drop_missing(writer, videos, listing.names, source)
                num_anew = embed_anew(
                    writer, videos, model, identity, source, windows, load_encoder,
                    options.batch_size, options.vectors,
                )  # fmt: skip
            elif meta is not None and model is not None:
                _warn_of_precision(out, meta, precision)
                if options.replace_model:  # of another one's, that has been begun
                    writer.set_meta(successor=None)
            known = writer.read_videos()
            plan = plan_update(videos, listing.names, known, source)
            result = UpdateResult(plan, dict(plan.failed), num_anew=num_anew)
            writer.update_stamps(plan.touch)
            link_targets = [encode_path(path) for path in listing.link_targets]
            settings = {"ocr": source.settings(), "precision": precision}
            if identity is not None:
                settings["model"] = identity
            writer.set_meta(link_targets=link_targets, **settings)
            writer.write((), [known[name].id for name in plan.drop])
            if names := sorted(plan.add + plan.update):
                source.prepare()
                params = _choose_reading(model, windows)
                open_file = partial(open_video_file, videos, params, source)
                bar = tqdm(names, desc="indexing", unit="video", dynamic_ncols=True)
                frames = keeps_frames(writer.meta)
                batches = embed_videos(bar, open_file, load_encoder(), options.batch_size, frames)
                for complete, failed in batches:
                    # A video that has changed and can't be read is no longer what the index has.
                    writer.write(complete, [known[name].id for name in failed if name in known])
                    result.failed |= failed
            _finish_update(writer, options.ann, had_ann, result)
    return result


def _load_encoder(
    out: Path,
    meta: dict[str, Any] | None,
    model: ModelFile | None,
    precision: PrecisionName | None,
    options: IndexOptions,
) -> WindowEncoder | NoEncoder:
    """Load a model; one that the index has named is compared with what it was."""
    if model is None or precision is None:
        return NoEncoder()
    encoder = WindowEncoder(model, Precision(precision, options.device))
    if model.is_kept and meta is not None:
        check_model(out, meta["model"], model, lambda: encoder)
    return encoder


def _choose_reading(model: ModelFile | None, windows: tuple[float, float]) -> ReadingParams:
    """Return how videos are read; without a model the frames are those of the thumbnails."""
    return ReadingParams(*windows) if model is None else model.reading_params(*windows)


def _compare_models(
    out: Path,
    meta: dict[str, Any],
    model: ModelFile | None,
    options: IndexOptions,
    load_encoder: Callable[[], Any],
) -> tuple[dict[str, Any] | None, bool]:
    """Compare a model with that of an index.

    Returns:
        The identity that the index should have, None: as it is; and whether all its entries are to
        be embedded anew for it.

    Raises:
        OtherModelError: it is another one, and is not to replace that of the index.
    """
    before = meta.get("model")
    if model is None:
        if before is not None:
            raise OtherModelError(
                f"{out}: was made with the model {describe_model(before)}, and can't be updated "
                "without it"
            )
        return None, False
    if before is None:
        return identify_model(model, load_encoder), True
    if model.is_kept:  # it is compared when it is loaded
        return None, False
    try:
        return check_model(out, before, model, load_encoder), False
    except OtherModelError:
        if not options.replace_model:
            raise
    return identify_model(model, load_encoder), True


def _drop_missing(
    writer: IndexWriter, videos: Path, names: Sequence[str], source: OcrSource
) -> None:
    """Drop the videos that are gone, and find the documents of the others."""
    known = writer.read_videos()
    plan = plan_update(videos, names, known, source)
    writer.update_stamps(plan.touch)
    writer.write((), [known[name].id for name in plan.drop])


def plan_update(
    folder: Path, names: Sequence[str], known: Mapping[str, KnownVideo], source: OcrSource
) -> UpdatePlan:
    """Compare a folder of videos with those that an index knows.

    The index keeps what it has of a video that can't be compared.
    """
    plan = UpdatePlan(drop=sorted(known.keys() - set(names)))
    source.find_documents(names)
    for name in names:
        if name not in known:
            plan.add.append(name)
            continue
        try:
            stamps = _compare_video(folder / name, name, known[name], source)
        except (UserError, OSError) as error:
            plan.failed[name] = str(error)
            continue
        if stamps is None:
            plan.update.append(name)
            continue
        plan.num_same += 1
        if stamps != known[name][1:]:
            plan.touch[known[name].id] = stamps
    return plan


def _compare_video(file: Path, name: str, before: KnownVideo, source: OcrSource) -> Stamps | None:
    """Return the stamps of a video whose content and text are unchanged, otherwise None."""
    ocr = source.get_stamp(name, before.ocr_stamp)
    if (ocr and ocr.sha256) != (before.ocr_stamp and before.ocr_stamp.sha256):
        return None
    stamp = before.stamp.find_same(file)
    return None if stamp is None else (stamp, ocr)


def list_videos(folder: Path) -> FileListing:
    """List the videos within a folder; raises ``UserError`` where there are none."""
    listing = list_files(folder, VIDEO_EXTENSIONS)
    if not listing.names:
        raise UserError(
            f"{folder}: holds no video; is a disk not there? (An index of it is left as it is; to "
            "be rid of that, delete its folder.)"
        )
    return listing


def read_index_meta(out: Path) -> dict[str, Any] | None:
    """Return the values of the table ``meta`` of an index; None where there is none as yet.

    Raises:
        IndexFolderError: the folder holds something else, or an index that can't be read.
    """
    begun = (out / LOCK).exists()
    if (out / database.DATABASE).exists() and not (begun and _is_unfinished(out)):
        with closing(database.connect(out)) as connection:
            return database.read_meta(connection)
    if not begun and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise IndexFolderError(f"{out}: holds something else than an index; name another --out")
    return None


def _is_unfinished(out: Path) -> bool:
    """Whether the making of the index was stopped before its database was complete."""
    try:
        with closing(sqlite3.connect(out / database.DATABASE)) as connection:
            return connection.execute("PRAGMA user_version").fetchone()[0] == 0
    except sqlite3.Error:
        return False


def _create_index(
    videos: Path,
    out: Path,
    model: ModelFile | None,
    windows: tuple[float, float],
    encoder: WindowEncoder | NoEncoder,
    vectors: Vectors | None,
) -> None:
    """Make an empty index in a locked folder; raises ``UserError``."""
    (out / database.DATABASE).unlink(missing_ok=True)  # of one whose making was stopped
    meta = {"folder": encode_path(videos.absolute()), "windows": list(windows)}
    width, leaves_out = None, ()
    if model is not None and isinstance(encoder, WindowEncoder):
        saved = save_model(out, model, identify_model(model, lambda: encoder), encoder, vectors)
        width, leaves_out = saved.pop("width"), saved.pop("leaves_out")
        meta |= saved
    IndexWriter.create(out, width, leaves_out, meta)


def _check_folder(videos: Path, out: Path, meta: dict[str, Any]) -> None:
    before = decode_path(meta["folder"])
    if before.resolve() != videos.resolve():
        raise IndexFolderError(
            f"{out}: is the index of {before}, not of {videos}; give that folder, or another --out"
        )


def _choose_windows(
    out: Path, meta: dict[str, Any] | None, options: IndexOptions
) -> tuple[float, float]:
    """Return the length and stride of windows, in seconds; raises ``UserError``."""
    window_s, stride_s = (WINDOW_S, STRIDE_S) if meta is None else meta["windows"]
    wanted_window = window_s if options.window_s is None else options.window_s
    wanted_stride = stride_s if options.stride_s is None else options.stride_s
    check_windows(wanted_window, wanted_stride)
    if meta is not None and (wanted_window, wanted_stride) != (window_s, stride_s):
        raise UserError(
            f"{out}: has windows of {window_s:g} s every {stride_s:g} s, not of {wanted_window:g} "
            f"every {wanted_stride:g}; leave out --window and --stride, or give another --out"
        )
    return wanted_window, wanted_stride


def _changes_vectors(out: Path, meta: dict[str, Any], options: IndexOptions) -> bool:
    """Whether other vectors are wanted than those of an index, whose model stays.

    Raises ``UserError`` where its videos are not to be embedded anew for them.
    """
    before: Vectors = "frames" if keeps_frames(meta) else "windows"
    if options.vectors is None or options.vectors == before:
        return False
    if not options.replace_model:
        raise UserError(
            f"{out}: has the vectors of {before}, and --vectors {options.vectors} needs those of "
            "its videos anew: give --replace-model and the model, too, or leave out --vectors, or "
            "give another --out"
        )
    return True


def _choose_precision(
    meta: dict[str, Any] | None, model: ModelFile, options: IndexOptions
) -> PrecisionName:
    """Return the precision that windows are embedded in."""
    if options.precision is not None:
        return options.precision
    if meta is None or meta.get("model") is None:
        return model.config.evaluation_precision
    return meta.get("precision", "fp32")  # as before indexes said it


def _warn_of_precision(out: Path, meta: dict[str, Any], precision: PrecisionName | None) -> None:
    """Say that the precision changes; embeddings of two are close enough to stand together."""
    before = meta.get("precision", "fp32")
    if precision != before:
        logger.warning(
            "%s: its videos were embedded in %s; those that are embedded from now on are in %s",
            out, before, precision,
        )  # fmt: skip


def _finish_update(writer: IndexWriter, ann: bool, had_ann: bool, result: UpdateResult) -> None:
    """Drop dead rows, and make the FAISS index where one is wanted or was there."""
    writer.compact()
    num_rows, kept = writer.meta["num_rows"], writer.meta.get("ann")
    covers_most = kept is not None and kept["num_rows"] >= _MIN_COVERED * num_rows
    if ann or (had_ann and not covers_most and count_vectors(writer.meta) >= MIN_VECTORS):
        result.recall = build_ann(writer)
    writer.remove_leftovers()
    result.num_videos = len(writer.read_videos())
    result.num_entries = num_rows - writer.count_dead_rows()


@contextmanager
def _explain_write_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise IndexFolderError(
            f"{out}: can't be written ({error}); what was finished before is kept: free some "
            "space, or give access, and run the command again"
        ) from error
