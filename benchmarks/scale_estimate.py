"""Cost of an archive on paper: hours, bytes and times of queries, from measured constants.

    python -m benchmarks.scale_estimate                               # 10⁴ to 10⁸ videos
    python -m benchmarks.scale_estimate --videos 1e6 --minutes 20 --lines 5
    python -m benchmarks.scale_estimate --videos 1e6 --set width=256 spot_cpu_s=0.2
    python -m benchmarks.scale_estimate --constants                   # and what measured each
    python -m benchmarks.scale_estimate --json

Nothing is measured here: each figure is a formula of constants, any of which may be set.
``docs/scale.md`` has the tables, and says where a formula no longer holds.
"""

import argparse
import ast
import json
import math
import operator
import sys
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.tables import format_table
from utils.cli import large_int, run_cli
from utils.errors import UserError

VIDEOS = [10**power for power in range(4, 9)]
_PREFIXES = {"": ("million", "billion"), "B": "MGTP"}  # by unit, from a million on


class Constant(NamedTuple):
    """A number that costs depend on, and where it is from."""

    value: float
    meaning: str
    source: str


_SIMULATED = "`benchmarks.simulate_index`"
CONSTANTS = {
    # What a video is
    "minutes": Constant(5, "length of a video, minutes", "chosen"),
    "windows": Constant(12, "entries a minute", "a window every 5 s, the default"),
    "lines": Constant(20, "lines of text a minute, read or said", "chosen"),
    "words": Constant(4, "words a line", "chosen"),
    "seen_in": Constant(2.6, "entries that a line is in", "3 s of windows of 10 s: (10 + 3) / 5"),
    "width": Constant(768, "numbers of a vector", "SigLIP 2 base, the default"),
    "frames": Constant(8, "frame vectors an entry", "the default; 0: `--vectors windows`"),
    "first_words": Constant(30, "distinct words: this times ...", "chosen"),
    "heaps": Constant(0.6, "... all words to this power (Heaps' law)", "chosen"),
    # Work
    "decode_s": Constant(0.46, "CPU s to decode a minute, 640 x 360", "`benchmarks.data`"),
    "looks": Constant(150, "frames a minute that are read, at most", "one in 0.4 s, the default"),
    "spot_s": Constant(0.52, "CPU s to read one, 1280 x 720", "`benchmarks.spotting --scenes`"),
    "embed_gpu_s": Constant(0.00077, "GPU s an entry, the published model", "`benchmarks.cuda`"),
    "embed_cpu_s": Constant(3.4, "CPU s an entry, SigLIP 2, 8 frames", "`benchmarks.towers`"),
    # Bytes
    "line_bytes": Constant(86, "of a line in index.db", _SIMULATED),
    "place_bytes": Constant(30, "of a word's place in index.db", _SIMULATED),
    "word_bytes": Constant(74, "of a distinct word in index.db", _SIMULATED),
    "entry_bytes": Constant(60, "of an entry beside its vectors", _SIMULATED),
    "thumbnail_bytes": Constant(10_000, "of a JPEG of 320 x 180", "chosen, not measured"),
    "code_bytes": Constant(72, "of a vector in FAISS's memory", "a code of 64 and a number of 8"),
    "word_memory": Constant(730, "of a distinct word in a searching process", _SIMULATED),
    # Queries
    "compare_s": Constant(0.14, "CPU s to compare 1 GB of vectors", "`benchmarks.search_scale`"),
    "faiss_s": Constant(2.9e-6, "s of a FAISS query, times the root", "`benchmarks.search_scale`"),
    "place_s": Constant(1.2e-6, "CPU s of a place that a query matches", _SIMULATED),
    "open_s": Constant(48e-9, "CPU s an entry to open", _SIMULATED),
    "check_s": Constant(44e-6, "CPU s an entry to check all, before updates", _SIMULATED),
}


def count_distinct_words(
    words: float,
    first: float = CONSTANTS["first_words"].value,
    power: float = CONSTANTS["heaps"].value,
) -> float:
    """Return how many of some words are distinct, by Heaps' law; misread words are new ones."""
    return first * words**power


class Figure(NamedTuple):
    """What is estimated: its name, its unit, and the formula, which is computed as it is shown."""

    name: str
    unit: str  # "", "h", "B" or "s"
    formula: str  # see ``compute``


# By the names that later formulas have for them.
FIGURES = {
    "hours": Figure("hours of video", "h", "videos * minutes / 60"),
    "entries": Figure("entries", "", "videos * minutes * windows"),
    "all_lines": Figure("lines of text", "", "videos * minutes * lines"),
    "places": Figure("places of words", "", "all_lines * words * seen_in"),
    "vocabulary": Figure("distinct words", "", "first_words * (all_lines * words) ** heaps"),
    "decoding": Figure("decoding for the model, CPU", "h", "videos * minutes * decode_s / 3600"),
    "spotting": Figure("spotting, decoding included, CPU", "h",
        "videos * minutes * looks * spot_s / 3600"),
    "embedding": Figure("embedding by the published model, GPU", "h",
        "entries * embed_gpu_s / 3600"),
    "cpu_embedding": Figure("embedding by SigLIP 2, CPU", "h", "entries * embed_cpu_s / 3600"),
    "vectors": Figure("vectors", "B", "entries * (width * 4 + frames * (width * 2 + 8))"),
    "text": Figure("text and entries, index.db", "B",
        "all_lines * line_bytes + places * place_bytes + vocabulary * word_bytes "
        "+ entries * entry_bytes"),
    "thumbnails": Figure("thumbnails, a file an entry", "B", "entries * thumbnail_bytes"),
    "faiss": Figure("FAISS, in memory", "B", "entries * (1 + frames) * code_bytes"),
    "memory": Figure("vocabulary, in memory of each process", "B", "vocabulary * word_memory"),
    "exact": Figure("query by meaning, exact, CPU", "s", "vectors / 10 ** 9 * compare_s"),
    "near": Figure("query by meaning, FAISS", "s", "(entries * (1 + frames)) ** 0.5 * faiss_s"),
    "common": Figure("query of the commonest word, CPU", "s",
        "places / (log(vocabulary) + 0.577) * place_s"),
    "opening": Figure("opening, CPU", "s", "entries * open_s"),
    "check": Figure("check before an update, CPU", "h", "entries * check_s / 3600"),
}  # fmt: skip
_OPERATORS = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=large_int, nargs="+", default=VIDEOS, help="how many")
    for name in ("minutes", "lines", "words"):
        parser.add_argument(f"--{name}", help=CONSTANTS[name].meaning)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="of constants")
    parser.add_argument("--constants", action="store_true", help="list the constants")
    parser.add_argument("--json", action="store_true", help="write JSON")
    asked = parser.parse_args()
    named = {name: getattr(asked, name) for name in ("minutes", "lines", "words")}
    pairs = [f"{name}={value}" for name, value in named.items() if value is not None]
    values = read_constants([*asked.set, *pairs])
    if asked.constants:
        sys.stdout.write(make_constants_table(values))
        return
    columns = {videos: estimate(videos, values) for videos in asked.videos}
    result = {"constants": values, "figures": columns}
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if asked.json else make_table(columns))


def read_constants(pairs: list[str]) -> dict[str, float]:
    """Return the constants, some of them set by ``NAME=VALUE``; raises ``UserError``."""
    values = {name: constant.value for name, constant in CONSTANTS.items()}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in values:
            raise UserError(f"{pair}: no such constant; give one of: {', '.join(values)}")
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = -1
        if not 0 <= values[name] < math.inf:
            raise UserError(f"{pair}: give a number of at least 0, such as {name}=0.5")
    return values


def estimate(videos: int, values: Mapping[str, float]) -> dict[str, float]:
    """Return each figure for a number of videos: counts, hours, bytes and seconds.

    Raises ``UserError`` where the constants give no number.
    """
    known = {"videos": float(videos), **values}
    for key, figure in FIGURES.items():
        try:
            known[key] = compute(figure.formula, known)
        except (ArithmeticError, ValueError) as error:
            raise UserError(
                f"{figure.name}: {figure.formula} gives no number ({error}); set other constants"
            ) from error
    return {key: known[key] for key in FIGURES}


def compute(formula: str, known: Mapping[str, float]) -> float:
    """Return the value of a formula: of numbers, names, ``+ * / **``, brackets and ``log``."""

    def visit(node: ast.expr) -> float:
        match node:
            case ast.Constant(value):
                return value
            case ast.Name(name):
                return known[name]
            case ast.BinOp(left, operation, right):
                return _OPERATORS[type(operation)](visit(left), visit(right))
            case ast.Call(ast.Name("log"), [argument]):
                return math.log(visit(argument))
        raise ValueError(f"{formula}: {ast.unparse(node)} is no part of a formula")

    return visit(ast.parse(formula, mode="eval").body)


def make_table(columns: Mapping[int, Mapping[str, float]]) -> str:
    """Return the figures as a Markdown table, a column for each number of videos."""
    rows = [
        [figure.name, *(format_figure(found[key], figure.unit) for found in columns.values())]
        for key, figure in FIGURES.items()
    ]
    return format_table(["videos", *(format_figure(videos, "") for videos in columns)], rows)


def make_formulas_table() -> str:
    """Return the formulas as a Markdown table."""
    rows = [[key, figure.name, f"`{figure.formula}`"] for key, figure in FIGURES.items()]
    return format_table(["figure", "", "formula"], rows, 3)


def make_constants_table(values: Mapping[str, float]) -> str:
    """Return the constants as a Markdown table, and where those that are not set are from."""
    rows = [
        [f"`{name}`", f"{values[name]:.6g}", meaning, source if values[name] == value else "set"]
        for name, (value, meaning, source) in CONSTANTS.items()
    ]
    return format_table(["constant", "value", "what it is", "from"], rows, 4)


def format_figure(value: float, unit: str) -> str:
    """Return a figure with two digits that count, and its unit: ``60 million``, ``5 ms``."""
    if unit in ("h", "s"):
        return _format_time(value, unit)
    step, prefixes = 0, ("", "k" if unit else "thousand", *_PREFIXES[unit])
    while step < len(prefixes) - 1 and _round(value) >= 1000:
        value, step = value / 1000, step + 1
    return f"{_write(value)} {prefixes[step]}{unit}".rstrip()


def _format_time(value: float, unit: str) -> str:
    if unit == "h":
        return f"{_write(value)} h" if value >= 1 else f"{_write(60 * value)} min"
    return f"{_write(value)} s" if value >= 1 else f"{_write(1000 * value)} ms"


def _write(value: float) -> str:
    number = _round(value)
    return f"{number:,.0f}" if number >= 10 else f"{number:g}"


def _round(value: float) -> float:
    return float(f"{value:.2g}")


if __name__ == "__main__":
    run_cli(main)
