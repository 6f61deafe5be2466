"""Update of an index from its folder of videos: what has changed, and how it is written."""

import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from base.config import PrecisionName, resolve_config
from data_loader.readers.container import VIDEO_EXTENSIONS
from retrieval.errors import IndexFolderError
from retrieval.index import database
from retrieval.index.ann import MIN_ROWS, build_ann
from retrieval.index.arrays import WITHOUT
from retrieval.index.database import ContentStamp, KnownVideo, Stamps, decode_path, encode_path
from retrieval.index.embedding import ModelFile, WindowEncoder, embed_videos
from retrieval.index.identity import CONFIG, check_model, identify_model
from retrieval.index.ocr_text import OcrSource
from retrieval.index.query_embedder import QUERY_ENCODER, QueryEmbedder, save_query_encoder
from retrieval.index.video_file import STRIDE_S, WINDOW_S, check_windows, open_video_file
from retrieval.index.writer import LOCK, IndexWriter, lock_index
from utils.errors import UserError
from utils.files import FileListing, list_files, write_json
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
    precision: PrecisionName | None = None  # of the model; a new index: that of its configuration


@dataclass
class UpdatePlan:
    """Videos, by their paths within the folder, and what is to be done with them."""

    add: list[str] = field(default_factory=list)
    update: list[str] = field(default_factory=list)  # the file, or its text, has changed
    drop: list[str] = field(default_factory=list)  # they are gone
    touch: dict[int, Stamps] = field(default_factory=dict)  # by id: only times have changed
    failed: dict[str, str] = field(default_factory=dict)  # path -> why it can't be compared
    num_same: int = 0

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
    recall: float | None = None  # of the FAISS index, where one was made: see ``build_ann``


def preview_update(videos: Path, out: Path, source: OcrSource) -> UpdatePlan:
    """Compare a folder of videos with an index, without writing; raises ``UserError``."""
    names, meta = list_videos(videos).names, read_index_meta(out)
    if meta is None:
        return plan_update(videos, names, {}, source)
    _check_folder(videos, out, meta)
    with closing(database.connect(out)) as connection:
        return plan_update(videos, names, database.read_videos(connection), source)


def update_index(
    videos: Path, out: Path, model: ModelFile, source: OcrSource, options: IndexOptions
) -> UpdateResult:
    """Make an index, or update one.

    Each video is committed as soon as it is complete: a run that is stopped has lost little, and
    searches in the meantime see the last commit.

    Args:
        out: the index folder; made if need be.
        model: must be that of the index.

    Raises:
        UserError: there are no videos, the model or the windows are not those of the index, the
            index can't be used, or the disk is full.
    """
    listing = list_videos(videos)
    read_index_meta(out)  # before anything is written to a folder that is no index
    with _explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with _explain_write_errors(out), lock_index(out):
        meta = read_index_meta(out)
        windows = _choose_windows(out, meta, options)
        precision = _choose_precision(out, meta, model, options)
        # The model is loaded only where something has changed.
        load_encoder = cache(partial(WindowEncoder, model, Precision(precision, options.device)))
        if meta is None:
            _create_index(videos, out, model, windows, load_encoder())
            identity = {}
        else:
            _check_folder(videos, out, meta)
            identity = {"model": check_model(out, meta["model"], model)}
        with IndexWriter(out) as writer:
            writer.remove_leftovers()
            known = writer.read_videos()
            plan = plan_update(videos, listing.names, known, source)
            result = UpdateResult(plan, dict(plan.failed))
            writer.update_stamps(plan.touch)
            link_targets = [encode_path(path) for path in listing.link_targets]
            settings = {"ocr": source.settings(), "precision": precision}
            writer.set_meta(link_targets=link_targets, **settings, **identity)
            writer.write((), [known[name].id for name in plan.drop])
            if names := sorted(plan.add + plan.update):
                source.prepare()
                open_file = partial(open_video_file, videos, model.reading_params(*windows), source)
                bar = tqdm(names, desc="indexing", unit="video", dynamic_ncols=True)
                batches = embed_videos(bar, open_file, load_encoder(), options.batch_size)
                for complete, failed in batches:
                    # A video that has changed and can't be read is no longer what the index has.
                    writer.write(complete, [known[name].id for name in failed if name in known])
                    result.failed |= failed
            _finish_update(writer, options.ann, result)
    return result


def plan_update(
    folder: Path, names: Sequence[str], known: Mapping[str, KnownVideo], source: OcrSource
) -> UpdatePlan:
    """Compare a folder of videos with those that an index knows.

    A file of the same size and time counts as unchanged, one of another size as changed; otherwise
    its content decides. The index keeps what it has of a video that can't be compared.
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
    if before.stamp.matches_size_and_time(file):
        return before.stamp, ocr
    if file.stat().st_size != before.stamp.size:
        return None
    stamp = ContentStamp.of(file)
    return (stamp, ocr) if stamp.sha256 == before.stamp.sha256 else None


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
    videos: Path, out: Path, model: ModelFile, windows: tuple[float, float], encoder: WindowEncoder
) -> None:
    """Make an empty index in a locked folder."""
    (out / database.DATABASE).unlink(missing_ok=True)  # of one whose making was stopped
    folder = out / QUERY_ENCODER
    checksum = save_query_encoder(folder, encoder.model, model.config, encoder.collate)
    width = len(QueryEmbedder(folder, checksum).embed("a"))  # as it is when read again
    fuses = set(WITHOUT) == set(model.model_input.modalities)
    write_json(out / CONFIG, resolve_config(model.config))
    meta = {
        "folder": encode_path(videos.absolute()),
        "model": identify_model(model),
        "query_encoder": checksum,
        "windows": list(windows),
        "precision": encoder.precision.name,
    }
    IndexWriter.create(out, width, sorted(WITHOUT) if fuses else (), meta)


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


def _choose_precision(
    out: Path, meta: dict[str, Any] | None, model: ModelFile, options: IndexOptions
) -> PrecisionName:
    """Return the precision that windows are embedded in.

    Embeddings of two precisions are close enough to stand in one index, so a change is only said.
    """
    if meta is None:
        return options.precision or model.config.evaluation_precision
    before = meta.get("precision", "fp32")  # as before indexes said it
    wanted = options.precision or before
    if wanted != before:
        logger.warning(
            "%s: its videos were embedded in %s; those that are embedded from now on are in %s",
            out, before, wanted,
        )  # fmt: skip
    return wanted


def _finish_update(writer: IndexWriter, ann: bool, result: UpdateResult) -> None:
    """Drop dead rows, and make the FAISS index where one is wanted or was there."""
    had_ann = writer.meta.get("ann") is not None
    writer.compact()
    num_rows, kept = writer.meta["num_rows"], writer.meta.get("ann")
    covers_most = kept is not None and kept["num_rows"] >= _MIN_COVERED * num_rows
    if ann or (had_ann and not covers_most and num_rows >= MIN_ROWS):
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
