"""Videos that the workers of a cluster read and embed; only the driver writes to the index."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from base.config import PrecisionName
from retrieval.index.ocr_text import OcrSource
from retrieval.index.records import NewVideo
from retrieval.index.roots import Roots, explain_unreachable
from retrieval.index.unfinished import UnfinishedVideos
from retrieval.index.video_file import ReadingParams, VideoFile, open_video_file
from retrieval.index.window_batches import Encoder, NoEncoder, embed_videos
from utils.errors import UserError
from utils.processes import TaskDone, TaskError, TaskFailed, Work, run_in_order
from utils.ray_pool import RayPool, check_shared

if TYPE_CHECKING:
    from retrieval.index.embedding import ModelFile, WindowEncoder

_MAX_AHEAD = 8  # videos a worker that may be complete, and wait in memory, before an earlier one is


@dataclass(frozen=True)
class VideoTask:
    """A video to be read.

    Attributes:
        starts: of the entries that the index has of the same file, in seconds, where only its text
            may have changed; None: it is embedded in any case.
    """

    name: str
    starts: list[float] | None

    def open(
        self, roots: Roots, params: ReadingParams, source: OcrSource
    ) -> AbstractContextManager[VideoFile]:
        """Open its file; raises ``UserError`` where it can't be read."""
        return open_video_file(roots, params, source, self.name)


class ReadVideo(NamedTuple):
    """A video that was read; ``only_text``: without entries, which stay as they are."""

    video: NewVideo
    only_text: bool


def read_text(
    name: str, starts: list[float], open_file: Callable[[str], AbstractContextManager[VideoFile]]
) -> NewVideo | None:
    """Return a video with its text, and without entries.

    None where its windows don't begin at ``starts``, in seconds, or it can't be read.
    """
    try:
        with open_file(name) as file:
            return file.video if file.has_windows_at(starts) else None
    except UserError:  # it is said when the video is embedded
        return None


@dataclass(frozen=True)
class WorkerModel:
    """A model as workers load it, with the checksum of the weights that the driver has."""

    file: "ModelFile"
    precision: PrecisionName
    on_gpu: bool
    checksum: str

    @classmethod
    def of(
        cls, file: "ModelFile | None", encoder: "WindowEncoder | NoEncoder", pool: RayPool
    ) -> "WorkerModel | None":
        """Describe a model that the driver has loaded; None: nothing is embedded."""
        if file is None or isinstance(encoder, NoEncoder):
            return None
        on_gpu = pool.resources.gpus > 0
        return cls(file, encoder.precision.name, on_gpu, encoder.weights_checksum)

    def load(self) -> Encoder:
        """Load it; raises ``UserError`` where this machine has other weights."""
        from retrieval.index.embedding import WindowEncoder
        from utils.launch import choose_devices
        from utils.precision import Precision

        check_shared(self.file.list_files())
        device = choose_devices(int(self.on_gpu))[0]
        encoder = WindowEncoder(self.file, Precision(self.precision, device))
        if encoder.weights_checksum != self.checksum:
            raise UserError(
                f"{self.file.name}: has other weights there than where the command was given; "
                "every machine of the cluster needs the same file"
            )
        return encoder


@dataclass(frozen=True)
class VideoWork:
    """What a worker does: ``utils.processes.run_tasks`` calls it to make the work."""

    roots: Roots
    work_folder: Path  # of the index's store
    params: ReadingParams
    source: OcrSource
    model: WorkerModel | None
    batch_size: int
    frames: bool
    unfinished: UnfinishedVideos | None
    spots_text: bool = True  # whether the text is read anew, by what the source needs for that

    def __call__(self) -> Work:
        """Load what is needed; raises ``UserError``."""
        folders = [folder for folder in self.roots.folders.values() if isinstance(folder, Path)]
        check_shared([*folders, self.work_folder])
        if self.spots_text:
            self.source.prepare_elsewhere()
        return partial(self._read, NoEncoder() if self.model is None else self.model.load())

    @explain_unreachable()  # ends the run: what can't be reached is no fault of a video
    def _read(
        self, encoder: Encoder, task: VideoTask, report: Callable[[float], None]
    ) -> ReadVideo:
        def open_file(_: str) -> AbstractContextManager[VideoFile]:
            return task.open(self.roots, self.params, self.source)

        if task.starts is not None:
            video = read_text(task.name, task.starts, open_file)
            if video is not None:
                return ReadVideo(video, only_text=True)
        found = embed_videos(
            [task.name], open_file, encoder, self.batch_size, self.frames, self.unfinished,
            lambda _, share: report(share),
        )  # fmt: skip
        for complete, failed in found:
            if failed:
                raise TaskError(failed[task.name])
            return ReadVideo(*complete, only_text=False)
        raise RuntimeError(f"{task.name}: was neither read nor refused")


def read_by_workers(
    pool: RayPool, work: VideoWork, tasks: Sequence[VideoTask], label: str
) -> Iterator[ReadVideo | str]:
    """Read videos by the workers of a pool, with a bar on standard error.

    Yields:
        Each video, in the order of the tasks, or why it can't be read.
    """
    work.work_folder.mkdir(parents=True, exist_ok=True)  # it need not be there yet
    events = pool.run_tasks(work, tasks, _MAX_AHEAD * pool.count_workers())
    with tqdm(total=len(tasks), desc=label, unit="video", dynamic_ncols=True) as bar:
        for event in run_in_order(events):
            if isinstance(event, TaskFailed):
                yield event.reason
            elif isinstance(event, TaskDone):
                yield event.result
            else:
                continue
            bar.update()
