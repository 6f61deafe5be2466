"""The looks of the page in a real browser: colours, contrast, widths from phones to screens."""

import pytest
from headless_browser import find_browser

from tests.retrieval.web.page_steps import (
    CARDS,
    LOADED,
    PLAYS,
    find_overflow,
    wait_for_status,
)

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no chromium or chrome on PATH: the page is not looked at"
)

# (text, contrast) of all lines that are shown, against the nearest colour behind them (WCAG 2.1).
CONTRASTS = """
(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const read = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const part = (value) =>
    (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = read(getComputedStyle(one).backgroundColor);
      if (colour[3] > 200) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  for (let node; (node = walker.nextNode());) {
    const one = node.parentElement;
    if (!node.data.trim() || !one.checkVisibility() || one.closest('option, :disabled')) continue;
    const [a, b] = [read(getComputedStyle(one).color), behind(one)].map(light);
    found.push([node.data.trim(), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
})()
"""


@pytest.fixture
def page(browser, address):
    browser.open(f"{address}/", 1280)
    browser.wait_for(LOADED)
    yield browser
    assert browser.complaints() == []
    browser.open("about:blank", 1280)


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


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_told_from_what_is_behind_it(page, address, dark):
    for path in ("/", "/?q=casinu zzzzqqqq&mode=keyword", "/?q=casino&v=top.mp4&t=0.5"):
        page.open(address + path, 1600, dark=dark)
        page.wait_for("document.querySelector('#lines button') || " + (
            f"{CARDS}.length" if "q=" in path else LOADED))  # fmt: skip
        found = page.value(CONTRASTS)
        assert len(found) > 20 and [one for one in found if one[1] < 4.5] == []


@pytest.mark.parametrize("width", [320, 390, 640, 800, 2560])
def test_no_width_overflows(page, address, width):
    """640 pixels are also what a window of 1280 has when it is enlarged to 200 %."""
    for path in ("/", "/?q=casino", "/?q=zzzzqqqq&mode=keyword", "/?sort=newest"):
        page.open(address + path, width)
        page.wait_for(f"{CARDS}.length || document.querySelector('#status').textContent || "
                      f"({LOADED})")  # fmt: skip
        assert find_overflow(page, width) == []
    page.open(f"{address}/?q=casino", width)
    page.wait_for(f"{CARDS}.length")
    if width < 1500:
        page.click("#filter-toggle")
        assert find_overflow(page, width) == []
    page.click("#results .play")
    page.wait_for(f"{PLAYS} && document.querySelector('#lines button')")
    assert find_overflow(page, width) == []


def test_wide_screens_are_used(page, address):
    """More cards in a row, none much larger than a picture of it is."""
    page.open(f"{address}/?sort=newest", 2560, 1440)
    page.wait_for(f"{CARDS}.length === 5")
    tops, widths = page.value(
        f"[{CARDS}.map(card => card.offsetTop), {CARDS}.map(card => card.offsetWidth)]"
    )
    assert len(set(tops)) == 1 and max(widths) < 480
    page.click("#results .play")
    page.wait_for(PLAYS)
    assert page.value("document.querySelector('#stage').offsetWidth") > 1800
    wait_for_status(page, "5 videos")
