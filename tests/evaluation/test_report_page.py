"""``python -m tools.report`` on real runs, and its page in a real browser."""

import json
import logging
import runpy
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from headless_browser import browser_page, find_browser

from base.config import resolve_config
from evaluation.evaluator import Evaluator
from tests.evaluation.report_reader import ReportReader, classes
from tests.videos import truncate
from tools import report as command
from trainer.build import build_trainer
from utils.cli import run_cli
from utils.precision import Precision
from utils.ranking import compute_t2v_ranks
from utils.run_dir import describe_run

KINDS = ("fusion", "vision", "ocr")
EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="no chromium or chrome on PATH: the page is not looked at"
)


@pytest.fixture(scope="module")
def runs(make_config, tmp_path_factory) -> dict[str, Path]:
    """A trained run of each kind, one epoch each. Copied where a test changes it."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        run = folder / kind
        run.mkdir()
        config = make_config(kind=kind)
        trainer = build_trainer(config, run, torch.device("cpu"), resolve_config(config))
        describe_run(run, resolve_config(config), ["train.py"])
        trainer.fit()
    return {kind: folder / kind for kind in KINDS}


def run_command(*arguments: object) -> int:
    """Run the command in this process; returns its exit code."""
    before = sys.argv
    sys.argv = ["report", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as caught:
            run_cli(command.main)
    finally:
        sys.argv = before
        logging.captureWarnings(False)
    return caught.value.code


@pytest.fixture(scope="module")
def evil_demo(demo, tmp_path_factory) -> Path:
    """The demo with markup in captions and OCR words, and a video that can't be read."""
    data = Path(shutil.copytree(demo, tmp_path_factory.mktemp("evil") / "demo"))
    file = data / "TextVR_test.json"
    entries = json.loads(file.read_text())
    entries[0]["captions_info"][0]["caption"] = EVIL
    file.write_text(json.dumps(entries))
    for document in (data / "Kwai_VideoOCR").rglob("*.json"):
        lines = json.loads(document.read_text())
        for line in lines.values():
            line["text"] = "<script>alert(1)</script> \"onload='x'\" " + line["text"]
        document.write_text(json.dumps(lines))
    return data


@pytest.fixture(scope="module")
def page(runs, evil_demo, tmp_path_factory) -> Path:
    """The page of the three runs on the demo with markup in its texts."""
    out = tmp_path_factory.mktemp("page") / "sub" / "page.html"
    data = f"data_loader.args.data_dir={evil_demo}"
    assert run_command(*runs.values(), "--out", out, "--set", data, "--queries", 3) == 0
    return out


def read_cache(run: Path, name: str) -> dict:
    return json.loads((run / "report" / f"{name}.json").read_text())["value"]


def test_the_page_says_what_was_computed(page, runs, evil_demo):
    text = page.read_text()
    assert "8 captions, 8 videos; queries: one caption a video." in text
    read = ReportReader(text)
    found = [read_cache(run, "evaluation")["results"] for run in runs.values()]
    entries = json.loads((evil_demo / "TextVR_test.json").read_text())
    captions = [info["caption"] for entry in entries for info in entry["captions_info"]]
    assert found[0]["captions"] == captions and EVIL in captions
    ranks = []
    arguments = ["--set", f"data_loader.args.data_dir={evil_demo}"]
    for value, run in zip(found, runs.values(), strict=True):
        opened = command.EvaluatedRun(run, command.parse_arguments([str(run), *arguments]))
        precision = Precision("fp32", opened.device)
        evaluator = Evaluator(opened.config.metrics, opened.criterion, precision)
        matrix = evaluator.run(opened.model, opened.build_loader()).similarity
        rows, own = np.arange(len(captions)), np.array(value["video_of_query"])
        ranks.append(compute_t2v_ranks(matrix, rows, own))
        assert value["ranks"] == ranks[-1].tolist()
        assert value["own_scores"] == matrix[rows, own].tolist()
        assert value["top"] == [
            [[video, scores[video]] for video in np.argsort(-scores, kind="stable")[:5].tolist()]
            for scores in matrix
        ]
    shown = {row[0]: row[2:5] for row in read.tables()["Every query"][1:]}
    for number, caption in enumerate(captions):
        expected = [f"{own[number]:.1f}".removesuffix(".0") for own in ranks]
        assert captions.count(caption) > 1 or shown[caption] == expected
    rows = read.tables()["Text to video, one right video a caption, as published"]
    for row, value in zip(rows[1:], found, strict=False):
        assert row[1] == f"{value['scores']['t2v_metrics']['R1']:.2f}"
    assert len(text) < 400_000


def test_history_and_attention_on_the_page_are_those_of_the_run(page, runs):
    read = ReportReader(page.read_text())
    for kind, table in zip(KINDS, list(read.tables().values())[:3], strict=True):
        (epoch,) = map(json.loads, (runs[kind] / "metrics.jsonl").read_text().splitlines())
        assert table[1][1] == f"{epoch['loss_0']:.6g}" and table[1][0] == "1"
    own = read_cache(runs["fusion"], "evaluation")["results"]["video_of_query"]
    attention = read_cache(runs["fusion"], "attention")
    assert attention.keys() <= {str(video) for video in own} and attention
    words = sorted(
        f"{word} {100 * share:.1f}\u00a0%"
        for item in attention.values()
        for word, share in zip(item["words"], item["shares"], strict=True)
    )
    assert set(read.texts("li", "word")) == set(words)
    for item in attention.values():
        assert item["query_token"] + item["video"] + sum(item["shares"]) == pytest.approx(1)


def test_markup_in_captions_and_words_stays_text(page):
    read = ReportReader(page.read_text())
    names = [name for name, _, _ in read.elements]
    assert names.count("script") == 1 and "img" not in names
    assert not any(key.startswith("on") for _, attributes, _ in read.elements for key in attributes)
    assert any("<script>" in text for text in read.texts("li", "word"))
    assert EVIL in [text for row in read.tables()["Every query"] for text in row]


def test_thumbnails_are_pictures_and_each_is_there_once(page):
    text = page.read_text()
    read = ReportReader(text)
    used = {c for _, a, _ in read.elements for c in classes(a) if c[0] == "v" and c[1:].isdigit()}
    assert used and all(text.count(f".{name}{{background-image") == 1 for name in used)
    assert text.count("data:image/jpeg;base64,/9j/") == len(used)
    assert all(a["aria-label"] for _, a, _ in read.elements if a.get("role") == "img")


def test_a_second_page_needs_neither_model_nor_data(runs, demo, tmp_path, monkeypatch):
    run = Path(shutil.copytree(runs["fusion"], tmp_path / "run"))
    assert run_command(run, "--queries", 2) == 0
    first = (run / "report.html").read_text()
    monkeypatch.setattr(command, "build_model", None)
    monkeypatch.setattr(command, "build_loader", None)
    assert run_command(run, "--queries", 2, "--out", tmp_path / "again.html") == 0
    body = (
        text.partition("<footer>")[0] for text in (first, (tmp_path / "again.html").read_text())
    )
    assert len(set(body)) == 1
    monkeypatch.setattr(sys, "argv", ["report", str(run)])
    file = run / "report/evaluation.json"
    content = file.read_text()
    changed = json.loads(content)
    changed["value"]["file"][1] += 1
    file.write_text(json.dumps(changed))
    with pytest.raises(TypeError):  # the annotation file has another size: it is tested anew
        command.main()
    file.write_text(content)
    time.sleep(0.01)
    (run / "model_best.pth").touch()
    with pytest.raises(TypeError):  # another checkpoint
        command.main()


def test_a_shuffled_test_file_and_a_broken_video_are_marked(runs, demo, tmp_path):
    data = Path(shutil.copytree(demo, tmp_path / "demo"))
    shutil.copy(data / "TextVR_test.json", data / "TextVR_test_rand.json")
    first = json.loads((data / "TextVR_test.json").read_text())[0]["path"]
    (video,) = data.rglob(Path(first).name)
    truncate(video, video, 0.3)
    changes = (f"data_dir={data}", "annotation_file=TextVR_test_rand.json",
               'video_params={"input_res": 64, "num_frames": 2, "loading": "lax"}')  # fmt: skip
    options = [part for change in changes for part in ("--set", f"data_loader.args.{change}")]
    assert run_command(runs["vision"], "--out", tmp_path, *options) == 0
    text = (tmp_path / "report.html").read_text()
    assert "not meaningful" in text and "can't be read" in text
    assert "no fusion layer" in text and "Query by query" not in text


def test_errors_are_one_message(runs, demo, tmp_path, capsys):
    config = (runs["ocr"] / "config.json").read_bytes()
    for name, content in (("empty", None), ("foreign", b"no checkpoint")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(config)
        if content is not None:
            (tmp_path / name / "model_last.pth").write_bytes(content)
    other = Path(shutil.copytree(demo, tmp_path / "demo"))
    entries = json.loads((other / "TextVR_test.json").read_text())
    (other / "TextVR_test.json").write_text(json.dumps(entries[1:]))
    moved = Path(shutil.copytree(runs["ocr"], tmp_path / "moved"))
    text = (moved / "config.json").read_text().replace(str(demo), str(other))
    (moved / "config.json").write_text(text)
    for arguments, message in (
        ([tmp_path / "none"], "no such folder"),
        ([runs["ocr"] / "model_best.pth"], "is a file; name the folder of a run"),
        ([tmp_path], "it has no config.json"),
        ([tmp_path / "empty"], "neither model_best.pth nor model_last.pth"),
        ([tmp_path / "foreign"], "foreign/model_last.pth"),
        ([runs["ocr"], moved], "other captions or videos"),
        ([runs["ocr"], "-d", "99"], "no such GPU"),
    ):
        assert run_command(*arguments, "--out", tmp_path / "page.html") == 2
        lines = [x for x in capsys.readouterr().err.replace("\r", "\n").splitlines()
                 if x and "batch/s" not in x]  # fmt: skip
        assert len(lines) == 1 and message in lines[0], lines
        assert not (tmp_path / "page.html").exists()


def test_the_old_command_runs_the_new_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "none")])
    monkeypatch.delitem(sys.modules, "tools.report")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("utils.report", run_name="__main__")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "python -m utils.report is now python -m tools.report"
    assert caught.value.code == 2 and "no such folder" in second


@needs_browser
def test_the_page_in_a_browser(page, tmp_path):
    with browser_page(tmp_path / "profile") as browser:
        for width, dark in ((360, False), (1280, False), (1280, True)):
            browser.open(page, width, dark=dark)
            browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert browser.value("document.documentElement.scrollWidth") <= width
            clipped = "[...document.querySelectorAll('td, tbody th, p, li, svg, .thumb, h3')]"
            clipped += f".filter(e => e.getBoundingClientRect().right > {width} + 1).length"
            assert browser.value(clipped) == 0
            assert browser.value("document.title").startswith("Report: ")
        assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"
        loaded = "getComputedStyle(document.querySelector('.thumb:not(.none)')).backgroundImage"
        assert browser.value(loaded).startswith('url("data:image/jpeg')
        column = "[...document.querySelectorAll('#compare tbody tr')]"
        column += ".map(r => parseFloat(r.cells[2].dataset.value))"
        button = "document.querySelectorAll('#compare thead button')[2].click()"
        browser.value(button)
        values = browser.value(column)
        assert values == sorted(values, reverse=True) and len(set(values)) > 1
        browser.value(button)
        assert browser.value(column) == sorted(values)
        assert browser.pdf().startswith(b"%PDF")
        assert browser.complaints() == [] and browser.requests() == []
