"""Evaluated runs: what a report shows of them, computed from a checkpoint or found in its cache."""

import base64
import json
import logging
import string
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base.base_data_loader import BaseDataLoader
from base.base_dataset import BaseTextVideoDataset, VideoEntry
from base.base_model import RetrievalModel, describe_model_input
from base.batch import Batch, Sample
from base.config import Config
from evaluation.evaluator import Evaluation
from evaluation.examples import (
    WordAttention,
    choose_best_and_worst,
    compute_margins,
    compute_word_attention,
    count_similarities,
    rank_top_videos,
)
from evaluation.ground_truth import build_ground_truth
from evaluation.report.contents import Contents, Results, RunContents
from evaluation.report.history import read_history
from evaluation.results import collect_metrics, score_evaluation
from evaluation.scores import T2V, V2T
from utils.errors import UserError
from utils.files import FileStamp, hash_file, write_json
from utils.ranking import compute_t2v_ranks
from utils.run_dir import CONFIG_NAME

logger = logging.getLogger(__name__)

CACHE_FOLDER, CACHE_VERSION = "report", 2
CHECKPOINTS = ("model_best.pth", "model_last.pth")
LETTERS = string.ascii_uppercase  # the runs' short names, and so the most runs of a page
SHARED = ("captions", "ids", "video_of_query")  # by all runs of a page


def find_checkpoint(folder: Path) -> Path:
    """Return a run's best checkpoint, else its last.

    Raises:
        UserError: the folder is not there, is no run, or has no checkpoint.
    """
    if not folder.is_dir():
        what = "is a file; name the folder of a run" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}")
    if not (folder / CONFIG_NAME).is_file():
        raise UserError(f"{folder}: is no folder of a run, it has no {CONFIG_NAME}")
    found = [folder / name for name in CHECKPOINTS if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder}: has neither {' nor '.join(CHECKPOINTS)}; train it first")
    return found[0]


def stamp_file(path: str | Path) -> list[Any]:
    """Return a file's path, size and time as JSON values; the last two are None without a file."""
    try:
        stamp = FileStamp.of(path)
    except FileNotFoundError:
        return [str(path), None, None]
    return [str(path), stamp.size, stamp.mtime_ns]


class Cache:
    """A folder of values that hold for one key.

    A value that can't be written costs time only: there is a warning, and the report is made.

    Args:
        folder: made when something is written.
        key: JSON values; what was written with another one is not found.
        fresh: find nothing that was written before now.
    """

    def __init__(self, folder: Path, key: list[Any], fresh: bool = False) -> None:
        self.folder = folder
        self.key = [CACHE_VERSION, *key]
        self.fresh = fresh

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a value, or None where there is none for this key."""
        if self.fresh:
            return None
        try:
            found = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None  # it is computed anew
        if not isinstance(found, dict) or found.get("key") != self.key:
            return None
        return found.get("value")

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Keep a value."""
        try:
            self.folder.mkdir(exist_ok=True)
            write_json(self.folder / f"{name}.json", {"key": self.key, "value": value})
        except OSError as error:
            logger.warning("%s: not kept for the next report (%s)", self.folder, error.strerror)


@dataclass(frozen=True)
class RunParts:
    """Functions that build what an evaluation needs; called only where the cache has nothing."""

    load_model: Callable[[], RetrievalModel]  # with the checkpoint's weights, on its device
    build_loader: Callable[..., BaseDataLoader]  # of the test split; keywords replace its settings
    evaluate: Callable[[RetrievalModel, BaseDataLoader], Evaluation]
    collate: Callable[[BaseDataLoader, list[Sample]], Batch]  # on the model's device
    read_thumbnail: Callable[[BaseTextVideoDataset, VideoEntry], bytes | None]  # JPEG


class EvaluatedRun:
    """A run, tested when its cache has nothing.

    Args:
        checkpoint: in the run's folder.
        config: of the run.
        parts: functions that build what is needed.
        settings: of the command, JSON values: the cache holds for the same ones.
        fresh: compute everything anew.
    """

    def __init__(
        self, checkpoint: Path, config: Config, parts: RunParts, settings: list[Any], fresh: bool
    ) -> None:
        self.folder, self.checkpoint = checkpoint.parent, checkpoint
        self.config, self.parts = config, parts
        self.modalities = describe_model_input(config.arch).modalities
        key = [stamp_file(checkpoint), hash_file(self.folder / CONFIG_NAME), *settings]
        self.cache = Cache(self.folder / CACHE_FOLDER, key, fresh=fresh)

    @cached_property
    def clips(self) -> BaseDataLoader:
        """The loader with one clip a video, so that samples are counted as videos are."""
        return self.parts.build_loader(sliding_window_stride=-1)

    @cached_property
    def model(self) -> RetrievalModel:
        """The model with the checkpoint's weights."""
        return self.parts.load_model()

    def evaluate(self) -> Results:
        """Return the results on the test split; raises ``UserError`` if it has no captions."""
        known = self.cache.read("evaluation")
        if known is not None and known["file"] == stamp_file(known["file"][0]):
            return Results(**known["results"])
        loader = self.parts.build_loader()
        queries = build_ground_truth(loader.dataset)
        if not queries.captions:
            raise UserError(f"{queries.annotation_file}: its videos have no captions to look at")
        evaluation = self.parts.evaluate(self.model, loader)
        matrix, (rows, own) = evaluation.similarity, queries.get_positive_pairs()
        metrics = tuple(dict.fromkeys((T2V, V2T, *self.config.metrics)))
        results = Results(
            captions=list(queries.captions),
            ids=list(queries.ids),
            video_of_query=own.tolist(),
            annotation_file=str(queries.annotation_file),
            shuffled=queries.shuffled,
            scores=collect_metrics(score_evaluation(evaluation, queries, metrics)),
            histogram=count_similarities(matrix, queries),
            ranks=compute_t2v_ranks(matrix, rows, own).tolist(),
            own_scores=matrix[rows, own].tolist(),
            margins=compute_margins(matrix, own).tolist(),
            top=[[(video, float(row[video])) for video in rank_top_videos(row)] for row in matrix],
        )
        stamp = stamp_file(queries.annotation_file)
        self.cache.write("evaluation", {"file": stamp, "results": asdict(results)})
        return results

    def compute_attention(self, videos: list[int]) -> dict[int, WordAttention]:
        """Return how the model attends to the words of some videos; empty without fusion layer."""
        if "ocr" not in self.modalities:
            return {}

        def compute(missing: list[int]) -> dict[int, Any]:
            dataset, collate = self.clips.dataset, partial(self.parts.collate, self.clips)
            found = compute_word_attention(self.model, dataset, missing, collate)
            return {video: asdict(attention) for video, attention in found.items()}

        found = self._look_up("attention", videos, compute)
        return {video: WordAttention(**values) for video, values in found.items()}

    def read_thumbnails(self, videos: list[int]) -> dict[int, bytes | None]:
        """Return the middle frames of some videos as JPEG; None: can't be read."""

        def read(missing: list[int]) -> dict[int, str]:
            dataset = self.clips.dataset
            entries = {video: dataset.entries[video] for video in missing}
            found = {v: self.parts.read_thumbnail(dataset, entry) for v, entry in entries.items()}
            return {v: base64.b64encode(picture or b"").decode() for v, picture in found.items()}

        found = self._look_up("thumbnails", videos, read)
        return {video: base64.b64decode(text or "") or None for video, text in found.items()}

    def _look_up(
        self, name: str, videos: list[int], compute: Callable[[list[int]], dict[int, Any]]
    ) -> dict[int, Any]:
        """Return a JSON value for each video, computing and keeping those not in the cache."""
        known = self.cache.read(name) or {}
        missing = [video for video in videos if str(video) not in known]
        if missing:
            known |= {str(video): value for video, value in compute(missing).items()}
            self.cache.write(name, known)
        return {video: known[str(video)] for video in videos if str(video) in known}


def gather_contents(runs: Sequence[EvaluatedRun], num_queries: int, made: str) -> Contents:
    """Evaluate the runs and choose what is shown.

    Args:
        runs: at most as many as there are ``LETTERS``.
        num_queries: best, and worst, queries of the first run.
        made: when and with what the page is made.

    Raises:
        UserError: the runs were not tested on the same captions and videos.
    """
    results = [run.evaluate() for run in runs]
    first = results[0]
    for run, found in zip(runs, results, strict=True):
        if any(getattr(found, key) != getattr(first, key) for key in SHARED):
            raise UserError(
                f"{run.folder}: its test set ({found.annotation_file}) has other captions or "
                f"videos than that of {runs[0].folder} ({first.annotation_file}), so the runs "
                "can't be compared; make a page for each, or give both one set with --set"
            )
    best, worst = choose_best_and_worst(
        np.array(first.ranks), np.array(first.margins), first.captions, num_queries
    )
    own = sorted({first.video_of_query[row] for row in best + worst})
    shown = {video for row in best + worst for video, _ in first.top[row]}
    histories = [read_history(run.folder) for run in runs]
    return Contents(
        runs=[
            RunContents(
                letter=LETTERS[i],
                name=run.config.name,
                folder=str(run.folder),
                modalities=run.modalities,
                checkpoint=run.checkpoint.name,
                history=histories[i][0],
                notes=histories[i][1],
                results=results[i],
            )
            for i, run in enumerate(runs)
        ],
        best=best,
        worst=worst,
        attention=runs[0].compute_attention(own),
        thumbnails=runs[0].read_thumbnails(sorted(shown.union(own))),
        made=f"{made}, PyTorch {torch.__version__}.",
    )
