"""Results of an evaluation as files and as tables: the same for test.py and for a matrix alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.base_dataset import BaseTextVideoDataset
from evaluation.evaluator import Evaluation
from evaluation.ground_truth import GroundTruth, build_ground_truth
from evaluation.postprocess import TEMPERATURE, PostprocessedScores, score_postprocessed
from evaluation.ranks_file import METRICS_NAME, name_ranks_file, write_ranks
from evaluation.scores import LEVEL, RESAMPLES, T2V, V2T, Metrics, Scores, score_similarity
from evaluation.similarity_blocks import SimilarityBlocks
from utils.errors import UserError
from utils.files import write_array, write_json

logger = logging.getLogger(__name__)

REPORT_NAME = "data_report.json"
SHUFFLED_NOTE = "not meaningful (shuffled test file)"
ONE, EQUAL = "one right video (published)", "equal captions count"
GMEAN = "geometric_mean_R1-R5-R10"
SHORT = {GMEAN: "gmean"}


@dataclass(frozen=True)
class Selection:
    """What a tested checkpoint was selected on.

    Attributes:
        selected_on: ``test``: videos of the test set; ``val``: a validation set; ``val_share``: a
            part held out of the training set; with a data set in front where that is another one;
            None: not selected, as far as is known.
        warning: said where it was selected on the very videos that it is tested on; else "".
    """

    selected_on: str | None = None
    warning: str = ""


@dataclass(frozen=True)
class ScoredEvaluation:
    """An evaluation and what is said of its matrix.

    Attributes:
        evaluation: the matrix and the embeddings.
        scores: of the matrix; None where the videos have no captions.
        postprocessed: the scores after the changes that were asked for.
        selection: of the checkpoint; None: nothing is said of it.
    """

    evaluation: Evaluation
    scores: Scores | None
    postprocessed: Sequence[PostprocessedScores] = ()
    selection: Selection | None = None


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
    selection: Selection | None = None,
) -> ScoredEvaluation:
    """Score an evaluation."""
    if not np.array_equal(evaluation.video_of_query, queries.video_of_query):
        raise RuntimeError("the captions were not evaluated in the data set's order")
    if not len(evaluation.similarity):
        return ScoredEvaluation(evaluation, None)
    matrix = evaluation.similarity
    if isinstance(matrix, SimilarityBlocks):
        whole = [name for name in metrics if name not in (T2V, V2T)]
        metrics = [name for name in metrics if name in (T2V, V2T)]
        if whole:
            text = "%s need a whole matrix and are not computed in blocks; they are left out"
            logger.warning(text, ", ".join(whole))
    after = [
        score_postprocessed(name, matrix, queries, temperature) for name in dict.fromkeys(changes)
    ]
    scores = score_similarity(matrix, queries, metrics)
    return ScoredEvaluation(evaluation, scores, after, selection)


def format_evaluation(tested: ScoredEvaluation) -> str:
    """Return the metrics as a table, and what has to be known about them."""
    evaluation = tested.evaluation
    counts = evaluation.report.counts()
    lines = [f"{name.replace('_', ' ')}: {count}" for name, count in counts.items() if count]
    if tested.scores is None:
        videos = len(evaluation.ids)
        lines.insert(0, f"{videos} videos of {evaluation.annotation_file}, without captions")
        return "\n".join(lines)
    if tested.selection is not None and tested.selection.warning:
        lines.append(tested.selection.warning)
    return format_scores(tested.scores, tested.postprocessed, lines)


def collect_metrics(tested: ScoredEvaluation) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    evaluation = tested.evaluation
    if tested.scores is None:
        raise RuntimeError("there are no metrics without captions")
    found = scores_to_json(tested.scores, tested.postprocessed)
    if tested.selection is not None:
        found |= {"selected_on": tested.selection.selected_on}
    return found | {"loss": evaluation.loss} | evaluation.report.counts()


def write_evaluation(tested: ScoredEvaluation, sim_path: Path) -> None:
    """Write the matrix, and metrics, ranks and data report beside it.

    Without the matrix where none was made, and nothing where the videos have no captions.
    """
    evaluation = tested.evaluation
    if tested.scores is None:
        return
    sim_path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(evaluation.similarity, SimilarityBlocks):
        write_array(sim_path, evaluation.similarity)
    elif sim_path.exists():
        logger.warning("%s: is the matrix of an earlier test, not of this one", sim_path)
    metrics_file = sim_path.parent / METRICS_NAME
    write_json(metrics_file, collect_metrics(tested))
    write_ranks(name_ranks_file(metrics_file), tested.scores)
    evaluation.report.write(sim_path.parent / REPORT_NAME)


def scores_to_json(
    scores: Scores, postprocessed: Sequence[PostprocessedScores] = (), note: str = ""
) -> dict[str, Any]:
    """Return what a metrics file holds of a matrix.

    Args:
        note: why the metrics mean nothing; the first key of the file.
    """
    queries = scores.queries
    note = note or (SHUFFLED_NOTE if queries.shuffled else "")
    texts, videos = queries.shared_captions()
    shared = {"shared_captions": texts, "videos_that_share_one": videos}
    sampling = {"level": LEVEL, "resamples": RESAMPLES, "of": "R1", "drawn": "videos"}
    breakdown: dict[str, Any] = {"of": "t2v_metrics, one right video"} | scores.breakdown
    if queries.reading_note:
        breakdown["needs_reading_note"] = explain_reading(scores)
    return ({"note": note} if note else {}) | {
        **scores.metrics,
        "equal_captions": {**scores.equal_captions, **shared},
        "best_possible": {**scores.best, "equal_captions": scores.equal_best},
        "intervals": {**scores.intervals, **sampling},
        "breakdown": breakdown,
        "postprocessed": {item.name: _postprocessed_to_json(item) for item in postprocessed},
        "caption_protocol": queries.protocol,
        "num_captions": len(queries.captions),
        "num_videos": len(queries.ids),
        "annotation_file": str(queries.annotation_file),
    }


def _postprocessed_to_json(item: PostprocessedScores) -> dict[str, Any]:
    metrics, equal = _merge_directions(item)
    return {"note": item.note, **item.parameters, **metrics, "equal_captions": equal}


def _merge_directions(item: PostprocessedScores) -> tuple[Metrics, Metrics]:
    metrics: Metrics = {}
    equal: Metrics = {}
    for scores in item.scores:
        metrics |= scores.metrics
        equal |= scores.equal_captions
    return metrics, equal


def explain_reading(scores: Scores) -> str:
    """Say what has to be known about the breakdown by reading; "" where there is nothing."""
    note = scores.queries.reading_note
    return f"not computed: {note}" if scores.queries.reading is None else note


def format_scores(
    scores: Scores,
    postprocessed: Sequence[PostprocessedScores] = (),
    lines: Sequence[str] = (),
    note: str = "",
) -> str:
    """Return the metrics as a table, a line a direction and truth, bounds and parts below.

    Args:
        lines: said below the tables.
        note: why the metrics mean nothing; said first.
    """
    queries = scores.queries
    texts, videos = queries.shared_captions()
    main_rows = _make_rows(scores.metrics, scores.equal_captions, scores.best, scores.equal_best)
    note = note or (SHUFFLED_NOTE if queries.shuffled else "")
    head = [f"metrics: {note}"] if note else []
    parts = [*head, _format_rows(main_rows), *_format_intervals(scores), ""]
    parts += _format_breakdown(scores)
    for item in postprocessed:
        values = ", ".join(f"{key} {value}" for key, value in item.parameters.items())
        rows = _make_rows(*_merge_directions(item))
        parts += ["", f"AFTER {item.name} ({values}): {item.note}", _format_rows(rows)]
    parts += ["", f"queries: {queries.protocol}"] if queries.protocol else [""]
    parts.append(
        f"{len(queries.captions)} captions, {len(queries.ids)} videos of {queries.annotation_file}"
    )
    if texts:
        parts.append(f"captions shared by several videos: {texts}, by {videos} videos")
    shuffled = [f"THESE METRICS ARE {SHUFFLED_NOTE.upper()}"] if queries.shuffled else []
    return "\n".join([*parts, *lines, *shuffled])


def _make_rows(
    metrics: Metrics, equal: Metrics, best: Metrics | None = None, equal_best: Metrics | None = None
) -> list[tuple[str, dict[str, float]]]:
    rows = []
    for name, values in metrics.items():
        if name not in equal:  # a metric of the user's own
            rows.append((name, values))
            continue
        short = name.removesuffix("_metrics")
        for truth, found, most in ((ONE, values, best), (EQUAL, equal[name], equal_best)):
            rows.append((f"{short}, {truth}", found))
            if most is not None:
                rows.append(("  best possible", most[name]))
    return rows


def _format_rows(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    """Rows of one width under the names of their keys, which are repeated where they change."""
    width = max((len(label) for label, _ in rows), default=0)
    lines: list[str] = []
    names: list[str] = []
    for label, values in rows:
        if list(values) != names:
            names = list(values)
            lines.append(" " * width + "".join(f"{SHORT.get(name, name):>9}" for name in names))
        cells = (f"{value:9d}" if isinstance(value, int) else f"{value:9.2f}"
                 for value in values.values())  # fmt: skip
        lines.append(f"{label:<{width}}" + "".join(cells))
    return "\n".join(lines)


def _format_intervals(scores: Scores) -> list[str]:
    """A line a direction: where R1 lies in 95 % of the resamplings."""
    parts = []
    for truth, label in (("one_right_video", ONE), ("equal_captions", EQUAL)):
        for name, (low, high) in scores.intervals[truth].items():
            short = name.removesuffix("_metrics")
            parts.append(f"R1, {LEVEL:.0f} % interval: {low:6.2f} to {high:6.2f}  {short}, {label}")
    return sorted(parts, key=lambda line: "v2t, " in line)


def _format_breakdown(scores: Scores) -> list[str]:
    """A table of the kinds of captions, and what is missing there."""
    groups = [
        (f"  {name}", values) for kind in scores.breakdown.values() for name, values in kind.items()
    ]
    lines = ["t2v, one right video, by kind of caption", _format_rows(groups)] if groups else []
    note = explain_reading(scores)
    return lines + ([f"needs reading: {note}"] if note and scores.intervals else [])
