"""The page in a real browser: search, marks, playing from the moment, boxes, keys, widths."""

from dataclasses import replace

import pytest
from headless_browser import Page, find_browser

from retrieval import VideoIndex
from retrieval.index.ocr_text import OcrSource
from retrieval.index.update import IndexOptions, update_index
from retrieval.web.access import Access
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import EVIL, HEIGHT, SCENES, WIDTH

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no chromium or chrome on PATH: the page is not looked at"
)
CARDS = "[...document.querySelectorAll('#results button')]"
SETTLED = "document.querySelector('#results').getAttribute('aria-busy') === 'false'"
FOCUSED = "document.activeElement"
CASINO = SCENES["holiday/casino.mp4"][1][0]


@pytest.fixture
def page(browser, address):
    """The page as it is opened first, and nothing but it was asked for when the test ends.

    Near-duplicates are shown: the model is not trained, so which entries are some is luck.
    """
    browser.open(f"{address}/", 1280)
    browser.wait_for("document.querySelector('#folder').options.length > 1")
    browser.click("#all")
    yield browser
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith(f"{address}/")] == []


def search(page: Page, query: str, mode: str = "hybrid") -> list[str]:
    """Search with the mouse; returns the names of the results, for a screen reader."""
    page.click(f"input[value={mode}]")
    page.value("document.querySelector('#query').value = ''")
    page.click("#query")
    page.type(query)
    page.click("#submit")
    page.wait_for(f"document.title.startsWith({query!r}) && {SETTLED}")
    return page.value(f"{CARDS}.map(card => card.ariaLabel)")


def text(page: Page, selector: str) -> str:
    return page.value(f"document.querySelector({selector!r}).textContent")


def test_a_search_shows_results_with_the_words_marked(page):
    assert page.value("getComputedStyle(document.querySelector('#intro')).display") != "none"
    names = search(page, "casino", "keyword")
    assert len(names) == 4  # one of them by the name of its file
    assert {name.split(". ")[0] for name in names} == {
        "Play holiday/casino.mp4 from 0:00 to 0:02",
        "Play holiday/casino.mp4 from 0:02 to 0:04",
        "Play holiday/casino.mp4 from 0:04 to 0:06",
        "Play top.mp4 from 0:00 to 0:02",
    }
    marks = "[...document.querySelectorAll('#results mark')].map(mark => mark.textContent)"
    # Two windows show it, one of another video, and a file's name has it in three windows.
    assert sorted(page.value(marks)) == ["CASINO", "CASINO", "casino", *["casino"] * 3]
    assert text(page, "#status") == "4 results for “casino”"
    page.wait_for("[...document.images].every(image => image.naturalWidth > 100)")
    assert page.value("document.querySelector('#intro').hidden")
    assert "q=casino" in page.value("location.search")


def test_marks_count_characters(page):
    search(page, "up", "keyword")
    marked = "[...document.querySelectorAll('#results mark')].map(mark => mark.textContent)"
    assert page.value(marked) == ["up", "up"]


def test_names_and_texts_that_are_markup_stay_text(page):
    (name,) = search(page, "onerror", "keyword")
    assert EVIL in name and 'café "à la" <b>&.mp4' in name
    assert text(page, "#results .line") == EVIL
    assert page.value("document.querySelectorAll('#results b, #results img').length") == 1
    page.click("#results button")
    page.wait_for("document.querySelector('#lines button')")
    assert EVIL in text(page, "#lines") and text(page, "#player-title") == 'café "à la" <b>&.mp4'
    page.press("Escape")
    search(page, "RE16", "keyword")
    assert text(page, "#results .name") == "two\nlines.mp4"


def test_nothing_found_and_no_answer_are_said(page):
    assert search(page, "zzzzqqqq", "keyword") == []
    assert "Nothing found: no text like “zzzzqqqq”" in text(page, "#status")
    folder = "document.querySelector('#folder')"
    page.value(f"{folder}.value = 'street'; {folder}.dispatchEvent(new Event('change', "
               "{bubbles: true}))")  # fmt: skip
    page.wait_for("document.querySelector('#status').textContent.endsWith('in street.')")
    assert len(search(page, "RE16", "keyword")) == 1
    assert search(page, "casino", "keyword") == []
    page.value("window.fetch = () => Promise.reject(new TypeError('no network'))")
    page.value("document.querySelector('#submit').click()")
    page.wait_for("!document.querySelector('#error').hidden")
    assert "Is serve.py still running?" in text(page, "#error")


def test_a_folder_whose_name_is_no_text_can_be_chosen(page):
    page.open(page.value("location.origin") + "/?q=car&mode=semantic", 1280)
    page.wait_for(f"{CARDS}.length")
    folder = "document.querySelector('#folder')"
    page.value(f"{folder}.selectedIndex = {folder}.options.length - 1;"
               f"{folder}.dispatchEvent(new Event('change', {{bubbles: true}}))")  # fmt: skip
    page.wait_for(f"{CARDS}.length === 1 && {SETTLED}")
    assert page.value(f"{CARDS}[0].ariaLabel").startswith("Play street/caf\ufffd/no text.mp4")


def test_a_click_plays_from_the_moment_with_boxes_over_the_picture(page):
    search(page, "casino royale", "keyword")
    card = next(i for i, name in enumerate(page.value(f"{CARDS}.map(c => c.ariaLabel)"), 1)
                if "from 0:02" in name)  # fmt: skip
    page.value("HTMLMediaElement.prototype.play = function () { window.started = "
               "this.currentTime; return Promise.resolve(); }")  # fmt: skip
    page.click(f"#results li:nth-child({card}) button")
    video = "document.querySelector('#video')"
    page.wait_for(f"{video}.readyState >= 2 && document.querySelector('.box')")
    assert page.value("window.started") == 2.0 == page.value(f"{video}.currentTime")
    assert page.value(f"{video}.videoWidth") == WIDTH
    drawn = (
        "[...document.querySelectorAll('.box.matched')].filter(box => !box.hidden).map(box => {"
        f"const [b, v] = [box, {video}].map(e => e.getBoundingClientRect());"
        f"const x = {WIDTH} / v.width, y = {HEIGHT} / v.height;"
        "return [(b.left - v.left) * x, (b.top - v.top) * y, (b.right - v.left) * x,"
        "(b.bottom - v.top) * y]; })"
    )
    for frame in (50, 75, 90):  # the sign moves; it was spotted at 50, 60, 70 …
        page.value(f"{video}.currentTime = {frame / 25}")
        page.wait_for(f"!{video}.seeking")
        page.wait_for(f"Math.abs(({drawn})[0]?.[0] - {CASINO.box(frame)[0]}) < 1.5")
        assert page.value(drawn)[0] == pytest.approx(CASINO.box(frame), abs=1.5)
    page.value(f"{video}.currentTime = 5.5")
    page.wait_for(f"({drawn}).length === 0")
    page.click("#draw")
    assert page.value("getComputedStyle(document.querySelector('#boxes')).display") == "none"
    page.click("#draw")
    page.click("#player-close")
    page.wait_for("!document.querySelector('#player').open")
    page.wait_for(f"!{video}.hasAttribute('src')")


def test_with_frame_vectors_it_plays_from_the_best_frame(browser, colours, tmp_path):
    videos, model = colours
    update_index(videos, tmp_path / "i", model, OcrSource(), IndexOptions())
    with VideoIndex.open(tmp_path / "i") as index:
        hit = index.search("red", 1, "semantic")[0]
    with serving(tmp_path / "i") as address:
        browser.open(f"{address}/?q=red&mode=semantic&all=1", 1280)
        browser.wait_for(f"{CARDS}.length && {SETTLED}")
        moment, start = (formatted(time_s) for time_s in (hit.time_s, hit.start_s))
        end = formatted(hit.end_s)
        name = browser.value(f"{CARDS}[0].ariaLabel")
        assert name == f"Play moment.mp4 from {moment} to {end}" and moment != start
        assert text(browser, "#results .time") == f"{moment} in {start} – {end}"
        browser.click("#results button")
        video = "document.querySelector('#video')"
        browser.wait_for(f"{video}.readyState >= 2")
        assert hit.time_s <= browser.value(f"{video}.currentTime") < hit.time_s + 5
        browser.press("Escape")
        browser.wait_for("!document.querySelector('#player').open")
        assert browser.complaints() == []


def formatted(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def test_it_plays_by_itself_and_asks_for_ranges(page):
    search(page, "casino royale", "keyword")
    page.click("#results button")
    page.wait_for("document.querySelector('#video').currentTime > 2.2")
    assert not page.value("document.querySelector('#video').paused")
    page.press("Escape")
    page.wait_for("!document.querySelector('#player').open")
    answers = [e["params"]["response"] for e in page.events
               if e.get("method") == "Network.responseReceived"]  # fmt: skip
    assert {a["status"] for a in answers if a["url"].endswith("/video")} == {206}


def test_everything_can_be_done_with_keys(page):
    page.value(f"{FOCUSED}.blur()")
    page.press("/")
    assert page.value(f"{FOCUSED}.id") == "query" and page.value(f"{FOCUSED}.value") == ""
    page.type("casino")
    page.press("Enter")
    page.wait_for(f"{CARDS}.length > 3 && {SETTLED}")
    index = f"{CARDS}.indexOf({FOCUSED})"
    for key, expected in (
        ("ArrowDown", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowDown", 4), ("Home", 0),
    ):  # fmt: skip
        page.press(key)
        assert page.value(index) == expected, key
    outline = f"getComputedStyle({FOCUSED}).outlineStyle"
    assert page.value(outline) == "solid"
    page.press("Enter")
    page.wait_for("document.querySelector('#player').open")
    assert page.value(f"{FOCUSED}.closest('dialog') !== null")
    page.press("/")  # is the player's now
    assert page.value(f"{FOCUSED}.closest('dialog') !== null")
    page.press("Escape")
    page.wait_for("!document.querySelector('#player').open")
    assert page.value(index) == 0
    page.press("ArrowUp")
    assert page.value(f"{FOCUSED}.id") == "query"
    page.press("ArrowDown")
    page.press("Escape")
    assert page.value(f"{FOCUSED}.id") == "query"


def test_screen_readers_are_told_everything(page):
    search(page, "casino")
    assert page.value("document.querySelector('#status').ariaLive") == "polite"
    page.click("#results button")
    page.wait_for("document.querySelector('#lines button')")
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "textbox", "searchbox", "radio", "checkbox", "combobox", "dialog", "Video"}
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes
             if not node["ignored"] and node["role"]["value"] in named]  # fmt: skip
    assert {"button", "checkbox", "dialog", "Video"} <= {role for role, _ in found}
    assert all(name for _, name in found), found


def test_more_results(browser, street, monkeypatch):
    with VideoIndex.open(street / "my.index") as index:
        found = index.search("casino", 1)
    monkeypatch.setattr(VideoIndex, "search", lambda _, query, k, *more, **options: found * k)
    with serving(street / "my.index") as address:
        browser.open(f"{address}/?q=casino", 1280)
        browser.wait_for(f"{CARDS}.length === 24")
        assert text(browser, "#status") == "The best 24 results for “casino”"
        browser.click("#more")
        browser.wait_for(f"{CARDS}.length === 100")
        browser.wait_for(f"{CARDS}.indexOf({FOCUSED}) === 24")
        assert browser.value("document.querySelector('#more').hidden")
        assert browser.complaints() == []


def test_what_is_only_the_least_unlike_stands_below_a_heading(browser, street, monkeypatch):
    with VideoIndex.open(street / "my.index") as index:
        hits = index.search("casino", 7)
    assert len(hits) == 7
    marks = [True] * 5 + [False] * 2
    answers = {
        "some": [replace(hit, likely=mark) for hit, mark in zip(hits, marks, strict=True)],
        "none": [replace(hit, likely=False) for hit in hits],
        "all": [replace(hit, likely=True) for hit in hits],
    }
    monkeypatch.setattr(VideoIndex, "search", lambda _, query, *options, **more: answers[query])
    heading = "document.querySelector('#results h2')"
    with serving(street / "my.index") as address:
        for query, said, divided in (
            ("all", "7 results for “all”", False),
            ("none", "Nothing found that looks like “none”; the nearest are:", False),
            ("some", "5 results for “some”", True),
        ):
            browser.open(f"{address}/?q={query}", 1280)
            browser.wait_for(f"{CARDS}.length === 7")
            assert text(browser, "#status") == said
            assert browser.value(f"{heading} !== null") == divided
        assert text(browser, "#results h2") == "Others look alike"
        # It stands between the fifth and the sixth card, over the whole width.
        items = "[...document.querySelectorAll('#results > li')]"
        assert browser.value(f"{items}.map(item => item.contains({heading}))").index(True) == 5
        top = f"{heading}.getBoundingClientRect().top"
        assert browser.value(f"{CARDS}[4].getBoundingClientRect().bottom <= {top}")
        assert browser.value(f"{CARDS}[5].getBoundingClientRect().top >= {top}")
        width = "document.querySelector('#results').clientWidth"
        assert browser.value(f"{heading}.closest('li').offsetWidth === {width}")
        # The arrow keys pass it: four cards, one, the heading, two.
        browser.value(f"{CARDS}[0].focus()")
        index = f"{CARDS}.indexOf({FOCUSED})"
        for key, expected in (
            ("ArrowRight", 1), ("ArrowDown", 4), ("ArrowDown", 5), ("ArrowRight", 6),
            ("ArrowUp", 4), ("ArrowRight", 5), ("ArrowUp", 4), ("ArrowUp", 0), ("End", 6),
            ("ArrowDown", 6), ("ArrowRight", 6), ("Home", 0), ("ArrowLeft", 0),
        ):  # fmt: skip
            browser.press(key)
            assert browser.value(index) == expected, key
        browser.press("ArrowUp")
        assert browser.value(f"{FOCUSED}.id") == "query"
        browser.open(f"{address}/?q=some", 360)
        browser.wait_for(f"{CARDS}.length === 7")
        assert browser.value("document.documentElement.scrollWidth") <= 360
        assert browser.complaints() == []


def test_a_video_that_can_t_be_played_is_said(browser, own_street):
    (own_street / "videos" / "top.mp4").write_bytes(b"no video" * 1000)
    with serving(own_street / "my.index") as address:
        browser.open(f"{address}/?q=sale&mode=keyword", 1280)
        browser.wait_for(f"{CARDS}.length")
        browser.click("#results button")
        browser.wait_for("!document.querySelector('#player-error').hidden")
        assert "can’t play the video" in text(browser, "#player-error")
        link = browser.value("document.querySelector('#player-error a').href")
        assert link.startswith(f"{address}/api/entries/") and link.endswith("/video")
        browser.open("about:blank", 1280)


def test_a_link_with_the_token_opens_page_pictures_and_videos(browser, street):
    access = Access(token="s3cret", cookie="mine")
    with serving(street / "my.index", access) as address:
        browser.open(f"{address}/?token=s3cret&q=casino&mode=keyword&all=1", 1280)
        browser.wait_for(f"{CARDS}.length === 4")
        assert browser.value("location.search") == "?q=casino&mode=keyword&all=1"
        assert browser.value("document.cookie") == ""
        browser.wait_for("[...document.images].every(image => image.naturalWidth > 100)")
        browser.click("#results button")
        browser.wait_for("document.querySelector('#video').readyState >= 2")
        assert browser.complaints() == []
        browser.open("about:blank", 1280)


def test_an_address_of_an_earlier_version_still_searches(page, address):
    page.open(f"{address}/?q=casino&mode=words&all=1", 1280)
    page.wait_for(f"{CARDS}.length === 4 && {SETTLED}")
    assert page.value("document.querySelector('input[name=mode]:checked').value") == "keyword"


def test_back_goes_back(page):
    search(page, "RE16", "keyword")
    search(page, "casino", "keyword")
    page.value("history.back()")
    page.wait_for(f"document.title.startsWith('RE16') && {CARDS}.length === 1")
    assert page.value("document.querySelector('#query').value") == "RE16"


def test_light_dark_and_the_switch(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    origin = page.value("location.origin")
    light = page.value(colour)
    page.open(origin, 1280, dark=True)
    dark = page.value(colour)
    assert light == "rgb(250, 249, 247)" and dark == "rgb(18, 20, 22)"
    page.click("#theme")
    assert page.value(colour) == light
    page.open(origin, 1280, dark=True)
    assert page.value(colour) == light  # it was kept
    page.click("#theme")
    assert page.value(colour) == dark
    page.value("localStorage.clear()")


@pytest.mark.parametrize("width", [360, 800])
def test_no_width_overflows(page, address, width):
    beyond = (
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && "
        f"e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML.slice(0, 90))"
    )
    for path in ("/", "/?q=casino", "/?q=zzzzqqqq&mode=keyword"):
        page.open(address + path, width)
        page.wait_for(f"{CARDS}.length || document.querySelector('#status').textContent || "
                      "!document.querySelector('#intro').hidden")  # fmt: skip
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.value(beyond) == []
    page.open(f"{address}/?q=casino", width)
    page.wait_for(f"{CARDS}.length")
    page.click("#results button")
    page.wait_for("document.querySelector('#video').readyState >= 2")
    assert page.value(beyond) == []
