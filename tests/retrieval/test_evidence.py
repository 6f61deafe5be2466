"""What is seen and what is read or said, added up: exact words, looks, misreadings, and fillers."""

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.index.query_embedder import normalize_rows
from retrieval.index.records import NewTrack
from retrieval.search.calibration import ExpectedBest
from retrieval.search.hybrid import EmbeddedQuery, SearchRequest, run_search
from retrieval.search.keyword import parse_terms
from tests.retrieval.made_index import add, create, index_of_lines, made_embeddings, made_video

WIDTH = 64
NOWHERE = np.zeros((0, 5), np.float32)


def keyword(index, query: str, k: int = 100) -> list[int]:
    return [hit.id for hit in index.search(query, mode="keyword", k=k)]


def test_surprise_grows_with_the_z_score():
    expected = ExpectedBest(0.5, 0.1)
    z_scores = np.array([-50.0, -3.0, -1.0, 0.0, 2.0, 4.0, 10.0])
    found = expected.compute_evidence((0.5 + 0.1 * z_scores).astype(np.float32))
    assert (np.diff(found) >= 0).all() and np.isfinite(found).all()
    assert found[0] == 0 and found[3] == pytest.approx(np.log(2), rel=1e-4)
    assert 2.8 < found[4] < 3.2  # one unrelated text in twenty
    # Beyond, a Gumbel distribution's tail: pi / sqrt(6) a standard deviation.
    assert found[6] - found[5] == pytest.approx(6 * np.pi / np.sqrt(6), rel=0.01)


@pytest.fixture(scope="module")
def courts(tmp_path_factory):
    """Nine tennis videos that look alike, the last of which shows the names; others around."""
    folder = tmp_path_factory.mktemp("courts") / "i"
    create(folder, WIDTH)
    tennis, *others = made_embeddings(60, 7, WIDTH)
    near = normalize_rows(tennis + 0.5 * made_embeddings(9, 8, WIDTH))
    lines = [[], ["NADAL 6 3"], ["match point"], [], [], [], [], [], ["Djokovic", "Del Potro 6 4"]]
    names = [f"tennis/{i}.mp4" for i in range(9)]
    rows = [near[i : i + 1] for i in range(8)]
    rows.append(normalize_rows(near[8:] + 2 * made_embeddings(1, 9, WIDTH)))  # looks the least so
    videos = [made_video(*of) for of in zip(names, lines, rows, strict=True)]
    videos += [
        made_video(f"other/{i}.mp4", ["against all odds", "LIKE us"] if i < 3 else [], row[None])
        for i, row in enumerate(others)
    ]  # fmt: skip
    add(folder, *videos)
    with VideoIndex.open(folder) as index:
        yield index, tennis


def ask(courts, text: str, mode: str = "hybrid", about: bool = True):
    index, tennis = courts
    query = tennis if about else made_embeddings(1, 10, WIDTH)[0]
    request = SearchRequest(text, 20, mode, None, False, False, 1.0)
    with index.reading() as (reader, snapshot):
        embedded = EmbeddedQuery(query, made_embeddings(64, 11, WIDTH))
        asked = EmbeddedQuery() if mode == "keyword" else embedded
        return run_search(reader, snapshot, request, asked)


@pytest.mark.parametrize(
    "query", ["tennis match Djokovic against Del Potro", "djokovic", "del potro"]
)
def test_exact_names_are_first_by_both(courts, query):
    assert ask(courts, query, "semantic")[0].video != "tennis/8.mp4"
    assert ask(courts, query, "keyword")[0].video == "tennis/8.mp4"
    (first, second, *_) = ask(courts, query)
    assert first.video == "tennis/8.mp4" and first.score > second.score + 2
    assert first.evidence.read > first.evidence.seen and second.video.startswith("tennis/")


def test_a_look_is_not_buried_by_a_word(courts):
    """Of four words one is read elsewhere; the others are fillers."""
    hits = ask(courts, "players like those on a court against odds")
    assert all(hit.video.startswith("tennis/") for hit in hits[:8])
    read = [hit for hit in hits if hit.words]
    assert {word.query for hit in read for word in hit.words} == {"odds"}
    assert all(hit.evidence.read < hits[0].evidence.seen for hit in read)


def test_a_word_outweighs_what_does_not_look_alike(courts):
    hits = ask(courts, "nadal", about=False)
    assert hits[0].video == "tennis/1.mp4" and hits[0].likely and hits[0].z_score < 0
    assert hits[0].evidence.read > 1.5 * max(hit.evidence.seen for hit in hits)


def test_the_weight_of_words_is_the_users(courts):
    index, tennis = courts
    found = []
    for weight in (0.0, 0.5, 1.0):
        request = SearchRequest("djokovic", 60, "hybrid", None, False, False, weight)
        with index.reading() as (reader, snapshot):
            query = EmbeddedQuery(tennis, made_embeddings(64, 11, WIDTH))
            hits = run_search(reader, snapshot, request, query)
        found.append(next(hit.evidence for hit in hits if hit.video == "tennis/8.mp4"))
    assert found[0].read == 0 and found[1].read == pytest.approx(found[2].read / 2)
    assert len({evidence.seen for evidence in found}) == 1


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("video of a dog", ["dog"]),
        ("show me clips with the Eiffel tower", ["eiffel", "tower"]),
        ("a movie", ["movie"]),
        ("talk show", ["talk", "show"]),
        ("like", ["like"]),
        ("a man against the wall like a statue", ["man", "wall", "statue"]),
        ("video of", ["video"]),
        ("I'm looking for a film about Chaplin", ["chaplin"]),
    ],
)
def test_fillers_of_a_query_are_no_terms(query, terms):
    assert [term.text for term in parse_terms(query)] == terms


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    lines = [
        ["like"],  # 1
        ["live"],  # 2
        ["HOTE1 R0YAL"],  # 3
        ["modem"],  # 4
        ["restauramt"],  # 5
        ["iPod nano"],  # 6
        ["iPod", "nano"],  # 7
        ["nano iPod"],  # 8
        ["price"],  # 9
        ["Nan0", "2O24"],  # 10
        ["painters"],  # 11
    ]
    folder = tmp_path_factory.mktemp("words") / "i"
    with VideoIndex.open(index_of_lines(folder, lines)) as index:
        yield index


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("life", []),  # another word than "like" and "live"
        ("lice", []),
        ("hotel", [3]),
        ("royal", [3]),
        ("modern", [4]),
        ("modem", [4]),
        ("restaurant", [5]),
        ("2024", [10]),
        ("2025", []),
        ("points", []),  # two letters of six from "painters" and others
    ],
)
def test_only_plausible_misreadings_match(words, query, found):
    assert keyword(words, query) == found


def test_words_in_one_line_stand_above_scattered_ones(words):
    hits = words.search("ipod nano", mode="keyword")
    assert [hit.id for hit in hits][:3] == [6, 8, 7]
    scores = [hit.score for hit in hits]
    assert scores[0] > scores[1] > scores[2] > scores[3]


def test_what_is_said_counts_as_what_is_read_and_a_name_less(tmp_path):
    create(tmp_path / "i")
    rows = made_embeddings(4)
    said = made_video("a.mp4", [], rows[:1])
    said.tracks.append(NewTrack("Charlie Chaplin", 1.0, 4.0, 6.0, NOWHERE, (0,), "spoken"))
    read = made_video("b.mp4", ["Charlie Chaplin"], rows[1:2])
    named = made_video("films/charlie_chaplin.mp4", [], rows[2:3])
    add(tmp_path / "i", named, read, said, made_video("IMG_4711.mp4", [], rows[3:]))
    with VideoIndex.open(tmp_path / "i") as index:
        hits = {hit.video: hit for hit in index.search("chaplin", mode="keyword")}
        assert [*hits] == ["b.mp4", "a.mp4", "films/charlie_chaplin.mp4"]
        assert hits["a.mp4"].score == hits["b.mp4"].score > hits["films/charlie_chaplin.mp4"].score
        kinds = {video: hit.words[0].track_kind for video, hit in hits.items()}
        assert [*kinds.values()] == ["read", "spoken", "name"]
        assert hits["a.mp4"].moment_s == 4 and hits["a.mp4"].moment_box is None
        for query in ("IMG_4711", "img_4711.mp4", "4711"):
            assert [hit.video for hit in index.search(query, mode="keyword")] == ["IMG_4711.mp4"]
        request = SearchRequest("chaplin", 4, "hybrid", None, False, False, 1.0)
        with index.reading() as (reader, snapshot):
            found = run_search(reader, snapshot, request, EmbeddedQuery(rows[3]))
    parts = {hit.video: hit.evidence for hit in found}
    assert parts["a.mp4"].said > 0 == parts["a.mp4"].read
    assert parts["films/charlie_chaplin.mp4"].named > 0


@pytest.mark.parametrize(
    ("query", "read"),
    [("10:59:45", "10:59:46"), ("re160x", "re170x"), ("frame4100", "frame4117")],
)
def test_another_digit_is_another_number(tmp_path, query, read):
    with VideoIndex.open(index_of_lines(tmp_path / "i", [[read], [query]])) as index:
        found = index.search(query, mode="keyword")
        assert [match.word for hit in found for match in hit.words] == [query]
