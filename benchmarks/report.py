"""What every benchmark writes alike: the machine, medians with their range, Markdown or JSON."""

import datetime
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

Result = dict[str, Any]


def machine() -> dict[str, str]:
    """Return the day, the machine and the versions: the first members of every result."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{torch.get_num_threads()} thread(s) of {_processor()}, {gpu}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def _processor() -> str:
    """The processor's name where the system tells it (Linux), else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


def head(result: Result) -> str:
    """Return the line that stands above a result's tables."""
    return f"{result['date']}; {result['machine']}; {result['versions']}"


def spread(values: Sequence[float], digits: int) -> str:
    """Return the median, and least … greatest in brackets."""
    numbers = statistics.median(values), min(values), max(values)
    median, least, greatest = (f"{number:.{digits}f}" for number in numbers)
    return f"{median} ({least} … {greatest})"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> str:
    """Return a Markdown table; the first ``num_names`` columns are names, the others numbers."""
    rule = ["---" if place < num_names else "---:" for place in range(len(columns))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, rule, *rows))


def write(result: Result, as_json: bool, table: Callable[[Result], str]) -> None:
    """Write a result to the standard output: as JSON, or what ``table`` makes of it."""
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if as_json else table(result))
