"""The pieces of a report's page: escaping, plots, tables and what is kept for the next page."""

import json
import math
import re
import time

import numpy as np
import pytest

from tests.report_reader import ReportReader
from utils.report.cache import Cache, array_sum, fingerprint
from utils.report.comparison import PRINTED, difference_text
from utils.report.contents import Attention, Contents, Example, Hit, RunFacts
from utils.report.history import key_title, points_of, read_history, shown_keys
from utils.report.markup import tag
from utils.report.metrics import COLUMNS
from utils.report.page import SHUFFLED, report_page
from utils.report.plots import Line, histogram_plot, line_plot, ticks
from utils.report.queries import FEW_WORDS
from utils.report.style import STYLE

EVIL = '<script>alert("x")</script>&amp;\' \u202e \ud800'
ONE = "Text to video, one right video a caption, as published"
EQUAL = "Video to text, every video with an equal caption is right"
SHOWN = EVIL.replace("\ud800", "?")


def metric(start: float) -> dict[str, float]:
    return {key: start + number for number, key in enumerate(COLUMNS)}


def facts(letter: str = "A", **changes) -> RunFacts:
    """A run of three captions and two videos."""
    both = {"t2v_metrics": metric(1.25), "v2t_metrics": metric(11.25)}
    best = {"t2v_metrics": metric(50.125), "v2t_metrics": metric(60.5)}
    equal = {"t2v_metrics": metric(21.5), "v2t_metrics": metric(31.5)}
    scores = {
        **both,
        "equal_captions": equal | {"shared_captions": 0},
        "best_possible": best | {"equal_captions": {name: metric(90) for name in both}},
        "intervals": {
            "one_right_video": {"t2v_metrics": (0.5, 3.25), "v2t_metrics": (9.0, 12.75)},
            "equal_captions": {"t2v_metrics": (20.0, 24.0), "v2t_metrics": (30.0, 35.0)},
            "level": 95.0,
            "resamples": 1000,
        },
        "breakdown": {"category": {EVIL: {"count": 3, "R1": 1, "R5": 2, "R10": 3, "MedR": 4}}},
    }
    values = {
        "name": f"run {EVIL}",
        "folder": "runs/1",
        "modalities": ("vision", "ocr"),
        "checkpoint": "model_best.pth",
        "history": [{"epoch": 1, "loss_0": 2.5, "val_0_t2v_metrics_R1": 12.5}],
        "scores": scores,
        "histogram": {"edges": [-0.5, 0.0, 0.5], "right": [1, 2], "wrong": [3, 0]},
        "ranks": [1.0, 2.0, 1.5],
        "annotation_file": "test.json",
    }
    return RunFacts(letter, **values | changes)


def contents(*runs: RunFacts, words: tuple[str, ...] = (EVIL, "sale"), **changes) -> Contents:
    shares = [0.5 / max(1, len(words))] * max(1, len(words))
    attention = Attention(0.2, 0.3, words, shares)
    example = Example(0, 0.125, [Hit(1, 0.25, False), Hit(0, 0.125, True)], attention)
    values = {
        "runs": runs or (facts(),),
        "captions": [EVIL, "two", "three"],
        "video_of_query": [0, 1, 1],
        "ids": [EVIL, "b.mp4"],
        "best": [example],
        "worst": [],
        "thumbnails": {0: b"JPEG", 1: None},
        "made": "Made today.",
    }
    return Contents(**values | changes)


def test_texts_from_data_stay_texts():
    page = report_page(contents(facts(), facts("B")))
    read = ReportReader(page)
    assert [name for name, _, _ in read.elements].count("script") == 1
    assert page.lower().count("<script") == page.lower().count("</script") == 1
    assert SHOWN in read.texts("h3")  # the caption
    assert any(text.startswith(SHOWN) for text in read.texts("li", "word"))
    assert page.encode()  # no lone surrogate is left
    assert tag("a", "x", title=EVIL).count('"') == 2


def test_attributes_and_nested_html():
    inner = tag("b", "1 < 2")
    assert tag("p", inner, None, 3, class_="x", data_a=1, b=True, c=None) == (
        '<p class="x" data-a="1" b><b>1 &lt; 2</b>3</p>'
    )


def test_every_metric_is_the_runs_own():
    runs = facts(), facts("B")
    tables = ReportReader(report_page(contents(*runs))).tables()
    for direction, truth, caption in (
        ("t2v_metrics", "one_right_video", ONE),
        ("v2t_metrics", "equal_captions", EQUAL),
    ):
        scores, rows = runs[0].scores, tables[caption]
        values = scores[direction] if truth == "one_right_video" else scores[truth][direction]
        low, high = scores["intervals"][truth][direction]
        assert rows[0] == ["run", "R@1", "R@1, interval", *list(COLUMNS.values())[1:]]
        first, *others = (f"{values[key]:.2f}" for key in COLUMNS)
        assert rows[1][1:] == [first, f"{low:.2f}–{high:.2f}", *others]
        best = scores["best_possible"]
        best = best[direction] if truth == "one_right_video" else best[truth][direction]
        assert [cell for cell in rows[3][1:] if cell] == [f"{best[key]:.2f}" for key in COLUMNS]


def test_a_query_says_ranks_scores_and_attention():
    vision = facts("B", modalities=("vision",), ranks=[7.0, 1.0, 1.0])
    read = ReportReader(report_page(contents(facts(), vision)))
    ranks = read.texts("ul", "ranks")
    assert "rank in A (vision and ocr): 1rank in B (vision): 7similarity: 0.125" in ranks
    assert read.texts("ol", "top") == ["can't be read0.250\u2713 0.125"]
    assert read.texts("li", "is-right") == ["\u2713 0.125"]
    (said,) = [text for text in read.texts("p") if text.startswith("Attention")]
    assert said.replace("\u00a0", " ") == (
        "Attention: query token 20.0 %, video feature 30.0 %, 2 words 50.0 %"
    )
    assert {text[-6:] for text in read.texts("li", "word")} == {"25.0\u00a0%"}


@pytest.mark.parametrize(("count", "hidden"), [(0, 0), (1, 0), (FEW_WORDS + 5, 5)])
def test_many_words_are_shown_on_demand_and_none_is_said(count: int, hidden: int):
    page = report_page(contents(words=tuple(f"w{i}" for i in range(count))))
    assert len(ReportReader(page).texts("li", "word")) == count
    assert (f"{hidden} more words" in page) == bool(hidden)
    assert ("No word was read" in page) == (count == 0)


def test_a_thumbnail_is_there_once():
    page = report_page(contents())
    assert page.count("data:image/jpeg") == 1
    assert page.count('class="thumb v0"') == 2  # its own video, and found second


def test_queries_side_by_side():
    runs = facts(), facts("B", ranks=[1.0, 9.0, 1.0]), facts("C", ranks=[3.0, 2.0, 1.5])
    tables = ReportReader(report_page(contents(*runs))).tables()
    rows = tables["Every query"]
    assert rows[0][2:] == ["rank in A", "rank in B", "rank in C", "B − A", "C − A"]
    assert [row[0] for row in rows[1:]] == ["two", SHOWN, "three"]  # differences 7, 2, 0.5
    assert rows[1][2:] == ["2", "9", "2", "+7", "0"]
    assert rows[2][2:] == ["1", "1", "3", "0", "+2"]
    assert rows[3][2:] == ["1.5", "1", "1.5", "−0.5", "0"]
    (summary,) = [rows for name, rows in tables.items() if name.startswith("Queries, compared")]
    assert [row[1:] for row in summary[1:]] == [
        ["1", "1", "1", "1", "0"],
        ["0", "1", "2", "0", "1"],
    ]
    assert f"nth-child(n+{PRINTED + 1})" in STYLE


def test_shuffled_files_are_marked():
    page = report_page(contents(facts(), facts("B", shuffled=True)))
    assert f"Run B: {SHUFFLED}" in page and SHUFFLED not in report_page(contents())


@pytest.mark.parametrize(("change", "text"), [(0.0, "0"), (-0.5, "−0.5"), (12.0, "+12")])
def test_differences_have_their_sign(change: float, text: str):
    assert difference_text(change) == text


@pytest.mark.parametrize(
    ("low", "high", "whole"),
    [(0, 1, False), (1, 300, True), (1, 2, True), (-0.31, 0.02, False), (99.5, 100, False),
     (1e-7, 3e-7, False)],
)  # fmt: skip
def test_ticks_are_round_and_within(low: float, high: float, whole: bool):
    found = ticks(low, high, whole=whole)
    assert 1 < len(found) <= 9
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    assert np.allclose(np.diff(found), found[1] - found[0])
    assert not whole or all(value == int(value) for value in found)


def test_a_line_goes_through_its_points():
    points = [(1, 4.0), (2, math.nan), (3, 0.0), (5, 2.0)]
    plot = line_plot("loss", [Line(0, "A", points), Line(1, "B", [(3, 1.0)])])
    ReportReader(plot)
    line = re.findall(r'points="([^"]*)"', plot)[0]
    places = [tuple(map(float, place.split(","))) for place in line.split()]
    (x1, y1), (x3, y3), (x5, y5) = places  # NaN is left out
    assert x3 == pytest.approx((x1 + x5) / 2) and y5 == pytest.approx((y1 + y3) / 2)
    assert y1 < y5 < y3  # upwards is less
    for said in ("A, epoch 1: 4", "A, epoch 5: 2", "B, epoch 3: 1", "last values: A: 2; B: 1"):
        assert said in plot
    assert "no finite value" in line_plot("loss", [Line(0, "A", [(1, math.inf)])])
    assert "last values: A: 7" in line_plot("one", [Line(0, "A", [(1, 7.0)])])


def test_a_histogram_is_as_high_as_its_shares():
    plot = histogram_plot("A", [0.0, 1.0, 2.0], [1, 3], [8, 0])
    wrong, right = (
        [tuple(map(float, place.split(","))) for place in points.split()]
        for points in re.findall(r'points="([^"]*)"', plot)
    )
    base, full = wrong[0][1], wrong[1][1]  # 0 % and 100 %
    assert right[1][1] == pytest.approx(base + 0.25 * (full - base), abs=0.01)
    assert right[3][1] == pytest.approx(base + 0.75 * (full - base), abs=0.01)
    assert "4 right and of 8 wrong" in plot
    assert "0 right" in histogram_plot("A", [0, 1], [0], [4])


def test_the_history_is_read_and_what_is_cut_is_said(tmp_path):
    assert read_history(tmp_path)[0] == [] and "no metrics.jsonl" in read_history(tmp_path)[1][0]
    lines = ['{"epoch": 1, "loss": 2.0, "lr": 1}', '{"epoch": 2, "loss": NaN}', "[]", '{"epo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    history, notes = read_history(tmp_path)
    assert len(history) == 2 and notes[0].startswith("2 lines")
    assert shown_keys([facts(history=history)]) == ["loss"]
    assert points_of([{"epoch": 1, "a": 2}, {"epoch": 2, "a": "x"}, {"epoch": 3}], "a") == [(1, 2)]
    assert key_title("val_2_t2v_metrics_R10") == "R@10, text to video, validation set 2 (%)"


def test_what_is_kept_holds_for_its_key_alone(tmp_path):
    file, matrix = tmp_path / "model.pth", np.eye(3, dtype=np.float32)
    file.write_bytes(b"one")
    cache = Cache(tmp_path / "report", [fingerprint(file)])
    assert cache.read("x") is None and cache.read_matrix("m", array_sum(matrix)) is None
    cache.write("x", {"a": [1]})
    cache.write_matrix("m", matrix)
    assert cache.read("x") == {"a": [1]}
    assert np.array_equal(cache.read_matrix("m", array_sum(matrix)), matrix)
    assert cache.read_matrix("m", array_sum(matrix + 1)) is None
    assert Cache(cache.folder, [fingerprint(file)], fresh=True).read("x") is None
    time.sleep(0.01)
    file.write_bytes(b"two")
    assert Cache(cache.folder, [fingerprint(file)]).read("x") is None
    (cache.folder / "x.json").write_text(json.dumps({"key": cache.key})[:-4])
    (cache.folder / "m.npy").write_bytes(b"\x93NUMPY")
    assert cache.read("x") is None and cache.read_matrix("m", array_sum(matrix)) is None


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path, caplog):
    blocked = tmp_path / "report"
    blocked.write_text("a file where the folder should be")
    cache = Cache(blocked, [])
    cache.write("x", {})
    cache.write_matrix("m", np.eye(2))
    assert caplog.text.count("not kept for the next report") == 2
