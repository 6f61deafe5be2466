"""Search by example: moments, words that are not wanted, and their combinations."""

import json

import numpy as np
import pytest

import search as search_script
from retrieval import VideoIndex
from retrieval.errors import UnknownEntryError
from retrieval.index.query_embedder import normalize_rows
from retrieval.search.example import (
    MAX_EXAMPLES,
    MINUS_WEIGHT,
    Moment,
    combine_embeddings,
    parse_like,
)
from retrieval.search.hybrid import MAX_QUERY
from tests.retrieval.made_index import add, create, index_of_lines, made_embeddings, made_video
from utils.errors import UserError

NAMES = ["a/b.mp4", "a/c@2.mp4", "b/b.mp4"]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return made_embeddings(9)


@pytest.fixture(scope="module")
def index(rows, tmp_path_factory):
    """Three videos of three windows each: 0 to 10, 5 to 15, 10 to 20 seconds; entries 1 to 9."""
    folder = tmp_path_factory.mktemp("example") / "my.index"
    create(folder)
    add(folder, *(made_video(n, [], rows[3 * i : 3 * i + 3]) for i, n in enumerate(NAMES)))
    with VideoIndex.open(folder) as opened:
        yield opened


def ids(hits) -> list[int]:
    return [hit.id for hit in hits]


def order(similarities: np.ndarray, *left_out: int) -> list[int]:
    """Entries by their similarity, without some."""
    return [i + 1 for i in np.argsort(-similarities) if i + 1 not in left_out]


@pytest.mark.parametrize(
    ("like", "entry", "nearby"),
    [
        (1, 1, (1, 2)),
        ("5", 5, (4, 5, 6)),
        ("a/b.mp4@0", 1, (1, 2)),
        ("a/b.mp4@7.4", 1, (1, 2)),  # its centre is at 5, the next one's at 10
        ("a/b.mp4@7.6", 2, (1, 2, 3)),
        ("a/b.mp4@0:10", 2, (1, 2, 3)),
        ("a/b.mp4@20", 3, (2, 3)),
        ("a/c@2.mp4@0:0:18.5", 6, (5, 6)),
    ],
)
def test_more_like_a_moment(index, rows, like, entry, nearby):
    """Its embedding is the query; it and what shares a time with it are not found again."""
    similarities = rows @ rows[entry - 1]
    hits = index.search(like=like, mode="semantic")
    assert ids(hits) == order(similarities, *nearby)
    for hit in hits:
        assert hit.similarity == pytest.approx(float(similarities[hit.id - 1]), abs=1e-6)
    assert ids(index.search(like=[like])) == ids(hits)  # no word is looked for
    inside = index.search(like=like, mode="semantic", folder="b")
    assert ids(inside) == [i for i in ids(hits) if i > 6]


def test_examples_are_summed(index, rows):
    wanted = rows[0] + rows[4] - MINUS_WEIGHT * rows[8]
    hits = index.search(like=[1, "a/c@2.mp4@10"], minus_like=9, mode="semantic")
    assert ids(hits) == order(rows @ wanted, 1, 2, 4, 5, 6, 8, 9) == [hit.id for hit in hits]
    length = np.linalg.norm(wanted)
    for hit in hits:
        assert hit.similarity == pytest.approx(float(rows[hit.id - 1] @ wanted / length), abs=1e-6)


def test_weights_by_hand():
    e = np.eye(4, dtype=np.float32)
    row = made_embeddings(1)[0]
    alone = combine_embeddings([(1.0, row)], [], True)
    assert alone.whole is row and alone.seen is None  # to the bit
    mixed = combine_embeddings([(1.0, e[0]), (-MINUS_WEIGHT, e[1])], [(1.0, e[2])], False)
    assert mixed.seen is None and mixed.whole.dtype == np.float32
    np.testing.assert_allclose(mixed.whole, np.array([1, -0.5, 1, 0]) / 1.5, atol=1e-6)
    apart = combine_embeddings([(1.0, e[0])], [(1.0, e[2])], True)
    np.testing.assert_allclose(apart.whole, e[0] / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(apart.seen, e[2] / np.sqrt(2), atol=1e-6)
    only = combine_embeddings([], [(1.0, e[2]), (-MINUS_WEIGHT, e[3])], True)
    assert not only.whole.any() and np.linalg.norm(only.seen) == pytest.approx(1)
    with pytest.raises(UserError, match="cancel each other out"):
        combine_embeddings([(1.0, e[0]), *[(-MINUS_WEIGHT, e[0])] * 2], [], True)


def test_what_a_moment_is():
    assert parse_like("a@b.mp4@1:02:03.5") == Moment("a@b.mp4", 3723.5)
    assert parse_like("17@2") == Moment("17", 2.0) and parse_like("17") == 17
    for text in ("a.mp4", "a.mp4@", "@5", "a.mp4@-1", "a.mp4@x", "a.mp4@1:2:3:4", "a@٣", "", "-1"):
        with pytest.raises(UserError, match=r"give PATH@SECONDS, such as a/b.mp4@12.5"):
            parse_like(text)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"like": 10}, UnknownEntryError, "10: the index has no such entry"),
        ({"like": 10**30}, UnknownEntryError, "no such entry"),
        ({"like": "b.mp4@1"}, UnknownEntryError, "did you mean a/b.mp4 or b/b.mp4?"),
        ({"like": "a/c@22.mp4@1"}, UnknownEntryError, "did you mean a/c@2.mp4"),
        ({"like": "zzz@1"}, UnknownEntryError, "zzz: the index has no such video; search again"),
        ({"like": "a/b.mp4@20.5"}, UnknownEntryError, "is 20.0 s long, so has no moment 20.5 s"),
        ({"minus_like": 1}, UserError, "only what is not wanted is given"),
        ({"minus": "people"}, UserError, "only what is not wanted is given"),
        ({"like": 1, "minus_like": [1, 1]}, UserError, "cancel each other out"),
        ({"like": [1] * (MAX_EXAMPLES + 1)}, UserError, "too many examples; give at most 20"),
        ({"like": 1, "mode": "keyword"}, UserError, 'mode "keyword" compares words'),
        ({"like": 1, "minus": "x" * (MAX_QUERY + 1)}, UserError, "1,001 characters"),
        ({"like": 1, "near_duplicate": 1.5}, UserError, "above 0 and at most 1"),
        ({"like": []}, UserError, "the query is empty"),
    ],
)
def test_examples_that_can_not_be_answered(index, options, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        index.search(**options)


def test_words_that_are_not_wanted_leave_the_keyword_list(tmp_path):
    lines = [["CASINO ROYALE"], ["Casino"], ["casino hotel"], ["casinos royal"]]
    with VideoIndex.open(index_of_lines(tmp_path / "i", lines)) as index:
        assert set(ids(index.search("casino", mode="keyword"))) == {1, 2, 3, 4}
        assert set(ids(index.search("casino", mode="keyword", minus="royale"))) == {2, 3, 4}
        assert ids(index.search("casino", mode="keyword", minus="the Royale hotel")) == [2, 4]
        quoted = index.search("casino", mode="keyword", minus='"casino hotel"')
        assert set(ids(quoted)) == {1, 2, 4}
        assert ids(index.search("casino", mode="keyword", minus="roy")) == ids(
            index.search("casino", mode="keyword")  # exact words only
        )


def test_words_and_moments_together(built):
    """Words, a moment and what is not wanted are one embedding; the words are read as before."""
    with VideoIndex.open(built[0]) as index:
        with index.reading() as (_, snapshot):
            rows, entries = np.array(snapshot.vectors.windows), snapshot.ids.tolist()
        encoder = index.load_query_encoder()
        text, not_wanted = (encoder.embed(text) for text in ("casino", "a red circle"))
        wanted = normalize_rows((text + rows[2] - MINUS_WEIGHT * not_wanted)[None])[0]
        options = {"like": entries[2], "minus": "a red circle"}
        hits = index.search("casino", mode="semantic", **options)
        assert len(hits) == 7 and entries[2] not in ids(hits)
        for hit in hits:
            similarity = float(rows[entries.index(hit.id)] @ wanted)
            assert hit.similarity == pytest.approx(similarity, abs=1e-5)
        plain = {hit.id: hit for hit in index.search("casino", mode="keyword")}
        mixed = index.search("casino", **options, explain=True)
        assert any(hit.words for hit in mixed) and all(hit.explanation for hit in mixed)
        for hit in mixed:
            assert hit.words == (plain[hit.id].words if hit.id in plain else ())
        assert index.search("casino") == index.search("casino", like=(), image=(), minus=" ")


def test_the_command(built, run_main):
    folder, library = built
    with VideoIndex.open(folder) as index:
        first = index.search("casino", 1)[0]
        wanted = ids(index.search("hotel", like=first.id, minus="a red circle"))
    moment = f"{first.video}@{(first.start_s + first.end_s) / 2}"
    command = [folder, "hotel", "--like", moment, "--minus", "a red circle", "--json"]
    code, text, _ = run_main(search_script, *command, "--all")
    assert code == 0 and [hit["id"] for hit in json.loads(text)] == wanted
    code, text, _ = run_main(search_script, folder, "--like", first.id, "--minus_like", moment)
    assert code == 0 and text.startswith("   time")
    code, _, error = run_main(search_script, folder, "--like", first.video + "@99")
    assert code == 2 and error.startswith(f"{first.video}: is ") and error.count("\n") == 1
    code, _, error = run_main(search_script, folder)
    assert code == 2 and error.startswith("the query is empty")
