"""The JSON API of the page: videos with their moments, and what the library holds."""

import threading

import httpx
import pytest

from retrieval import VideoIndex
from retrieval.web.access import Access
from retrieval.web.server import Server, build_app, open_socket


def search(client, **options) -> dict:
    answer = client.get("/api/videos/search", params=options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_each_video_is_found_once_with_its_moments(client):
    found = search(client, q="casino", mode="keyword")
    assert {video["video"] for video in found["videos"]} == {"top.mp4", "holiday/casino.mp4"}
    assert found["num_with_words"] == found["num_likely"] == found["num_videos"] == 2
    assert found["terms"] == [{"query": "casino", "num_videos": 2, "kind": "exact"}]
    (casino,) = (video for video in found["videos"] if video["folder"] == "holiday")
    assert casino["name"] == "casino.mp4" and casino["has_words"] and casino["duration_s"] == 6
    assert casino["modified"][:2] == "20"
    assert casino["moments"][0]["time_s"] == pytest.approx(2.0, abs=0.1)  # frame 50 of 25 a second
    (word, *_) = casino["moments"][0]["words"]
    assert word["text"] == "CASINO ROYALE" and word["track_kind"] == "read" and word["marks"]


def test_a_filter_lists_the_library(client):
    found = search(client, sort="longest")
    assert found["videos"][0]["video"] == "holiday/casino.mp4" and found["num_videos"] == 5
    assert not any(video["moments"] for video in found["videos"])
    pages = [search(client, sort="name", k=2, offset=offset)["videos"] for offset in (0, 2, 4)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert search(client, has_text="false", mode="keyword")["num_videos"] == 1
    answer = client.get("/api/videos/search")
    assert answer.status_code == 422 and answer.json()["detail"].startswith("the query is empty")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "the query is empty"),
        ("q=a&sort=size", "sort: "),
        ("q=a&after=yesterday", "after: "),
        ("q=a&k=101", "k: "),
        ("q=a&offset=-1", "offset: "),
        ("folder=nowhere", "nowhere: the index has no video in such a folder"),
        ("q=a&min_length=-1", "min_length: "),
        ("like=99999", "99999: the index has no such entry"),
    ],
)
def test_what_can_t_be_answered_is_one_clear_message(client, query, message):
    answer = client.get(f"/api/videos/search?{query}")
    assert answer.status_code in (404, 422) and list(answer.json()) == ["detail"]
    assert answer.json()["detail"].startswith(message)


def test_days_are_those_of_the_file(client):
    (video, *_) = search(client, sort="newest")["videos"]
    day = video["modified"][:10]
    assert search(client, after=day, before=day)["num_videos"] >= 1
    assert search(client, after="2000-01-01", before="2000-01-02")["num_videos"] == 0
    assert search(client, q="casino", mode="keyword", before="2000-01-01")["num_with_words"] == 0


def test_more_like_this_by_video(client):
    (video,) = search(client, q="RE16", mode="keyword")["videos"]
    entry = video["moments"][0]["entry_id"]
    found = search(client, like=entry)["videos"]
    assert len(found) == 4 and video["video"] not in {other["video"] for other in found}
    assert all(other["moments"][0]["similarity"] is not None for other in found)


def test_a_picture_is_the_body_of_a_post(client):
    kind = {"Content-Type": "text/plain"}
    answer = client.post("/api/videos/search", content=b"x", headers=kind)
    assert answer.status_code == 415 and "Content-Type: image/" in answer.json()["detail"]
    kind = {"Content-Type": "image/jpeg"}
    picture = client.get("/api/entries/1/thumbnail").content
    asked = {"content": picture, "headers": kind, "params": {"k": 2}}
    answer = client.post("/api/videos/search", timeout=60, **asked)  # the model is loaded
    assert answer.status_code == 200 and len(answer.json()["videos"]) == 2


def test_the_description_names_the_answers(client):
    paths = client.get("/api/openapi.json").json()["paths"]
    for path, method, name in (
        ("/api/videos/search", "get", "VideoSearchAnswer"),
        ("/api/videos/search", "post", "VideoSearchAnswer"),
        ("/api/library", "get", "LibraryAnswer"),
    ):
        content = paths[path][method]["responses"]["200"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(f"/{name}")


def test_work_is_told_as_it_is(street):
    work = {"state": "working", "step": "reading text", "video": "a.mp4", "share": 0.5,
            "num_done": 1, "num_total": 3, "failed": [{"video": "b.mp4", "reason": "broken"}],
            "num_failed": 1}  # fmt: skip
    with VideoIndex.open(street / "my.index") as index, open_socket("127.0.0.1", 0) as listener:
        server = Server(build_app(index, Access(), get_work=lambda: work))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            port = listener.getsockname()[1]
            found = httpx.get(f"http://127.0.0.1:{port}/api/library", trust_env=False).json()
        finally:
            server.should_exit = True
            thread.join(20)
    assert found["work"] == work | {"remaining_s": None, "message": None}


def test_the_library(client):
    library = client.get("/api/library").json()
    assert (library["num_videos"], library["num_entries"]) == (5, 7)
    assert library["work"] is None and len(library["roots"]) == 1
    assert {"text": "casino", "track_kind": "read"} in library["examples"]
    assert {video["name"] for video in library["latest"]} >= {"top.mp4", "casino.mp4"}
    assert any("CASINO ROYALE" in video["texts"] for video in library["latest"])
