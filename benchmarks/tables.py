"""Tables of the benchmarks, in Markdown. Without torch, so that arithmetic needs none."""

import statistics
from collections.abc import Sequence


def format_spread(values: Sequence[float], digits: int) -> str:
    """Return the median, and least … greatest in brackets."""
    numbers = statistics.median(values), min(values), max(values)
    median, least, greatest = (f"{number:.{digits}f}" for number in numbers)
    return f"{median} ({least} … {greatest})"


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> str:
    """Return a Markdown table; the first ``num_names`` columns are names, the others numbers."""
    rule = ["---" if place < num_names else "---:" for place in range(len(columns))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, rule, *rows))
