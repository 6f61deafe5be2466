"""The page in a real browser: search, cards of videos, marks, filters, keys, widths."""

from dataclasses import replace

import pytest
from headless_browser import Page, find_browser

from retrieval import VideoIndex
from retrieval.web.access import Access
from tests.retrieval.web.page_steps import (
    CARDS,
    CLOSED,
    FOCUSED,
    LOADED,
    MOMENTS,
    PICTURES,
    PLAYS,
    SETTLED,
    choose,
    list_controls,
    names,
    open_filters,
    search,
    text,
    texts,
)
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import EVIL, SCENES, WIDTH

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no chromium or chrome on PATH: the page is not looked at"
)

CASINO = SCENES["holiday/casino.mp4"][1][0]


@pytest.fixture
def page(browser, address):
    """The page as it is opened first, and nothing but it was asked for when the test ends."""
    browser.open(f"{address}/", 1280)
    browser.wait_for(f"document.querySelector('#folder').options.length > 1 && ({LOADED})")
    yield browser
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith(f"{address}/")] == []


def is_shown(page: Page, selector: str) -> bool:
    return page.value(f"document.querySelector({selector!r}).checkVisibility()")


def test_a_search_shows_a_card_a_video_with_the_words_marked(page):
    assert is_shown(page, "#start")
    found = search(page, "casino", "keyword")
    assert len(found) == 2
    assert {name.split(". ")[0] for name in found} == {
        "Play holiday/casino.mp4 from 0:02.0",
        "Play top.mp4 from 0:00.0",
    }
    assert sorted(texts(page, ".moment mark")) == ["CASINO", "casino"]
    assert texts(page, ".name mark") == ["casino"]
    assert text(page, "#status") == "2 videos for “casino”"
    page.wait_for(PICTURES)
    assert not is_shown(page, "#start")
    assert "q=casino" in page.value("location.search")


def test_a_card_has_the_frame_with_the_word_in_a_box_and_all_moments(page):
    found = search(page, "casino royale", "keyword")
    assert found[0].startswith("Play holiday/casino.mp4 from 0:02.0. read: CASINO ROYALE")
    picture = "document.querySelector('#results .frame img')"
    page.wait_for(f"{picture}.naturalWidth > 100")
    assert "/frame?t=2.000" in page.value(f"{picture}.src")
    box, frame = (
        page.value(f"JSON.parse(JSON.stringify({one}.getBoundingClientRect()))")
        for one in ("document.querySelector('#results .box')", picture)
    )
    scale = frame["width"] / WIDTH
    assert [
        (box["left"] - frame["left"]) / scale, (box["top"] - frame["top"]) / scale,
        (box["right"] - frame["left"]) / scale, (box["bottom"] - frame["top"]) / scale,
    ] == pytest.approx(CASINO.box(50), abs=2)  # fmt: skip
    # It goes on in the next window: that is the same moment.
    labels = page.value(f"{MOMENTS}.map(moment => moment.ariaLabel)")
    assert labels[0] == "Play from 0:02.0. read: CASINO ROYALE"
    assert sum("CASINO ROYALE" in label for label in labels) == 1


def test_marks_count_characters(page):
    search(page, "up", "keyword")
    assert texts(page, "#results mark") == ["up", "up"]


def test_names_and_texts_that_are_markup_stay_text(page):
    (name,) = search(page, "onerror", "keyword")
    assert EVIL in name and 'café "à la" <b>&.mp4' in name
    assert text(page, "#results .line").endswith(EVIL)
    assert page.value("document.querySelectorAll('#results b, #results img').length") == 1
    page.click("#results .play")
    page.wait_for("document.querySelector('#lines button')")
    assert EVIL in text(page, "#lines") and text(page, "#player-title") == 'café "à la" <b>&.mp4'
    page.press("Escape")
    page.wait_for(CLOSED)
    search(page, "RE16", "keyword")
    assert text(page, "#results .name") == "two\nlines.mp4"


def test_names_of_files_and_folders_are_found_and_marked(page):
    assert [name.split(" from")[0] for name in search(page, "beach", "keyword")] == [
        'Play holiday/beach/café "à la" <b>&.mp4'
    ]
    assert texts(page, ".folder mark") == ["beach"] and texts(page, ".name mark") == []
    search(page, "top", "keyword")
    assert texts(page, ".name mark") == ["top"]
    assert texts(page, ".moment .kind") == ["read"]  # of the text; the name has no time


def test_the_query_says_what_each_of_its_words_found(page):
    search(page, "casino zzzzqqqq royale", "keyword")
    assert texts(page, "#terms li") == [
        "casino: 2 videos", "zzzzqqqq: nowhere", "royale: 1 video",
    ]  # fmt: skip
    search(page, "casinu", "keyword")
    assert texts(page, "#terms li") == ["casinu: 2 videos (similar)"]
    assert texts(page, "#results mark:not(.fuzzy)") == []
    style = "getComputedStyle(document.querySelector('.moment mark')).borderBottomStyle"
    assert page.value(style) == "dotted" and is_shown(page, "#legend")
    assert "fuzzy" in page.value("document.querySelector('#results .box').className")
    assert page.value("document.querySelector('.moment mark').title") == "Similar to “casinu”"
    search(page, "casino", "keyword")
    assert page.value(style) == "solid" and not is_shown(page, "#legend")


def test_nothing_found_and_no_answer_are_said(page):
    assert search(page, "zzzzqqqq", "keyword") == []
    assert "Nothing found: no text like “zzzzqqqq”" in text(page, "#status")
    open_filters(page)
    choose(page, "#folder", "street")
    page.wait_for("document.querySelector('#status').textContent.endsWith('in street.')")
    assert len(search(page, "RE16", "keyword")) == 1
    assert search(page, "casino", "keyword") == []
    page.value("window.fetch = () => Promise.reject(new TypeError('no network'))")
    page.value("document.querySelector('#submit').click()")
    page.wait_for("!document.querySelector('#error').hidden")
    assert "Is its command still running?" in text(page, "#error")


def test_a_folder_whose_name_is_no_text_can_be_chosen(page):
    page.open(page.value("location.origin") + "/?q=car&mode=semantic", 1280)
    page.wait_for(f"{CARDS}.length")
    folder = "document.querySelector('#folder')"
    page.value(f"{folder}.selectedIndex = {folder}.options.length - 1;"
               f"{folder}.dispatchEvent(new Event('change', {{bubbles: true}}))")  # fmt: skip
    page.wait_for(f"{CARDS}.length === 1 && {SETTLED}")
    assert names(page)[0].startswith("Play street/caf\ufffd/no text.mp4")


def test_filters_and_orders_list_the_library(page):
    page.click("#filter-toggle")
    assert page.value("document.querySelector('#filter-toggle').ariaExpanded") == "true"
    choose(page, "#sort", "longest")
    page.wait_for(f"{CARDS}.length === 5 && {SETTLED}")
    assert names(page)[0] == "Play holiday/casino.mp4, 0:06" and text(page, "#status") == "5 videos"
    choose(page, "#has-text", "false")
    page.wait_for(f"{CARDS}.length === 1 && {SETTLED}")
    assert "no text.mp4" in names(page)[0]
    choose(page, "#has-text", "")
    choose(page, "#sort", "name")
    page.wait_for(f"{CARDS}.length === 5 && {SETTLED}")
    assert page.value("location.search") == "?sort=name"
    choose(page, "#after", "2999-01-01")
    page.wait_for(f"{CARDS}.length === 0 && {SETTLED}")
    assert text(page, "#status") == "0 videos"
    assert text(page, "#filter-toggle") == "Filters (1)"
    choose(page, "#after", "2001-01-01")
    choose(page, "#before", "2999-01-01")
    page.wait_for(f"{CARDS}.length === 5 && {SETTLED}")
    # The address holds them, also a length that the list has not.
    page.open(page.value("location.origin") + "/?min_length=3&sort=name&q=casino", 1280)
    page.wait_for(f"{CARDS}.length && {SETTLED}")
    assert [name.split(" from")[0] for name in names(page)] == ["Play holiday/casino.mp4"]
    assert page.value("document.querySelector('#length').selectedOptions[0].text") == (
        "3 s or longer"
    )
    choose(page, "#length", "-60")
    page.wait_for(f"{CARDS}.length > 1 && {SETTLED}")
    assert "max_length=60" in page.value("location.search")


def test_more_than_three_moments_unfold(browser, street, monkeypatch):
    many_moments(monkeypatch, street, 6)
    with serving(street / "my.index") as address:
        browser.open(f"{address}/?q=casino", 1280)
        browser.wait_for(f"{CARDS}.length === 1")
        shown = f"{MOMENTS}.filter(moment => moment.checkVisibility()).length"
        assert browser.value(shown) == 3
        assert text(browser, ".unfold") == "3 more moments"
        browser.click(".unfold")
        assert browser.value(shown) == 6
        assert browser.value(f"{MOMENTS}.indexOf({FOCUSED})") == 3
        open_filters(browser)
        browser.click("#all")
        browser.wait_for(f"{shown} === 6 && !document.querySelector('.unfold')")
        assert "all=1" in browser.value("location.search")
        assert browser.complaints() == []
        browser.open("about:blank", 1280)


def many_moments(monkeypatch, street, number: int) -> None:
    """Let every search find one video with this many moments."""
    search_videos = VideoIndex.search_videos
    with VideoIndex.open(street / "my.index") as index:
        found = search_videos(index, "casino")
    video = found.videos[0]
    (word, *_) = video.moments[0].words
    moments = tuple(
        replace(video.moments[0], time_s=2.0 * place, words=(replace(word, start_s=2.0 * place),))
        for place in range(number)
    )
    video = replace(video, moments=moments, num_moments=number)
    answer = replace(found, videos=(video,), num_with_words=1, num_likely=1, num_videos=1)
    monkeypatch.setattr(VideoIndex, "search_videos", lambda *_, **__: answer)


def test_everything_can_be_done_with_keys(page):
    page.value(f"{FOCUSED}.blur()")
    page.press("/")
    assert page.value(f"{FOCUSED}.id") == "query" and page.value(f"{FOCUSED}.value") == ""
    page.type("casino")
    page.press("Enter")
    page.wait_for(f"{CARDS}.length > 3 && {SETTLED}")
    index = f"{CARDS}.indexOf({FOCUSED})"
    page.press("ArrowDown")
    tops = page.value(f"{CARDS}.map(card => card.offsetTop)")
    below = next(number for number, top in enumerate(tops) if top > tops[0])
    for key, expected in (
        ("Home", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowDown", below), ("Home", 0),
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
    page.wait_for(CLOSED)
    assert page.value(index) == 0
    page.press("ArrowUp")
    assert page.value(f"{FOCUSED}.id") == "query"
    page.press("ArrowDown")
    page.press("Escape")
    assert page.value(f"{FOCUSED}.id") == "query"


def test_screen_readers_are_told_everything(page):
    search(page, "casino")
    assert page.value("document.querySelector('#status').ariaLive") == "polite"
    open_filters(page)
    found = list_controls(page)
    assert {"button", "link", "radio", "checkbox", "combobox", "searchbox", "Date"} <= {
        role for role, _ in found
    }
    assert all(name for _, name in found), found
    page.click("#results .play")
    page.wait_for("document.querySelector('#lines button')")
    found = list_controls(page)
    assert {"button", "checkbox", "dialog", "Video", "slider", "combobox", "link"} <= {
        role for role, _ in found
    }
    assert all(name for _, name in found), found
    page.press("Escape")
    page.wait_for(CLOSED)


def test_more_results(browser, street, monkeypatch):
    """Pages of 24 videos; the focus goes to the first new one."""
    with VideoIndex.open(street / "my.index") as index:
        found = index.search_videos("casino")
    asked = []

    def search_videos(_, query, wanted, *more, **options):
        asked.append((wanted.offset, wanted.k))
        videos = (found.videos[0],) * min(wanted.k, 60 - wanted.offset)
        return replace(found, videos=videos, num_with_words=60, num_likely=60, num_videos=60)

    monkeypatch.setattr(VideoIndex, "search_videos", search_videos)
    with serving(street / "my.index") as address:
        browser.open(f"{address}/?q=casino", 1280)
        browser.wait_for(f"{CARDS}.length === 24")
        assert text(browser, "#status") == "60 videos for “casino”"
        browser.click("#more")
        browser.wait_for(f"{CARDS}.length === 48")
        browser.wait_for(f"{CARDS}.indexOf({FOCUSED}) === 24")
        browser.value("document.querySelector('#more').focus()")
        browser.press("Enter")
        browser.wait_for(f"{CARDS}.length === 60")
        assert browser.value("document.querySelector('#more').hidden")
        assert asked == [(0, 24), (24, 24), (48, 24)]
        assert browser.complaints() == []


def test_words_looks_and_the_rest_stand_below_headings(browser, street, monkeypatch):
    with VideoIndex.open(street / "my.index") as index:
        found = index.search_videos("casino")
    (video, *_) = found.videos
    groups = {"words": (True, True), "alike": (True, False), "rest": (False, False)}

    def answer(*kinds: str):
        videos = tuple(
            replace(video, likely=groups[kind][0], has_words=groups[kind][1]) for kind in kinds
        )
        counts = {
            "num_with_words": sum(one.has_words for one in videos),
            "num_likely": sum(one.likely for one in videos),
            "num_videos": len(videos),
        }
        return replace(found, videos=videos, **counts)

    answers = {
        "all": answer(*["words"] * 7),
        "alike": answer(*["alike"] * 7),
        "none": answer(*["rest"] * 7),
        "some": answer(*["words"] * 5, *["rest"] * 2),
        "each": answer("words", *["alike"] * 4, *["rest"] * 2),
    }
    monkeypatch.setattr(
        VideoIndex, "search_videos", lambda _, query, *options, **more: answers[query]
    )
    rest = "The nearest of the others"
    with serving(street / "my.index") as address:
        for query, said, headings in (
            ("all", "7 videos for “all”", []),
            ("alike", "7 videos for “alike”", []),
            ("none", "Nothing found that looks like “none”; the nearest are:", []),
            ("each", "5 videos for “each” (1 with these words)",
             ["1 video with these words", "Others look alike", rest]),
            ("some", "5 videos for “some”", ["5 videos with these words", rest]),
        ):  # fmt: skip
            browser.open(f"{address}/?q={query}", 1280)
            browser.wait_for(f"{CARDS}.length === 7")
            assert text(browser, "#status") == said
            assert texts(browser, "#results h2") == headings
        # It stands between the fifth and the sixth card, over the whole width.
        heading = "document.querySelectorAll('#results h2')[1]"
        items = "[...document.querySelectorAll('#results > li')]"
        assert browser.value(f"{items}.map(item => item.contains({heading}))").index(True) == 6
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
        # In another order there are no such groups.
        browser.open(f"{address}/?q=some&sort=name", 1280)
        browser.wait_for(f"{CARDS}.length === 7")
        assert texts(browser, "#results h2") == []
        assert browser.complaints() == []


def test_a_link_with_the_token_opens_page_pictures_and_videos(browser, street):
    access = Access(token="s3cret", cookie="mine")
    with serving(street / "my.index", access) as address:
        browser.open(f"{address}/?token=s3cret&q=casino&mode=keyword&all=1", 1280)
        browser.wait_for(f"{CARDS}.length === 2")
        assert browser.value("location.search") == "?q=casino&mode=keyword&all=1"
        assert browser.value("document.cookie") == ""
        browser.wait_for(PICTURES)
        browser.click("#results .play")
        browser.wait_for(PLAYS)
        assert browser.complaints() == []
        browser.open("about:blank", 1280)


def test_an_address_of_an_earlier_version_still_searches(page, address):
    page.open(f"{address}/?q=casino&mode=words&all=1", 1280)
    page.wait_for(f"{CARDS}.length === 2 && {SETTLED}")
    assert page.value("document.querySelector('input[name=mode]:checked').value") == "keyword"


def test_back_goes_back(page):
    search(page, "RE16", "keyword")
    search(page, "casino", "keyword")
    page.value("history.back()")
    page.wait_for(f"document.title.startsWith('RE16') && {CARDS}.length === 1")
    assert page.value("document.querySelector('#query').value") == "RE16"
    page.value("history.back()")
    page.wait_for("!document.querySelector('#start').hidden")
    assert page.value(f"{CARDS}.length") == 0 and text(page, "#status") == ""
