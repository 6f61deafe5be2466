"""The metrics of the runs: both directions and both truths, intervals, best possible values."""

from collections.abc import Mapping, Sequence
from typing import Any

from utils.report.contents import RunFacts
from utils.report.markup import Html, joined, table, tag

DIRECTIONS = {"t2v_metrics": "Text to video", "v2t_metrics": "Video to text"}
GMEAN = "geometric_mean_R1-R5-R10"
COLUMNS = {
    "R1": "R@1", "R5": "R@5", "R10": "R@10", "R50": "R@50",
    "MedR": "median rank", "MeanR": "mean rank", GMEAN: "geometric mean",
}  # fmt: skip
INTERVAL = "R@1, interval"


def metrics_section(runs: Sequence[RunFacts]) -> Html:
    """Return the tables of all runs."""
    sampling = runs[0].scores["intervals"]
    said = (
        f"R@k in per cent. The interval holds R@1 in {sampling['level']:g} % of "
        f"{sampling['resamples']:,} draws of the videos. Best possible: what a perfect model would "
        "have, since equal captions can't be told apart."
    )
    tables = [
        _table(runs, metric, truth)
        for metric in DIRECTIONS
        if all(metric in run.scores for run in runs)
        for truth in ("one_right_video", "equal_captions")
    ]
    return joined(tag("p", said), *tables, _breakdown(runs))


def _values(scores: Mapping[str, Any], metric: str, truth: str) -> Mapping[str, float]:
    return scores[metric] if truth == "one_right_video" else scores["equal_captions"][metric]


def _best(scores: Mapping[str, Any], metric: str, truth: str) -> Mapping[str, float]:
    best = scores["best_possible"]
    return best[metric] if truth == "one_right_video" else best["equal_captions"][metric]


def _table(runs: Sequence[RunFacts], metric: str, truth: str) -> Html:
    rows: list[list[object]] = []
    for run in runs:
        values = _values(run.scores, metric, truth)
        low, high = run.scores["intervals"][truth][metric]
        numbers = [number(values[key]) for key in COLUMNS]
        rows.append([run.label, numbers[0], f"{number(low)}\u2013{number(high)}", *numbers[1:]])
    numbers = [number(_best(runs[0].scores, metric, truth)[key]) for key in COLUMNS]
    rows.append([tag("em", "best possible"), numbers[0], "", *numbers[1:]])
    first, *others = COLUMNS.values()
    said = {
        "one_right_video": "one right video a caption, as published",
        "equal_captions": "every video with an equal caption is right",
    }[truth]
    caption = f"{DIRECTIONS[metric]}, {said}"
    return table(caption, ["run", first, INTERVAL, *others], rows)


def _breakdown(runs: Sequence[RunFacts]) -> Html | None:
    """By kind of caption: a table a kind, a row a group and run."""
    kinds = {"category": "By category", "needs_reading": "By whether the caption needs reading"}
    tables = []
    for kind, title in kinds.items():
        rows: list[list[object]] = []
        for group in runs[0].scores["breakdown"].get(kind, {}):
            for run in runs:
                values = run.scores["breakdown"].get(kind, {}).get(group)
                if values is not None:
                    keys = ("R1", "R5", "R10", "MedR")
                    rows.append([f"{group}, {run.letter}", f"{values['count']:,}",
                                 *(number(values[key]) for key in keys)])  # fmt: skip
        if rows:
            names = ["kind, run", "captions", "R@1", "R@5", "R@10", "median rank"]
            tables.append(table(f"{title}: text to video, one right video", names, rows))
    if not tables:
        return None
    return tag("details", tag("summary", "By kind of caption"), *tables)


def number(value: float) -> str:
    """Return a metric with two decimals."""
    return f"{value:.2f}"
