"""Scores as JSON values and as a table: the same for test.py and for a matrix alone."""

from collections.abc import Sequence
from typing import Any

from evaluation.postprocess import PostprocessedScores
from evaluation.scores import LEVEL, RESAMPLES, Metrics, Scores

SHUFFLED_NOTE = "not meaningful (shuffled test file)"
ONE, EQUAL = "one right video (published)", "equal captions count"
GMEAN = "geometric_mean_R1-R5-R10"
SHORT = {GMEAN: "gmean"}


def scores_to_json(
    scores: Scores, processed: Sequence[PostprocessedScores] = (), note: str = ""
) -> dict[str, Any]:
    """Return what a metrics file holds of a matrix.

    Args:
        scores: of the plain matrix.
        processed: after the changes that were asked for; under "postprocessed", by name.
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
        "postprocessed": {item.name: _processed_json(item) for item in processed},
        "num_captions": len(queries.captions),
        "num_videos": len(queries.ids),
        "annotation_file": str(queries.annotation_file),
    }


def _processed_json(item: PostprocessedScores) -> dict[str, Any]:
    metrics, equal = _merged(item)
    return {"note": item.note, **item.parameters, **metrics, "equal_captions": equal}


def _merged(item: PostprocessedScores) -> tuple[Metrics, Metrics]:
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
    processed: Sequence[PostprocessedScores] = (),
    lines: Sequence[str] = (),
    note: str = "",
) -> str:
    """Return the metrics as a table, a line a direction and truth, bounds and parts below.

    Args:
        scores: of the plain matrix.
        processed: after the changes that were asked for; each has a table of its own.
        lines: said below the tables.
        note: why the metrics mean nothing; said first.
    """
    queries = scores.queries
    texts, videos = queries.shared_captions()
    rows = _rows(scores.metrics, scores.equal_captions, scores.best, scores.equal_best)
    note = note or (SHUFFLED_NOTE if queries.shuffled else "")
    head = [f"metrics: {note}"] if note else []
    parts = [*head, _table(rows), *_intervals(scores), "", *_breakdown(scores)]
    for item in processed:
        values = ", ".join(f"{key} {value}" for key, value in item.parameters.items())
        parts += ["", f"AFTER {item.name} ({values}): {item.note}", _table(_rows(*_merged(item)))]
    parts += ["", f"{len(queries.captions)} captions, {len(queries.ids)} videos of "
              f"{queries.annotation_file}"]  # fmt: skip
    if texts:
        parts.append(f"captions shared by several videos: {texts}, by {videos} videos")
    shuffled = [f"THESE METRICS ARE {SHUFFLED_NOTE.upper()}"] if queries.shuffled else []
    return "\n".join([*parts, *lines, *shuffled])


def _rows(
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


def _table(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
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


def _intervals(scores: Scores) -> list[str]:
    """A line a direction: where R1 lies in 95 % of the resamplings."""
    parts = []
    for truth, label in (("one_right_video", ONE), ("equal_captions", EQUAL)):
        for name, (low, high) in scores.intervals[truth].items():
            short = name.removesuffix("_metrics")
            parts.append(f"R1, {LEVEL:.0f} % interval: {low:6.2f} to {high:6.2f}  {short}, {label}")
    return sorted(parts, key=lambda line: "v2t, " in line)


def _breakdown(scores: Scores) -> list[str]:
    """A table of the kinds of captions, and what is missing there."""
    groups = [
        (f"  {name}", values) for kind in scores.breakdown.values() for name, values in kind.items()
    ]
    lines = ["t2v, one right video, by kind of caption", _table(groups)] if groups else []
    note = explain_reading(scores)
    return lines + ([f"needs reading: {note}"] if note and scores.intervals else [])
