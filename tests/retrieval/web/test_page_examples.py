"""The page in a real browser: more like a result, pictures, what is not wanted, near-duplicates."""

import base64
import io
import json
import shutil

import pytest
from headless_browser import Page, find_browser
from PIL import Image

from retrieval import VideoIndex
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import draw, update

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no chromium or chrome on PATH: the page is not looked at"
)
CARDS = "[...document.querySelectorAll('#results button')]"
SETTLED = "document.querySelector('#results').getAttribute('aria-busy') === 'false'"
FOCUSED = "document.activeElement"
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
    browser.wait_for("document.querySelector('#folder').options.length > 1")
    yield browser
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith(f"{address}/")] == []


def text(page: Page, selector: str) -> str:
    return page.value(f"document.querySelector({selector!r}).textContent")


def search(page: Page, query: str) -> None:
    page.click("#query")
    page.type(query)
    page.press("Enter")
    page.wait_for(f"document.title.startsWith({query!r}) && {CARDS}.length && {SETTLED}")


def hits(page: Page) -> list[int]:
    """The entries that are shown, in order."""
    ids = "[...document.querySelectorAll('#results a')].map(a => a.getAttribute('href'))"
    return [int(address.removeprefix("/?like=")) for address in page.value(ids)]


def hand_over(page: Page, content: bytes, name: str, kind: str, event: str = "drop") -> None:
    """Drop a file on the search field, or paste it."""
    data = json.dumps(base64.b64encode(content).decode())
    start = (
        "new DragEvent('drop', {dataTransfer: data,"
        if event == "drop"
        else ("new ClipboardEvent('paste', {clipboardData: data,")
    )
    page.value(
        f"{{ const bytes = Uint8Array.from(atob({data}), c => c.charCodeAt(0));"
        "const data = new DataTransfer();"
        f"data.items.add(new File([bytes], {json.dumps(name)}, {{type: {json.dumps(kind)}}}));"
        f"document.querySelector('#query').dispatchEvent({start} bubbles: true,"
        "cancelable: true})); }"
    )


def wait_for_status(page: Page, start: str) -> None:
    page.wait_for(f"document.querySelector('#status').textContent.includes({json.dumps(start)}) "
                  f"&& {SETTLED}")  # fmt: skip


def test_more_like_a_result(page, street):
    search(page, "casino royale")
    page.click("#results a")
    wait_for_status(page, "for like casino.mp4, 0:0")
    like = page.value("new URLSearchParams(location.search).getAll('like')")
    with VideoIndex.open(street / "my.index") as index:
        assert hits(page) == [hit.id for hit in index.search(like=like, k=24)]
    assert page.value("document.querySelector('#query').value") == ""
    assert page.value("document.title").startswith("Like casino.mp4, 0:0")
    page.wait_for("document.querySelector('#examples img').naturalWidth > 100")
    # Words come to it.
    page.type("a sign")
    page.press("Enter")
    wait_for_status(page, "for “a sign” and like casino.mp4, 0:0")
    with VideoIndex.open(street / "my.index") as index:
        assert hits(page) == [hit.id for hit in index.search("a sign", like=like, k=24)]
    page.value("history.back()")
    wait_for_status(page, "for like casino.mp4, 0:0")
    assert page.value(f"{CHIPS}.length") == 1
    page.value("history.back()")
    page.wait_for(f"document.title.startsWith('casino royale') && {CHIPS}.length === 0")


def test_an_address_with_examples_is_opened(page, address, street):
    page.open(f"{address}/?like=1&minus_like=3&minus=sign&all=1", 1280)
    page.wait_for(f"{CARDS}.length && {SETTLED}")
    with VideoIndex.open(street / "my.index") as index:
        found = index.search(like=1, minus_like=3, minus="sign", k=24)
        video = index.entry(1).video.rpartition("/")[2]
    assert hits(page) == [hit.id for hit in found]
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
        alone = [hit.id for hit in index.search(image=photo, k=24)]
        mixed = [hit.id for hit in index.search("casino", image=photo, k=24)]
        less = [hit.id for hit in index.search("casino", minus_image=photo, k=24)]
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
    wait_for_status(page, "results for “casino”")
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


def test_examples_by_keys_and_for_screen_readers(page, photo):
    search(page, "casino")
    page.press("ArrowDown")
    page.press("Tab")
    assert page.value(f"{FOCUSED}.ariaLabel").startswith("More like ")
    page.press("ArrowRight")  # the next card
    assert page.value(f"{CARDS}.indexOf({FOCUSED})") == 1
    page.press("Tab")
    assert page.value(f"getComputedStyle({FOCUSED}).outlineStyle") == "solid"
    page.press("Enter")
    wait_for_status(page, "for like ")
    assert page.value(f"{FOCUSED}.id") == "query"
    for expected in ("Search with a picture", None, "Not wanted: "):
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
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "link", "textbox", "searchbox", "radio", "checkbox", "combobox"}
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes
             if not node["ignored"] and node["role"]["value"] in named]  # fmt: skip
    assert all(name for _, name in found), found
    assert {"Search with a picture", "Remove photo.jpg", "Without", "Show all alike"} <= {
        name for _, name in found
    }


def test_near_duplicates_are_one_card(browser, own_street, make_config):
    """The same file twice; a box shows each of them."""
    videos = own_street / "videos"
    shutil.copy(videos / "top.mp4", videos / "copy.mp4")
    shutil.copy(own_street / "ocr" / "top.json", own_street / "ocr" / "copy.json")
    update(own_street, make_config())
    with serving(own_street / "my.index") as address:
        browser.open(f"{address}/?q=sale&mode=keyword", 1280)
        browser.wait_for(f"{CARDS}.length")
        names = browser.value(f"{CARDS}.map(card => card.ariaLabel)")
        assert len(names) == 1 and names[0].endswith(". And 1 alike")
        assert text(browser, "#results .also") == "+ 1 alike"
        browser.click("#all")
        browser.wait_for(f"{CARDS}.length === 2")
        assert "all=1" in browser.value("location.search")
        assert browser.value("document.querySelector('#results .also')") is None
        browser.open("about:blank", 1280)


@pytest.mark.parametrize("width", [360, 800])
def test_no_width_overflows(page, address, photo, width):
    page.open(f"{address}/?like=1&minus_like=3&q=a+sign", width)
    page.wait_for(f"{CARDS}.length")
    hand_over(page, photo, f"{'a very long name ' * 9}.jpg", "image/jpeg")
    wait_for_status(page, "a very long name")
    beyond = (
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && "
        f"e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML.slice(0, 90))"
    )
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(beyond) == []
