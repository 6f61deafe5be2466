"""The start of the page in a real browser: the library, what to look for, the work on it."""

from dataclasses import replace

import pytest
from headless_browser import find_browser

from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.update import IndexOptions, update_index
from tests.retrieval.web.page_steps import (
    CARDS,
    FOCUSED,
    LOADED,
    PICTURES,
    PLAYS,
    SETTLED,
    find_overflow,
    list_controls,
    text,
    texts,
)
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import Sign, write_scene

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no chromium or chrome on PATH: the page is not looked at"
)
LATEST = "[...document.querySelectorAll('#latest .play')]"


@pytest.fixture
def library(tmp_path):
    """A folder of one video; ``update`` indexes what is in it."""
    write_scene(tmp_path, "one.mp4", 2, [Sign("HARBOUR MASTER")])
    return tmp_path


def update(folder) -> None:
    source = OcrFolder(folder / "ocr")
    update_index(folder / "videos", folder / "my.index", None, source, IndexOptions())


def test_the_library_is_shown_and_an_example_is_searched(browser, address):
    browser.open(f"{address}/", 1280)
    browser.wait_for(LOADED)
    assert text(browser, "#counts").startswith("5 videos, 14 s from /")
    assert browser.value(f"{LATEST}.length") == 5
    labels = browser.value(f"{LATEST}.map(card => card.ariaLabel)")
    (casino,) = (label for label in labels if label.startswith("Play holiday/casino.mp4, 0:06"))
    assert "Read: " in casino and "CASINO ROYALE" in casino
    browser.wait_for(PICTURES)
    assert "casino" in texts(browser, "#try-list li")
    assert all(name for _, name in list_controls(browser))
    number = texts(browser, "#try-list li").index("casino") + 1
    browser.click(f"#try-list li:nth-child({number}) button")
    browser.wait_for(f"document.title.startsWith('casino') && {CARDS}.length && {SETTLED}")
    assert browser.value("document.querySelector('#query').value") == "casino"
    assert not browser.value("document.querySelector('#start').checkVisibility()")
    browser.value("history.back()")
    browser.wait_for("document.querySelector('#start').checkVisibility()")
    browser.click("#all-videos")
    browser.wait_for(f"{CARDS}.length === 5 && {SETTLED}")
    assert browser.value("location.search") == "?sort=newest"
    assert browser.complaints() == []


def test_the_latest_are_played_and_reached_by_keys(browser, address):
    browser.open(f"{address}/", 1280)
    browser.wait_for(LOADED)
    browser.value("document.querySelector('#query').focus()")
    browser.press("ArrowDown")
    browser.press("ArrowRight")
    assert browser.value(f"{LATEST}.indexOf({FOCUSED})") == 1
    browser.press("Enter")
    browser.wait_for(PLAYS)
    assert text(browser, "#match") == "no matches"
    assert browser.value("document.querySelector('#next').disabled")
    browser.press("Escape")
    browser.wait_for(f"{LATEST}.indexOf({FOCUSED}) === 1 && location.search === ''")


def test_an_empty_library_says_what_to_do(browser, street, monkeypatch):
    with VideoIndex.open(street / "my.index") as index:
        found = index.describe_library()
    empty = replace(found, num_videos=0, num_entries=0, duration_s=0.0, latest=(), examples=())
    monkeypatch.setattr(VideoIndex, "describe_library", lambda _: empty)
    with serving(street / "my.index") as address:
        browser.open(f"{address}/", 390)
        browser.wait_for(LOADED)
        assert "find.py" in text(browser, "#empty")
        assert not browser.value("document.querySelector('#filled').checkVisibility()")
        assert browser.value("document.querySelector('#intro').open")
        assert find_overflow(browser, 390) == []
        assert browser.complaints() == []
        browser.open("about:blank", 1280)


def test_the_work_is_followed_and_new_videos_appear(browser, library):
    update(library)
    failed = [{"video": "old/camera.avi", "reason": "can’t be decoded"}]
    working = {
        "state": "working", "step": "reading text", "video": "phone/two.mp4", "share": 0.5,
        "num_done": 1, "num_total": 4, "remaining_s": 200.0, "failed": failed, "num_failed": 1,
    }  # fmt: skip
    work: dict = dict(working)
    with serving(library / "my.index", get_work=lambda: dict(work)) as address:
        browser.open(f"{address}/", 1280)
        browser.wait_for(LOADED)
        assert text(browser, "#work-step") == "Reading text: two.mp4"
        assert text(browser, "#work-count") == "1 of 4 videos, 3 min left"
        assert browser.value("document.querySelector('#work-bar').value") == 0.375
        assert browser.value(f"{LATEST}.length") == 1
        browser.click("#work-failed summary")
        assert texts(browser, "#work-failed li") == ["old/camera.avi can’t be decoded"]
        browser.value(f"{LATEST}[0].focus()")
        # One more is ready; whoever was at a card stays there.
        write_scene(library, "two.mp4", 2, [Sign("PLATFORM NINE")])
        update(library)
        work |= {"num_done": 2, "share": 0.0}
        browser.wait_for(f"{LATEST}.length === 2")
        assert browser.value(f"{FOCUSED}.ariaLabel").startswith("Play one.mp4")
        assert browser.value("document.querySelector('#work-failed').open")
        assert text(browser, "#work-count").startswith("2 of 4 videos")
        assert browser.value("document.querySelector('#query').placeholder") == "Search 2 videos"
        work |= {"state": "done", "num_done": 4, "remaining_s": None}
        browser.wait_for("document.querySelector('#work-step').textContent === 'Done.'")
        assert not browser.value("document.querySelector('#work-bar').checkVisibility()")
        assert text(browser, "#work-failed summary") == "1 failed"
        work.clear()
        work |= working | {"failed": [], "num_failed": 0, "state": "done"}
        browser.open(f"{address}/", 390)
        browser.wait_for(LOADED)
        assert not browser.value("document.querySelector('#work').checkVisibility()")
        assert browser.complaints() == []
        browser.open("about:blank", 1280)


def test_a_stopped_work_is_said(browser, library):
    update(library)
    work = {"state": "stopped", "num_done": 1, "num_total": 3, "message": "the disk is full"}
    with serving(library / "my.index", get_work=lambda: work) as address:
        browser.open(f"{address}/?q=harbour", 390)
        browser.wait_for(f"{CARDS}.length === 1")
        assert text(browser, "#work-step").startswith("Stopped: find.py goes on")
        assert text(browser, "#work-step").endswith("the disk is full")
        assert find_overflow(browser, 390) == []
        browser.open("about:blank", 1280)


def test_a_library_that_can_t_be_read_is_said(browser, street, monkeypatch):
    def fail(_):
        raise IndexFolderError("index.db: is damaged")

    monkeypatch.setattr(VideoIndex, "describe_library", fail)
    with serving(street / "my.index") as address:
        browser.open(f"{address}/", 1280)
        browser.wait_for("!document.querySelector('#error').hidden")
        assert text(browser, "#error").startswith("the index can't be read")
        browser.open("about:blank", 1280)
