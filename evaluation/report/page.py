"""Page of a report: one HTML file, from a Jinja2 template, that asks nothing of the network.

The page is a function of ``Contents`` alone. A table of it has texts only.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.examples import WordAttention
from evaluation.report import plots

TEMPLATES = Path(__file__).parent / "templates"
FEW_WORDS = 24  # that are shown at once, the rest on demand
PRINTED_ROWS = 100  # of the comparison on paper; the style sheet has the same number
DIRECTIONS = {"t2v_metrics": "Text to video", "v2t_metrics": "Video to text"}
TRUTHS = {
    "one_right_video": "one right video a caption, as published",
    "equal_captions": "every video with an equal caption is right",
}
COLUMNS = {
    "R1": "R@1", "R5": "R@5", "R10": "R@10", "R50": "R@50", "MedR": "median rank",
    "MeanR": "mean rank", "geometric_mean_R1-R5-R10": "geometric mean",
}  # fmt: skip
BREAKDOWN_COLUMNS = ("R1", "R5", "R10", "MedR")
KINDS = {"category": "By category", "needs_reading": "By whether the caption needs reading"}
# Group 1: the validation set of a recall, 2: its k, 3: the validation set of a loss.
_PLOTTED = re.compile(r"loss(?:_\d+)?|val_(\d+)_t2v_metrics_R(1|5|10)|val_loss_(\d+)")


@dataclass(frozen=True)
class Results:
    """Results of a run on the test split, Q captions and V videos; all are JSON values."""

    captions: Sequence[str]  # Q
    ids: Sequence[str]  # V names of videos
    video_of_query: Sequence[int]  # Q positions in ids
    annotation_file: str
    shuffled: bool  # whether that file is shuffled, so that every number is chance
    scores: Mapping[str, Any]  # what metrics.json holds
    histogram: Mapping[str, Sequence[float]]  # edges and the counts right and wrong
    ranks: Sequence[float]  # Q, of each caption's own video
    own_scores: Sequence[float]  # Q similarities of each caption's own video
    margins: Sequence[float]  # Q, how far they are above the best of the others
    top: Sequence[Sequence[tuple[int, float]]]  # Q times the videos found first, and similarities


@dataclass(frozen=True)
class RunContents:
    """What the page shows of a run."""

    letter: str  # its short name: A, B …
    name: str  # of its configuration
    folder: str
    modalities: Sequence[str]
    checkpoint: str  # name of the file that was tested
    history: Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl
    notes: Sequence[str]  # warnings
    results: Results

    @property
    def label(self) -> str:
        """The letter and the name."""
        return f"{self.letter}: {self.name}"


@dataclass(frozen=True)
class Contents:
    """Everything on the page; all runs were tested on the same captions and videos."""

    runs: Sequence[RunContents]  # at least one
    best: Sequence[int]  # queries of the first run, the best first
    worst: Sequence[int]  # the worst first
    attention: Mapping[int, WordAttention]  # of the first run by video; empty: no fusion layer
    thumbnails: Mapping[int, bytes | None]  # video -> JPEG; None: it can't be read
    made: str = ""  # when and with what


class Table(NamedTuple):
    """Texts in rows, of which the first names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Comparison(NamedTuple):
    """The other runs beside the first."""

    summary: Table  # how many queries are better or worse
    differences: Sequence[Sequence[float]]  # of ranks, for each other run and query
    order: Sequence[int]  # of the queries, the largest difference first


def render_page(contents: Contents) -> str:
    """Return the whole page; every text from data is escaped by the template."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rank": format_rank,
        "difference": format_difference,
        "percent": lambda share: f"{100 * share:.1f}\u00a0%",
        "by_attention": sort_words,
        "base64": lambda content: base64.b64encode(content).decode(),
    }
    environment.globals |= {"plots": plots, "few_words": FEW_WORDS, "printed_rows": PRINTED_ROWS}
    style, script = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "sort_table.js")
    )
    runs = contents.runs
    keys = list_plotted_keys([run.history for run in runs])
    page = environment.get_template("page.html").render(
        contents=contents,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        curves=[_plot_key(runs, key) for key in keys],
        epoch_tables=_build_epoch_tables(runs, keys),
        metric_tables=_build_metric_tables(runs),
        breakdown_tables=_build_breakdown_tables(runs),
        histogram_tables=[_build_histogram_table(run) for run in runs],
        comparison=_compare_runs(runs) if len(runs) > 1 else None,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # no file can hold a lone surrogate


def format_rank(rank: float) -> str:
    """Return a rank; one that is shared has a half."""
    return f"{rank:.1f}".removesuffix(".0")


def format_difference(change: float) -> str:
    """Return a difference of ranks with its sign."""
    if change == 0:
        return "0"
    return ("+" if change > 0 else "\u2212") + format_rank(abs(change))


def sort_words(attention: WordAttention) -> list[tuple[str, float, float]]:
    """Return word, share of the attention, and part of the largest share; the largest first."""
    pairs = sorted(zip(attention.words, attention.shares, strict=True), key=lambda pair: -pair[1])
    most = pairs[0][1] or 1.0
    return [(word, share, share / most) for word, share in pairs]


def list_plotted_keys(histories: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the keys of the losses, and of R@1, 5 and 10 of every validation set."""
    keys = dict.fromkeys(key for history in histories for epoch in history for key in epoch)
    return [key for key in keys if _PLOTTED.fullmatch(key)]


def describe_key(key: str) -> str:
    """Say in words what a plotted key is."""
    recall_set, k, loss_set = _PLOTTED.fullmatch(key).groups()
    if recall_set is not None:
        return f"R@{k}, text to video, validation set {recall_set} (%)"
    if loss_set is not None:
        return f"validation loss, set {loss_set}"
    return "training loss" + key.removeprefix("loss").replace("_", ", loader ")


def get_points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) of the epochs that have a number under ``key``, NaN included."""
    return [(line["epoch"], line[key]) for line in history if _is_number(line.get(key))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plot_key(runs: Sequence[RunContents], key: str) -> plots.Plot:
    points = [get_points(run.history, key) for run in runs]
    curves = [plots.Curve(i, run.label, points[i]) for i, run in enumerate(runs) if points[i]]
    return plots.plot_curves(describe_key(key), curves)


def _build_epoch_tables(runs: Sequence[RunContents], keys: Sequence[str]) -> list[Table]:
    """Return the plotted numbers of each run that has any."""
    tables = []
    for run in runs:
        columns = [key for key in keys if get_points(run.history, key)]
        rows = []
        for line in run.history:
            values = (line.get(key) for key in columns)
            numbers = (f"{value:.6g}" if _is_number(value) else "" for value in values)
            rows.append([str(line["epoch"]), *numbers])
        if columns:
            tables.append(Table(run.label, ["epoch", *map(describe_key, columns)], rows))
    return tables


def _build_metric_tables(runs: Sequence[RunContents]) -> list[Table]:
    """Return the metrics of both directions and both truths, with what a perfect model has."""
    first, *others = COLUMNS.values()
    columns = ["run", first, "R@1, interval", *others]
    return [
        Table(f"{title}, {meaning}", columns, _list_metrics(runs, direction, truth))
        for direction, title in DIRECTIONS.items()
        if all(direction in run.results.scores for run in runs)
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


def _build_breakdown_tables(runs: Sequence[RunContents]) -> list[Table]:
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


def _build_histogram_table(run: RunContents) -> Table:
    edges, right, wrong = (run.results.histogram[name] for name in ("edges", "right", "wrong"))
    bins = zip(edges, edges[1:], right, wrong, strict=False)
    rows = [[f"{low:.4f} to {high:.4f}", f"{yes:,}", f"{no:,}"] for low, high, yes, no in bins]
    return Table(run.label, ["similarity", "right pairs", "wrong pairs"], rows)


def _compare_runs(runs: Sequence[RunContents]) -> Comparison:
    """Compare the ranks of at least two runs; below 0: better than in the first."""
    first, *others = runs
    rows, differences = [], []
    for run in others:
        pairs = list(zip(first.results.ranks, run.results.ranks, strict=True))
        counts = (
            sum(after < before for before, after in pairs),
            sum(after > before for before, after in pairs),
            sum(after == before for before, after in pairs),
            sum(after == 1 != before for before, after in pairs),
            sum(before == 1 != after for before, after in pairs),
        )
        rows.append([run.label, *(f"{count:,}" for count in counts)])
        differences.append([after - before for before, after in pairs])
    columns = ["run", "better", "worse", "equal"]
    columns += ["first only here", f"first only in {first.letter}"]
    largest = [max(map(abs, changes)) for changes in zip(*differences, strict=True)]
    order = sorted(range(len(largest)), key=lambda row: -largest[row])
    summary = Table(f"Queries, compared with {first.label}", columns, rows)
    return Comparison(summary, differences, order)
