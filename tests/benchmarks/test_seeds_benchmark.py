"""``benchmarks.seeds``: which seeds, what is not run again, and the table."""

import json
import shutil
import sys

import pytest

from benchmarks import seeds
from tests.conftest import tiny
from utils.errors import UserError


def test_seeds_are_numbers_and_ranges():
    assert seeds.parse_seeds("0-3,7,2,9-10") == [0, 1, 2, 3, 7, 9, 10]
    for text in ("", "a", "3-1", "1,,2", "-1"):
        with pytest.raises(UserError, match="--seeds"):
            seeds.parse_seeds(text)


@pytest.fixture(scope="module")
def done(demo, tmp_path_factory):
    """A seed that was run, of a tiny configuration."""
    folder = tmp_path_factory.mktemp("seeds")
    return folder, seeds.run_seed(folder / "seed_3", FUSION, [*tiny(demo), "seed=3"], demo)


FUSION = "configs/demo/fusion.json"


def test_a_seed_is_trained_and_tested(done):
    folder, result = done
    run = folder / "seed_3"
    assert json.loads((run / "config.json").read_text())["seed"] == 3
    metrics = json.loads((run / "metrics.json").read_text())
    assert result["R1"] == metrics["t2v_metrics"]["R1"] and 0 <= result["right_word"] <= 100
    assert 0 < result["attention_ocr"] < 1 and result["train_seconds"] > 0


def test_a_seed_that_is_done_is_not_run_again(done, demo, monkeypatch):
    folder, result = done
    monkeypatch.setattr(seeds, "run_command", lambda *words: pytest.fail(f"ran {words}"))
    changes = [*tiny(demo), "seed=3"]
    assert seeds.run_seed(folder / "seed_3", FUSION, changes, demo) == result
    with pytest.raises(UserError, match="a run of another configuration; give another --out"):
        seeds.run_seed(folder / "seed_3", FUSION, [*changes, "optimizer.args.lr=1e-4"], demo)


def test_a_seed_that_was_begun_goes_on(done, demo, tmp_path, monkeypatch):
    folder, result = done
    shutil.copytree(folder / "seed_3", tmp_path / "seed_3")
    (tmp_path / "seed_3" / seeds.RESULT).unlink()
    commands = []
    monkeypatch.setattr(seeds, "run_command", lambda *words: commands.append(words))
    again = seeds.run_seed(tmp_path / "seed_3", FUSION, [*tiny(demo), "seed=3"], demo)
    assert [words[0] for words in commands] == ["train.py", "test.py"]
    assert commands[0][1:5] == ("-r", "auto", "-c", FUSION)
    assert again | {"train_seconds": 0} == result | {"train_seconds": 0}


def test_the_table_has_every_seed_mean_and_range(done, monkeypatch, tmp_path, capsys):
    row = {"right_look": 80.0, "right_word": 90.0, "R1": 75.0, "R5": 99.0}
    row |= {"attention_ocr": None, "train_seconds": 60.0}
    rows = {number: row | {"R1": value} for number, value in enumerate((75.0, 81.0, 90.0))}

    def run_seed(folder, *rest):
        return rows[int(folder.name.removeprefix("seed_"))]

    monkeypatch.setattr(seeds, "run_seed", run_seed)
    monkeypatch.setattr(seeds, "run_command", lambda *words: None)
    monkeypatch.setattr(sys, "argv", ["seeds", "--seeds", "0-2", "--out", str(tmp_path)])
    seeds.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mean", "82.00", "99.00", "80.00", "90.00", "-", "60"] in lines
    assert [line[1] for line in lines if line and line[0] in ("least", "greatest")] == [
        "75.00", "90.00",
    ]  # fmt: skip
    assert json.loads((tmp_path / "seeds.json").read_text())["seeds"]["2"]["R1"] == 90.0


def test_the_courses_are_drawn(done, tmp_path):
    pytest.importorskip("matplotlib")
    folder, row = done
    result = {"seeds": {"3": row}, "config": FUSION, "date": "2026-11-26"}
    seeds.plot_courses({"3": folder / "seed_3"}, result, tmp_path / "new" / "courses.png")
    assert (tmp_path / "new" / "courses.png").read_bytes().startswith(b"\x89PNG")
