"""The page: one HTML file that asks nothing of the network."""

import base64
import hashlib

from utils.report.comparison import comparison_section
from utils.report.contents import Contents, RunFacts
from utils.report.history import key_title, lines_of, points_of, shown_keys
from utils.report.markup import Html, joined, table, tag
from utils.report.metrics import metrics_section
from utils.report.plots import histogram_plot, line_plot, swatch
from utils.report.queries import queries_section
from utils.report.style import SCRIPT, STYLE

SHUFFLED = "not meaningful: the test file is shuffled, its captions and videos do not belong"


def report_page(contents: Contents) -> str:
    """Return the whole page."""
    title = "Report: " + ", ".join(run.name for run in contents.runs)
    sections = [
        ("runs", "Runs", _runs(contents)),
        ("curves", "Curves", _curves(contents.runs)),
        ("metrics", "Metrics", metrics_section(contents.runs)),
        ("similarities", "Similarities", _similarities(contents.runs)),
        ("best", "Best queries", queries_section(contents, contents.best)),
        ("worst", "Worst queries", queries_section(contents, contents.worst)),
    ]
    if len(contents.runs) > 1:
        sections.append(("comparison", "Query by query", comparison_section(contents)))
    links = (tag("li", tag("a", name, href=f"#{key}")) for key, name, _ in sections)
    parts = [
        tag("section", tag("h2", name, id=f"{key}-title"), body, id=key,
            aria_labelledby=f"{key}-title")
        for key, name, body in sections
    ]  # fmt: skip
    body = joined(
        tag("header", tag("h1", title), _warning(contents)),
        tag("nav", tag("ul", *links), aria_label="Contents"),
        tag("main", *parts),
        tag("footer", tag("p", contents.made, class_="soft")),
        tag("script", Html(SCRIPT)),
    )
    page = tag("html", _head(title, contents), "\n", tag("body", body), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _head(title: str, contents: Contents) -> Html:
    """What the browser may do: no network at all, and no script but the page's own."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    policy += f"; script-src 'sha256-{digest}'"
    lines = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        tag("title", title),
        tag("style", Html(STYLE + _thumbnail_style(contents))),
    ]
    return tag("head", Html("\n".join(lines)))


def _thumbnail_style(contents: Contents) -> str:
    """Each thumbnail once, as the background of a class."""
    rules = []
    for video, picture in contents.thumbnails.items():
        if picture is not None:
            data = base64.b64encode(picture).decode()
            rules.append(f".v{video}{{background-image:url(data:image/jpeg;base64,{data})}}\n")
    return "".join(rules)


def _warning(contents: Contents) -> Html | None:
    shuffled = [run.letter for run in contents.runs if run.shuffled]
    if not shuffled:
        return None
    text = f"Run {', '.join(shuffled)}: {SHUFFLED} together. Every number below is chance."
    return tag("p", tag("strong", text), class_="warn", role="note")


def _runs(contents: Contents) -> Html:
    items = []
    for number, run in enumerate(contents.runs):
        rows: list[list[object]] = [
            ["uses", " and ".join(run.modalities)],
            ["folder", run.folder],
            ["checkpoint", run.checkpoint],
            ["epochs", len(run.history)],
            ["test file", run.annotation_file],
        ]
        about = joined(*(joined(tag("dt", name), tag("dd", value)) for name, value in rows))
        notes = [tag("p", note, class_="warn") for note in run.notes]
        items.append(
            tag(
                "div", tag("h3", swatch(number), run.label), tag("dl", about), *notes, class_="card"
            )
        )
    said = f"{len(contents.captions):,} captions, {len(contents.ids):,} videos."
    return joined(tag("p", said), tag("div", *items, class_="cards runs"))


def _curves(runs: tuple[RunFacts, ...]) -> Html:
    keys = shown_keys(runs)
    if not keys:
        return tag("p", "No run has numbers of its epochs.")
    plots = [line_plot(key_title(key), lines_of(runs, key)) for key in keys]
    return joined(_legend(runs), tag("div", *plots, class_="plots"), _epochs(runs, keys))


def _legend(runs: tuple[RunFacts, ...]) -> Html | None:
    if len(runs) < 2:
        return None
    items = (tag("li", swatch(number), run.label) for number, run in enumerate(runs))
    return tag("ul", *items, class_="ranks", aria_label="Legend")


def _epochs(runs: tuple[RunFacts, ...], keys: list[str]) -> Html:
    """The plotted numbers, a table a run."""
    tables = []
    for run in runs:
        own = [key for key in keys if points_of(run.history, key)]
        rows: list[list[object]] = []
        for epoch in run.history:
            values = (epoch.get(key) for key in own)
            rows.append([epoch["epoch"], *("" if v is None else f"{v:.6g}" for v in values)])
        if own:
            tables.append(table(run.label, ["epoch", *map(key_title, own)], rows))
    return tag("details", tag("summary", "The numbers of the curves"), *tables)


def _similarities(runs: tuple[RunFacts, ...]) -> Html:
    plots, tables = [], []
    for run in runs:
        edges, right, wrong = (run.histogram[name] for name in ("edges", "right", "wrong"))
        plots.append(histogram_plot(run.label, edges, right, wrong))
        bins = zip(edges, edges[1:], right, wrong, strict=False)
        rows: list[list[object]] = [
            [f"{low:.4f} to {high:.4f}", f"{yes:,}", f"{no:,}"] for low, high, yes, no in bins
        ]
        tables.append(table(run.label, ["similarity", "right pairs", "wrong pairs"], rows))
    said = (
        "Cosine similarity of every caption with every video. Blue, whole line: right pairs (every "
        "video that has the caption); orange, dashed line: all others."
    )
    details = tag("details", tag("summary", "The numbers of the histograms"), *tables)
    return joined(tag("p", said), tag("div", *plots, class_="plots"), details)
