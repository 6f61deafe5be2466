"""``benchmarks.search_quality``: what is measured, and what hybrid search must be worth."""

import math

import pytest

from benchmarks import search_quality as quality
from benchmarks.search_quality import NOTHING, JudgedQuery
from utils.errors import UserError


def found(*names: str) -> list[tuple[str, bool]]:
    return [(name, True) for name in names]


def test_the_judgement_by_hand():
    query = JudgedQuery("a", "b", "", frozenset({"x", "y"}))
    first = quality.judge(query, found("x", "q", "y"))
    assert first["MRR"] == 1
    assert first["nDCG"] == pytest.approx((1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3)))
    assert quality.judge(query, found("p", "q", "y"))["MRR"] == pytest.approx(1 / 3)
    assert quality.judge(query, found(*"pqrstuvwab", "x")) == {"MRR": 0, "nDCG": 0}
    nothing = JudgedQuery(NOTHING, "zebra")
    assert quality.judge(nothing, [("x", False)])["MRR"] == 1
    assert quality.judge(nothing, [("x", False), ("y", True)])["nDCG"] == 0


def test_videos_are_ranked_by_their_first_entry():
    entries = [("x", False), ("y", True), ("x", True), ("z", False)]
    assert quality.rank_videos(entries) == [("x", True), ("y", True), ("z", False)]
    fused = quality.fuse_ranks(found("x", "y", "z"), found("z", "y"))
    assert [name for name, _ in fused] == ["z", "y", "x"]


def test_queries_are_enough_of_every_kind_and_judged():
    queries = quality.list_queries()
    assert len({query.text for query in queries}) == len(queries) >= 60
    names = {video.name for video in (*quality.VIDEOS, *quality.SIGNS)}
    kinds = {query.kind for query in queries}
    assert len(kinds) == 10
    for query in queries:
        assert query.right <= names and bool(query.right) == (query.kind != NOTHING), query


def test_hybrid_search_is_worth_as_much_as_the_better_mode_for_every_kind():
    """One draw of the noise: with a little room, of which the means of BENCHMARKS.md need none."""
    summary = quality.summarize(quality.measure_made(1))
    for kind, modes in summary.items():
        better = max(modes["keyword"]["nDCG"], modes["semantic"]["nDCG"])
        assert modes["hybrid"]["nDCG"] >= better - 0.03, (kind, modes)
    whole = summary["all"]
    assert whole["hybrid"]["nDCG"] > 0.97 and whole["semantic"]["nDCG"] < 0.75
    assert whole["hybrid"]["nDCG"] > whole["rank fusion"]["nDCG"]


def test_a_demonstration_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="run make demo"):
        quality.list_demo_queries(tmp_path)


def test_queries_of_a_demonstration(demo):
    queries = quality.list_demo_queries(demo)
    assert {query.kind for query in queries} == {
        "a word", "a mistyped word", "a look", "a look and a word", NOTHING
    }  # fmt: skip
    assert any(query.right for query in queries)
