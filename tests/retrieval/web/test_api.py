"""The JSON API: what is found is what ``VideoIndex`` finds; limits, errors, and the description."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from retrieval import VideoIndex
from retrieval.index.ocr_text import OcrSource
from retrieval.index.update import IndexOptions, update_index
from retrieval.web.api import find_marks
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import EVIL, Sign, update, write_scene


@pytest.fixture(scope="module")
def index(street):
    with VideoIndex.open(street / "my.index") as opened:
        yield opened


def search(client, query: str, **options) -> list[dict]:
    answer = client.get("/api/search", params={"q": query, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
@pytest.mark.parametrize("query", ["a red car passes the sign casino", '"up to"', "RE1", "casimo"])
def test_a_search_finds_what_the_index_finds(client, index, mode, query):
    hits = search(client, query, mode=mode, k=5)
    expected = index.search(query, 5, mode)
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
    for hit, other in zip(hits, expected, strict=True):
        assert hit["start_s"] == other.start_s and hit["similarity"] == other.similarity
        assert hit["score"] == other.score and hit["keyword_rank"] == other.keyword_rank
        assert hit["likely"] is hit["z_score"] is None  # too few entries to judge by
        assert [(w["text"], w["word"], w["kind"]) for w in hit["words"]] == [
            (word.text, word.word, word.kind) for word in other.words
        ]
        assert all(w["marks"] for w in hit["words"])
        boxes = [w["box"] and tuple(w["box"].values()) for w in hit["words"]]
        assert boxes == [word.box for word in other.words]
        kinds = [word.track_kind for word in other.words]
        assert [w["track_kind"] for w in hit["words"]] == kinds


def test_a_hit_has_the_time_of_its_best_frame(colours, client, tmp_path):
    videos, model = colours
    update_index(videos, tmp_path / "i", model, OcrSource(), IndexOptions())
    with serving(tmp_path / "i") as address, httpx.Client(base_url=address) as other:
        hits = search(other, "red", mode="semantic")
    assert 6 <= hits[0]["time_s"] < 8 and hits[0]["frame_similarity"] > 0.99
    assert {hit["time_s"] for hit in search(client, "red")} == {None}  # no frame vectors


@pytest.mark.parametrize(
    ("old", "new"), [("fused", "hybrid"), ("meaning", "semantic"), ("words", "keyword")]
)
def test_names_of_earlier_versions_mean_the_same(client, old, new):
    hits = search(client, "casino", mode=old)
    assert hits and hits == search(client, "casino", mode=new)
    for hit in hits:
        assert hit["meaning_rank"] == hit["semantic_rank"]
        assert hit["words_rank"] == hit["keyword_rank"]


def test_hits_that_are_not_likely_say_so(street, monkeypatch):
    with VideoIndex.open(street / "my.index") as index:
        first, *others = index.search("casino", 3)
    judged = [replace(first, z_score=3.5, likely=True)]
    judged += [replace(other, z_score=-0.25, likely=False) for other in others]
    monkeypatch.setattr(VideoIndex, "search", lambda *_: judged)
    with serving(street / "my.index") as address, httpx.Client(base_url=address) as client:
        hits = search(client, "casino")
        assert [(hit["z_score"], hit["likely"]) for hit in hits] == [
            (3.5, True), (-0.25, False), (-0.25, False),
        ]  # fmt: skip
        schema = client.get("/api/openapi.json").json()["components"]["schemas"]["HitAnswer"]
        assert "least unlike" in schema["properties"]["likely"]["description"]
        assert {"z_score", "likely"} <= set(schema["required"])


def test_marks_are_where_the_words_are(client):
    (hit,) = search(client, "up to", mode="keyword")
    texts = {w["query"]: [w["text"][a:b] for a, b in w["marks"]] for w in hit["words"]}
    assert texts["up"] == ["up", "up"]
    (hit,) = search(client, '"up to the top"', mode="keyword")
    assert [hit["words"][0]["text"][a:b] for a, b in hit["words"][0]["marks"]] == ["up to the top"]


@pytest.mark.parametrize(
    ("text", "word", "marked"),
    [
        ("CASINO ROYALE", "casino", ["CASINO"]),
        ("no casino, no Casino!", "casino", ["casino,", "Casino!"]),
        ("the casinos", "casino", []),
        ("SALE  UP\tTO 60", "sale up to", ["SALE  UP\tTO"]),
        ("up up up", "up up", ["up up"]),
        ("\U0001f600 Straße", "strasse", ["Straße"]),
        ("ＲＥ１６ TGK", "re16", ["ＲＥ１６"]),
        ("", "casino", []),
        ("--- ...", "casino", []),
    ],
)
def test_marks_by_hand(text, word, marked):
    assert [text[first:end] for first, end in find_marks(text, word)] == marked


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "q: "),
        ("q=", "q: "),
        ("q=%20%20", "the query is empty"),
        ("q=" + "a" * 1001, "q: "),
        ("q=a&k=0", "k: "),
        ("q=a&k=101", "k: "),
        ("q=a&k=ten", "k: "),
        ("q=a&mode=magic", "mode: "),
        ("q=a&folder=nowhere", "nowhere: the index has no video in such a folder"),
        ("q=a&folder=..", "..: the index has no video"),
        ("q=a&limit=5", "limit: "),
    ],
)
def test_what_can_t_be_answered_is_one_clear_message(client, query, message):
    answer = client.get(f"/api/search?{query}")
    assert answer.status_code == 422 and list(answer.json()) == ["detail"]
    assert answer.json()["detail"].startswith(message) and "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    "query",
    ["'; DROP TABLE videos; --", '"', "NEAR(a b)", "a* OR b", "???", "%", "\x00", "a" * 1000],
)
def test_every_text_is_a_query(client, query):
    assert isinstance(search(client, query), list)


def test_folders(client, index):
    shown = client.get("/api/folders").json()
    assert shown["num_entries"] == len(index) == 7
    assert shown["folders"] == ["holiday", "holiday/beach", "street", "street/caf\ufffd"]
    names = {name: {hit["video"] for hit in search(client, "car", folder=name)}
             for name in shown["folders"]}  # fmt: skip
    assert names["holiday"] == {"holiday/casino.mp4", 'holiday/beach/café "à la" <b>&.mp4'}
    assert names["street/caf\ufffd"] == {"street/caf\ufffd/no text.mp4"}


def test_an_entry_and_its_lines(client, index):
    (hit,) = search(client, "onerror", mode="keyword")
    entry = client.get(f"/api/entries/{hit['id']}").json()
    assert (entry["width"], entry["height"], entry["start_s"]) == (320, 180, 0)
    (line,) = entry["tracks"]
    (track,) = index.tracks(hit["id"])
    assert line["text"] == EVIL == track.text
    boxes = [(box.pop("time_s"), tuple(box.values())) for box in line["boxes"]]
    assert boxes == list(track.boxes)


@pytest.mark.parametrize("path", ["", "/thumbnail", "/video"])
def test_no_other_entry_is_answered(client, path):
    for number in (0, -1, 10**6, 2**63, 2**70):
        answer = client.get(f"/api/entries/{number}{path}")
        assert answer.status_code == 404 and "no such entry" in answer.json()["detail"]
    assert client.get(f"/api/entries/top.mp4{path}").status_code == 422


def test_the_description_is_typed(client):
    described = client.get("/api/openapi.json").json()
    schemas = described["components"]["schemas"]
    for path, name in (
        ("/api/search", "SearchAnswer"),
        ("/api/folders", "FoldersAnswer"),
        ("/api/entries/{entry_id}", "EntryAnswer"),
    ):
        operation = described["paths"][path]["get"]
        for code, schema in (("200", name), ("422", "Problem")):
            content = operation["responses"][code]["content"]["application/json"]
            assert content["schema"]["$ref"].endswith(f"/{schema}") and schema in schemas
    assert "HTTPValidationError" not in str(described)
    options = {
        p["name"]: p["schema"] for p in described["paths"]["/api/search"]["get"]["parameters"]
    }
    assert options["q"]["maxLength"] == 1000 and options["k"]["maximum"] == 100
    assert options["mode"]["enum"] == ["hybrid", "semantic", "keyword"]
    files = described["paths"]["/api/entries/{entry_id}/video"]["get"]["responses"]
    assert {"200", "206", "404", "416"} <= set(files) and "video/*" in files["206"]["content"]
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_an_index_is_updated_while_it_is_served(own_street, make_config):
    config = make_config()
    with serving(own_street / "my.index") as address, httpx.Client(base_url=address) as client:
        (gone,) = search(client, "RE16", mode="keyword")
        os.remove(own_street / "videos" / gone["video"])
        write_scene(own_street, "new/one.mp4", 2, [Sign("brandnew")])

        def ask(number: int) -> int:
            return client.get("/api/search", params={"q": f"casino {number}"}).status_code

        with ThreadPoolExecutor(4) as pool:
            asked = pool.map(ask, range(60))
            update(own_street, config)
            assert set(asked) == {200}
        assert search(client, "RE16", mode="keyword") == []
        (hit,) = search(client, "brandnew", mode="keyword")
        assert client.get(f"/api/entries/{hit['id']}/video").status_code == 200
        assert client.get(f"/api/entries/{hit['id']}/thumbnail").status_code == 200
        assert client.get(f"/api/entries/{gone['id']}").status_code == 404
        assert "new" in client.get("/api/folders").json()["folders"]


def test_slow_searches_block_nothing_else(street, monkeypatch):
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: object) -> list:
        begun.release()
        assert go_on.wait(60)
        return []

    monkeypatch.setattr(VideoIndex, "search", slow)
    with serving(street / "my.index") as address, ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(httpx.get, f"{address}/api/search?q=a", timeout=60, verify=False)
                   for _ in range(50)]  # fmt: skip
        assert begun.acquire(timeout=60)
        for path in ("/", "/api/folders", "/api/entries/1/thumbnail", "/api/entries/1/video"):
            assert httpx.get(f"{address}{path}", timeout=60, verify=False).status_code == 200
        assert not any(answer.done() for answer in answers)
        go_on.set()
        assert {answer.result().status_code for answer in answers} == {200}


def test_an_index_that_is_damaged_meanwhile_is_said_and_no_path_is_told(own_street):
    with serving(own_street / "my.index") as address, httpx.Client(base_url=address) as client:
        for file in (own_street / "my.index").glob("index.db*"):
            file.write_bytes(b"no database" * 1000)
        answer = client.get("/api/folders")
        assert answer.status_code == 503
        assert "the index can't be read" in answer.json()["detail"]
        assert str(own_street) not in answer.text


def test_names_that_are_sent_are_shown_safely(client):
    for name in ("a\0b\x1b[31m", "x" * 20_000):
        answer = client.get("/api/search", params={"q": "a", name: "1"})
        detail = answer.json()["detail"]
        assert answer.status_code == 422 and "Extra inputs are not permitted" in detail
        assert detail.isprintable() and len(detail) <= 2000
