"""Show runs as one HTML page that needs no network.

    python -m utils.report work_dirs/NAME/TIME
    python -m utils.report FUSION_RUN VISION_RUN OCR_RUN --out report.html

A RUN is a folder of train.py. Its best checkpoint (else the last) is tested on the test split, and
what came of it is kept in RUN/report/, so that the next page of the same checkpoint is quick.
The single queries are those of the first run; the others are compared with it, query by query.
"""

import argparse
import base64
import string
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from base.base_model import RetrievalModel
from data_loader.thumbnails import thumbnail
from parse_config import add_override_argument, load_run_config
from trainer.build import build_evaluator, build_loader, build_model
from trainer.evaluator.encode import Evaluation, Loader
from trainer.evaluator.examples import (
    best_and_worst,
    margins,
    similarity_histogram,
    top_videos,
    word_attention,
)
from trainer.evaluator.queries import Queries, queries_of
from trainer.evaluator.report import metrics_of, scored
from trainer.evaluator.scores import T2V, V2T
from utils.checkpoint.weights import load_weights
from utils.cli import positive, run_cli
from utils.device import choose_devices
from utils.errors import UserError
from utils.files import write_text
from utils.ranks import t2v_ranks
from utils.report.cache import FOLDER, Cache, array_sum, content_sum, fingerprint
from utils.report.contents import Attention, Contents, Example, Hit, RunFacts
from utils.report.history import read_history
from utils.report.page import report_page
from utils.run_dir import CONFIG_NAME, setup_logging

CHECKPOINTS = ("model_best.pth", "model_last.pth")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the first RUN)")
    parser.add_argument("-d", "--device", help="GPU to use, such as 1")
    add_override_argument(parser)
    parser.add_argument("--loader", type=int, default=0, help="which data loader of a list")
    parser.add_argument(
        "--queries", type=positive, default=12, help="best and worst queries (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="compute everything anew")
    parsed = parser.parse_args(arguments)
    if len(parsed.runs) > len(string.ascii_uppercase):
        parser.error(f"at most {len(string.ascii_uppercase)} runs fit on a page")
    return parsed


def checkpoint_of(folder: Path) -> Path:
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


class Run:
    """A run's folder, tested when there is nothing kept of it.

    Args:
        folder: of the run.
        arguments: of the command line.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder = folder
        self.checkpoint = checkpoint_of(folder)
        self.number = arguments.loader
        self.config = load_run_config(self.checkpoint, None, arguments.overrides)
        self.modalities = self.config.arch.kwargs()["modalities"]
        key = [fingerprint(self.checkpoint), content_sum(folder / CONFIG_NAME)]
        key += [arguments.overrides, self.number]
        self.cache = Cache(folder / FOLDER, key, fresh=arguments.fresh)
        devices = choose_devices(min(self.config.n_gpu, 1), arguments.device)
        if len(devices) > 1:
            raise UserError(f"-d {arguments.device}: a report uses one GPU; name one")
        self.device = devices[0]

    def loader(self, **changes: Any) -> Loader:
        """Build the loader of the test split."""
        return build_loader(self.config, self.number, training=False, split="test", **changes)

    @cached_property
    def clips(self) -> Loader:
        """The loader with one clip a video, so that samples are counted as videos are."""
        return self.loader(sliding_window_stride=-1)

    @cached_property
    def model(self) -> RetrievalModel:
        """The model with the checkpoint's weights."""
        model = build_model(self.config, self.device, initial_weights=False)
        load_weights(model, self.checkpoint)
        return model

    def tested(self) -> tuple[dict[str, Any], NDArray]:
        """Return what is known of the test split, as JSON values, and the matrix (Q, V)."""
        kept = self.cache.read("evaluation")
        if kept is not None and kept["files"] == [fingerprint(Path(f[0])) for f in kept["files"]]:
            matrix = self.cache.read_matrix("matrix", kept["matrix_sum"])
            if matrix is not None:
                return kept, matrix
        loader = self.loader()
        queries = queries_of(loader.dataset)
        if not queries.captions:
            raise UserError(f"{queries.annotation_file}: its videos have no captions to look at")
        evaluation = build_evaluator(self.config, self.device).run(self.model, loader)
        assert evaluation is not None  # nothing asks it to stop
        found = self._found(evaluation, queries)
        self.cache.write_matrix("matrix", evaluation.similarity)
        self.cache.write("evaluation", found)
        return found, evaluation.similarity

    def _found(self, evaluation: Evaluation, queries: Queries) -> dict[str, Any]:
        names = dict.fromkeys((T2V, V2T, *self.config.metrics))
        matrix = evaluation.similarity
        return {
            "files": [fingerprint(queries.annotation_file)],
            "matrix_sum": array_sum(matrix),
            "captions": list(queries.captions),
            "ids": list(queries.ids),
            "video_of_query": queries.video_of_query.tolist(),
            "shuffled": queries.shuffled,
            "annotation_file": str(queries.annotation_file),
            "scores": metrics_of(scored(evaluation, queries, tuple(names))),
            "histogram": similarity_histogram(matrix, queries),
            "ranks": t2v_ranks(matrix, *queries.own_pairs()).tolist(),
        }

    def attention(self, videos: list[int]) -> dict[int, Attention]:
        """Return how the model attends to the words of some videos; empty without fusion layer."""
        kept = self.cache.read("attention") or {}
        missing = [video for video in videos if str(video) not in kept]
        if missing and "ocr" in self.modalities:
            collate, clips = self.clips.batches.collate_fn, self.clips
            found = word_attention(
                self.model,
                clips.dataset,
                missing,
                lambda samples: clips.to_device(collate(samples), self.device),
            )
            kept |= {str(video): asdict(item) for video, item in found.items()}
            self.cache.write("attention", kept)
        return {video: Attention(**kept[str(video)]) for video in videos if str(video) in kept}

    def thumbnails(self, videos: list[int]) -> dict[int, bytes | None]:
        """Return the middle frames of some videos as JPEG; None: can't be read."""
        kept = self.cache.read("thumbnails") or {}
        missing = [video for video in videos if str(video) not in kept]
        for video in missing:
            dataset = self.clips.dataset
            picture = thumbnail(dataset, dataset.entries[video])
            kept[str(video)] = None if picture is None else base64.b64encode(picture).decode()
        if missing:
            self.cache.write("thumbnails", kept)
        found = ((video, kept[str(video)]) for video in videos)
        return {video: None if text is None else base64.b64decode(text) for video, text in found}

    def facts(self, letter: str, found: dict[str, Any]) -> RunFacts:
        """Return what the page says of this run."""
        history, notes = read_history(self.folder)
        return RunFacts(
            letter=letter,
            name=self.config.name,
            folder=str(self.folder),
            modalities=self.modalities,
            checkpoint=self.checkpoint.name,
            history=history,
            notes=notes,
            **{key: found[key] for key in ("scores", "histogram", "ranks", "annotation_file",
                                           "shuffled")},
        )  # fmt: skip


def contents_of(runs: Sequence[Run], num_queries: int) -> Contents:
    """Test the runs and choose what is shown.

    Raises:
        UserError: the runs were not tested on the same captions and videos.
    """
    results = [run.tested() for run in runs]
    (first, matrix), letters = results[0], string.ascii_uppercase
    for run, (found, _) in zip(runs, results, strict=True):
        if any(found[key] != first[key] for key in ("captions", "ids", "video_of_query")):
            raise UserError(
                f"{run.folder}: its test set ({found['annotation_file']}) has other captions or "
                f"videos than that of {runs[0].folder} ({first['annotation_file']}), so the runs "
                "can't be compared; make a page for each, or give both one set with --set"
            )
    own, ranks = np.array(first["video_of_query"]), np.array(first["ranks"])
    margin = margins(matrix, own)
    best, worst = best_and_worst(ranks, margin, first["captions"], num_queries)
    attention = runs[0].attention(sorted({int(own[row]) for row in (*best, *worst)}))
    best, worst = (
        [_example(row, matrix[row], int(own[row]), attention.get(int(own[row]))) for row in rows]
        for rows in (best, worst)
    )
    now = f"{datetime.now():%Y-%m-%d %H:%M}"
    return Contents(
        runs=[run.facts(letters[i], results[i][0]) for i, run in enumerate(runs)],
        captions=first["captions"],
        video_of_query=first["video_of_query"],
        ids=first["ids"],
        best=best,
        worst=worst,
        thumbnails=runs[0].thumbnails(_shown((*best, *worst), own)),
        made=f"Made {now} by python -m utils.report, PyTorch {torch.__version__}.",
    )


def _example(query: int, scores: NDArray, own: int, attention: Attention | None) -> Example:
    top = [Hit(video, float(scores[video]), video == own) for video in top_videos(scores)]
    return Example(query, float(scores[own]), top, attention)


def _shown(examples: Iterable[Example], own: NDArray) -> list[int]:
    """The videos that are on the page."""
    shown = {hit.video for example in examples for hit in example.top}
    return sorted(shown | {int(own[example.query]) for example in examples})


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    setup_logging(verbosity=0)
    runs = [Run(folder, arguments) for folder in arguments.runs]
    page = report_page(contents_of(runs, arguments.queries))
    out = arguments.out or arguments.runs[0]
    out = out / "report.html" if out.is_dir() else out
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    sys.stdout.write(f"{out} ({out.stat().st_size / 1e6:.1f} MB)\n")


if __name__ == "__main__":
    run_cli(main)
