"""The JSON API by example: moments and pictures, what is not wanted, near-duplicates, limits."""

import io
import os
import socket

import httpx
import numpy as np
import pytest
from PIL import Image

from retrieval import VideoIndex
from retrieval.index.writer import IndexWriter, lock_index
from retrieval.search.example import MAX_EXAMPLES, MAX_PICTURE_BYTES
from retrieval.web import api
from retrieval.web.access import HEADERS, Access
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import draw

JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def index(street):
    with VideoIndex.open(street / "my.index") as opened:
        yield opened


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A JPEG of a street."""
    out = io.BytesIO()
    Image.fromarray(next(draw(1, [], seed=5))).save(out, "JPEG")
    return out.getvalue()


def ids(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def test_moments_and_what_is_not_wanted(client, index):
    wanted = [hit.id for hit in index.search(like=1, k=24)]
    assert len(wanted) == 6 and ids(client.get("/api/search?like=1")) == wanted
    moment = f"{index.entry(1).video}@{index.entry(1).start_s + 0.5}"
    assert ids(client.get("/api/search", params={"like": moment})) == wanted
    options = {"like": [1, "top.mp4@1"], "q": "a car", "minus": "a sign", "minus_like": ["3"]}
    mixed = index.search("a car", 24, like=[1, "top.mp4@1"], minus="a sign", minus_like="3")
    found = client.get("/api/search", params=options)
    assert ids(found) == [hit.id for hit in mixed]
    assert [h["similarity"] for h in found.json()["hits"]] == pytest.approx(
        [hit.similarity for hit in mixed], abs=1e-5
    )


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("like=99", 404, "99: the index has no such entry"),
        ("like=casino.mp4@1", 404, "did you mean holiday/casino.mp4?"),
        ("like=top.mp4@99", 404, "top.mp4: is 2.0 s long"),
        ("like=top.mp4", 422, '"top.mp4": is neither'),
        ("like=1&mode=keyword", 422, 'the mode "keyword" compares words'),
        ("minus=a", 422, "q: "),
        ("minus_like=1", 422, "q: "),
        ("like=1&minus=" + "a" * 1001, 422, "minus: "),
        ("&".join(["like=1"] * (MAX_EXAMPLES + 1)), 422, "like: "),
        ("like=" + "a" * 4097, 422, "0: "),
        ("like=1&near_duplicate=0", 422, "near_duplicate: "),
        ("q=a&image=x.jpg", 422, "image: "),
        ("q=a&minus_image=true", 422, "minus_image: "),
    ],
)
def test_what_can_t_be_answered(client, query, status, message):
    answer = client.get(f"/api/search?{query}")
    assert answer.status_code == status and message in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_near_duplicates_are_grouped_where_it_is_asked_for(client, index):
    options = {"q": "a car", "mode": "semantic", "near_duplicate": 0.9}
    alone = client.get("/api/search", params=options).json()["hits"]
    assert len(alone) == 7 and all(hit["num_also"] == 0 == len(hit["also"]) for hit in alone)
    grouped = client.get("/api/search", params=options | {"group": True}).json()["hits"]
    assert sum(1 + hit["num_also"] for hit in grouped) == 7 > len(grouped)
    (first, *_) = grouped
    entry = client.get(f"/api/entries/{first['also'][0]['id']}").json()
    assert first["also"][0] == {name: entry[name] for name in ("id", "video", "start_s", "end_s")}


def test_a_picture(client, index, photo):
    wanted = index.search(image=photo, k=24)
    answer = client.post("/api/search", content=photo, headers=JPEG)
    assert ids(answer) == [hit.id for hit in wanted]
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    mixed = index.search("casino", 2, image=photo, like=1, minus="a sign", folder="holiday")
    options = {"q": "casino", "k": 2, "like": "1", "minus": "a sign", "folder": "holiday"}
    found = client.post("/api/search", params=options, content=photo, headers=JPEG)
    assert ids(found) == [hit.id for hit in mixed]
    less = index.search("casino", 24, minus_image=photo)
    options = {"q": "casino", "minus_image": True}
    found = client.post("/api/search", params=options, content=photo, headers=JPEG)
    assert ids(found) == [hit.id for hit in less]


def as_png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_what_is_no_small_picture_is_refused(client, photo):
    def post(content: object, **headers: str) -> httpx.Response:
        return client.post("/api/search", content=content, headers=JPEG | headers)

    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = post(photo, **{"Content-Type": kind})
        assert answer.status_code == 415 and "Content-Type: image/" in answer.json()["detail"]
    for content, message in (
        (b"", "the picture: is empty"),
        (b"no picture", "the picture: is no picture"),
        (photo[: len(photo) // 2], "the picture: can't be read as a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n", "the picture: is no picture"),
        (as_png(51, 1), "the longer side may be 50 times"),
        (as_png(8000, 7000), "8,000 x 7,000 pixels"),
    ):
        answer = post(content)
        assert answer.status_code == 422 and message in answer.json()["detail"]
    # Before it has come, and where nothing says how much will come.
    large = b"\xff\xd8" + bytes(MAX_PICTURE_BYTES)
    answer = post(large)
    assert answer.status_code == 413 and "33,554,432 bytes" in answer.json()["detail"]
    answer = post(iter([large[: 2**20]] * 40))
    assert answer.status_code == 413
    answer = client.post("/api/search?minus_image=true", content=photo, headers=JPEG)
    assert answer.status_code == 422 and "only what is not wanted" in answer.json()["detail"]
    answer = client.post("/api/search?like=99", content=photo, headers=JPEG)
    assert answer.status_code == 404
    assert ids(post(photo))


def test_a_picture_that_does_not_come_is_not_waited_for(street, photo, monkeypatch):
    monkeypatch.setattr(api, "UPLOAD_S", 0.2)
    head = "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    head += f"Content-Length: {len(photo)}\r\nConnection: close\r\n\r\n"
    with serving(street / "my.index") as address:
        place = "127.0.0.1", int(address.rpartition(":")[2])
        with socket.create_connection(place, timeout=30) as connection:
            connection.sendall(head.encode() + photo[:100])
            assert connection.recv(12) == b"HTTP/1.1 408"
        with socket.create_connection(place, timeout=30) as connection:
            connection.sendall(head.encode() + photo[:100])  # and hangs up
        assert ids(httpx.post(f"{address}/api/search", content=photo, headers=JPEG, timeout=60))


def test_another_site_s_page_is_not_let_in(street, photo):
    """A browser asks before it sends a picture to another server, and there is no answer."""
    with serving(street / "my.index", Access(token="s3cret")) as address:
        post = f"{address}/api/search"
        assert httpx.post(post, content=photo, headers=JPEG).status_code == 401
        allowed = JPEG | {"Authorization": "Bearer s3cret"}
        assert ids(httpx.post(post, content=photo, headers=allowed, timeout=60))
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "content-type"}  # fmt: skip
        answer = httpx.options(post, headers=allowed | asked)
        assert answer.status_code == 405
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_no_path_is_told_where_the_model_is_gone(own_street, photo, caplog):
    os.remove(own_street / "model.pth")
    folder = own_street / "my.index"
    # The copy's index speaks of the model of the original, so it is told of its own.
    with lock_index(folder), IndexWriter(folder) as writer:
        writer.set_meta(model=writer.meta["model"] | {"path": str(own_street / "model.pth")})
    with serving(folder) as address:
        post = f"{address}/api/search"
        answer = httpx.post(post, content=photo, headers=JPEG, timeout=60)
        assert answer.status_code == 503
        assert "see what the server says" in answer.json()["detail"]
        assert str(own_street) not in answer.text and "model.pth" not in answer.text
        assert str(own_street / "model.pth") in caplog.text
        assert ids(httpx.get(f"{post}?q=casino"))


def test_the_description_has_it(client):
    described = client.get("/api/openapi.json").json()["paths"]["/api/search"]
    options = {p["name"]: p["schema"] for p in described["get"]["parameters"]}
    assert options["like"]["maxItems"] == MAX_EXAMPLES and options["group"]["default"] is False
    assert "minus_image" not in options
    assert set(described["post"]["requestBody"]["content"]) == {"image/*"}
    assert {"200", "404", "413", "415", "422", "503"} <= set(described["post"]["responses"])
