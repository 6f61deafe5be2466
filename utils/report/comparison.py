"""Runs side by side: the rank of every query in each of them."""

from utils.report.contents import Contents, RunFacts
from utils.report.markup import Html, joined, table, tag
from utils.report.queries import rank_text

PRINTED = 100  # rows on paper; the style sheet has the same number


def comparison_section(contents: Contents) -> Html:
    """Return the summary and the table of all queries, the largest differences first."""
    first, *others = contents.runs
    said = (
        "The rank of the right video, text to video. A difference below 0: better than in "
        f"{first.letter}. The largest differences stand first."
    )
    parts = [tag("p", said), _summary(first, others)]
    parts.append(tag("p", "Choose a column's name to sort by it.", class_="tools soft"))
    if len(contents.captions) > PRINTED:
        text = f"Printed: {PRINTED} of {len(contents.captions):,} queries."
        parts.append(tag("p", text, class_="printed"))
    return joined(*parts, _queries(contents))


def differences(first: RunFacts, other: RunFacts) -> list[float]:
    """Return for each query how much larger its rank is in the other run."""
    return [theirs - own for own, theirs in zip(first.ranks, other.ranks, strict=True)]


def _summary(first: RunFacts, others: list[RunFacts]) -> Html:
    rows: list[list[object]] = []
    for run in others:
        changes = differences(first, run)
        pairs = list(zip(first.ranks, run.ranks, strict=True))
        counts = [
            sum(change < 0 for change in changes),
            sum(change > 0 for change in changes),
            sum(change == 0 for change in changes),
            sum(theirs == 1 and own != 1 for own, theirs in pairs),
            sum(own == 1 and theirs != 1 for own, theirs in pairs),
        ]
        rows.append([run.label, *(f"{count:,}" for count in counts)])
    names = ["run", "better", "worse", "equal", "first only here", f"first only in {first.letter}"]
    return table(f"Queries, compared with {first.label}", list(names), rows)


def _queries(contents: Contents) -> Html:
    first, *others = contents.runs
    changes = [differences(first, run) for run in others]
    heads = ["caption", "video", *(f"rank in {run.letter}" for run in contents.runs)]
    heads += [f"{run.letter} \u2212 {first.letter}" for run in others]
    text = ("caption", "video")
    head = tag(
        "tr",
        *(
            tag("th", tag("button", name, type="button"), scope="col",
                class_="text" if name in text else None)
            for name in heads
        ),
    )  # fmt: skip
    order = sorted(
        range(len(contents.captions)), key=lambda row: -max(abs(change[row]) for change in changes)
    )
    rows = (_row(contents, row, [change[row] for change in changes], heads) for row in order)
    caption = tag("caption", "Every query")
    return tag(
        "table", caption, tag("thead", head), tag("tbody", *rows), id="compare", class_="sortable"
    )


def _row(contents: Contents, row: int, changes: list[float], heads: list[str]) -> Html:
    video = contents.ids[contents.video_of_query[row]]
    cells = [
        tag("th", tag("bdi", contents.captions[row]), scope="row"),
        tag("td", tag("bdi", video), class_="text", data_name=heads[1]),
    ]
    names = iter(heads[2:])
    for run in contents.runs:
        rank = run.ranks[row]
        cells.append(tag("td", rank_text(rank), data_name=next(names), data_value=f"{rank:g}"))
    for change in changes:
        kind = "up" if change < 0 else "down" if change > 0 else None
        cells.append(
            tag("td", difference_text(change), data_name=next(names), data_value=f"{change:g}",
                class_=kind)
        )  # fmt: skip
    return tag("tr", *cells)


def difference_text(change: float) -> str:
    """Return a difference of ranks with its sign."""
    if change == 0:
        return "0"
    return ("+" if change > 0 else "\u2212") + rank_text(abs(change))
