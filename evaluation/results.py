"""An evaluation as files and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.base_dataset import BaseTextVideoDataset
from evaluation.evaluator import Evaluation
from evaluation.ground_truth import GroundTruth, build_ground_truth
from evaluation.postprocess import TEMPERATURE, PostprocessedScores, score_postprocessed
from evaluation.scores import Scores, score_similarity
from evaluation.tables import format_scores, scores_to_json
from utils.errors import UserError
from utils.files import write_array, write_json

METRICS_NAME, REPORT_NAME = "metrics.json", "data_report.json"


@dataclass(frozen=True)
class ScoredEvaluation:
    """An evaluation and what is said of its matrix.

    Attributes:
        evaluation: the matrix and the embeddings.
        scores: of the matrix; None where the videos have no captions.
        postprocessed: the scores after the changes that were asked for.
    """

    evaluation: Evaluation
    scores: Scores | None
    postprocessed: Sequence[PostprocessedScores] = ()


def open_ground_truth(dataset: BaseTextVideoDataset, feats_dir: Path | None) -> GroundTruth:
    """Return a data set's rows and columns.

    Raises:
        UserError: a test would leave nothing: there are no captions and no place for embeddings.
    """
    if feats_dir is None and not any(entry.captions for entry in dataset.entries):
        raise UserError(
            f"{dataset.annotation_file}: the videos have no captions, so there is no similarity "
            "matrix: give --save_feats DIR to keep their embeddings"
        )
    return build_ground_truth(dataset)


def score_evaluation(
    evaluation: Evaluation,
    queries: GroundTruth,
    metrics: Sequence[str],
    changes: Sequence[str] = (),
    temperature: float = TEMPERATURE,
) -> ScoredEvaluation:
    """Score an evaluation.

    Args:
        evaluation: of the data set that ``queries`` were made from.
        queries: rows and columns.
        metrics: registered names.
        changes: names of postprocessings.
        temperature: of these.
    """
    if not np.array_equal(evaluation.video_of_query, queries.video_of_query):
        raise RuntimeError("the captions were not evaluated in the data set's order")
    if not len(evaluation.similarity):
        return ScoredEvaluation(evaluation, None)
    matrix = evaluation.similarity
    after = [
        score_postprocessed(name, matrix, queries, temperature) for name in dict.fromkeys(changes)
    ]
    return ScoredEvaluation(evaluation, score_similarity(matrix, queries, metrics), after)


def format_evaluation(tested: ScoredEvaluation) -> str:
    """Return the metrics as a table, and what has to be known about them."""
    evaluation = tested.evaluation
    counts = evaluation.report.counts()
    lines = [f"{name.replace('_', ' ')}: {count}" for name, count in counts.items() if count]
    if tested.scores is None:
        videos = len(evaluation.ids)
        lines.insert(0, f"{videos} videos of {evaluation.annotation_file}, without captions")
        return "\n".join(lines)
    return format_scores(tested.scores, tested.postprocessed, lines)


def collect_metrics(tested: ScoredEvaluation) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    evaluation = tested.evaluation
    if tested.scores is None:
        raise RuntimeError("there are no metrics without captions")
    found = scores_to_json(tested.scores, tested.postprocessed)
    return found | {"loss": evaluation.loss} | evaluation.report.counts()


def write_evaluation(tested: ScoredEvaluation, sim_path: Path, feats_dir: Path | None) -> None:
    """Write the matrix, ``metrics.json`` and ``data_report.json`` beside it, and the embeddings.

    Args:
        tested: what to write.
        sim_path: where the matrix goes.
        feats_dir: where ``text_embeds.npy``, ``video_embeds.npy``, ``video_of_query.npy`` and
            ``ids.json`` go, and ``data_report.json`` where there are no captions and therefore no
            matrix; None: nowhere.
    """
    evaluation = tested.evaluation
    if tested.scores is not None:
        write_array(sim_path, evaluation.similarity)
        write_json(sim_path.parent / METRICS_NAME, collect_metrics(tested))
        evaluation.report.write(sim_path.parent / REPORT_NAME)
    if feats_dir is None:
        return
    write_array(feats_dir / "video_embeds.npy", evaluation.video_embeds)
    write_json(feats_dir / "ids.json", evaluation.ids)
    if tested.scores is None:
        evaluation.report.write(feats_dir / REPORT_NAME)
    else:
        write_array(feats_dir / "text_embeds.npy", evaluation.text_embeds)
        write_array(feats_dir / "video_of_query.npy", evaluation.video_of_query)
