"""What the benchmarks write alike."""

import json
import statistics

import pytest
import torch

from benchmarks.measuring import (
    describe_machine,
    format_head,
    format_spread,
    format_table,
    run_command,
    run_in_new_process,
    run_module,
    write_result,
)
from utils.errors import UserError


def test_the_head_names_day_machine_and_versions():
    line = format_head(describe_machine())
    assert f"{torch.get_num_threads()} thread(s) of " in line
    assert f"torch {torch.__version__}" in line and line.count("; ") == 2


def test_spread_is_the_median_and_the_range():
    values = [4.0, 1.0, 2.5, 3.0]
    assert format_spread(values, 2) == f"{statistics.median(values):.2f} (1.00 … 4.00)"
    assert format_spread([7], 0) == "7 (7 … 7)"


def test_numbers_stand_to_the_right_in_markdown():
    text = format_table(["case", "kind", "s"], [["a", "b", "1.0"]], num_names=2)
    assert text == "| case | kind | s |\n| --- | --- | ---: |\n| a | b | 1.0 |\n"


def test_a_result_is_written_as_json_or_as_the_table(capsys):
    result = {"seconds": [1, 2]}
    write_result(result, True, table=lambda _: "never")
    assert json.loads(capsys.readouterr().out) == result
    write_result(result, False, table=lambda r: f"{r['seconds'][0]} s\n")
    assert capsys.readouterr().out == "1 s\n"


def test_a_command_gives_the_json_of_its_last_line(tmp_path):
    file = tmp_path / "numbers.json"
    file.write_text('{"seconds":\n 2.5}')
    assert run_module("json.tool", "--compact", file) == {"seconds": 2.5}


def test_a_command_that_fails_is_said():
    with pytest.raises(UserError, match="spot_text.py nowhere .* ended with code 2: .*nowhere"):
        run_command("spot_text.py", "nowhere", "--out", "nowhere_ocr")


def test_a_new_process_gives_back_what_the_function_gives():
    assert run_in_new_process(pow, 2, 5) == 32
    with pytest.raises(ZeroDivisionError):
        run_in_new_process(divmod, 1, 0)
