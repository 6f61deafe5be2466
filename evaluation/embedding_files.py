"""Embeddings of a data set in files: written while they are computed, gone on with after a stop.

All files of one test begin with its NAME: experiment, run folder, checkpoint and split.

    NAME.json                  what they hold and what they depend on
    NAME.ids.json              the videos, in their order
    NAME.videos-00000.npy …    (n, E) float32, the videos' embeddings
    NAME.texts-00000.npy …     (n, E) float32, the embedding of each distinct caption
    NAME.text_row.npy          (Q,) the row of each caption among them
    NAME.video_of_query.npy    (Q,) the video of each caption
    NAME.data_report.json      what of the data could not be used

A shard counts from the moment at which NAME.json names it: what a process that is killed was about
to write is written anew.

Shapes: Q captions, V videos, E width of the common space.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from typing_extensions import Self

from base.base_data_loader import BaseDataLoader
from base.base_dataset import BaseTextVideoDataset
from base.base_model import RetrievalModel
from base.config import Config
from base.registry import ARCHITECTURES
from evaluation.data_report import DataReport
from evaluation.embedding_cache import TOKENS_AT_ONCE
from utils.changes import find_changes, list_changes
from utils.checkpoint.weights import hash_weights
from utils.distributed import gather_objects, get_dist_info
from utils.errors import UserError
from utils.files import (
    FileLockedError,
    lock_file,
    write_array,
    write_json,
)

logger = logging.getLogger(__name__)

FORMAT = 1
SHARD_SIZE = 1000  # videos, and captions
MAX_LISTED = 5  # settings that differ
# Arguments of a loader that embeddings do not depend on.
IRRELEVANT = frozenset(
    "num_workers prefetch_factor item_timeout cache_dir reader shuffle tsfm_split batch_size "
    "per_gpu_batch_size".split()
)


def name_embeddings(
    config: Config, checkpoint: Path | None, split: str, place: Mapping[str, Any]
) -> str:
    """Return the NAME of a test's files: experiment, run folder, checkpoint, split and loader.

    Args:
        checkpoint: that is tested; None: the model has no weights.
        place: ``key`` and ``number`` of the loader; the first training loader's is left out.
    """
    parts = [config.name]
    parts += [] if checkpoint is None else [checkpoint.absolute().parent.name, checkpoint.stem]
    parts += [split, "valid" if place["key"] == "valid_data_loader" else ""]
    parts += [str(place["number"])] if place["number"] else []
    return re.sub(r"[^\w-]+", "_", "-".join(filter(None, parts)))  # no dot: it ends the name


def describe_embeddings(
    config: Config,
    place: Mapping[str, Any],
    changes: Mapping[str, Any],
    model: RetrievalModel,
    loader: BaseDataLoader,
) -> dict[str, Any]:
    """Return everything that embeddings depend on, as JSON values by dotted names.

    Args:
        config: of the test.
        place: ``key`` and ``number`` of the loader.
        changes: of its arguments.
        model: with its weights.
        loader: of the test.
    """
    arguments = getattr(config, place["key"])[place["number"]].kwargs() | dict(changes)
    kept = {name: value for name, value in arguments.items() if name not in IRRELEVANT}
    settings = ARCHITECTURES.get(config.arch.type).inference_settings(**config.arch.kwargs())
    found = {
        "weights": hash_weights(model.state_dict()),
        "arch": config.arch.type,
        "precision": config.evaluation_precision,
        "videos_and_captions": _hash_entries(loader.dataset),
        "batch_size": loader.batch_size,
        "tokens_at_once": TOKENS_AT_ONCE,
    }
    found |= _flatten(settings, "arch.") | _flatten(kept, "data_loader.")
    return json.loads(json.dumps(found))


def _hash_entries(dataset: BaseTextVideoDataset) -> str:
    digest = hashlib.sha256()
    for entry in dataset.entries:
        digest.update(json.dumps([entry.id, entry.captions]).encode())
    return digest.hexdigest()


def _flatten(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        nested = isinstance(value, dict)
        found |= _flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


class EmbeddingFiles:
    """The files of one test, while they are written; other processes only know how many are done.

    A context: no other process writes these files until its end.

    Attributes:
        num_texts: distinct captions in shards.
        num_videos: videos in shards.
    """

    def __init__(self, folder: Path, name: str, shard_size: int) -> None:
        self.folder = folder
        self.name = name
        self.shard_size = shard_size
        self._texts: list[int] = []
        self._videos: list[int] = []
        self._loss_sums: list[float | None] = []
        self._report = DataReport()
        self._identity: dict[str, Any] = {}
        self._is_complete = False
        self._stack = ExitStack()

    @classmethod
    def open(
        cls,
        folder: Path,
        name: str,
        identity: Mapping[str, Any],
        shard_size: int = SHARD_SIZE,
        overwrite: bool = False,
    ) -> "EmbeddingFiles":
        """Begin a test's files, or go on with them; every process has to call this.

        Args:
            folder: made if need be.
            identity: what the embeddings depend on, ``describe_embeddings``.
            shard_size: videos, and captions, of a shard, about.
            overwrite: delete what is there under this name, whatever it is.

        Raises:
            UserError: files of this name depend on something else, or are being written.
        """
        files = cls(folder, name, shard_size)
        if get_dist_info().is_main:
            try:
                files._begin(dict(identity), overwrite)
            except UserError:
                files._stack.close()
                raise
            done = f"{files.num_videos:,} videos are there"
            logger.info("embeddings go to %s; %s", files.manifest, done)
        state = gather_objects((files._texts, files._videos))[0]
        files._texts, files._videos = state
        return files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def num_texts(self) -> int:
        """Distinct captions in shards."""
        return sum(self._texts)

    @property
    def num_videos(self) -> int:
        """Videos in shards."""
        return sum(self._videos)

    @property
    def manifest(self) -> Path:
        """The file that says what the others hold."""
        return self.folder / f"{self.name}.json"

    def _begin(self, identity: dict[str, Any], overwrite: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._stack.enter_context(lock_file(self.folder / f".{self.name}.lock", wait=False))
        except FileLockedError as error:
            raise UserError(f"{self.manifest}: another process is writing these files") from error
        for path in self.folder.glob(f".{self.name}.*.tmp"):  # of a process that was killed
            path.unlink(missing_ok=True)
        if overwrite:
            self.manifest.unlink(missing_ok=True)  # first: without it the others are nothing
            for path in list_files_of(self.folder, self.name):
                path.unlink()
        self._identity = identity
        if self.manifest.exists():
            self._go_on(read_manifest(self.manifest))
        elif list_files_of(self.folder, self.name):
            raise UserError(
                f"{self.folder}: holds files {self.name}.*, but no {self.manifest.name}; give "
                "another folder, or --overwrite to replace them"
            )
        self._write_manifest()

    def _go_on(self, kept: dict[str, Any]) -> None:
        changes = list(find_changes(kept["depends_on"], self._identity))
        if changes:
            listed = "; ".join(list_changes(changes, MAX_LISTED))
            raise UserError(
                f"{self.manifest}: these embeddings depend on something else ({listed}); give "
                "another folder, or --overwrite to make them anew"
            )
        self._texts = self._keep_whole("texts", kept["texts"])
        self._videos = self._keep_whole("videos", kept["videos"])
        self._loss_sums = kept["loss_sums"][: len(self._videos)]
        self._report = DataReport.from_state(kept["data_report"])

    def _keep_whole(self, kind: str, counts: list[int]) -> list[int]:
        """Return the counts of the shards before the first that is not as it was written."""
        for number, count in enumerate(counts):
            try:
                if len(np.load(self._path(kind, number), mmap_mode="r")) != count:
                    return counts[:number]
            except (OSError, ValueError, EOFError):
                return counts[:number]
        return counts

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / f"{self.name}.{kind}-{number:05d}.npy"

    def _write_manifest(self) -> None:
        content = {
            "format": FORMAT,
            "complete": self._is_complete,
            "videos": self._videos,
            "texts": self._texts,
            "loss_sums": self._loss_sums,
            "depends_on": self._identity,
            "data_report": self._report.state_dict(),
        }
        write_json(self.manifest, content, durable=True)

    def write_order(self, ids: list[str], text_row: NDArray, video_of_query: NDArray) -> None:
        """Write which videos and captions there are; the same for everyone who goes on."""
        if not get_dist_info().is_main:
            return
        write_json(self.folder / f"{self.name}.ids.json", ids)
        if len(text_row):
            write_array(self.folder / f"{self.name}.text_row.npy", text_row)
            write_array(self.folder / f"{self.name}.video_of_query.npy", video_of_query)

    def write_texts(self, vectors: NDArray) -> None:
        """Add the vectors (n, E) of the next distinct captions as a shard."""
        self._texts.append(len(vectors))
        if get_dist_info().is_main:
            write_array(self._path("texts", len(self._texts) - 1), vectors, durable=True)
            self._write_manifest()

    def write_videos(self, embeds: NDArray, loss_sum: float | None, report: DataReport) -> None:
        """Add the embeddings (n, E) of the next videos as a shard.

        Args:
            loss_sum: of their batches, weighted by the videos; None: there is none.
            report: what of the data could not be used, since these files were opened.
        """
        self._videos.append(len(embeds))
        if get_dist_info().is_main:
            self._loss_sums.append(loss_sum)
            self._report.merge(report)
            write_array(self._path("videos", len(self._videos) - 1), embeds, durable=True)
            self._write_manifest()

    def read_texts(self) -> NDArray | None:
        """Return the vectors of the distinct captions in shards; None: there are none, or no file.

        Only the first process has the files.
        """
        if not self._texts or not get_dist_info().is_main:
            return None
        return np.concatenate([np.load(self._path("texts", n)) for n in range(len(self._texts))])

    def map_videos(self) -> list[NDArray]:
        """Map the shards of the videos, (n, E) each, without reading them."""
        paths = (self._path("videos", number) for number in range(len(self._videos)))
        return [np.load(path, mmap_mode="r") for path in paths]

    def finish(self) -> tuple[float | None, DataReport]:
        """Say that everything is there; returns the mean loss of a video, and the whole report."""
        self._is_complete = True
        self._write_manifest()
        self._report.write(self.folder / f"{self.name}.data_report.json")
        known = None not in self._loss_sums
        return sum(self._loss_sums) / self.num_videos if known else None, self._report


def list_files_of(folder: Path, name: str) -> list[Path]:
    """Return the files of one NAME but for ``NAME.json``."""
    kinds = r"ids\.json|data_report\.json|text_row\.npy|video_of_query\.npy|(texts|videos)-\d+\.npy"
    pattern = re.compile(re.escape(name) + rf"\.({kinds})")
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))


def read_manifest(path: Path) -> dict[str, Any]:
    """Read ``NAME.json``; raises ``UserError``."""
    keys = {"complete", "videos", "texts", "loss_sums", "depends_on", "data_report"}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    is_ours = isinstance(found, dict) and keys <= found.keys() and found.get("format") == FORMAT
    if not is_ours:
        raise UserError(f"{path}: does not describe embeddings that this release can read")
    return found


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of a test.

    Attributes:
        ids: the V videos, as the annotations name them.
        video_embeds: (V, E) float32.
        text_embeds: (Q, E) float32; (0, E) where the videos have no captions.
        video_of_query: (Q,) the video of each caption.
    """

    ids: list[str]
    video_embeds: NDArray
    text_embeds: NDArray
    video_of_query: NDArray


def load_embeddings(folder: str | Path, name: str | None = None) -> Embeddings:
    """Read the embeddings that ``test.py --save_feats`` wrote.

    Args:
        folder: of the files.
        name: the NAME that they begin with, where the folder holds those of several tests.

    Raises:
        UserError: there are none, several, or they are not complete.
    """
    folder = Path(folder)
    names = sorted(path.name.removesuffix(".ids.json") for path in folder.glob("*.ids.json"))
    if name is None and len(names) != 1:
        there = f"those of several tests; name one: {', '.join(names)}" if names else "none"
        raise UserError(f"{folder}: embeddings of test.py --save_feats: {there}")
    name = names[0] if name is None else name
    found = read_manifest(folder / f"{name}.json")
    if not found["complete"]:
        raise UserError(
            f"{folder / name}.json: {sum(found['videos']):,} videos are written, the test was "
            "stopped; run the same test.py again, which goes on"
        )

    def read(kind: str) -> NDArray:
        shards = range(len(found[kind]))
        parts = [np.load(folder / f"{name}.{kind}-{number:05d}.npy") for number in shards]
        return np.concatenate(parts)

    videos = read("videos")
    texts, owners = np.zeros((0, videos.shape[1]), np.float32), np.zeros(0, np.int64)
    if found["texts"]:
        texts = read("texts")[np.load(folder / f"{name}.text_row.npy")]
        owners = np.load(folder / f"{name}.video_of_query.npy")
    ids = json.loads((folder / f"{name}.ids.json").read_text(encoding="utf-8"))
    return Embeddings(ids, videos, texts, owners)
