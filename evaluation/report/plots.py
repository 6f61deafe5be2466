"""Plots as plain geometry, which the template draws as SVG: curves, and two histograms in one."""

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 340, 210  # pixels of a plot
LEFT, RIGHT, TOP, BOTTOM = 46, 330, 12, 176  # of the plotting area
DASHES = ("", "6 3", "2 3", "8 3 2 3")
NUM_COLORS = 6
MOST_MARKS = 60  # points of a curve that are marked one by one

Point = tuple[float, float]


class Curve(NamedTuple):
    """Values (x, y) of a run; its number chooses colour and dashes."""

    number: int
    name: str
    points: Sequence[Point]


class Shape(NamedTuple):
    """A curve or an area, in pixels."""

    color: str  # class of the style sheet
    points: Sequence[Point]
    dashes: str = ""  # as SVG has them
    marks: Sequence[tuple[float, float, str]] = ()  # x, y, text


class Plot(NamedTuple):
    """A figure. Ticks are pixels and the number written there; without shapes it is empty."""

    title: str
    caption: str
    kind: str = "line"  # or area
    x_name: str = ""
    shapes: Sequence[Shape] = ()
    x_ticks: Sequence[tuple[float, str]] = ()
    y_ticks: Sequence[tuple[float, str]] = ()


class Axes:
    """The axes of a plot, which place values in pixels."""

    def __init__(self, x: Point, y: Point) -> None:
        self.x, self.y = _widen(*x), _widen(*y)

    def to_pixels(self, x: float, y: float) -> Point:
        """Return where a point is drawn."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return round(LEFT + across * (RIGHT - LEFT), 2), round(BOTTOM - up * (BOTTOM - TOP), 2)

    def place_ticks(self, integer_x: bool) -> tuple[list[tuple[float, str]], ...]:
        """Return the ticks of both axes."""
        x, y = choose_ticks(*self.x, integers=integer_x), choose_ticks(*self.y)
        return (
            [(self.to_pixels(tick, self.y[0])[0], f"{tick:.4g}") for tick in x],
            [(self.to_pixels(self.x[0], tick)[1], f"{tick:.4g}") for tick in y],
        )


def _widen(low: float, high: float) -> Point:
    """Make a range that is not empty."""
    margin = 0.0 if high > low else abs(low) * 0.1 or 1.0
    return low - margin, high + margin


def choose_ticks(low: float, high: float, integers: bool = False) -> list[float]:
    """Return about five round numbers, or integers only, within ``low`` < ``high``."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    if integers:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def plot_curves(title: str, curves: Sequence[Curve]) -> Plot:
    """Plot values by epoch; those that are not finite are left out."""
    finite = [
        Curve(curve.number, curve.name, [p for p in curve.points if all(map(math.isfinite, p))])
        for curve in curves
    ]
    finite = [curve for curve in finite if curve.points]
    if not finite:
        return Plot(title, "no finite value")
    xs, ys = zip(*(point for curve in finite for point in curve.points), strict=True)
    axes = Axes((min(xs), max(xs)), (min(ys), max(ys)))
    shapes = [_draw_curve(axes, curve) for curve in finite]
    last = "; ".join(f"{curve.name}: {curve.points[-1][1]:.4g}" for curve in finite)
    return Plot(title, f"last values: {last}", "line", "epoch", shapes, *axes.place_ticks(True))


def _draw_curve(axes: Axes, curve: Curve) -> Shape:
    pixels = [axes.to_pixels(*point) for point in curve.points]
    marks = [
        (x, y, f"{curve.name}, epoch {epoch:.4g}: {value:.4g}")
        for (x, y), (epoch, value) in zip(pixels, curve.points, strict=True)
    ]
    marks = marks if len(marks) <= MOST_MARKS else marks[-1:]
    dashes = DASHES[curve.number % len(DASHES)]
    return Shape(f"c{curve.number % NUM_COLORS}", pixels, dashes, marks)


def plot_histogram(
    title: str, edges: Sequence[float], right: Sequence[int], wrong: Sequence[int]
) -> Plot:
    """Plot the right and the wrong pairs by bin, each in per cent of their own number.

    ``edges`` has one value more than there are bins.
    """
    percents = {
        name: [100.0 * count / max(1, sum(counts)) for count in counts]
        for name, counts in (("wrong", wrong), ("right", right))
    }
    axes = Axes((edges[0], edges[-1]), (0.0, max(1e-9, *map(max, percents.values()))))
    shapes = []
    for name, values in percents.items():
        steps = zip(edges, edges[1:], values, strict=False)
        tops = [corner for low, high, y in steps for corner in ((low, y), (high, y))]
        corners = [(edges[0], 0.0), *tops, (edges[-1], 0.0)]
        shapes.append(Shape(name, [axes.to_pixels(*corner) for corner in corners]))
    caption = f"per cent of {sum(right):,} right and of {sum(wrong):,} wrong pairs"
    return Plot(title, caption, "area", "similarity", shapes, *axes.place_ticks(False))
