"""``python -m tools.compare_runs``: the table of experiments, and runs query by query."""

import csv
import json
import os
import re
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import train
from base.config import resolve_config
from evaluation.ranks_file import write_ranks
from evaluation.scores import T2V, V2T, score_similarity
from parse_config import load_config
from tests.conftest import ROOT
from tests.evaluation.scored_matrices import queries
from tests.test_test import script
from tools import compare_runs as command
from utils.files import write_json

CAPTIONS = [f"text {number}" for number in range(12)]


@pytest.fixture
def ended(run_main):
    """Return a function that runs the command here; it gives the exit code, stdout and stderr."""
    return partial(run_main, command)


@pytest.fixture
def make_run(make_config, tmp_path):
    """Return a function: folder, quality of its matrix, changes -> the folder of a tested run."""

    def make(name, good=None, *changes, captions=CAPTIONS, settings=True):
        folder = tmp_path / name
        folder.mkdir()
        if settings:
            write_json(folder / "config.json", resolve_config(make_config(*changes)))
        if good is not None:
            rng = np.random.default_rng(len(name))
            matrix = rng.random((len(captions), len(captions))) + good * np.eye(len(captions))
            scores = score_similarity(matrix, queries(captions))
            found = {**scores.metrics, "equal_captions": {}, "num_captions": len(captions)}
            found |= {"num_videos": len(captions), "annotation_file": "x/made_up.json"}
            write_json(folder / "metrics.json", found)
            write_ranks(folder / "ranks.csv", scores)
        return folder

    return make


def values_of(folder, metric=T2V, key="R1"):
    return json.loads((folder / "metrics.json").read_text())[metric][key]


def table_of(out):
    """The rows of the table: the words of each line up to the first empty one."""
    return [line.split("  ") for line in out.split("\n\n")[0].splitlines()]


def test_seeds_are_one_line_with_mean_and_sample_deviation(make_run, ended, tmp_path):
    seeds = [make_run(f"run{'x' * n}", 0.3 + 0.2 * n, f"seed={n}", f"name=try_{n}")
             for n in range(3)]  # fmt: skip
    slow = make_run("slow", 0.1, "optimizer.args.lr=1e-6", "optimizer.args.eps=1e-5")
    code, out, err = ended(slow, *seeds, "--json", tmp_path / "t.json", "--csv", tmp_path / "t.csv")
    assert (code, err) == (0, "")
    found = [values_of(folder) for folder in seeds]
    mean, spread = statistics.fmean(found), statistics.stdev(found)
    head, first, second = out.splitlines()[:3]
    assert head.split()[:4] == ["lr", "eps", "n", "seeds"]  # the keys that differ, no others
    assert first.split()[:7] == ["1", "0.0005", "1e-06", "3", "0", "1", "2"]
    assert f"{mean:.2f} ± {spread:.2f}" in first
    assert second.split()[:5] == ["2", "1e-06", "1e-05", "1", "0"] and "±" not in second
    assert "  lr: optimizer.args.lr" in out.splitlines()
    assert "tested on made_up.json, 12 captions, 12 videos" in out
    kept = json.loads((tmp_path / "t.json").read_text())["experiments"]
    assert kept[0]["metrics"]["t2v_metrics.R1"] == {"mean": mean, "std": spread, "n": 3}
    assert kept[1]["metrics"]["v2t_metrics.R50"]["std"] is None
    assert [run["name"] for run in kept[0]["runs"]] == ["try_0", "try_1", "try_2"]
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["t2v_metrics.R1"]) == mean and rows[1]["t2v_metrics.R1 std"] == ""
    assert [row["optimizer.args.lr"] for row in rows] == ["0.0005", "1e-06"]
    assert float(rows[0]["v2t_metrics.MeanR std"]) == pytest.approx(
        statistics.stdev(values_of(folder, V2T, "MeanR") for folder in seeds)
    )


def test_the_best_first_and_untested_runs_last(make_run, ended):
    folders = [
        make_run("a", 0.1, "optimizer.args.lr=1e-3"),
        make_run("b", None, "optimizer.args.lr=1e-2"),
        make_run("c", 5.0, "optimizer.args.lr=1e-4"),
    ]
    code, out, _ = ended(*folders)
    assert code == 0 and [line.split()[1] for line in out.splitlines()[1:4]] == [
        "0.0001", "0.001", "0.01"
    ]  # fmt: skip
    last = out.splitlines()[3].split()
    assert last[2:4] == ["0", "0"] and set(last[4:]) == {"-"}
    assert f"{folders[1]}  (name demo_fusion; seed 0; NOT TESTED: no metrics.json" in out


def test_an_untested_run_of_tested_ones_does_not_count(make_run, ended):
    folders = [make_run("a", 1.0, "seed=1"), make_run("b", None, "seed=2")]
    code, out, _ = ended(*folders)
    assert code == 0 and out.splitlines()[1].split()[:4] == ["1", "1", "1", "2"]
    assert f"{folders[1]}  (name demo_fusion; seed 2; NOT TESTED" in out


def test_several_test_sets_are_never_averaged(make_run, ended):
    folders = [make_run("a", 1.0), make_run("b", 1.0, "seed=1", captions=CAPTIONS[:9])]
    code, out, _ = ended(*folders)
    assert code == 0 and "±" not in out
    assert f"{folders[1]}  (name demo_fusion; seed 1; tested on made_up.json, 9 captions" in out


def test_metrics_of_ones_own_and_without_configuration(make_run, ended):
    one, other = make_run("a", 1.0, 'metrics=["t2v_metrics"]'), make_run("b", 1.0, settings=False)
    metrics = json.loads((one / "metrics.json").read_text()) | {"note": "shuffled"}
    write_json(one / "metrics.json", metrics)
    code, out, _ = ended(one, other)
    assert code == 0 and f"{other}  (no config.json)" in out and "shuffled)" in out
    config = json.loads((one / "config.json").read_text())
    write_json(one / "config.json", config | {"metrics": ["t2v_metrics", "mine"]})
    write_json(one / "metrics.json", metrics | {"mine": {"MRR": 0.25}})
    code, out, _ = ended(one)
    assert code == 0 and "mine MRR" in out and "0.25" in out


def test_loaders_of_a_list_and_keys_of_equal_ends(make_run, ended):
    one = make_run("a", 1.0)
    config = json.loads((one / "config.json").read_text())
    loader = config["data_loader"]
    for name, words in (("b", 7), ("c", 9)):
        folder = make_run(name, 1.0)
        other = json.loads(json.dumps(loader))
        other["args"]["ocr_params"]["max_words"] = words
        write_json(folder / "config.json", config | {"data_loader": [loader, other]})
    code, out, _ = ended(one.parent / "b", one.parent / "c")
    assert code == 0 and "max_words: data_loader.1.args.ocr_params.max_words" in out
    keys = ["a.x.lr", "b.x.lr", "c.eps", "lr"]
    assert command.shorten_keys(keys) == {
        "a.x.lr": "a.x.lr", "b.x.lr": "b.x.lr", "c.eps": "eps", "lr": "lr"
    }  # fmt: skip


def test_a_bad_folder_does_not_end_the_table_of_the_others(make_run, ended, tmp_path):
    good = make_run("good", 1.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    broken = make_run("broken", 1.0)
    (broken / "metrics.json").write_text("{")
    other = make_run("other", 1.0)
    write_json(other / "metrics.json", {"t2v": 3})
    names = ("gone", "empty", "file", "broken", "other")
    code, out, err = ended(good, *(tmp_path / name for name in names))
    assert code == 2 and f"{values_of(good):.2f}" in out and f"{good}  (" in out
    assert err.splitlines() == [
        f"{tmp_path}/gone: no such folder",
        f"{tmp_path}/empty: is no run, it has neither config.json nor metrics.json",
        f"{tmp_path}/file: is a file; name the folder of a run",
        next(line for line in err.splitlines() if f"{broken}/metrics.json: is no JSON (" in line),
        f"{other}/metrics.json: holds no metrics as test.py writes them",
    ]
    assert ended(tmp_path / "gone")[:2] == (2, "")


def test_paired_compares_each_run_with_the_first(make_run, ended, tmp_path):
    folders = [make_run(name, good) for name, good in (("a", 0.2), ("bb", 2.0), ("ccc", 0.5))]
    options = ("--paired", "--resamples", 200, "--json", tmp_path / "t.json")
    code, out, err = ended(*folders, *options)
    assert (code, err) == (0, "") and out.count(f"first: {folders[0]}") == 4
    assert out.count(f"second: {folders[1]}") == 2 and "t2v, 12 queries" in out
    assert "one right video; 200 resamples" in out and "McNemar's exact test: p " in out
    first, second = json.loads((tmp_path / "t.json").read_text())["paired"]
    assert (first["second"], second["second"]) == (str(folders[1]), str(folders[2]))
    row = first["t2v"]["metrics"]["R1"]
    assert row["first"] == values_of(folders[0]) and row["second"] == values_of(folders[1])
    assert row["difference"] == row["second"] - row["first"] > 0
    assert ended(*folders, *options)[1] == out  # seeded
    assert "equal captions count" in ended(*folders, *options, "--equal_captions")[1]


def test_paired_refuses_other_queries_and_missing_ranks(make_run, ended, tmp_path):
    one, other = make_run("a", 1.0), make_run("b", 1.0, captions=[*CAPTIONS[:11], "another"])
    code, out, err = ended(one, other, "--paired")
    assert code == 2 and "t2v R1" in out.splitlines()[0]  # the table all the same
    assert f"{one}/ranks.csv and {other}/ranks.csv can't be compared query by query (t2v)" in err
    assert 'query 11 is "11.mp4 text 11" in the first and "11.mp4 another" in the second' in err
    (other / "ranks.csv").unlink()
    code, _, err = ended(one, other, "--paired")
    assert code == 2 and err.startswith(f"{other}/ranks.csv: no such file")
    code, _, err = ended(one, "--paired")
    assert code == 2 and "--paired needs two runs or more" in err
    code, out, err = ended(one, tmp_path / "gone", "--paired")
    assert code == 2 and "first:" not in out and "gone: no such folder" in err


def test_the_files_of_score_matrix(make_run, ended):
    folders = [make_run(name, good) for name, good in (("a", 0.2), ("bb", 2.0))]
    for folder in folders:
        (folder / "metrics.json").rename(folder / "m.metrics.json")
        (folder / "ranks.csv").rename(folder / "m.ranks.csv")
    code, out, _ = ended(*folders, "--metrics", "m.metrics.json", "--paired", "--resamples", 50)
    assert code == 0 and "v2t, 12 queries" in out and "NOT TESTED" not in out


def test_the_command_as_it_is_called(make_run):
    folder = make_run("a", 1.0)
    words = [sys.executable, "-m", "tools.compare_runs", folder]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{values_of(folder):.2f}" in done.stdout


@pytest.fixture
def sweep(tmp_path):
    """Return a function that runs README's loop with a ``python`` that only notes its words."""
    [loop] = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(loop.splitlines()) == 9
    (tmp_path / "work_dirs/sweep/lr1e-5_seed0").mkdir(parents=True)

    def run(fails_at=""):
        notes, stub = tmp_path / "notes", tmp_path / "python"
        notes.write_text("")
        fail = f'case "$*" in {fails_at}*) exit 3;; esac' if fails_at else ""
        stub.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n{fail}\n')
        stub.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        words = ["bash", "-uc", loop]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.stderr == ""
        return [line.split() for line in notes.read_text().splitlines()]

    return run


def test_the_sweep_of_the_readme_gives_commands_that_are_understood(sweep, monkeypatch):
    *jobs, table = sweep()
    assert len(jobs) == 18 and table[:2] == ["-m", "tools.compare_runs"]
    assert command.parse_arguments(table[2:]).runs == [Path("work_dirs/sweep/lr1e-5_seed0")]
    folders = set()
    for training, testing in zip(jobs[::2], jobs[1::2], strict=True):
        monkeypatch.setattr(sys, "argv", training)
        arguments = train.parse_arguments()
        assert arguments.resume == "auto" and (ROOT / arguments.config).is_file()
        config = load_config(ROOT / arguments.config, arguments.overrides)
        assert f"lr{config.optimizer.args.lr:.0e}".replace("e-0", "e-") in arguments.run_dir
        folders.add(arguments.run_dir)
        monkeypatch.setattr(sys, "argv", testing)
        tested = script.parse_arguments()
        assert tested.resume == Path(arguments.run_dir, "model_best.pth")
        assert tested.sim_path.parent == Path(arguments.run_dir)
    assert len(folders) == 9


def test_the_sweep_of_the_readme_ends_where_a_run_does(sweep):
    *jobs, table = sweep(fails_at="test.py")
    assert [job[0] for job in jobs] == ["train.py", "test.py"] and "tools.compare_runs" in table
