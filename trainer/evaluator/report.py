"""An evaluation as files and as a table."""

from pathlib import Path
from typing import Any

import numpy as np

from trainer.evaluator.encode import Evaluation
from utils.files import write_json

METRICS_NAME, REPORT_NAME = "metrics.json", "data_report.json"
SHUFFLED_NOTE = "not meaningful (shuffled test file)"


def evaluation_table(evaluation: Evaluation) -> str:
    """Return the metrics as a table, a line a direction, and what has to be known about them."""
    directions = evaluation.metrics
    width = max((len(name) for name in directions), default=0)
    lines = []
    if directions:
        names = [name.replace("geometric_mean_R1-R5-R10", "gmean") for name in _keys(directions)]
        lines.append(" " * width + "".join(f"{name:>9}" for name in names))
    for name, values in directions.items():
        lines.append(f"{name:<{width}}" + "".join(f"{value:9.2f}" for value in values.values()))
    queries, videos = evaluation.similarity.shape
    lines.append(f"{queries} captions, {videos} videos of {evaluation.annotation_file}")
    counts = evaluation.report.counts()
    lines += [f"{name.replace('_', ' ')}: {count}" for name, count in counts.items() if count]
    if evaluation.shuffled:
        lines.append(f"THESE METRICS ARE {SHUFFLED_NOTE.upper()}")
    return "\n".join(lines)


def _keys(directions: dict[str, dict[str, float]]) -> list[str]:
    return list(next(iter(directions.values())))


def metrics_of(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    queries, videos = evaluation.similarity.shape
    note = {"note": SHUFFLED_NOTE} if evaluation.shuffled else {}
    return (
        note
        | evaluation.metrics
        | {
            "loss": evaluation.loss,
            "num_captions": queries,
            "num_videos": videos,
            "annotation_file": str(evaluation.annotation_file),
        }
        | evaluation.report.counts()
    )


def write_evaluation(evaluation: Evaluation, sim_path: Path, feats_dir: Path | None) -> None:
    """Write the matrix, ``metrics.json`` and ``data_report.json`` beside it, and the embeddings.

    Args:
        evaluation: what to write.
        sim_path: where the matrix goes.
        feats_dir: where ``text_embeds.npy``, ``video_embeds.npy``, ``video_of_query.npy`` and
            ``ids.json`` go; None: nowhere.
    """
    write_array(sim_path, evaluation.similarity)
    write_json(sim_path.parent / METRICS_NAME, metrics_of(evaluation))
    evaluation.report.write(sim_path.parent / REPORT_NAME)
    if feats_dir is not None:
        write_array(feats_dir / "text_embeds.npy", evaluation.text_embeds)
        write_array(feats_dir / "video_embeds.npy", evaluation.video_embeds)
        write_array(feats_dir / "video_of_query.npy", evaluation.video_of_query)
        write_json(feats_dir / "ids.json", evaluation.ids)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, making its folder, to a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)
