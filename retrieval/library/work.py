"""Work on a library, in a process of its own: documents, words, embeddings, again and again.

Newest videos come first. A video is searchable by its words as soon as its document is there; where
the index has no model yet and one can be had, all videos are embedded after that. Stopped at any
moment, the next run goes on.
"""

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.index.hub import DEFAULT_TOWER, OPEN_CLIP, HubError, locate_model
from retrieval.index.records import encode_path
from retrieval.index.roots import Roots, VideoListing
from retrieval.index.update import IndexOptions, IndexUpdate, begin_update
from retrieval.index.update_plan import UpdatePlan, apply_plan, plan_update
from retrieval.library.documents import DocumentMaker, DocumentTask, LibraryText, list_steps
from retrieval.library.folder import Library
from retrieval.library.settings import NO_MODEL, LibrarySettings
from retrieval.library.status import StatusWriter
from retrieval.library.watch import FolderWatcher
from retrieval.printing import escape
from retrieval.spoken.source import SpokenSource
from retrieval.spotting.folder import estimate_looks
from retrieval.spotting.video import EVERY_S
from utils.errors import UserError
from utils.files import FileStamp
from utils.processes import end_with_parent
from utils.run_dir import setup_logging

if TYPE_CHECKING:
    import torch

    from retrieval.index.embedding import ModelFile

logger = logging.getLogger("retrieval")

SETTLED_S = 2.0  # that a file has to stay as it is before it is read: it may still be written
_MOST_WAITING_S = 60.0  # for such a file, where nobody watches
_NICENESS = 10  # searches come first
FAILED, NO_WORK = 1, 2  # exit codes: some videos can't be read; nothing could be begun


@dataclass(frozen=True)
class WorkOptions:
    """What one run of the work does."""

    workers: int  # processes that make documents
    watch: bool = False  # whether it goes on when all is done


def run_work(folder: Path, options: WorkOptions) -> None:
    """Bring a library up to date; the whole of a process, whose exit code says how that went."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it
    with suppress(OSError, AttributeError):
        os.nice(_NICENESS)
    library = Library(folder)
    with library.log_file.open("w") as output:
        for number in (1, 2):  # what libraries say, too
            os.dup2(output.fileno(), number)
    status = StatusWriter(library.status_file)
    maker = None
    try:
        settings = library.read_settings()
        setup_logging(verbosity=0)
        maker = DocumentMaker(settings, options.workers)
        code = LibraryWork(library, settings, maker, status).run(options.watch)
    except UserError as error:
        logger.error("%s", error)
        status.set_state("stopped", " ".join(str(error).split()))
        code = NO_WORK
    except Exception:
        logger.exception("the work on the library has ended")
        status.set_state("stopped", f"an error of the program, see {library.log_file}")
        raise
    finally:
        if maker is not None:
            maker.close()
    sys.exit(code)


class LibraryWork:
    """Brings a library up to date, once or for ever."""

    def __init__(
        self,
        library: Library,
        settings: LibrarySettings,
        maker: DocumentMaker,
        status: StatusWriter,
    ) -> None:
        self._library, self._settings = library, settings
        self._maker, self._status = maker, status
        self._text = LibraryText(library.text, list_steps(settings))
        # With subtitles, which need no document.
        self._source = SpokenSource(self._text, lambda name: library.read_roots().locate(name))
        self._stamps: dict[str, FileStamp] = {}  # of the videos, when they were last listed
        self._unreadable: dict[str, tuple[FileStamp, str]] = {}  # video -> file, reason
        self._counts: Counter[str] = Counter()
        self._without_model: str | None = None  # why there is none
        self._no_model = False  # whether that is not what the user has asked for

    def run(self, watch: bool) -> int:
        """Do all there is to do; with ``watch`` again whenever something changes.

        Returns:
            The exit code.
        """
        folders = self._library.read_roots().folders.values()
        watcher = FolderWatcher(folders) if watch else None
        waited, seen = 0.0, None
        while True:
            started = time.monotonic()
            listing = self._list_videos()
            looking_s = time.monotonic() - started
            now = {name: self._stamps.get(name) for name in listing.names}
            if now != seen:
                seen = now
                self._add_videos(listing)
                self._add_meaning(listing)
            if listing.unsettled and (watch or waited < _MOST_WAITING_S):
                time.sleep(SETTLED_S)
                waited += SETTLED_S
                continue
            self._status.set_state("watching" if watch else "done", self._summarize(listing))
            if watcher is None:
                return NO_WORK if self._no_model else FAILED if self._unreadable else 0
            waited = 0.0
            if watcher.wait(looking_s):
                seen = None  # subtitles may have changed, say, and no video

    def _list_videos(self) -> VideoListing:
        """List the videos of all folders; those that are still being written wait."""
        roots = self._library.read_roots()
        listing = roots.list_videos()
        now, stamps = time.time(), {}
        for name in listing.names:
            with suppress(OSError):  # it is said when it is opened
                stamps[name] = FileStamp.of(roots.locate(name))
                is_new = self._stamps.get(name) != stamps[name]
                if is_new and abs(now - stamps[name].mtime_ns / 1e9) < SETTLED_S:
                    listing.unsettled.add(name)
        self._stamps = stamps
        listing.names = [name for name in listing.names if name not in listing.unsettled]
        return listing

    def _add_videos(self, listing: VideoListing) -> None:
        """Make the documents that are missing, and index each video when it has its own."""
        roots = self._library.read_roots()
        plan = self._compare(roots, listing)
        files = {name: roots.locate(name) for name in self._sort_newest_first(listing.names)}
        changed = {*plan.add, *plan.update}
        for name in files.keys() - changed:
            with suppress(OSError):
                self._text.confirm(name, files[name])
        left = [name for name in files if name not in self._unreadable]
        missing = [name for name in left if not self._text.is_current(name, files[name])]
        without = set(missing)
        ready = [name for name in left if name in changed and name not in without]
        self._text.remove_stale({*self._library.read_names(), *listing.names, *listing.unsettled})
        if not ready and not missing:
            return
        self._status.begin_step(self._text.label, _estimate_looks(roots, [*ready, *missing]))
        tasks = [DocumentTask(name, files[name], self._text.locate(name)) for name in missing]
        half = 0.5 if self._library.read_meta().get("model") is not None else 1.0
        made = self._maker.make(tasks, lambda name, share: self._status.advance(name, half * share))
        # Only now, while text is being read already: it takes seconds until a model is loaded.
        self._index(listing, self._open_model(), chain(((name, None) for name in ready), made))

    def _compare(self, roots: Roots, listing: VideoListing) -> UpdatePlan:
        """Compare the index with what there is, and write what takes no time."""
        with self._library.writing() as writer:
            known = writer.read_videos()
            kept = listing.find_kept(known)
            plan = plan_update(roots, listing.names, known, self._source, kept)
            apply_plan(writer, plan, known, self._source)
            link_targets = [encode_path(path) for path in listing.link_targets]
            if writer.meta.get("link_targets") != link_targets:
                writer.set_meta(link_targets=link_targets)
        self._counts["moved"] += len(plan.moved)
        self._counts["dropped"] += len(plan.drop)
        self._unreadable = {  # what is another file by now is tried again
            name: (stamp, reason)
            for name, (stamp, reason) in self._unreadable.items()
            if self._stamps.get(name) == stamp
        }
        self._note_failures(plan.failed)
        return plan

    def _open_model(self) -> "ModelFile | None":
        meta = self._library.read_meta()
        if meta.get("model") is None:
            return None
        from retrieval.index.tower import open_model

        return open_model(self._library.store.open_model_folder(meta), meta)

    def _index(
        self,
        listing: VideoListing,
        model: "ModelFile | None",
        made: Iterable[tuple[str, str | None]] | None,
        replace: bool = False,
    ) -> None:
        """Index videos as they get their documents.

        Args:
            model: None: the index holds words only.
            made: video -> why it has no document; None: those that are there.
            replace: whether it is another model than that of the index.
        """
        roots = self._library.read_roots()
        options = IndexOptions(replace_model=replace)
        if model is not None:
            options = replace_fields(options, device=choose_device())
        progress = _EmbeddingStep(self._status, roots) if replace else None

        def report_windows(name: str, share: float) -> None:
            self._status.advance(name, 0.5 + 0.5 * share)

        with begin_update(
            roots, listing, self._library.store, model, self._source, options, progress
        ) as update:
            plan = update.result.plan
            if made is None:
                left = (name for name in (*plan.add, *plan.update) if name not in self._unreadable)
                current = (name for name in left if self._text.is_current(name, roots.locate(name)))
                made = ((name, None) for name in current)
            for name, (_, reason) in self._unreadable.items():
                self._fail(update, name, reason)
            for name, reason in made:
                if reason is None:
                    update.index_videos([name], None if model is None else report_windows)
                else:
                    self._fail(update, name, reason)
                self._note_failures(update.result.failed)
                self._status.finish(name)
            update.finish()
            result = update.result
        self._note_failures(result.failed)
        self._counts["added"] += len(set(plan.add) - result.failed.keys())
        self._counts["updated"] += len(set(plan.update) - result.failed.keys())
        self._counts["embedded anew"] += result.num_anew

    @staticmethod
    def _fail(update: IndexUpdate, name: str, reason: str) -> None:
        """Take note that a video can't be read; the index keeps what is still so."""
        if name in update.result.plan.add or name in update.result.plan.update:
            update.fail(name, reason)
        else:
            update.result.failed[name] = reason

    def _note_failures(self, failed: Mapping[str, str]) -> None:
        for name, reason in failed.items():
            if name not in self._unreadable and name in self._stamps:
                self._unreadable[name] = self._stamps[name], " ".join(reason.split())
                logger.warning("%s: %s", escape(name), self._unreadable[name][1])
        self._status.set_failed({name: reason for name, (_, reason) in self._unreadable.items()})

    def _sort_newest_first(self, names: list[str]) -> list[str]:
        nothing = FileStamp(0, 0)
        return sorted(names, key=lambda name: -self._stamps.get(name, nothing).mtime_ns)

    def _add_meaning(self, listing: VideoListing) -> None:
        """Embed all videos by the model that is asked for, where the index has another, or none."""
        wanted, known = self._settings.model, self._library.read_meta().get("model")
        if wanted == NO_MODEL or (wanted is None and known is not None):
            return
        name = wanted or DEFAULT_TOWER
        if known is not None and known["name"] == name:
            return
        try:
            if not name.startswith(OPEN_CLIP):
                locate_model(name)
        except HubError as error:
            self._without_model = str(error)
            self._no_model = wanted is not None
            return
        from retrieval.index.tower import TowerModel

        self._without_model = None
        self._index(listing, TowerModel(name), None, replace=True)

    def _summarize(self, listing: VideoListing) -> str:
        """Return what has been done so far, in one line."""
        roots, unreadable = self._library.read_roots(), f"{len(self._unreadable)} unreadable"
        names = ("updated", "moved", "dropped", "embedded anew")
        counts = [f"{self._counts[name]} {name}" for name in names if self._counts[name]]
        said = [", ".join([f"{self._counts['added']} added", *counts, unreadable])]
        num_videos, num_entries = self._library.count()
        said.append(f"{num_videos} videos, {num_entries} entries in the library")
        said += [
            f"{roots.folders[root]} {reason}, what is known of its videos stays"
            for root, reason in listing.absent.items()
        ]
        if left_out := listing.describe_left_out():
            said.append(left_out)
        if listing.unsettled:
            said.append(f"{len(listing.unsettled)} are still being written")
        if self._without_model is not None:
            said.append(f"only words are searched, there is no model ({self._without_model})")
        return "; ".join(said)


def choose_device() -> "torch.device":
    """Return the first GPU, or where there is none the CPU."""
    import torch

    from utils.launch import choose_devices

    return choose_devices(min(1, torch.cuda.device_count()))[0]


def _estimate_looks(roots: Roots, names: Sequence[str]) -> dict[str, int]:
    """Return about how many frames of each video are looked at."""
    return dict(zip(names, estimate_looks([roots.locate(n) for n in names], EVERY_S), strict=True))


class _EmbeddingStep:
    """Says of videos that are embedded anew how far they are."""

    def __init__(self, status: StatusWriter, roots: Roots) -> None:
        self._status, self._roots = status, roots

    def begin(self, names: Sequence[str]) -> None:
        self._status.begin_step("embedding", _estimate_looks(self._roots, names))

    def advance(self, name: str, share: float) -> None:
        self._status.advance(name, share)
        if share == 1:
            self._status.finish(name)
