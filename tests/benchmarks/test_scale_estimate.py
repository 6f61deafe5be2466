"""``python -m benchmarks.scale_estimate``: its arithmetic, and that the page shows what it says."""

import json
import math
import re
import subprocess
import sys

import pytest

from benchmarks import scale_estimate
from benchmarks.scale_estimate import CONSTANTS, FIGURES, VIDEOS, estimate, format_figure
from tests.conftest import ROOT
from utils.errors import UserError

VALUES = {name: constant.value for name, constant in CONSTANTS.items()}


def run(*options):
    command = [sys.executable, "-m", "benchmarks.scale_estimate", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_library_counted_by_hand():
    values = VALUES | {"minutes": 2, "windows": 12, "lines": 3, "words": 2, "seen_in": 2}
    values |= {"width": 100, "frames": 0, "looks": 150, "spot_s": 0.5, "embed_cpu_s": 1}
    values |= {"first_words": 2, "heaps": 0.5, "line_bytes": 10, "place_bytes": 20}
    values |= {"word_bytes": 30, "entry_bytes": 40, "compare_s": 0.1}
    found = estimate(1000, values)
    assert found["entries"] == 24_000 and found["all_lines"] == 6000
    assert found["places"] == 24_000
    assert found["vocabulary"] == pytest.approx(2 * math.sqrt(12_000))
    assert found["spotting"] == pytest.approx(1000 * 2 * 150 * 0.5 / 3600)
    assert found["cpu_embedding"] == pytest.approx(24_000 / 3600)
    assert found["vectors"] == 24_000 * 400
    words = 30 * found["vocabulary"]
    assert found["text"] == pytest.approx(60_000 + 480_000 + words + 960_000)
    assert found["exact"] == pytest.approx(0.0096 * 0.1)
    with_frames = estimate(1000, values | {"frames": 8})
    assert with_frames["vectors"] == 24_000 * (400 + 8 * 208)


def test_what_is_linear_grows_with_the_videos():
    few, many = (estimate(videos, VALUES) for videos in (1000, 10_000))
    others = {"vocabulary", "text", "memory", "near", "common"}
    for key in FIGURES.keys() - others:
        assert many[key] == pytest.approx(10 * few[key]), key
    assert many["near"] == pytest.approx(math.sqrt(10) * few["near"])
    assert 1 < many["vocabulary"] / few["vocabulary"] < 10


def test_formulas_are_what_is_computed():
    known = {"videos": 12_345, "log": math.log} | VALUES
    for key, value in estimate(12_345, VALUES).items():
        known[key] = eval(FIGURES[key].formula, {}, known)
        assert known[key] == pytest.approx(value), key


@pytest.mark.parametrize("formula", ["videos - 1", "exp(videos)", "__import__('os')", "[videos]"])
def test_a_formula_is_arithmetic_only(formula):
    with pytest.raises((KeyError, ValueError)):
        scale_estimate.compute(formula, {"videos": 1.0})


def test_constants_that_give_no_number_are_told():
    done = run("--set", "first_words=0")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "query of the commonest word, CPU: places / (log(vocabulary)" in done.stderr


def test_the_page_shows_what_the_command_says():
    page = (ROOT / "docs/scale.md").read_text()
    columns = {videos: estimate(videos, VALUES) for videos in VIDEOS}
    for table in (
        scale_estimate.make_table(columns),
        scale_estimate.make_formulas_table(),
        scale_estimate.make_constants_table(VALUES),
    ):
        assert table in page
    named = set(re.findall(r"benchmarks\.[a-z_]+", page))
    assert all((ROOT / f"{name.replace('.', '/')}.py").is_file() for name in named)


def test_the_command():
    done = run("--videos", "1e3", "5000", "--minutes", "2", "--set", "width=256", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and [*found["figures"]] == ["1000", "5000"]
    values = VALUES | {"minutes": 2, "width": 256}
    assert found["constants"] == values
    assert found["figures"]["5000"] == pytest.approx(estimate(5000, values))
    assert "| videos | 1 thousand | 5 thousand |" in run("--videos", "1000", "5000").stdout
    lines = run("--constants", "--lines", "7").stdout.splitlines()
    assert next(line for line in lines if line.startswith("| `lines` |")).endswith("| set |")


@pytest.mark.parametrize(
    "option", [["--minutes", "x"], ["--set", "no=1"], ["--set", "width=-1"], ["--lines", "inf"]]
)
def test_what_is_no_constant_is_refused(option):
    name = option[0].removeprefix("--")
    pairs = [f"{name}={option[1]}"] if name != "set" else option[1:]
    with pytest.raises(UserError, match=re.escape(pairs[0])):
        scale_estimate.read_constants(pairs)


def test_a_number_of_videos_is_one():
    for wrong in ("0", "1.5", "x", "1e999", "nan"):
        done = run("--videos", wrong)
        assert done.returncode == 2 and "expected a whole number" in done.stderr


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (600_000, "", "600 thousand"), (6e9, "", "6 billion"), (6e12, "", "6,000 billion"),
        (12.3, "", "12"), (999_900, "", "1 million"), (1.23e12, "B", "1.2 TB"),
        (4.5e8, "B", "450 MB"), (0.0022, "s", "2.2 ms"), (1400, "s", "1,400 s"),
        (8.3e6, "h", "8,300,000 h"), (0.13, "h", "7.8 min"),
    ],
)  # fmt: skip
def test_figures_have_two_digits_and_a_unit(value, unit, text):
    assert format_figure(value, unit) == text
