"""Another index is put in the place of the one that is served: all answers are of the new one."""

import shutil
from pathlib import Path

import httpx
import pytest

from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from tests.retrieval.web.films import index_films
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import Sign, update, write_scene


@pytest.fixture
def two_indexes(tmp_path) -> tuple[Path, Path]:
    """Of as many videos and commits each, with other names and pictures."""
    found = []
    for name in ("first", "second"):
        videos = tmp_path / f"{name}-videos"
        videos.mkdir()
        (videos / f"{name}.mp4").write_bytes(name.encode())
        folder = index_films(tmp_path / f"{name}.index", videos, {f"{name}.mp4": 9.0})
        for file in folder.glob("thumbnails/*/*.jpg"):
            file.write_bytes(b"\xff\xd8" + name.encode())
        found.append(folder)
    return found[0], found[1]


def check_answers(client: httpx.Client, name: str) -> None:
    (hit,) = client.get(f"/api/search?q={name}&mode=keyword").json()["hits"]
    assert hit["video"] == f"{name}.mp4"
    assert client.get(f"/api/entries/{hit['id']}/thumbnail").content == b"\xff\xd8" + name.encode()
    assert client.get(f"/api/entries/{hit['id']}/video").content == name.encode()
    assert client.get("/api/library").json()["latest"][0]["video"] == f"{name}.mp4"


@pytest.mark.parametrize("way", ["moved", "linked"])
def test_the_new_index_answers(two_indexes, tmp_path, way):
    first, second = two_indexes
    served = tmp_path / "served.index"
    if way == "linked":
        served.symlink_to(first)
    else:
        shutil.copytree(first, served)
    with serving(served) as address, httpx.Client(base_url=address) as client:
        check_answers(client, "first")
        if way == "moved":
            served.rename(tmp_path / "old.index")
            shutil.copytree(second, served)
        else:
            served.unlink()
            served.symlink_to(second)
        check_answers(client, "second")


def test_an_index_that_is_gone_for_a_while(two_indexes):
    first, second = two_indexes
    with serving(first) as address, httpx.Client(base_url=address) as client:
        check_answers(client, "first")
        away = first.rename(first.with_name("away"))
        for path in ("/api/search?q=first&mode=keyword", "/api/entries/1", "/api/library"):
            answer = client.get(path)
            assert answer.status_code == 503 and "see what the server says" in answer.text
        second.rename(first)
        check_answers(client, "second")
        first.rename(second)
        away.rename(first)
        check_answers(client, "first")


def test_another_model_embeds_the_queries_then(own_street, make_config, tmp_path):
    write_scene(tmp_path / "other", "one.mp4", 2, [Sign("otherwise")])
    shutil.copy(own_street / "model.pth", tmp_path / "other" / "model.pth")
    update(tmp_path / "other", make_config())
    with VideoIndex.open(own_street / "my.index") as index:
        assert {hit.video for hit in index.search("casino", mode="semantic")} != {"one.mp4"}
        old = index.load_query_encoder()
        shutil.rmtree(own_street / "my.index")
        with pytest.raises(IndexFolderError, match="no such folder"):
            index.search("casino", mode="semantic")
        (tmp_path / "other/my.index").rename(own_street / "my.index")
        assert {hit.video for hit in index.search("casino", mode="semantic")} == {"one.mp4"}
        assert len(index) == 1 and index.load_query_encoder() is old  # it is of the same weights
