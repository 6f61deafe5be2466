"""An evaluation as files and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.base_dataset import BaseTextVideoDataset
from trainer.evaluator.encode import Evaluation
from trainer.evaluator.postprocess import TEMPERATURE, Processed, processed
from trainer.evaluator.queries import Queries, queries_of
from trainer.evaluator.scores import Scores, score
from trainer.evaluator.table import scores_json, scores_table
from utils.errors import UserError
from utils.files import write_json

METRICS_NAME, REPORT_NAME = "metrics.json", "data_report.json"


@dataclass(frozen=True)
class Tested:
    """An evaluation and what is said of its matrix.

    Attributes:
        evaluation: the matrix and the embeddings.
        scores: of the matrix; None where the videos have no captions.
        processed: the scores after the changes that were asked for.
    """

    evaluation: Evaluation
    scores: Scores | None
    processed: Sequence[Processed] = ()


def open_queries(dataset: BaseTextVideoDataset, feats_dir: Path | None) -> Queries:
    """Return a data set's rows and columns.

    Raises:
        UserError: a test would leave nothing: there are no captions and no place for embeddings.
    """
    if feats_dir is None and not any(entry.captions for entry in dataset.entries):
        raise UserError(
            f"{dataset.annotation_file}: the videos have no captions, so there is no similarity "
            "matrix: give --save_feats DIR to keep their embeddings"
        )
    return queries_of(dataset)


def scored(
    evaluation: Evaluation,
    queries: Queries,
    metrics: Sequence[str],
    changes: Sequence[str] = (),
    temperature: float = TEMPERATURE,
) -> Tested:
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
        return Tested(evaluation, None)
    matrix = evaluation.similarity
    after = [processed(name, matrix, queries, temperature) for name in dict.fromkeys(changes)]
    return Tested(evaluation, score(matrix, queries, metrics), after)


def evaluation_table(tested: Tested) -> str:
    """Return the metrics as a table, and what has to be known about them."""
    evaluation = tested.evaluation
    counts = evaluation.report.counts()
    lines = [f"{name.replace('_', ' ')}: {count}" for name, count in counts.items() if count]
    if tested.scores is None:
        videos = len(evaluation.ids)
        lines.insert(0, f"{videos} videos of {evaluation.annotation_file}, without captions")
        return "\n".join(lines)
    return scores_table(tested.scores, tested.processed, lines)


def metrics_of(tested: Tested) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    evaluation = tested.evaluation
    if tested.scores is None:
        raise RuntimeError("there are no metrics without captions")
    found = scores_json(tested.scores, tested.processed)
    return found | {"loss": evaluation.loss} | evaluation.report.counts()


def write_evaluation(tested: Tested, sim_path: Path, feats_dir: Path | None) -> None:
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
        write_json(sim_path.parent / METRICS_NAME, metrics_of(tested))
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


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, making its folder, to a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)
