"""Plots as SVG: lines over epochs, and two histograms in one. Plain geometry, no libraries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from utils.report.markup import Html, joined, tag

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 330, 12, 176  # of the plotting area
DASHES = ("", "6 3", "2 3", "8 3 2 3")
NUM_COLORS = 6
MOST_MARKS = 60  # points of a line that are marked one by one


@dataclass(frozen=True)
class Line:
    """A line of a plot: which run's colour it has, its name, and its points (x, y)."""

    number: int
    name: str
    points: Sequence[tuple[float, float]]


def ticks(low: float, high: float, about: int = 5, whole: bool = False) -> list[float]:
    """Return round numbers that lie within ``low`` … ``high``.

    Args:
        low: the smallest value.
        high: the largest value; above ``low``.
        about: how many are wanted.
        whole: only whole numbers.
    """
    rough = (high - low) / max(1, about - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def number_text(value: float) -> str:
    """Return a number as it stands beside a tick or a point."""
    return f"{value:.4g}"


class Axes:
    """From values to the plot's pixels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = _widened(*x), _widened(*y)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixels of a point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return round(LEFT + across * (RIGHT - LEFT), 2), round(BOTTOM - up * (BOTTOM - TOP), 2)

    def frame(self, x_name: str, whole_x: bool) -> Html:
        """Return grid lines and their numbers."""
        parts = []
        for value in ticks(*self.y):
            y = self.place(self.x[0], value)[1]
            parts.append(tag("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid"))
            text = number_text(value)
            parts.append(tag("text", text, x=LEFT - 6, y=y + 4, text_anchor="end"))
        for value in ticks(*self.x, whole=whole_x):
            x = self.place(value, self.y[0])[0]
            parts.append(tag("line", x1=x, x2=x, y1=BOTTOM, y2=BOTTOM + 4, class_="axis"))
            text = number_text(value)
            parts.append(tag("text", text, x=x, y=BOTTOM + 16, text_anchor="middle"))
        parts.append(tag("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="axis"))
        middle = (LEFT + RIGHT) / 2
        parts.append(tag("text", x_name, x=middle, y=HEIGHT - 2, text_anchor="middle"))
        return joined(*parts)


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    if high > low:
        return low, high
    room = abs(low) * 0.1 or 1.0
    return low - room, high + room


def line_plot(title: str, lines: Sequence[Line], x_name: str = "epoch") -> Html:
    """Return a figure of lines; values that are not finite are left out.

    Args:
        title: said above the plot.
        lines: at least one with a point.
        x_name: what runs along the bottom, in whole numbers.
    """
    kept = [Line(one.number, one.name, _finite(one.points)) for one in lines]
    kept = [one for one in kept if one.points]
    if not kept:
        return _figure(title, Html(""), "no finite value")
    xs = [x for one in kept for x, _ in one.points]
    ys = [y for one in kept for _, y in one.points]
    axes = Axes((min(xs), max(xs)), (min(ys), max(ys)))
    drawn = [axes.frame(x_name, whole_x=True), *(_line(axes, one, x_name) for one in kept)]
    last = "; ".join(f"{one.name}: {number_text(one.points[-1][1])}" for one in kept)
    return _figure(title, joined(*drawn), f"last values: {last}")


def swatch(number: int) -> Html:
    """Return a piece of a run's line, for legends."""
    line = tag(
        "line", x1=0, x2=32, y1=5, y2=5, class_="line", stroke_dasharray=_dash(number)
    )  # fmt: skip
    color = f"swatch c{number % NUM_COLORS}"
    return tag("svg", line, viewBox="0 0 32 10", class_=color, aria_hidden="true")


def _dash(number: int) -> str | None:
    return DASHES[number % len(DASHES)] or None


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _line(axes: Axes, line: Line, x_name: str) -> Html:
    places = [axes.place(*point) for point in line.points]
    color = f"c{line.number % NUM_COLORS}"
    path = " ".join(f"{x},{y}" for x, y in places)
    dash = _dash(line.number)
    parts = [tag("polyline", points=path, class_=f"line {color}", stroke_dasharray=dash)]
    marked = list(zip(places, line.points, strict=True))
    for (x, y), (epoch, value) in marked if len(marked) <= MOST_MARKS else marked[-1:]:
        said = f"{line.name}, {x_name} {number_text(epoch)}: {number_text(value)}"
        parts.append(tag("circle", tag("title", said), cx=x, cy=y, r=3, class_=f"mark {color}"))
    return joined(*parts)


def histogram_plot(
    title: str, edges: Sequence[float], right: Sequence[int], wrong: Sequence[int]
) -> Html:
    """Return a figure of two histograms, each in per cent of its own pairs.

    Args:
        title: said above the plot.
        edges: of the bins; one more than there are bins.
        right: pairs that belong together, by bin.
        wrong: the other pairs, by bin.
    """
    shares = {name: _shares(counts) for name, counts in (("wrong", wrong), ("right", right))}
    axes = Axes((edges[0], edges[-1]), (0.0, max(1e-9, *map(max, shares.values()))))
    drawn = [axes.frame("similarity", whole_x=False)]
    for name, values in shares.items():
        corners = [(edges[0], 0.0)]
        for number, value in enumerate(values):
            corners += [(edges[number], value), (edges[number + 1], value)]
        corners.append((edges[-1], 0.0))
        path = " ".join(f"{x},{y}" for x, y in (axes.place(*corner) for corner in corners))
        drawn.append(tag("polygon", points=path, class_=f"area {name}"))
    said = f"per cent of {sum(right):,} right and of {sum(wrong):,} wrong pairs"
    return _figure(title, joined(*drawn), said)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [100.0 * count / total if total else 0.0 for count in counts]


def _figure(title: str, drawing: Html, said: str) -> Html:
    svg = tag(
        "svg",
        drawing,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}; {said}",
    )
    return tag("figure", tag("figcaption", title), svg, tag("p", said, class_="said"))
