"""The player in a real browser: moments, boxes, time line, keys, addresses, streams, problems."""

import json
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import av
import httpx
import pytest
from headless_browser import Page, find_browser

from retrieval import VideoIndex
from retrieval.index.ocr_text import OcrFolder, OcrSource
from retrieval.index.update import IndexOptions, update_index
from tests.retrieval.web.page_steps import (
    CARDS,
    CLOSED,
    FOCUSED,
    LOADED,
    PLAYS,
    SETTLED,
    VIDEO,
    find_overflow,
    list_controls,
    names,
    play,
    search,
    stop_playing,
    text,
    texts,
)
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import (
    FPS,
    HEIGHT,
    SCENES,
    WIDTH,
    Sign,
    document,
    draw,
    write_scene,
)

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no chromium or chrome on PATH: the page is not looked at"
)
CASINO = SCENES["holiday/casino.mp4"][1][0]
# Corners of the boxes that are drawn, in pixels of the video: left, top, right, bottom.
DRAWN = (
    "[...document.querySelectorAll('#boxes .matched')].filter(box => !box.hidden).map(box => {"
    f"const [b, v] = [box, {VIDEO}].map(e => e.getBoundingClientRect());"
    f"const x = {VIDEO}.videoWidth / v.width, y = {VIDEO}.videoHeight / v.height;"
    "return [(b.left - v.left) * x, (b.top - v.top) * y, (b.right - v.left) * x,"
    "(b.bottom - v.top) * y]; })"
)
MARKS = "[...document.querySelectorAll('#marks button')]"
TIME = f"{VIDEO}.currentTime"
TALK = "talks/the talk.mp4"
TALL = "phone/tall.mp4"


@pytest.fixture(scope="module")
def talks(tmp_path_factory) -> Path:
    """An index of the text of three videos: a talk, a portrait, and one of many lines."""
    folder = tmp_path_factory.mktemp("talks")
    signs = [
        Sign("CASINO ROYALE", (10, 20), (150, 60), 50, 80),
        Sign("Programme", (30, 140), (30, 140), 0, 199),
        Sign("CASIN0 BAR", (30, 90), (30, 90), 150, 180),
    ]
    spoken = [("we never found the casino!", 4.2, 5.4), ("thank you", 7.0, 7.5)]
    write_scene(folder, TALK, 8, signs, spoken=spoken)
    write_scene(folder, TALL, 2, [Sign("PLATFORM 9", (20, 60), (20, 60))], size=(180, 320))
    many = [Sign(f"line {number}", first=5 * number, last=5 * number) for number in range(60)]
    many[50] = Sign("lighthouse", first=250, last=274)
    write_scene(folder, "many.mp4", 12, many)
    source = OcrFolder(folder / "ocr")
    update_index(folder / "videos", folder / "my.index", None, source, IndexOptions())
    return folder


@pytest.fixture(scope="module")
def talks_address(talks):
    with serving(talks / "my.index") as found:
        yield found


@pytest.fixture
def page(browser, talks_address):
    """The page of the talks; videos stay where they begin."""
    browser.open(f"{talks_address}/", 1280)
    browser.wait_for(LOADED)
    stop_playing(browser)
    yield browser
    assert browser.complaints() == []
    browser.open("about:blank", 1280)


@pytest.fixture
def street_page(browser, address):
    browser.open(f"{address}/", 1280)
    browser.wait_for(LOADED)
    yield browser
    assert browser.complaints() == []
    browser.open("about:blank", 1280)


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.value("location.href")).query)


def wait_for_time(page: Page, time_s: float) -> None:
    page.wait_for(f"Math.abs({TIME} - {time_s}) < 0.01 && !{VIDEO}.seeking")


def test_a_click_plays_from_the_moment_with_boxes_over_the_picture(street_page):
    page = street_page
    search(page, "casino royale", "keyword")
    page.value("HTMLMediaElement.prototype.play = function () { window.started = "
               "this.currentTime; return Promise.resolve(); }")  # fmt: skip
    play(page)
    page.wait_for("document.querySelector('#boxes .box')")
    assert page.value("window.started") == 2.0 == page.value(TIME)
    assert page.value(f"{VIDEO}.videoWidth") == WIDTH
    assert page.value(f"{VIDEO}.videoHeight") == HEIGHT
    for frame in (50, 75, 90):  # the sign moves; it was spotted at 50, 60, 70 …
        page.value(f"{TIME} = {frame / 25}")
        page.wait_for(f"!{VIDEO}.seeking")
        page.wait_for(f"Math.abs(({DRAWN})[0]?.[0] - {CASINO.box(frame)[0]}) < 1.5")
        assert page.value(DRAWN)[0] == pytest.approx(CASINO.box(frame), abs=1.5)
    page.value(f"{TIME} = 5.5")
    page.wait_for(f"({DRAWN}).length === 0")
    page.click("#draw")
    assert page.value("getComputedStyle(document.querySelector('#boxes')).display") == "none"
    page.click("#draw")
    page.click("#player-close")
    page.wait_for(CLOSED)
    page.wait_for(f"!{VIDEO}.hasAttribute('src')")


def test_with_frame_vectors_it_plays_from_the_best_frame(browser, colours, tmp_path):
    videos, model = colours
    update_index(videos, tmp_path / "i", model, OcrSource(), IndexOptions())
    with VideoIndex.open(tmp_path / "i") as index:
        hit = index.search("red", 1, "semantic")[0]
    with serving(tmp_path / "i") as address:
        browser.open(f"{address}/?q=red&mode=semantic&all=1", 1280)
        browser.wait_for(f"{CARDS}.length && {SETTLED}")
        moment = f"0:{int(hit.time_s):02}.{int(hit.time_s * 10 + 0.01) % 10}"
        assert names(browser)[0].startswith(f"Play moment.mp4 from {moment}")
        assert hit.time_s != hit.start_s
        assert text(browser, ".moment .time") == moment
        browser.click("#results .play")
        browser.wait_for(PLAYS)
        assert hit.time_s - 0.001 <= browser.value(TIME) < hit.time_s + 5
        browser.press("Escape")
        browser.wait_for(CLOSED)
        assert browser.complaints() == []
        browser.open("about:blank", 1280)


def test_it_plays_by_itself_and_asks_for_ranges(street_page):
    page = street_page
    search(page, "casino royale", "keyword")
    page.click("#results .play")
    page.wait_for(f"{TIME} > 2.2")
    assert not page.value(f"{VIDEO}.paused")
    assert page.value("document.querySelector('#play').ariaLabel") == "Pause"
    page.press("Escape")
    page.wait_for(CLOSED)
    answers = [e["params"]["response"] for e in page.events
               if e.get("method") == "Network.responseReceived"]  # fmt: skip
    assert {a["status"] for a in answers if a["url"].endswith("/file.mp4")} == {206}


def test_the_time_line_marks_all_matches_and_they_are_gone_through(page, talks_address):
    search(page, "casino", "keyword")
    (name,) = names(page)
    assert name.startswith(f"Play {TALK} from 0:02.0") and name.endswith("3 moments")
    play(page)
    labels = page.value(f"{MARKS}.map(mark => mark.ariaLabel)")
    assert labels == [
        "Match 1 of 3: 0:02.0, CASINO ROYALE",
        "Match 2 of 3: 0:04.2, we never found the casino!",
        "Match 3 of 3: 0:06.0, CASIN0 BAR",
    ]
    bar = "document.querySelector('#marks').getBoundingClientRect()"
    places = page.value(
        f"{MARKS}.map(mark => {{ const b = mark.getBoundingClientRect();"
        f"return ((b.left + b.right) / 2 - {bar}.left) / {bar}.width; }})"
    )
    assert places == pytest.approx([2 / 8, 4.2 / 8, 6 / 8], abs=0.005)
    assert page.value(f"{MARKS}.map(mark => mark.className)") == ["", "", "fuzzy"]
    assert text(page, "#match") == "1 of 3"
    page.click("#next")
    wait_for_time(page, 4.2)
    assert text(page, "#match") == "2 of 3" and query_of(page)["t"] == ["4.2"]
    page.press("n")
    wait_for_time(page, 6.0)
    page.press("n")  # from the last to the first
    wait_for_time(page, 2.0)
    page.press("p")
    wait_for_time(page, 6.0)
    page.press(",")
    wait_for_time(page, 4.2)
    page.click("#marks li:nth-child(3) button")
    wait_for_time(page, 6.0)
    assert text(page, "#match") == "3 of 3"
    # With the keys: one stop of the Tab key, then the arrows.
    page.value(f"{MARKS}.find(mark => mark.tabIndex === 0).focus()")
    page.press("ArrowLeft")
    wait_for_time(page, 4.2)
    assert page.value(f"{MARKS}.indexOf({FOCUSED})") == 1
    assert page.value(f"{MARKS}.map(mark => mark.tabIndex)") == [-1, 0, -1]
    # In the history the moments are one page: Back leaves the player.
    page.value("history.back()")
    page.wait_for(f"{CLOSED} && !location.search.includes('v=')")


def test_lines_are_read_or_said_and_exact_or_similar(page):
    search(page, "casino", "keyword")
    moments = page.value("[...document.querySelectorAll('.moment')].map(m => m.ariaLabel)")
    assert sorted(moments) == [
        "Play from 0:02.0. read: CASINO ROYALE",
        "Play from 0:04.2. said: we never found the casino!",
        "Play from 0:06.0. read, similar: CASIN0 BAR",
    ]
    play(page)
    lines = page.value(
        "[...document.querySelectorAll('#lines button')].map(line => [...line.children]"
        ".map(part => part.textContent).join('|'))"
    )
    assert lines == [
        "0:00.0|readProgramme", "0:02.0|readCASINO ROYALE",
        "0:04.2|saidwe never found the casino!", "0:06.0|readCASIN0 BAR", "0:07.0|saidthank you",
    ]  # fmt: skip
    assert texts(page, "#lines .kind.spoken") == ["said", "said"]
    assert texts(page, "#lines mark:not(.fuzzy)") == ["CASINO", "casino"]
    assert texts(page, "#lines mark.fuzzy") == ["CASIN0"]
    styles = "[...document.querySelectorAll('#lines mark')].map(m => getComputedStyle(m)"
    assert page.value(f"{styles}.borderBottomStyle)") == ["solid", "solid", "dotted"]
    # What is said has no box; it is shown when it is heard.
    page.click("#lines li:nth-child(3) button")
    wait_for_time(page, 4.2)
    page.wait_for("document.querySelector('#lines li:nth-child(3) button').matches('[data-seen]')")
    assert page.value(f"({DRAWN}).length") == 0


def test_the_list_is_scrolled_to_the_matched_line(page):
    search(page, "lighthouse", "keyword")
    play(page)
    places = (
        "['#lines', '#lines .matched'].map(one => { const b = document.querySelector(one)"
        ".getBoundingClientRect(); return [b.top, b.bottom]; })"
    )
    (top, bottom), (first, last) = page.value(places)
    assert page.value("document.querySelector('#lines').scrollTop") > 0
    assert top <= first < last <= bottom


def test_the_address_of_a_moment_survives_a_reload(page, talks_address):
    search(page, "casino", "keyword")
    play(page, ".moments li:nth-child(2) .moment")
    asked = query_of(page)
    assert asked["q"] == ["casino"] and asked["v"] == [TALK]
    time_s = float(asked["t"][0])
    assert page.value(TIME) == time_s
    page.open(page.value("location.href"), 1280)
    page.wait_for(PLAYS)
    page.value(f"{VIDEO}.pause()")
    assert page.value(TIME) >= time_s - 0.001
    assert page.value(f"{MARKS}.length") == 3 and page.value(f"{CARDS}.length") == 1
    page.press("Escape")  # to the results, which the address has, too
    page.wait_for(f"{CLOSED} && !location.search.includes('v=')")
    assert query_of(page) == {"q": ["casino"]}
    # A link without a query, with a time between the moments, and one to what there is not.
    page.open(f"{talks_address}/?v={quote(TALK)}&t=3.5", 1280)
    page.wait_for(f"{PLAYS} && {TIME} >= 3.499")
    assert text(page, "#player-title") == "the talk.mp4"
    page.open(f"{talks_address}/?v=no/such.mp4&t=3.5", 1280)
    page.wait_for("!document.querySelector('#player-error').hidden")
    assert "no/such.mp4" in text(page, "#player-error")
    page.events.clear()  # the browser's own word on the 404


def test_back_closes_and_forward_opens_again(page):
    search(page, "casino", "keyword")
    play(page)
    page.value("history.back()")
    page.wait_for(f"{CLOSED} && {CARDS}.length === 1")
    assert "v" not in query_of(page) and query_of(page)["q"] == ["casino"]
    page.value("history.forward()")
    page.wait_for(PLAYS)
    wait_for_time(page, 2.0)
    page.click("#player-close")
    page.wait_for(f"{CLOSED} && !location.search.includes('v=')")
    length = page.value("history.length")
    play(page)
    page.press("Escape")
    page.wait_for(f"{CLOSED} && !location.search.includes('v=')")
    assert page.value("history.length") == length  # closing leaves no second page behind


def test_what_is_typed_while_the_browser_goes_back_is_searched_for(page):
    """Closing the player goes back, which the browser does some time later."""
    search(page, "casino", "keyword")
    play(page)
    length = page.value("history.length")
    page.value(
        "history.back = () => { window.goBack = () => History.prototype.back.call(history); }; 0"
    )
    page.press("Escape")
    page.wait_for(f"{CLOSED} && window.goBack")
    page.value("document.querySelector('#query').value = 'lighthouse'")
    page.click("#submit")
    page.wait_for("document.title.startsWith('lighthouse')")
    page.value("goBack(); delete history.back")
    page.wait_for("location.search.includes('q=lighthouse')")
    assert page.value("document.querySelector('#query').value") == "lighthouse"
    page.wait_for(f"{CARDS}.length === 1 && {SETTLED}")
    assert "v" not in query_of(page) and page.value("history.length") == length
    page.value("history.back()")
    page.wait_for(f"document.title.startsWith('casino') && {CARDS}.length === 1")


def test_what_is_typed_before_the_browser_has_gone_back_stays(page):
    search(page, "casino", "keyword")
    play(page)
    page.value(
        "history.back = () => { window.goBack = () => History.prototype.back.call(history); };"
        "addEventListener('popstate', () => { window.hasGoneBack = true; }); 0"
    )
    page.press("Escape")
    page.wait_for(f"{CLOSED} && window.goBack")
    page.value("document.querySelector('#query').value = 'lighthouse'")
    page.value("goBack(); 0")
    page.wait_for("window.hasGoneBack")
    assert page.value("document.querySelector('#query').value") == "lighthouse"
    assert query_of(page) == {"q": ["casino"]}


def test_a_player_that_is_open_again_is_not_closed_by_what_comes_late(page):
    """The browser tells that a dialog was closed some time after it was."""
    search(page, "casino", "keyword")
    play(page)
    page.value("document.querySelector('#player').dispatchEvent(new Event('close'))")
    wait_for_time(page, 2.0)
    assert page.value(PLAYS) and "v" in query_of(page)


def test_controls_stand_below_the_picture(page):
    search(page, "casino", "keyword")
    play(page)
    bottom = "document.querySelector('#stage').getBoundingClientRect().bottom"
    top = "document.querySelector('#controls').getBoundingClientRect().top"
    assert page.value(f"{bottom} <= {top} + 0.5")
    assert not page.value(f"{VIDEO}.controls")
    assert text(page, "#clock") == "0:02.0 / 0:08.0"
    seek = "document.querySelector('#seek')"
    assert page.value(f"{seek}.ariaValueText") == "0:02.0 of 0:08.0"
    page.value(f"{seek}.value = 3.4; {seek}.dispatchEvent(new Event('input'));"
               f"{seek}.dispatchEvent(new Event('change'))")  # fmt: skip
    wait_for_time(page, 3.4)
    page.wait_for("document.querySelector('#clock').textContent.startsWith('0:03.4')")
    for key, expected in (("ArrowRight", 8.0), ("ArrowLeft", 3.0), ("Home", 0.0)):
        page.press(key)
        wait_for_time(page, expected)
    page.press("m")
    page.wait_for("document.querySelector('#mute').ariaPressed === 'true'")
    assert page.value(f"{VIDEO}.muted")
    page.press("m")
    page.value("document.querySelector('#speed').value = '0.5';"
               "document.querySelector('#speed').dispatchEvent(new Event('change'))")  # fmt: skip
    assert page.value(f"{VIDEO}.playbackRate") == 0.5
    page.value(
        "delete HTMLMediaElement.prototype.play; window.toggled = [];"
        f"{VIDEO}.play = () => {{ toggled.push('play'); return Promise.resolve(); }}"
    )
    page.value("document.querySelector('#seek').focus()")
    page.press(" ")
    assert page.value("window.toggled") == ["play"]


def test_text_link_and_clip_can_be_taken_along(page, talks_address):
    page.value("navigator.clipboard.writeText = text => { window.copied = text;"
               "return Promise.resolve(); }")  # fmt: skip
    search(page, "casino", "keyword")
    play(page)
    page.wait_for("document.querySelector('#lines [data-seen]')")
    page.click("#copy-text")
    page.wait_for("document.querySelector('#copied').textContent === 'Text copied'")
    assert page.value("window.copied") == "Programme\nCASINO ROYALE"
    page.click("#copy-link")
    page.wait_for("document.querySelector('#copied').textContent === 'Link copied'")
    link = page.value("window.copied")
    assert link.startswith(f"{talks_address}/?q=casino") and link.endswith("&t=2")
    # The clip begins with the moment's span; times may be given as people write them.
    page.value(
        "{ const [a, b] = ['#clip-from', '#clip-to'].map(id => document.querySelector(id));"
        "a.value = '0:01.5'; b.value = '3'; b.dispatchEvent(new Event('input')); }"
    )
    clip = page.value("document.querySelector('#clip-link').href")
    assert clip.endswith("/clip?start=1.500&end=3.000")
    answer = httpx.get(clip, trust_env=False)
    assert answer.status_code == 200 and "attachment" in answer.headers["content-disposition"]
    for wrong, said in (("1", "after the start"), ("soon", "Give times as 1:23.4")):
        page.value(f"{{ const b = document.querySelector('#clip-to'); b.value = '{wrong}';"
                   "b.dispatchEvent(new Event('input')); }")  # fmt: skip
        assert said in text(page, "#clip-error")
        assert page.value("document.querySelector('#clip-link').hasAttribute('href')") is False


def test_a_portrait_is_as_high_as_there_is_room(page):
    search(page, "platform", "keyword")
    image = "document.querySelector('#results .frame img').getBoundingClientRect()"
    assert page.value(f"{image}.width / {image}.height") == pytest.approx(180 / 320, abs=0.01)
    play(page)
    stage = "document.querySelector('#stage').getBoundingClientRect()"
    assert page.value(f"{stage}.width / {stage}.height") == pytest.approx(180 / 320, abs=0.01)
    screen = "document.querySelector('.screen').getBoundingClientRect()"
    assert page.value(f"{stage}.height / {screen}.height") > 0.99
    aside = "document.querySelector('aside').getBoundingClientRect()"
    assert page.value(f"{aside}.width") > 400  # the room beside it is the text's
    page.wait_for(f"({DRAWN}).length === 1")
    assert page.value(DRAWN)[0] == pytest.approx((20, 60, 130, 86), abs=1.5)


def test_a_missing_file_is_said(browser, own_street):
    with serving(own_street / "my.index") as address:
        (own_street / "videos" / "top.mp4").unlink()
        browser.open(f"{address}/?q=sale&mode=keyword", 1280)
        browser.wait_for(f"{CARDS}.length")
        browser.click("#results .play")
        browser.wait_for("!document.querySelector('#player-error').hidden")
        assert "is missing" in text(browser, "#player-error")
        assert "SALE up to 60%" in text(browser, "#lines")  # what is known of it is shown
        assert browser.value("document.querySelector('#play').disabled")
        assert not browser.value("document.querySelector('#clip').checkVisibility()")
        browser.open("about:blank", 1280)


def test_a_video_that_can_t_be_played_is_said(browser, own_street):
    (own_street / "videos" / "top.mp4").write_bytes(b"no video" * 1000)
    with serving(own_street / "my.index") as address:
        browser.open(f"{address}/?q=sale&mode=keyword", 1280)
        browser.wait_for(f"{CARDS}.length")
        browser.click("#results .play")
        browser.wait_for("!document.querySelector('#player-error').hidden")
        assert "pictures of it are shown" in text(browser, "#player-error")
        assert browser.value("document.querySelectorAll('#strip button').length") == 12
        browser.wait_for("document.querySelector('#still').naturalWidth > 100")
        browser.click("#strip li:nth-child(6) button")
        browser.wait_for("document.querySelector('#now').textContent === '0:00.9'")
        browser.open("about:blank", 1280)


def write_avi(file: Path) -> None:
    """Write MPEG-4 part 2 in AVI, which no browser plays: a sign in the third second."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in draw(4, [Sign("OLD CAMERA", first=50, last=74)], seed=1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("is_tried_first", [False, True])
def test_what_no_browser_plays_is_streamed_from_the_moment(browser, tmp_path, is_tried_first):
    """Also where the server takes it for a file that the browser plays."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "ocr").mkdir()
    write_avi(tmp_path / "videos" / "old.avi")
    lines = document([Sign("OLD CAMERA", first=50, last=74)])
    (tmp_path / "ocr" / "old.json").write_text(json.dumps(lines))
    source = OcrFolder(tmp_path / "ocr")
    update_index(tmp_path / "videos", tmp_path / "my.index", None, source, IndexOptions())
    with serving(tmp_path / "my.index") as address:
        browser.open(f"{address}/?q=camera", 1280)
        browser.wait_for(f"{CARDS}.length")
        stop_playing(browser)
        if is_tried_first:
            change_answers(browser, "entry.playback.kind = 'file'")
        play(browser)
        assert browser.value(TIME) == 2.0
        assert browser.value(f"{VIDEO}.src").startswith("blob:")
        browser.wait_for(f"({DRAWN}).length === 1")
        assert browser.value("document.querySelector('#player-error').hidden")
        browser.press("Escape")
        browser.wait_for(f"{CLOSED} && !{VIDEO}.hasAttribute('src')")
        browser.open("about:blank", 1280)


def change_answers(page: Page, script: str) -> None:
    """Change what the server says of a video, ``entry``, before the page has it."""
    page.value(
        "{ const own = window.fetch; window.fetch = async (url, ...rest) => {"
        "const answer = await own(url, ...rest); if (!/videos.[0-9]+$/.test(url)) return answer;"
        f"const entry = await answer.json(); {script};"
        "return new Response(JSON.stringify(entry)); } }"
    )


def test_a_file_that_the_browser_refuses_is_said(street_page, address):
    page = street_page
    search(page, "sale", "keyword")
    change_answers(page, "entry.playback.codecs = null; entry.id = 99")
    page.click("#results .play")
    page.wait_for("!document.querySelector('#player-error').hidden")
    assert "can’t play the video" in text(page, "#player-error")
    link = page.value("document.querySelector('#player-error a').href")
    assert link == f"{address}/api/videos/99/file.mp4"
    page.events.clear()  # the browser's own word on the 404


def test_everything_can_be_reached_with_the_tab_key(page):
    """From the search box to the clip of the second match, without a mouse."""
    page.value("document.querySelector('#query').focus()")
    page.type("casino")
    page.press("Enter")
    page.wait_for(f"{CARDS}.length && {SETTLED}")
    page.press("ArrowDown")
    page.press("Tab")
    assert page.value(f"{FOCUSED}.ariaLabel").startswith("Play from 0:02.0")
    page.press("Tab")
    assert page.value(f"{FOCUSED}.className") == "moment"
    page.press("Enter")
    page.wait_for(PLAYS)
    seen = []
    for _ in range(30):
        page.press("Tab")
        focus = page.value(f"{FOCUSED}.id || {FOCUSED}.closest('[id]')?.id")
        seen.append(focus)
        if focus != "player":
            assert page.value(
                f"{FOCUSED}.closest('dialog') !== null || {FOCUSED} === document.body"
            )
    wanted = {"player-close", "seek", "marks", "play", "previous", "next", "mute", "volume",
              "speed", "draw", "lines", "copy-text", "copy-link", "clip-from", "clip-to",
              "clip-link"}  # fmt: skip
    assert wanted <= set(seen), wanted - set(seen)
    assert seen.count("marks") <= 2  # one stop each time round
    assert all(name for _, name in list_controls(page))
    page.press("Escape")
    page.wait_for(f"{CLOSED} && {FOCUSED}.className === 'moment'")


def test_on_a_phone_the_picture_stays_while_the_lines_are_read(page, talks_address):
    page.open(f"{talks_address}/?q=lighthouse&mode=keyword", 390, 844)
    page.wait_for(f"{CARDS}.length")
    page.click("#results .play")
    page.wait_for(f"{PLAYS} && document.querySelector('#lines button')")
    assert find_overflow(page, 390) == []
    width = "document.querySelector('#stage').getBoundingClientRect().width"
    assert page.value(width) == pytest.approx(390, abs=1)
    page.value("document.querySelector('#player').scrollTop = 9999")
    top = "document.querySelector('#theatre').getBoundingClientRect().top"
    page.wait_for(f"{top} >= -0.5")
    sizes = page.value(
        "[...document.querySelectorAll('.controls .buttons button')].map(one => one.offsetWidth)"
    )
    assert min(sizes) >= 32  # for fingers
