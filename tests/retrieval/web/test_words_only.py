"""An index without a model, as the API, serve.py and the page show it, until it has one."""

from pathlib import Path

import httpx
import pytest
from headless_browser import browser_page, find_browser

from retrieval.index.ocr_text import OcrFolder
from retrieval.index.update import IndexOptions, update_index
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import WINDOW_S, update
from tests.retrieval.web.test_serve import process

WORDS_ONLY = "document.querySelector('#words-only')"


@pytest.fixture
def words_only(own_street: Path, tmp_path: Path) -> Path:
    """The street's folder; its ``my.index`` has no model."""
    (own_street / "my.index").rename(tmp_path / "with a model")
    options = IndexOptions(window_s=WINDOW_S, stride_s=WINDOW_S)
    source = OcrFolder(own_street / "ocr")
    update_index(own_street / "videos", own_street / "my.index", None, source, options)
    return own_street


def test_the_api_says_what_there_is(words_only, make_config):
    with serving(words_only / "my.index") as address, httpx.Client(base_url=address) as client:

        def ask(mode: str) -> httpx.Response:
            return client.get("/api/search", params={"q": "casino", "mode": mode})

        assert client.get("/api/folders").json()["modes"] == ["keyword"]
        assert ask("hybrid").json() == ask("keyword").json() and ask("hybrid").json()["hits"]
        answer = ask("semantic")
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("this index holds words only")
        update(words_only, make_config())  # while it is served
        assert client.get("/api/folders").json()["modes"] == ["hybrid", "semantic", "keyword"]
        assert ask("semantic").json()["hits"][0]["similarity"] is not None


def test_serve_says_it(words_only, tmp_path):
    with process(tmp_path, words_only / "my.index") as (_, address, out):
        assert httpx.get(f"{address}api/search?q=sale").json()["hits"]
        assert "my.index: holds words only, so that only text is found; index.py" in out.read_text()


@pytest.mark.skipif(find_browser() is None, reason="no chromium or chrome on PATH")
def test_the_page_offers_no_choice_that_it_has_not(words_only, address, tmp_path):
    with browser_page(tmp_path) as page:
        page.open(f"{address}/", 1280)
        page.wait_for("document.querySelector('#folder').options.length > 1")
        assert page.value(f"{WORDS_ONLY}.hidden")
        with serving(words_only / "my.index") as own:
            page.open(f"{own}/?q=casino", 1280)
            page.wait_for("document.querySelectorAll('#results .play').length === 2")
            assert not page.value(f"{WORDS_ONLY}.hidden")
            assert page.value("getComputedStyle(document.querySelector('#modes')).display") == (
                "none"
            )
        assert page.complaints() == []
