"""The page in a real browser: more like a result, pictures, what is not wanted."""

import io

import pytest
from headless_browser import Page, find_browser
from PIL import Image

from retrieval import VideoIndex
from tests.retrieval.web.page_steps import (
    CARDS,
    FOCUSED,
    LOADED,
    SETTLED,
    find_overflow,
    hand_over,
    list_controls,
    open_filters,
    text,
    wait_for_status,
)
from tests.retrieval.web.street import draw

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no chromium or chrome on PATH: the page is not looked at"
)
CHIPS = "[...document.querySelectorAll('#examples li')]"
SIGN = "#examples .sign"


@pytest.fixture(scope="module")
def photo() -> bytes:
    out = io.BytesIO()
    Image.fromarray(next(draw(1, [], seed=5))).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def page(browser, address):
    """The page as it is opened first, and nothing but it was asked for when the test ends."""
    browser.open(f"{address}/?all=1", 1280)
    browser.wait_for(f"document.querySelector('#folder').options.length > 1 && ({LOADED})")
    yield browser
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith(f"{address}/")] == []


def search(page: Page, query: str) -> None:
    page.click("#query")
    page.type(query)
    page.press("Enter")
    page.wait_for(f"document.title.startsWith({query!r}) && {CARDS}.length && {SETTLED}")


def hits(page: Page) -> list[int]:
    """The entries that are shown first of each video, in order."""
    ids = "[...document.querySelectorAll('#results a')].map(a => a.getAttribute('href'))"
    return [int(address.removeprefix("/?like=")) for address in page.value(ids)]


def find(index: VideoIndex, query: str = "", **options: object) -> list[int]:
    """What the page should show: the best moment's entry of each video."""
    found = index.search_videos(query, **options)
    return [video.moments[0].entry_id for video in found.videos]


def test_more_like_a_result(page, street):
    search(page, "casino royale")
    page.click("#results a")
    wait_for_status(page, "for like casino.mp4, 0:0")
    like = page.value("new URLSearchParams(location.search).getAll('like')")
    with VideoIndex.open(street / "my.index") as index:
        assert hits(page) == find(index, like=like)
    assert page.value("document.querySelector('#query').value") == ""
    assert page.value("document.title").startswith("Like casino.mp4, 0:0")
    page.wait_for("document.querySelector('#examples img').naturalWidth > 100")
    # Words come to it.
    page.type("a sign")
    page.press("Enter")
    wait_for_status(page, "for “a sign” and like casino.mp4, 0:0")
    with VideoIndex.open(street / "my.index") as index:
        assert hits(page) == find(index, "a sign", like=like)
    page.value("history.back()")
    wait_for_status(page, "for like casino.mp4, 0:0")
    assert page.value(f"{CHIPS}.length") == 1
    page.value("history.back()")
    page.wait_for(f"document.title.startsWith('casino royale') && {CHIPS}.length === 0")


def test_an_address_with_examples_is_opened(page, address, street):
    page.open(f"{address}/?like=1&minus_like=3&minus=sign&all=1", 1280)
    page.wait_for(f"{CARDS}.length && {SETTLED}")
    with VideoIndex.open(street / "my.index") as index:
        found = find(index, like=1, minus_like=3, minus="sign")
        video = index.entry(1).video.rpartition("/")[2]
    assert hits(page) == found
    assert text(page, "#examples .label") == f"{video}, 0:00"
    signs = page.value("[...document.querySelectorAll('.sign')].map(sign => sign.textContent)")
    assert signs == ["+", "−"] and "without “sign” or like" in text(page, "#status")
    # The only one that is wanted becomes unwanted, too.
    page.click(SIGN)
    page.wait_for("!document.querySelector('#error').hidden")
    assert text(page, "#error").startswith("Say what to look for, too")
    page.click(SIGN)
    page.wait_for(f"document.querySelector('#error').hidden && {CARDS}.length && {SETTLED}")
    page.open(f"{address}/?like=99", 1280)
    page.wait_for("!document.querySelector('#error').hidden")
    assert "99: the index has no such entry" in text(page, "#error")
    page.events.clear()  # the browser's own word on the two 404


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page, street, photo, event):
    page.click("input[value=keyword]")
    hand_over(page, photo, "my photo.jpg", "image/jpeg", event)
    wait_for_status(page, "for like my photo.jpg")
    with VideoIndex.open(street / "my.index") as index:
        alone = find(index, image=photo)
        mixed = find(index, "casino", image=photo)
        less = find(index, "casino", minus_image=photo)
    assert hits(page) == alone
    assert page.value("document.querySelector('input[name=mode]:checked').value") == "hybrid"
    assert "photo" not in page.value("location.href")
    shown = ("document.querySelector('#examples canvas').getContext('2d')"
             ".getImageData(32, 20, 1, 1).data[3]")  # fmt: skip
    page.wait_for(f"{shown} === 255")
    page.type("casino")
    page.press("Enter")
    wait_for_status(page, "for “casino” and like my photo.jpg")
    assert hits(page) == mixed
    page.click(SIGN)
    wait_for_status(page, "for “casino” without like my photo.jpg")
    assert hits(page) == less
    for steps, status in ((-1, "for “casino” and like my photo"), (-1, "for like my photo"),
                          (1, "for “casino” and like my photo")):  # fmt: skip
        page.value(f"history.go({steps})")
        wait_for_status(page, status)
    page.click("#examples .remove")
    page.wait_for(f"!document.querySelector('#status').textContent.includes('like') && {SETTLED}")
    assert "for “casino”" in text(page, "#status")
    assert page.value(f"{CHIPS}.length") == 0 and page.value(f"{FOCUSED}.id") == "query"


def test_a_picture_is_chosen_from_a_file(page, street, photo, tmp_path):
    (tmp_path / "chosen.jpg").write_bytes(photo)
    root = page.ask("DOM.getDocument")["root"]["nodeId"]
    node = page.ask("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.ask("DOM.setFileInputFiles", files=[str(tmp_path / "chosen.jpg")], nodeId=node)
    wait_for_status(page, "for like chosen.jpg")
    hand_over(page, photo, "another.jpg", "image/jpeg")  # takes its place
    wait_for_status(page, "for like another.jpg")
    assert page.value(f"{CHIPS}.length") == 1


def test_what_is_no_picture_is_said(page, photo):
    hand_over(page, b"text", "notes.txt", "text/plain")
    page.wait_for("!document.querySelector('#error').hidden")
    assert text(page, "#error") == "notes.txt is no picture."
    page.value(
        "Object.defineProperty(File.prototype, 'size', {get: () => 1e9, configurable: true}); 0"
    )
    hand_over(page, photo, "large.jpg", "image/jpeg")
    assert text(page, "#error") == "large.jpg is too large: a picture may have 32 MiB."
    page.value("delete File.prototype.size")
    hand_over(page, b"no picture", "broken.jpg", "image/jpeg")
    page.wait_for("document.querySelector('#error').textContent.includes('is no picture; give')")
    page.wait_for("!document.querySelector('#examples canvas')")
    page.events.clear()  # the browser's own word on the answer 422


def tab_to_link(page: Page) -> None:
    """From a card past its moments to "More like this"."""
    for _ in range(9):
        page.press("Tab")
        label = page.value(f"{FOCUSED}.ariaLabel")
        if not label.startswith(("Play from", "Show ")):
            break
    assert label.startswith("More like ")


def test_examples_by_keys_and_for_screen_readers(page, photo):
    search(page, "casino")
    page.press("ArrowDown")
    tab_to_link(page)
    page.press("ArrowRight")  # the next card
    assert page.value(f"{CARDS}.indexOf({FOCUSED})") == 1
    tab_to_link(page)
    assert page.value(f"getComputedStyle({FOCUSED}).outlineStyle") == "solid"
    page.press("Enter")
    wait_for_status(page, "for like ")
    assert page.value(f"{FOCUSED}.id") == "query"
    for expected in ("Search with a picture", None, "Switch to ", "Not wanted: "):
        page.press("Tab")
        label = page.value(f"{FOCUSED}.ariaLabel")
        assert expected is None or label.startswith(expected)
    page.press("Enter")
    page.wait_for("document.querySelector('.sign').ariaPressed === 'true'")
    assert page.value(f"{FOCUSED}.className") == "sign"
    page.press("Tab")
    page.press("Enter")
    page.wait_for(f"{CHIPS}.length === 0 && {FOCUSED}.id === 'query'")
    hand_over(page, photo, "photo.jpg", "image/jpeg")
    wait_for_status(page, "for like photo.jpg")
    open_filters(page)
    found = list_controls(page)
    assert all(name for _, name in found), found
    assert {"Search with a picture", "Remove photo.jpg", "Without", "Show all moments"} <= {
        name for _, name in found
    }


@pytest.mark.parametrize("width", [360, 800])
def test_no_width_overflows(page, address, photo, width):
    page.open(f"{address}/?like=1&minus_like=3&q=a+sign", width)
    page.wait_for(f"{CARDS}.length")
    hand_over(page, photo, f"{'a very long name ' * 9}.jpg", "image/jpeg")
    wait_for_status(page, "a very long name")
    assert find_overflow(page, width) == []
