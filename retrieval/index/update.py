"""Update of an index from its folder of videos: what has changed, and how it is written."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from base.config import PrecisionName
from retrieval.errors import IndexFolderError, OtherModelError
from retrieval.index.ann import count_vectors
from retrieval.index.arrays import keeps_frames
from retrieval.index.identity import check_model, describe_model, identify_model
from retrieval.index.location import open_store
from retrieval.index.model_change import EmbeddingProgress, embed_anew, save_model
from retrieval.index.ocr_text import OcrSource
from retrieval.index.records import STRIDE_S, WINDOW_S, encode_path
from retrieval.index.relocation import has_followed
from retrieval.index.roots import (
    ONLY,
    Folder,
    Roots,
    VideoListing,
    explain_unreachable,
    is_same_folder,
)
from retrieval.index.store import MIN_VECTORS, IndexStore, StoreWriter
from retrieval.index.unfinished import UnfinishedVideos, remove_unfinished
from retrieval.index.update_plan import UpdatePlan, apply_plan, has_changed, plan_update
from retrieval.index.vectors import Vectors
from retrieval.index.video_file import (
    ReadingParams,
    VideoFile,
    check_windows,
    open_video_file,
)
from retrieval.index.video_work import (
    VideoTask,
    VideoWork,
    WorkerModel,
    read_by_workers,
    read_text,
)
from retrieval.index.window_batches import NoEncoder, embed_videos
from utils.errors import UserError

if TYPE_CHECKING:  # without a model nothing needs torch
    import torch

    from retrieval.index.embedding import ModelFile, WindowEncoder
    from utils.ray_pool import RayPool

logger = logging.getLogger(__name__)

_MIN_COVERED = 0.9  # share of the rows in a FAISS index; a search compares the others exactly


@dataclass(frozen=True)
class IndexOptions:
    """How an index is made; what is None is as the index has it, or the default of a new one."""

    window_s: float | None = None  # seconds of an entry; default ``WINDOW_S``
    stride_s: float | None = None  # seconds between the starts of two entries; ``STRIDE_S``
    batch_size: int = 16  # windows that are embedded at a time
    ann: bool = False  # whether a FAISS index is wanted, too
    device: "torch.device | None" = None  # None: the CPU
    precision: PrecisionName | None = None  # of the model; a new one: that of its configuration
    replace_model: bool = False  # whether a model that is not the index's takes its place
    vectors: Vectors | None = None  # of a new one: ``frames`` where it embeds frames
    pool: "RayPool | None" = None  # reads and embeds the videos, in the place of this process


@dataclass
class UpdateResult:
    """What an update did; the counts are those of the index afterwards."""

    plan: UpdatePlan
    failed: dict[str, str] = field(default_factory=dict)  # path -> why the video could not be read
    num_videos: int = 0
    num_entries: int = 0
    num_anew: int = 0  # videos that another model, or the first one, has embedded
    recall: float | None = None  # of the FAISS index, where one was made: see ``build_ann``

    def summarize(self) -> str:
        """Return one line with the number of videos that were added, dropped, unreadable …"""
        plan = self.plan
        added, updated = (len(set(names) - self.failed.keys()) for names in (plan.add, plan.update))
        moved = f"{len(plan.moved)} moved, " if plan.moved else ""
        return (
            f"{added} added, {updated} updated, {moved}{len(plan.drop)} dropped, "
            f"{len(self.failed)} unreadable, {plan.num_same} unchanged"
        )


@explain_unreachable()
def preview_update(
    videos: Folder | Roots, out: str | Path, source: OcrSource, changes_model: bool = False
) -> UpdatePlan:
    """Compare a folder of videos with an index, without writing; raises ``UserError``.

    Args:
        out: location of the index (``retrieval.index.location``).
        changes_model: whether another model, or the first one, is to embed what is there.
    """
    roots = Roots.of(videos)
    store = open_store(out)
    listing, meta = roots.list_videos(), store.read_meta()
    if meta is None:
        return plan_update(roots, listing.names, {}, source)
    store.check_completely()
    with closing(store), store.reading() as reader:
        known = reader.read_known_videos()
    if not has_followed(Roots.from_meta(meta), known, roots):
        _check_roots(roots, store.location, meta)
    plan = plan_update(roots, listing.names, known, source, listing.find_kept(known))
    plan.num_anew = plan.num_same if changes_model else 0
    return plan


def update_index(
    videos: Folder | Roots,
    out: str | Path,
    model: "ModelFile | None",
    source: OcrSource,
    options: IndexOptions,
) -> UpdateResult:
    """Make an index, or update one.

    Each video is committed as soon as it is complete: a run that is stopped has lost little, and
    searches in the meantime see the last commit.

    Args:
        out: location of the index (``retrieval.index.location``); made if need be.
        model: that of the index, its first one, or with ``options.replace_model`` any; None: the
            index holds words only.

    Raises:
        UserError: there are no videos, the store that they are in can't be reached, the model or
            the windows are not those of the index, the index can't be used, or the disk is full.
    """
    roots = Roots.of(videos)
    listing = roots.list_videos()
    if said := listing.describe_left_out():
        logger.warning("%s: %s", roots.describe(), said)
    with begin_update(roots, listing, open_store(out), model, source, options) as update:
        plan = update.result.plan
        if names := sorted(plan.add + plan.update):
            if options.pool is None:
                source.prepare()
                update.index_videos(_show_progress(names))
            else:
                update.index_videos_by(options.pool, names)
        update.finish()
    return update.result


def _show_progress(names: Sequence[str]) -> Iterator[str]:
    """Yield each of some names, with a bar on standard error that has the one in hand."""
    with tqdm(names, desc="indexing", unit="video", dynamic_ncols=True) as bar:
        for name in bar:
            bar.set_postfix_str(name if name.isprintable() else ascii(name), refresh=False)
            yield name


class IndexUpdate:
    """An update of an index, which is locked; what has moved or is gone, it knows already.

    Attributes:
        result: what has been done so far, and ``result.plan``, what there was to do.
        has_model: whether videos are embedded.
    """

    def __init__(
        self,
        store: IndexStore,
        writer: StoreWriter,
        roots: Roots,
        model: "ModelFile | None",
        source: OcrSource,
        options: IndexOptions,
        load_encoder: "Callable[[], WindowEncoder | NoEncoder]",
    ) -> None:
        self._store, self._writer = store, writer
        self._roots, self._source, self._options = roots, source, options
        self._model, self._load_encoder = model, load_encoder
        self._had_ann = writer.meta.get("ann") is not None
        self._params = partial(_choose_reading, model, tuple(writer.meta["windows"]))
        self.has_model = model is not None
        self.result = UpdateResult(UpdatePlan())

    def apply(self, listing: VideoListing, settings: dict[str, Any]) -> None:
        """Compare the index with the videos that there are, and write all that takes no time.

        Args:
            settings: values of ``meta`` from now on.
        """
        known = self._writer.read_videos()
        kept = listing.find_kept(known)
        plan = plan_update(self._roots, listing.names, known, self._source, kept)
        self._known = {name: known[old] for name, old in plan.moved.items()}
        self._known = {
            name: video for name, video in known.items() if name not in plan.moved.values()
        } | self._known
        apply_plan(self._writer, plan, known, self._source)
        settings = settings | {
            "link_targets": [encode_path(path) for path in listing.link_targets],
            "exclude": list(self._roots.exclude) or None,
        }
        if any(self._writer.meta.get(key) != value for key, value in settings.items()):
            self._writer.set_meta(**settings)
        first = self.result  # where another model has embedded what is there, in between
        plan.moved, plan.drop = first.plan.moved | plan.moved, first.plan.drop + plan.drop
        self.result = UpdateResult(plan, dict(plan.failed), num_anew=first.num_anew)

    def index_videos(
        self, names: Iterable[str], report: Callable[[str, float], None] | None = None
    ) -> None:
        """Add or replace videos, each in a commit of its own as it is complete.

        Args:
            report: called with a video's name and the share of it that is read.
        """
        writer, params = self._writer, self._params()
        encoder, frames = self._load_encoder(), keeps_frames(writer.meta)
        unfinished = self._find_unfinished(encoder, params)
        open_file = partial(open_video_file, self._roots, params, self._source)
        if not params.uses_ocr:  # embeddings do not depend on the text
            names = (name for name in names if not self._replace_text(name, open_file))
        for complete, failed in embed_videos(
            names, open_file, encoder, self._options.batch_size, frames, unfinished, report
        ):
            writer.write(complete)
            for name, reason in failed.items():
                self.fail(name, reason)
            for video in complete if unfinished is not None else ():
                unfinished.remove(video)

    def index_videos_by(self, pool: "RayPool", names: Sequence[str]) -> None:
        """Do the same by the workers of a pool; only this process writes, in the order of names.

        So entries have the ids that ``index_videos`` gives them. What a run that is stopped has not
        written is done again, but for the parts of long videos that workers have kept.
        """
        writer, params, encoder = self._writer, self._params(), self._load_encoder()
        unfinished = self._find_unfinished(encoder, params)
        work = VideoWork(
            self._roots,
            self._store.work_folder.absolute(),
            params,
            self._source,
            WorkerModel.of(self._model, encoder, pool),
            self._options.batch_size,
            keeps_frames(writer.meta),
            unfinished,
        )
        starts = {} if params.uses_ocr else self._find_starts(names)
        tasks = [VideoTask(name, starts.get(name)) for name in names]
        found_videos = read_by_workers(pool, work, tasks, "indexing")
        for name, found in zip(names, found_videos, strict=True):
            if isinstance(found, str):
                self.fail(name, found)
            elif found.only_text:
                writer.replace_tracks(self._known[name].id, found.video)
            else:
                writer.write([found.video])
                if unfinished is not None:
                    unfinished.remove(found.video)

    def _find_unfinished(
        self, encoder: "WindowEncoder | NoEncoder", params: ReadingParams
    ) -> UnfinishedVideos | None:
        """Return where the parts of long videos are kept; None: nothing is embedded."""
        if isinstance(encoder, NoEncoder):
            return None
        meta = self._writer.meta
        settings = [meta["windows"], encoder.precision.name, keeps_frames(meta)]
        return UnfinishedVideos(self._store.work_folder, meta["model"], settings, params.uses_ocr)

    def _find_starts(self, names: Iterable[str]) -> dict[str, list[float]]:
        """Return when the entries begin of those videos whose files the index has."""
        return {
            name: self._writer.read_starts(known.id)
            for name in names
            if (known := self._known.get(name)) is not None
            and not has_changed(self._roots, name, known)
        }

    def fail(self, name: str, reason: str) -> None:
        """Take note that a video can't be read; what the index has of it is dropped."""
        self.result.failed[name] = reason
        if name in self._known:
            self._writer.write((), [self._known.pop(name).id])

    def _replace_text(
        self, name: str, open_file: Callable[[str], AbstractContextManager[VideoFile]]
    ) -> bool:
        """Replace the text of a video whose file is unchanged; returns whether that could be."""
        starts = self._find_starts([name]).get(name)
        video = None if starts is None else read_text(name, starts, open_file)
        if video is None:
            return False
        self._writer.replace_tracks(self._known[name].id, video)
        return True

    def finish(self) -> None:
        """Drop dead rows, and index the nearest neighbours where that is wanted or was done."""
        writer, result, ann = self._writer, self.result, self._options.ann
        writer.compact()
        num_rows, kept = writer.meta["num_rows"], writer.meta.get("ann")
        covers_most = kept is not None and kept["num_rows"] >= _MIN_COVERED * num_rows
        if ann or (self._had_ann and not covers_most and count_vectors(writer.meta) >= MIN_VECTORS):
            result.recall = writer.build_ann()
        writer.remove_leftovers()
        if "successor" not in writer.meta:
            remove_unfinished(self._store.work_folder)
        result.num_videos = len(writer.read_videos())
        result.num_entries = num_rows - writer.count_dead_rows()


@contextmanager
def begin_update(
    roots: Roots,
    listing: VideoListing,
    store: IndexStore,
    model: "ModelFile | None",
    source: OcrSource,
    options: IndexOptions,
    progress: EmbeddingProgress | None = None,
) -> Iterator[IndexUpdate]:
    """Make an index, or open one for a ``with`` block that brings it up to date.

    Where the model is not that of the index, or its first one, all videos are embedded anew; what
    has moved, is gone or has another time is written.

    Args:
        listing: the videos of the roots.
        model: as in ``update_index``.
        progress: told what is embedded anew, in the place of a bar.

    Raises:
        UserError: as ``update_index``.
    """
    for wanted, option in ((options.ann, "--ann"), (options.vectors is not None, "--vectors")):
        if wanted and model is None:
            raise UserError(
                f"{store.location}: {option} is for embeddings, and an index of words only has none"
            )
    store.read_meta()  # before anything is written to what is no index
    with explain_unreachable(), store.locking():
        meta = store.read_meta()
        if meta is not None:
            store.check_completely()
        windows = _choose_windows(store.location, meta, options)
        precision = None if model is None else _choose_precision(meta, model, options)
        # The model is loaded only where something has changed.
        load_encoder = cache(partial(_load_encoder, store, meta, model, precision, options))
        identity, changes_model = None, False
        if meta is None:
            _create_index(roots, store, model, windows, load_encoder(), options.vectors)
        else:
            _check_roots(roots, store.location, meta)
            identity, changes_model = _compare_models(store, meta, model, options, load_encoder)
            if not changes_model and _changes_vectors(store.location, meta, options):
                identity, changes_model = identify_model(model, load_encoder), True
        with store.open_writer() as writer:
            writer.remove_leftovers()
            update = IndexUpdate(store, writer, roots, model, source, options, load_encoder)
            settings = {"ocr": source.settings(), "precision": precision}
            if identity is not None:
                settings["model"] = identity
            if changes_model:
                update.apply(listing, {})
                update.result.num_anew = embed_anew(
                    store, writer, roots, model, identity, source, windows, load_encoder,
                    options.batch_size, options.vectors, progress, options.pool,
                )  # fmt: skip
            elif meta is not None and model is not None:
                _warn_of_precision(store.location, meta, precision)
                if options.replace_model:  # of another one's, that has been begun
                    writer.set_meta(successor=None)
            update.apply(listing, settings)
            yield update


def _load_encoder(
    store: IndexStore,
    meta: dict[str, Any] | None,
    model: "ModelFile | None",
    precision: PrecisionName | None,
    options: IndexOptions,
) -> "WindowEncoder | NoEncoder":
    """Load a model; one that the index has named is compared with what it was."""
    if model is None or precision is None:
        return NoEncoder()
    import torch

    from retrieval.index.embedding import WindowEncoder
    from utils.precision import Precision

    encoder = WindowEncoder(model, Precision(precision, options.device or torch.device("cpu")))
    if model.is_kept and meta is not None and meta.get("model") is not None:
        check_model(store, meta, model, lambda: encoder)
    return encoder


def _choose_reading(model: "ModelFile | None", windows: tuple[float, float]) -> ReadingParams:
    """Return how videos are read; without a model the frames are those of the thumbnails."""
    return ReadingParams(*windows) if model is None else model.reading_params(*windows)


def _compare_models(
    store: IndexStore,
    meta: dict[str, Any],
    model: "ModelFile | None",
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
                f"{store.location}: was made with the model {describe_model(before)}, and can't be "
                "updated without it"
            )
        return None, False
    if before is None:
        return identify_model(model, load_encoder), True
    if model.is_kept:  # it is compared when it is loaded
        return None, False
    try:
        return check_model(store, meta, model, load_encoder), False
    except OtherModelError:
        if not options.replace_model:
            raise
    return identify_model(model, load_encoder), True


def list_videos(folder: Folder | Roots) -> VideoListing:
    """List the videos within a folder; raises ``UserError`` where there are none."""
    return Roots.of(folder).list_videos()


def _create_index(
    roots: Roots,
    store: IndexStore,
    model: "ModelFile | None",
    windows: tuple[float, float],
    encoder: "WindowEncoder | NoEncoder",
    vectors: Vectors | None,
) -> None:
    """Make an empty index in a locked store; raises ``UserError``."""
    meta = roots.to_meta() | {"windows": list(windows)}
    width, leaves_out = None, ()
    if model is not None and not isinstance(encoder, NoEncoder):
        saved = save_model(store, model, identify_model(model, lambda: encoder), encoder, vectors)
        width, leaves_out = saved.pop("width"), saved.pop("leaves_out")
        meta |= saved
    store.create(width, leaves_out, meta)


def _check_roots(roots: Roots, location: str, meta: dict[str, Any]) -> None:
    before = Roots.from_meta(meta)
    if before.folders.keys() == roots.folders.keys() == {ONLY}:
        if not is_same_folder(before.folders[ONLY], roots.folders[ONLY]):
            raise IndexFolderError(
                f"{location}: is the index of {before.describe()}, not of {roots.describe()}; give "
                f"that folder, or another --out; where it has moved there, give --relocate "
                f"{before.describe()} {roots.describe()}, too"
            )
    elif before != roots:
        raise IndexFolderError(
            f"{location}: is a library of find.py, with folders of its own; give another --out"
        )


def _choose_windows(
    location: str, meta: dict[str, Any] | None, options: IndexOptions
) -> tuple[float, float]:
    """Return the length and stride of windows, in seconds; raises ``UserError``."""
    window_s, stride_s = (WINDOW_S, STRIDE_S) if meta is None else meta["windows"]
    wanted_window = window_s if options.window_s is None else options.window_s
    wanted_stride = stride_s if options.stride_s is None else options.stride_s
    check_windows(wanted_window, wanted_stride)
    if meta is not None and (wanted_window, wanted_stride) != (window_s, stride_s):
        raise UserError(
            f"{location}: has windows of {window_s:g} s every {stride_s:g} s, not of "
            f"{wanted_window:g} every {wanted_stride:g}; leave out --window and "
            "--stride, or give another --out"
        )
    return wanted_window, wanted_stride


def _changes_vectors(location: str, meta: dict[str, Any], options: IndexOptions) -> bool:
    """Whether other vectors are wanted than those of an index, whose model stays.

    Raises ``UserError`` where its videos are not to be embedded anew for them.
    """
    before: Vectors = "frames" if keeps_frames(meta) else "windows"
    if options.vectors is None or options.vectors == before:
        return False
    if not options.replace_model:
        raise UserError(
            f"{location}: has the vectors of {before}, and --vectors {options.vectors} needs those "
            "of its videos anew: give --replace-model and the model, too, or leave out --vectors, "
            "or give another --out"
        )
    return True


def _choose_precision(
    meta: dict[str, Any] | None, model: "ModelFile", options: IndexOptions
) -> PrecisionName:
    """Return the precision that windows are embedded in."""
    if options.precision is not None:
        return options.precision
    if meta is None or meta.get("model") is None:
        return model.config.evaluation_precision
    return meta.get("precision", "fp32")  # as before indexes said it


def _warn_of_precision(
    location: str, meta: dict[str, Any], precision: PrecisionName | None
) -> None:
    """Say that the precision changes; embeddings of two are close enough to stand together."""
    before = meta.get("precision", "fp32")
    if precision != before:
        logger.warning(
            "%s: its videos were embedded in %s; those that are embedded from now on are in %s",
            location, before, precision,
        )  # fmt: skip
