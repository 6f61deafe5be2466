"""Page of a report: one HTML file, from a Jinja2 template, that asks nothing of the network."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.examples import WordAttention
from evaluation.report import plots, tables
from evaluation.report.contents import Contents, RunContents
from evaluation.report.history import describe_key, get_points, list_plotted_keys

TEMPLATES = Path(__file__).parent / "templates"
FEW_WORDS = 24  # that are shown at once, the rest on demand
PRINTED_ROWS = 100  # of the comparison on paper; the style sheet has the same number


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
        "histogram_table": tables.build_histogram_table,
        "base64": lambda content: base64.b64encode(content).decode(),
    }
    environment.globals |= {"plots": plots, "tables": tables}
    environment.globals |= {"few_words": FEW_WORDS, "printed_rows": PRINTED_ROWS}
    style, script = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "sort_table.js")
    )
    keys = list_plotted_keys([run.history for run in contents.runs])
    page = environment.get_template("page.html").render(
        contents=contents,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        keys=keys,
        curves=[_plot_key(contents.runs, key) for key in keys],
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # no file can hold a lone surrogate


def _plot_key(runs: Sequence[RunContents], key: str) -> plots.Plot:
    points = [get_points(run.history, key) for run in runs]
    curves = [plots.Curve(i, run.label, points[i]) for i, run in enumerate(runs) if points[i]]
    return plots.plot_curves(describe_key(key), curves)


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
