"""Show runs as one HTML page that needs no network.

    python -m tools.report work_dirs/NAME/TIME
    python -m tools.report FUSION_RUN VISION_RUN OCR_RUN --out report.html

A RUN is a folder of train.py. Its best checkpoint (else the last) is tested on the test split, and
the results are kept in RUN/report/, so that the next page of the same checkpoint is quick.
The single queries are those of the first run; the others are compared with it, query by query.
"""

import argparse
import base64
import json
import logging
import string
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base.base_data_loader import BaseDataLoader
from base.base_model import RetrievalModel, describe_model_input
from data_loader.datasets.text_video_dataset import make_thumbnail
from evaluation.evaluator import Evaluator
from evaluation.examples import (
    WordAttention,
    choose_best_and_worst,
    compute_margins,
    compute_word_attention,
    count_similarities,
    rank_top_videos,
)
from evaluation.ground_truth import build_ground_truth
from evaluation.report.page import Contents, Results, RunContents, render_page
from evaluation.results import collect_metrics, score_evaluation
from evaluation.scores import T2V, V2T
from parse_config import add_override_argument, load_run_config
from trainer.build import build_criterion, build_loader, build_model
from trainer.checkpointing import load_model
from trainer.tracking import METRICS_FILE
from utils.cli import positive_int, run_cli
from utils.errors import UserError
from utils.files import FileStamp, hash_file, write_json, write_text
from utils.launch import choose_devices
from utils.precision import Precision
from utils.ranking import compute_t2v_ranks
from utils.run_dir import CONFIG_NAME, setup_logging

logger = logging.getLogger(__name__)

CACHE_FOLDER, CACHE_VERSION = "report", 4
CHECKPOINTS = ("model_best.pth", "model_last.pth")
LETTERS = string.ascii_uppercase  # the runs' short names, and so the most runs of a page
SHARED = ("captions", "ids", "video_of_query")  # by all runs of a page


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the first RUN)")
    parser.add_argument("-d", "--device", help="GPU to use, such as 1")
    add_override_argument(parser)
    parser.add_argument("--loader", type=int, default=0, help="which data loader of a list")
    help_text = "best and worst queries (default: %(default)s)"
    parser.add_argument("--queries", type=positive_int, default=12, help=help_text)
    parser.add_argument("--fresh", action="store_true", help="compute everything anew")
    parsed = parser.parse_args(arguments)
    if len(parsed.runs) > len(LETTERS):
        parser.error(f"at most {len(LETTERS)} runs fit on a page")
    return parsed


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
    for name in CHECKPOINTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has neither {' nor '.join(CHECKPOINTS)}; train it first")


def read_history(run_dir: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the epochs of a run, and notes about those that are missing."""
    try:
        text = (run_dir / METRICS_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [], [f"there is no {METRICS_FILE}, so there are no curves"]
    lines, epochs = text.splitlines(), []
    for line in lines:
        try:
            epoch = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(epoch, dict) and isinstance(epoch.get("epoch"), int | float):
            epochs.append(epoch)
    cut = len(lines) - len(epochs)
    return epochs, [f"{cut} lines of {METRICS_FILE} are no epoch and left out"] if cut else []


def stamp_file(path: str | Path) -> list[Any]:
    """Return a file's path, size and time as JSON values; the last two are None without a file."""
    try:
        stamp = FileStamp.of(path)
    except FileNotFoundError:
        return [str(path), None, None]
    return [str(path), stamp.size, stamp.mtime_ns]


class Cache:
    """A folder of JSON files that hold for one key.

    ``fresh``: what is there is not read. A value that can't be written costs time only: there is a
    warning, and the report is made.
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
            return None  # it is computed again
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


class EvaluatedRun:
    """A run on the test split: read from its cache, or computed where the cache has nothing.

    Raises:
        UserError: the folder is no run, or ``-d`` names several GPUs.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder = folder
        self.loader_number = arguments.loader
        self.checkpoint = find_checkpoint(folder)
        self.config = load_run_config(self.checkpoint, None, arguments.overrides)
        devices = choose_devices(min(self.config.n_gpu, 1), arguments.device)
        if len(devices) > 1:
            raise UserError(f"-d {arguments.device}: a report uses one GPU; name one")
        self.device = devices[0]
        self.criterion = build_criterion(self.config, self.device)
        self.modalities = describe_model_input(self.config.arch).modalities
        key = [stamp_file(self.checkpoint), hash_file(folder / CONFIG_NAME)]
        key += [arguments.overrides, arguments.loader]
        self.cache = Cache(folder / CACHE_FOLDER, key, arguments.fresh)

    @cached_property
    def model(self) -> RetrievalModel:
        """The model with the checkpoint's weights."""
        model = build_model(self.config, self.device, initial_weights=False)
        load_model(model, self.criterion, self.checkpoint)
        return model

    def build_loader(self, **changes: Any) -> BaseDataLoader:
        """Build the loader of the test split; ``changes`` replace its settings."""
        return build_loader(
            self.config, self.loader_number, training=False, split="test", **changes
        )

    @cached_property
    def clips(self) -> BaseDataLoader:
        """The loader with one clip a video, so that samples are counted as videos are."""
        return self.build_loader(sliding_window_stride=-1)

    def evaluate(self) -> Results:
        """Return the results on the test split; raises ``UserError`` if it has no captions."""
        known = self.cache.read("evaluation")
        if known is not None and known["file"] == stamp_file(known["file"][0]):
            return Results(**known["results"])
        loader = self.build_loader()
        queries = build_ground_truth(loader.dataset)
        if not queries.captions:
            raise UserError(f"{queries.annotation_file}: its videos have no captions to look at")
        precision = Precision(self.config.evaluation_precision, self.device)
        evaluator = Evaluator(self.config.metrics, self.criterion, precision)
        evaluation = evaluator.run(self.model, loader)
        assert evaluation is not None  # nothing asks it to stop
        matrix, (rows, columns) = evaluation.similarity, queries.get_positive_pairs()
        metrics = tuple(dict.fromkeys((T2V, V2T, *self.config.metrics)))
        results = Results(
            captions=list(queries.captions),
            ids=list(queries.ids),
            video_of_query=columns.tolist(),
            annotation_file=str(queries.annotation_file),
            shuffled=queries.shuffled,
            scores=collect_metrics(score_evaluation(evaluation, queries, metrics)),
            histogram=count_similarities(matrix, queries),
            ranks=compute_t2v_ranks(matrix, rows, columns).tolist(),
            own_scores=matrix[rows, columns].tolist(),
            margins=compute_margins(matrix, columns).tolist(),
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
            found = compute_word_attention(
                self.model,
                self.clips.dataset,
                missing,
                lambda some: self.clips.to_device(self.clips.batches.collate_fn(some), self.device),
            )
            return {video: asdict(attention) for video, attention in found.items()}

        found = self._look_up("attention", videos, compute)
        return {video: WordAttention(**values) for video, values in found.items()}

    def read_thumbnails(self, videos: list[int]) -> dict[int, bytes | None]:
        """Return the middle frames of some videos as JPEG; None: can't be read."""

        def read(missing: list[int]) -> dict[int, str]:
            dataset = self.clips.dataset
            found = {video: make_thumbnail(dataset, dataset.entries[video]) for video in missing}
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
    """Evaluate the runs, and choose as many best and worst queries of the first one.

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
    right = sorted({first.video_of_query[row] for row in best + worst})
    shown = {video for row in best + worst for video, _ in first.top[row]}
    contents = []
    for letter, run, found in zip(LETTERS, runs, results, strict=False):
        history, notes = read_history(run.folder)
        contents.append(
            RunContents(
                letter=letter,
                name=run.config.name,
                folder=str(run.folder),
                modalities=run.modalities,
                checkpoint=run.checkpoint.name,
                history=history,
                notes=notes,
                results=found,
            )
        )
    return Contents(
        runs=contents,
        best=best,
        worst=worst,
        attention=runs[0].compute_attention(right),
        thumbnails=runs[0].read_thumbnails(sorted(shown.union(right))),
        made=f"{made}, PyTorch {torch.__version__}.",
    )


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    setup_logging(verbosity=0)
    runs = [EvaluatedRun(folder, arguments) for folder in arguments.runs]
    made = f"Made {datetime.now():%Y-%m-%d %H:%M} by python -m tools.report"
    page = render_page(gather_contents(runs, arguments.queries, made))
    out = arguments.out or arguments.runs[0]
    out = out / "report.html" if out.is_dir() else out
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    sys.stdout.write(f"{out} ({out.stat().st_size / 1e6:.1f} MB)\n")


if __name__ == "__main__":
    run_cli(main)
