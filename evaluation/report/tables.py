"""Tables of a report: metrics, numbers of the plots, and runs compared query by query."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from evaluation.report.contents import RunContents
from evaluation.report.history import describe_key, get_points, is_number

DIRECTIONS = {"t2v_metrics": "Text to video", "v2t_metrics": "Video to text"}
TRUTHS = {
    "one_right_video": "one right video a caption, as published",
    "equal_captions": "every video with an equal caption is right",
}
COLUMNS = {
    "R1": "R@1", "R5": "R@5", "R10": "R@10", "R50": "R@50", "MedR": "median rank",
    "MeanR": "mean rank", "geometric_mean_R1-R5-R10": "geometric mean",
}  # fmt: skip
INTERVAL = "R@1, interval"
BREAKDOWN_COLUMNS = ("R1", "R5", "R10", "MedR")
KINDS = {"category": "By category", "needs_reading": "By whether the caption needs reading"}


class Table(NamedTuple):
    """Texts in rows, of which the first names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def build_metric_tables(runs: Sequence[RunContents]) -> list[Table]:
    """Return the metrics of both directions and both truths, with what a perfect model has."""
    first, *others = COLUMNS.values()
    columns = ["run", first, INTERVAL, *others]
    scores = [run.results.scores for run in runs]
    return [
        Table(f"{title}, {meaning}", columns, _list_metrics(runs, direction, truth))
        for direction, title in DIRECTIONS.items()
        if all(direction in found for found in scores)
        for truth, meaning in TRUTHS.items()
    ]


def _list_metrics(runs: Sequence[RunContents], direction: str, truth: str) -> list[list[str]]:
    rows = []
    for run in runs:
        low, high = run.results.scores["intervals"][truth][direction]
        rows.append((run.label, run.results.scores, f"{low:.2f}\u2013{high:.2f}"))
    best = runs[0].results.scores["best_possible"]
    rows.append((Markup("<em>best possible</em>"), best, ""))
    texts = []
    for label, scores, interval in rows:
        values = (scores if truth == "one_right_video" else scores[truth])[direction]
        first, *others = (f"{values[key]:.2f}" for key in COLUMNS)
        texts.append([label, first, interval, *others])
    return texts


def build_breakdown_tables(runs: Sequence[RunContents]) -> list[Table]:
    """Return a table for each kind of captions, with a row for each group and run."""
    columns = ["kind, run", "captions", *(COLUMNS[key] for key in BREAKDOWN_COLUMNS)]
    tables = []
    for kind, title in KINDS.items():
        found = [run.results.scores["breakdown"].get(kind, {}) for run in runs]
        rows = [
            [
                f"{group}, {run.letter}",
                f"{groups[group]['count']:,}",
                *(f"{groups[group][key]:.2f}" for key in BREAKDOWN_COLUMNS),
            ]
            for group in found[0]
            for run, groups in zip(runs, found, strict=True)
            if group in groups
        ]
        if rows:
            tables.append(Table(f"{title}: text to video, one right video", columns, rows))
    return tables


def build_epoch_tables(runs: Sequence[RunContents], keys: Sequence[str]) -> list[Table]:
    """Return the plotted numbers of each run that has any."""
    tables = []
    for run in runs:
        own = [key for key in keys if get_points(run.history, key)]
        rows = []
        for epoch in run.history:
            values = (epoch.get(key) for key in own)
            numbers = (f"{value:.6g}" if is_number(value) else "" for value in values)
            rows.append([str(epoch["epoch"]), *numbers])
        if own:
            tables.append(Table(run.label, ["epoch", *map(describe_key, own)], rows))
    return tables


def build_histogram_table(run: RunContents) -> Table:
    """Return the counts of a run's histograms."""
    edges, right, wrong = (run.results.histogram[name] for name in ("edges", "right", "wrong"))
    bins = zip(edges, edges[1:], right, wrong, strict=False)
    rows = [[f"{low:.4f} to {high:.4f}", f"{yes:,}", f"{no:,}"] for low, high, yes, no in bins]
    return Table(run.label, ["similarity", "right pairs", "wrong pairs"], rows)


class Comparison(NamedTuple):
    """The other runs beside the first."""

    summary: Table  # how many queries are better or worse
    differences: Sequence[Sequence[float]]  # of ranks, for each other run and query
    order: Sequence[int]  # of the queries, the largest difference first


def compare_runs(runs: Sequence[RunContents]) -> Comparison:
    """Compare the ranks of at least two runs; below 0: better than in the first."""
    first, *others = runs
    rows, differences = [], []
    for run in others:
        pairs = list(zip(first.results.ranks, run.results.ranks, strict=True))
        counts = (
            sum(theirs < own for own, theirs in pairs),
            sum(theirs > own for own, theirs in pairs),
            sum(theirs == own for own, theirs in pairs),
            sum(theirs == 1 and own != 1 for own, theirs in pairs),
            sum(own == 1 and theirs != 1 for own, theirs in pairs),
        )
        rows.append([run.label, *(f"{count:,}" for count in counts)])
        differences.append([theirs - own for own, theirs in pairs])
    columns = ["run", "better", "worse", "equal"]
    columns += ["first only here", f"first only in {first.letter}"]
    largest = [max(map(abs, changes)) for changes in zip(*differences, strict=True)]
    order = sorted(range(len(largest)), key=lambda row: -largest[row])
    summary = Table(f"Queries, compared with {first.label}", columns, rows)
    return Comparison(summary, differences, order)
