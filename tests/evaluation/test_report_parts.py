"""Parts of a report: escaping, plots, tables and the cache for the next page."""

import json
import math
import re
import time

import numpy as np
import pytest

from evaluation.examples import WordAttention
from evaluation.report.page import (
    COLUMNS,
    FEW_WORDS,
    PRINTED_ROWS,
    Contents,
    Results,
    RunContents,
    describe_key,
    format_difference,
    get_points,
    list_plotted_keys,
    render_page,
)
from evaluation.report.plots import Curve, choose_ticks, plot_curves, plot_histogram
from tests.evaluation.report_reader import ReportReader
from tools.report import Cache, read_history, stamp_file

EVIL = '<script>alert("x")</script>&amp;\' \u202e \ud800'
ONE = "Text to video, one right video a caption, as published"
EQUAL = "Video to text, every video with an equal caption is right"
SHOWN = EVIL.replace("\ud800", "?")


def metric(start: float) -> dict[str, float]:
    return {key: start + number for number, key in enumerate(COLUMNS)}


def run_contents(letter: str = "A", **changes) -> RunContents:
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
    results = {
        "captions": [EVIL, "two", "three"],
        "ids": [EVIL, "b.mp4"],
        "video_of_query": [0, 1, 1],
        "annotation_file": f"{EVIL}.json",
        "shuffled": False,
        "scores": scores,
        "histogram": {"edges": [-0.5, 0.0, 0.5], "right": [1, 2], "wrong": [3, 0]},
        "ranks": [1.0, 2.0, 1.5],
        "own_scores": [0.125, 0.5, 0.25],
        "margins": [-0.125, 0.0, 0.25],
        "top": [[(1, 0.25), (0, 0.125)], [(1, 0.5), (0, 0.5)], [(1, 0.25), (0, 0.0)]],
    }
    results |= {key: changes.pop(key) for key in results.keys() & changes.keys()}
    values = {
        "name": f"run {EVIL}",
        "folder": f"runs/{EVIL}",
        "modalities": ("vision", "ocr"),
        "checkpoint": "model_best.pth",
        "history": [{"epoch": 1, "loss_0": 2.5, "val_0_t2v_metrics_R1": 12.5}],
        "notes": [f"note {EVIL}"],
        "results": Results(**results),
    }
    return RunContents(letter, **values | changes)


def contents(*runs: RunContents, words: tuple[str, ...] = (EVIL, "sale"), **changes) -> Contents:
    shares = [0.5 / max(1, len(words))] * max(1, len(words))
    attention = WordAttention(0.2, 0.3, words, shares)
    values = {
        "runs": runs or (run_contents(),),
        "best": [0],
        "worst": [],
        "attention": {0: attention},
        "thumbnails": {0: b"JPEG", 1: None},
        "made": f"Made today. {EVIL}",
    }
    return Contents(**values | changes)


def test_texts_from_data_stay_texts():
    page = render_page(contents(run_contents(), run_contents("B")))
    read = ReportReader(page)
    assert [name for name, _, _ in read.elements].count("script") == 1
    assert page.lower().count("<script") == page.lower().count("</script") == 1
    texts = [text for _, _, text in read.elements]
    for place in ("Report: run {}, run {}", "A: run {}", "runs/{}", "{}.json", "note {}", "{}",
                  "Its own video: {}", "Made today. {}", "{}, A"):  # fmt: skip
        assert place.format(SHOWN, SHOWN) in texts, place
    assert any(text.startswith(SHOWN) for text in read.texts("li", "word"))
    names = {value for _, found, _ in read.elements for key, value in found.items()
             if key in ("title", "aria-label")}  # fmt: skip
    assert f"its own video: {SHOWN}" in names
    assert page.encode()  # no lone surrogate is left


def test_every_metric_is_the_runs_own():
    runs = run_contents(), run_contents("B")
    tables = ReportReader(render_page(contents(*runs))).tables()
    for direction, truth, caption in (
        ("t2v_metrics", "one_right_video", ONE),
        ("v2t_metrics", "equal_captions", EQUAL),
    ):
        scores, rows = runs[0].results.scores, tables[caption]
        values = scores[direction] if truth == "one_right_video" else scores[truth][direction]
        low, high = scores["intervals"][truth][direction]
        assert rows[0] == ["run", "R@1", "R@1, interval", *list(COLUMNS.values())[1:]]
        first, *others = (f"{values[key]:.2f}" for key in COLUMNS)
        assert rows[1][1:] == [first, f"{low:.2f}–{high:.2f}", *others]
        best = scores["best_possible"]
        best = best[direction] if truth == "one_right_video" else best[truth][direction]
        assert [cell for cell in rows[3][1:] if cell] == [f"{best[key]:.2f}" for key in COLUMNS]


def test_a_query_says_ranks_scores_and_attention():
    vision = run_contents("B", modalities=("vision",), ranks=[7.0, 1.0, 1.0])
    read = ReportReader(render_page(contents(run_contents(), vision)))
    ranks = read.texts("ul", "ranks")
    assert "rank in A (vision and ocr): 1rank in B (vision): 7similarity: 0.125" in ranks
    assert read.texts("ol", "top") == ["can't be read0.250\u2713 0.125"]
    assert read.texts("li", "is-right") == ["\u2713 0.125"]
    (caption,) = [text for text in read.texts("p") if text.startswith("Attention")]
    assert caption.replace("\u00a0", " ") == (
        "Attention: query token 20.0 %, video feature 30.0 %, 2 words 50.0 %"
    )
    assert {text[-6:] for text in read.texts("li", "word")} == {"25.0\u00a0%"}


@pytest.mark.parametrize(("count", "hidden"), [(0, 0), (1, 0), (FEW_WORDS + 5, 5)])
def test_many_words_are_shown_on_demand_and_no_word_is_mentioned(count: int, hidden: int):
    page = render_page(contents(words=tuple(f"w{i}" for i in range(count))))
    assert len(ReportReader(page).texts("li", "word")) == count
    assert (f"{hidden} more words" in page) == bool(hidden)
    assert ("No word was read" in page) == (count == 0)


def test_a_model_without_attention_says_why():
    assert "does not say what it attends to" in render_page(contents(attention={}))
    vision = contents(run_contents(modalities=("vision",)), attention={})
    assert "no fusion layer: it reads no words" in render_page(vision)


def test_a_thumbnail_is_there_once():
    page = render_page(contents())
    assert page.count("data:image/jpeg") == 1
    assert page.count('class="thumb v0"') == 2  # its own video, and found second


def test_queries_side_by_side():
    runs = (
        run_contents(),
        run_contents("B", ranks=[1.0, 9.0, 1.0]),
        run_contents("C", ranks=[3.0, 2.0, 1.5]),
    )
    page = render_page(contents(*runs))
    tables = ReportReader(page).tables()
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
    assert "Printed:" not in page
    many = [str(number) for number in range(PRINTED_ROWS + 1)]
    long = {"captions": many, "ranks": [1.0] * len(many), "video_of_query": [0] * len(many)}
    page = render_page(contents(run_contents(**long), run_contents("B", **long)))
    assert f"Printed: {PRINTED_ROWS} of {len(many)} queries" in page
    assert f"nth-child(n+{PRINTED_ROWS + 1})" in page  # the style sheet's rule


def test_shuffled_files_are_marked():
    page = render_page(contents(run_contents(), run_contents("B", shuffled=True)))
    assert "<strong>Run B: not meaningful: the test file is shuffled, its captions and" in page
    assert "shuffled, " not in render_page(contents())


@pytest.mark.parametrize(("change", "text"), [(0.0, "0"), (-0.5, "−0.5"), (12.0, "+12")])
def test_differences_have_their_sign(change: float, text: str):
    assert format_difference(change) == text


@pytest.mark.parametrize(
    ("low", "high", "integers"),
    [(0, 1, False), (1, 300, True), (1, 2, True), (-0.31, 0.02, False), (99.5, 100, False),
     (1e-7, 3e-7, False)],
)  # fmt: skip
def test_ticks_are_round_and_within(low: float, high: float, integers: bool):
    found = choose_ticks(low, high, integers=integers)
    assert 1 < len(found) <= 9
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    assert np.allclose(np.diff(found), found[1] - found[0])
    assert not integers or all(value == int(value) for value in found)


def test_a_curve_goes_through_its_points():
    points = [(1, 4.0), (2, math.nan), (3, 0.0), (5, 2.0)]
    plot = plot_curves("loss", [Curve(0, "A", points), Curve(1, "B", [(3, 1.0)])])
    (x1, y1), (x3, y3), (x5, y5) = plot.shapes[0].points  # NaN is left out
    assert x3 == pytest.approx((x1 + x5) / 2) and y5 == pytest.approx((y1 + y3) / 2)
    assert y1 < y5 < y3  # upwards is less
    texts = [text for shape in plot.shapes for _, _, text in shape.marks]
    assert texts == ["A, epoch 1: 4", "A, epoch 3: 0", "A, epoch 5: 2", "B, epoch 3: 1"]
    assert plot.caption == "last values: A: 2; B: 1"
    assert plot_curves("one", [Curve(0, "A", [(1, 7.0)])]).caption == "last values: A: 7"


def test_curves_are_drawn_as_they_were_placed_and_nothing_is_drawn_without_a_finite_value():
    history = [{"epoch": 1, "loss": 4.0, "val_loss_0": math.inf}, {"epoch": 2, "loss": 2.0}]
    page = render_page(contents(run_contents(history=history)))
    (line,) = re.findall(r'<polyline points="([^"]*)"', page)
    curve = Curve(0, "A", [(1, 4.0), (2, 2.0)])
    assert parse_points(line) == list(plot_curves("", [curve]).shapes[0].points)
    read = ReportReader(page)
    assert read.texts("title")[1:] == [
        f"A: run {SHOWN}, epoch {epoch}: {value}" for epoch, value in ((1, 4), (2, 2))
    ]
    assert "no finite value" in read.texts("p", "note")
    unwritten = render_page(contents(run_contents(history=[])))
    assert "No run has numbers of its epochs." in unwritten


def parse_points(text: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, place.split(","))) for place in text.split()]


def test_a_histogram_is_as_high_as_its_shares():
    plot = plot_histogram("A", [0.0, 1.0, 2.0], [1, 3], [8, 0])
    wrong, right = (shape.points for shape in plot.shapes)
    base, full = wrong[0][1], wrong[1][1]  # 0 % and 100 %
    assert right[1][1] == pytest.approx(base + 0.25 * (full - base), abs=0.01)
    assert right[3][1] == pytest.approx(base + 0.75 * (full - base), abs=0.01)
    assert "4 right and of 8 wrong" in plot.caption
    assert "0 right" in plot_histogram("A", [0, 1], [0], [4]).caption
    page = render_page(contents())
    drawn = re.findall(r'<polygon points="([^"]*)" class="area (wrong|right)"', page)
    plot = plot_histogram("A", [-0.5, 0.0, 0.5], [1, 2], [3, 0])
    expected = [(list(shape.points), shape.color) for shape in plot.shapes]
    assert [(parse_points(points), color) for points, color in drawn] == expected


def test_the_history_is_read_and_cut_lines_are_noted(tmp_path):
    assert read_history(tmp_path)[0] == [] and "no metrics.jsonl" in read_history(tmp_path)[1][0]
    lines = ['{"epoch": 1, "loss": 2.0, "lr": 1}', '{"epoch": 2, "loss": NaN}', "[]", '{"epo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    history, notes = read_history(tmp_path)
    assert len(history) == 2 and notes[0].startswith("2 lines")
    assert list_plotted_keys([history]) == ["loss"]
    assert get_points([{"epoch": 1, "a": 2}, {"epoch": 2, "a": "x"}, {"epoch": 3}], "a") == [(1, 2)]
    assert describe_key("val_2_t2v_metrics_R10") == "R@10, text to video, validation set 2 (%)"


def test_the_cache_holds_for_its_key_alone(tmp_path):
    file = tmp_path / "model.pth"
    assert stamp_file(file) == [str(file), None, None]
    file.write_bytes(b"one")
    cache = Cache(tmp_path / "report", [stamp_file(file)])
    assert cache.read("x") is None
    cache.write("x", {"a": [1, float("inf")]})
    assert cache.read("x") == {"a": [1, float("inf")]}
    assert Cache(cache.folder, [stamp_file(file)], fresh=True).read("x") is None
    time.sleep(0.01)
    file.write_bytes(b"two")
    assert Cache(cache.folder, [stamp_file(file)]).read("x") is None
    (cache.folder / "x.json").write_text(json.dumps({"key": cache.key})[:-4])
    assert cache.read("x") is None


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path, caplog):
    blocked = tmp_path / "report"
    blocked.write_text("a file where the folder should be")
    Cache(blocked, []).write("x", {})
    assert caplog.text.count("not kept for the next report") == 1
