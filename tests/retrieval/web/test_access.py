"""Who is answered: names of this machine, tokens, cookies."""

import httpx
import pytest

from retrieval.web.access import Access
from tests.retrieval.web.serving import serving

TOKEN = "s3cret-token"
PATHS = ("/", "/static/app.js", "/api/search?q=a", "/api/folders", "/api/openapi.json",
         "/api/entries/1", "/api/entries/1/thumbnail", "/api/entries/1/video")  # fmt: skip


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8000", 200),
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("evil.example:127.0.0.1", 403),
        ("localhost:80:80", 403),
        ("", 403),
    ],
)
def test_only_names_of_this_machine_are_answered(client, host, status):
    answer = client.get("/api/folders", headers={"Host": host})
    assert answer.status_code == status
    assert "entries" in answer.text or answer.json()["detail"].endswith("localhost only")


@pytest.fixture(scope="module")
def guarded(street):
    with serving(street / "my.index", Access(names=None, token=TOKEN, cookie="mine")) as address:
        yield address


@pytest.fixture
def stranger(guarded):
    """A client that knows neither token nor cookie."""
    with httpx.Client(base_url=guarded, verify=False, trust_env=False) as opened:
        yield opened


def ask(client: httpx.Client, path: str, authorization: str | bytes) -> int:
    return client.get(path, headers={"Authorization": authorization}).status_code


@pytest.mark.parametrize("path", PATHS)
def test_everything_needs_the_token(stranger, path):
    refused = stranger.get(path)
    assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
    assert "serve.py has printed" in refused.text and "set-cookie" not in refused.headers
    assert ask(stranger, path, "Bearer wrong") == 401
    assert ask(stranger, path, f"Bearer {TOKEN}") == 200


def test_nothing_but_the_token_will_do(stranger):
    path = "/api/folders"
    for given in ("wrong", TOKEN + "x", TOKEN[:-1], "é"):
        assert ask(stranger, path, f"Bearer {given}".encode("latin-1")) == 401
    for given in (TOKEN, f"Basic {TOKEN}", "Bearer"):
        assert ask(stranger, path, given) == 401
    assert ask(stranger, path, f"bearer {TOKEN}") == 200


def test_the_link_sets_a_cookie_that_opens_everything(stranger):
    answer = stranger.get(f"/?token={TOKEN}&q=a+b%0d%0aX-Evil:1&mode=words")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?q=a+b%0D%0AX-Evil%3A1&mode=words"
    assert "x-evil" not in answer.headers
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert cookie.startswith("mine=") and TOKEN not in cookie
    assert stranger.get(f"/?token={TOKEN}").headers["location"] == "/"
    assert {stranger.get(path).status_code for path in PATHS} == {200}
    assert stranger.get("/api/entries/1/video", headers={"Range": "bytes=0-9"}).status_code == 206


def test_no_other_link_does(stranger):
    for path in ("/?token=", "/?token=wrong", f"/static/app.js?token={TOKEN}",
                 f"/api/folders?token={TOKEN}"):  # fmt: skip
        answer = stranger.get(path)
        assert answer.status_code == 401 and "set-cookie" not in answer.headers, path


def test_a_cookie_of_another_process_is_none(stranger):
    for value in (TOKEN, "", Access(token=TOKEN).session):
        assert stranger.get("/", headers={"Cookie": f"mine={value}"}).status_code == 401


def test_any_name_is_answered_where_others_may_ask(stranger):
    headers = {"Host": "evil.example", "Authorization": f"Bearer {TOKEN}"}
    assert stranger.get("/api/folders", headers=headers).status_code == 200
