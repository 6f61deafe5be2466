"""The file of ranks: against a naive oracle, there and back, and every file it refuses."""

import csv

import numpy as np
import pytest

from evaluation.ranks_file import (
    COLUMNS,
    EQUAL_CAPTIONS,
    PUBLISHED,
    name_ranks_file,
    read_ranks,
    write_ranks,
)
from evaluation.scores import T2V, V2T, score_similarity
from tests.evaluation.scored_matrices import queries, random_case
from utils.errors import UserError
from utils.ranking import summarize_ranks


def count_rank(scores, best, own):
    """A rank by counting: those above, and half of the equal ones but for its own."""
    above = sum(value > best for value in scores)
    return 1 + above + (sum(value == best for value in scores) - own) / 2


@pytest.mark.parametrize("seed", range(4))
def test_one_row_for_each_query_with_its_rank(tmp_path, seed):
    matrix, found = random_case(seed)
    write_ranks(tmp_path / "ranks.csv", score_similarity(matrix, found))
    with open(tmp_path / "ranks.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = [row for row in rows if row["direction"] == "t2v"]
    assert [row["caption"] for row in texts] == list(found.captions)
    for number, (row, column) in enumerate(zip(texts, found.video_of_query, strict=True)):
        assert (row["query"], row["video"]) == (str(number), found.ids[column])
        scores = matrix[number].tolist()
        assert float(row["rank"]) == count_rank(scores, scores[column], 1)
        assert row["candidates"] == "12"
    videos = [row for row in rows if row["direction"] == "v2t"]
    described = sorted(set(found.video_of_query.tolist()))
    assert [int(row["query"]) for row in videos] == described  # those that have a caption
    for row, column in zip(videos, described, strict=True):
        assert (row["video"], row["caption"]) == (found.ids[column], "")
        best = max(matrix[found.video_of_query == column, column])
        assert float(row["rank"]) == count_rank(matrix[:, column].tolist(), best, 1)


def test_what_is_read_gives_the_metrics(tmp_path):
    matrix, found = random_case(1)
    scores = score_similarity(matrix, found)
    write_ranks(tmp_path / "ranks.csv", scores)
    read = read_ranks(tmp_path / "ranks.csv")
    for direction, metric in (("t2v", T2V), ("v2t", V2T)):
        ranks = read[direction].ranks
        assert summarize_ranks(ranks[PUBLISHED]) == scores.metrics[metric]
        assert summarize_ranks(ranks[EQUAL_CAPTIONS]) == scores.equal_captions[metric]
    assert (read["t2v"].candidates, read["v2t"].candidates) == (12, 25)


def test_captions_of_any_text_come_back(tmp_path):
    texts = ['a, "quoted" one', "two\nlines", "a\rreturn", "", " é 汉字 ", "half \ud83d", "=1+1"]
    matrix = np.eye(len(texts))
    write_ranks(tmp_path / "ranks.csv", score_similarity(matrix, queries(texts), [T2V]))
    read = read_ranks(tmp_path / "ranks.csv")
    assert list(read) == ["t2v"]
    assert [caption for _, _, caption in read["t2v"].queries] == texts
    assert read["t2v"].ranks[PUBLISHED].tolist() == [1] * len(texts)


def test_the_name_follows_that_of_the_metrics(tmp_path):
    names = {"metrics.json": "ranks.csv", "m.metrics.json": "m.ranks.csv", "x.json": "x.ranks.csv"}
    for metrics, ranks in names.items():
        assert name_ranks_file(tmp_path / metrics) == tmp_path / ranks


HEAD = ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no file of ranks; its first line must be direction,query,"),
        ("query,rank\n1,1\n", "is no file of ranks; its first line"),
        (HEAD + "\n", "holds no ranks; test with t2v_metrics"),
        (HEAD + "\nt2v,0,a.mp4,x,1,1\n", "line 2 is no row of ranks"),
        (HEAD + "\nt2v,0,a.mp4,x,1,1,3,4\n", "line 2 is no row of ranks"),
        (HEAD + "\nt2v,0,a.mp4,x,1,1,3\nv2v,0,a.mp4,x,1,1,3\n", "line 3 is no row of ranks"),
        (HEAD + "\nt2v,0,a.mp4,x,0,1,3\n", "rank 0 of 3"),
        (HEAD + "\nt2v,0,a.mp4,x,nan,1,3\n", "rank nan of 3"),
        (HEAD + "\nt2v,0,a.mp4,x,1,4,3\n", "rank_equal_captions 4 of 3"),
        (b"\xff\xfe", "it is not UTF-8 text"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "ranks.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        read_ranks(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_says_who_writes_it(tmp_path):
    with pytest.raises(UserError, match=r"ranks.csv: no such file; test.py and tools.score_matrix"):
        read_ranks(tmp_path / "ranks.csv")
