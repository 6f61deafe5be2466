"""What the benchmarks write alike."""

import json
import statistics

import torch

from benchmarks.report import head, machine, markdown, spread, write


def test_the_head_names_day_machine_and_versions():
    line = head(machine())
    assert f"{torch.get_num_threads()} thread(s) of " in line
    assert f"torch {torch.__version__}" in line and line.count("; ") == 2


def test_spread_is_the_median_and_the_range():
    values = [4.0, 1.0, 2.5, 3.0]
    assert spread(values, 2) == f"{statistics.median(values):.2f} (1.00 … 4.00)"
    assert spread([7], 0) == "7 (7 … 7)"


def test_numbers_stand_to_the_right_in_markdown():
    text = markdown(["case", "kind", "s"], [["a", "b", "1.0"]], num_names=2)
    assert text == "| case | kind | s |\n| --- | --- | ---: |\n| a | b | 1.0 |\n"


def test_a_result_is_written_as_json_or_as_the_table(capsys):
    result = {"seconds": [1, 2]}
    write(result, True, table=lambda _: "never")
    assert json.loads(capsys.readouterr().out) == result
    write(result, False, table=lambda r: f"{r['seconds'][0]} s\n")
    assert capsys.readouterr().out == "1 s\n"
