"""Streams in a real browser: each kind of film plays, seeks exactly, and has its sound."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from headless_browser import Page, find_browser

from tests.retrieval.web.films import (
    BITS,
    COLOURS,
    FILM_NAMED,
    FPS,
    HEIGHT,
    WIDTH,
    X264,
    Film,
    index_films,
    write_film,
)
from tests.retrieval.web.serving import serving

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no chromium or chrome on PATH: nothing is played"
)
DEFAULT = ["hevc.mp4", "b-frames.avi", "remux.ts", "remux.mkv"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in FILM_NAMED if name not in DEFAULT]
LONG = Film("long.mkv", "libx264", "aac", options=X264, seconds=40.0)
# The colours of a few points of the frame that is shown.
READ_FRAME = f"""(() => {{
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [{WIDTH}, {HEIGHT}];
    const drawn = canvas.getContext("2d", {{willReadFrequently: true}});
    drawn.drawImage(v, 0, 0, {WIDTH}, {HEIGHT});
    const at = (x, y) => [...drawn.getImageData(x, y, 1, 1).data].slice(0, 3);
    const bits = Array.from({{length: {BITS}}}, (_, bit) =>
        at((bit + 0.5) * {WIDTH} / {BITS}, {HEIGHT} / 4)[1] > 128 ? 1 << bit : 0);
    return [bits.reduce((sum, bit) => sum + bit), at({WIDTH} / 2, {HEIGHT} * 3 / 4)];
}})()"""
RANGES = """Array.from({length: v.buffered.length},
    (_, i) => [v.buffered.start(i), v.buffered.end(i)])"""


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """A server of all films, each written when it is played first."""
    folder = tmp_path_factory.mktemp("films")
    for film in (*FILM_NAMED.values(), LONG):
        (folder / film.name).write_bytes(b"")
    seconds = {film.name: film.seconds for film in (*FILM_NAMED.values(), LONG)}
    with serving(index_films(folder / "my.index", folder, seconds)) as found:
        yield f"{found} {folder}"


def open_stream(page: Page, address: str, film: Film, start: float = 0.0) -> dict:
    """Begin to play a film, in a page that holds nothing else; returns its description."""
    server, _, folder = address.partition(" ")
    if not (Path(folder) / film.name).stat().st_size:
        write_film(Path(folder), film)
    found = httpx.get(f"{server}/api/videos/lookup", params={"path": film.name}, trust_env=False)
    video = found.json()
    page.open(f"{server}/api/folders", 800)
    page.value("""window.v = document.body.appendChild(document.createElement("video"));
        v.muted = true; window.errors = []; v.onerror = () => errors.push(v.error.message)""")
    base, playback = f"/api/videos/{video['id']}", json.dumps(video["playback"])
    page.value(f"""import("/static/stream.js").then((module) => {{
        window.player = new module.StreamPlayer(v, (text) => errors.push(text));
        player.open("{base}", {playback}, {start});
    }}); 1""")
    page.wait_for("v.readyState >= 3 || errors.length")
    assert page.value("errors") == []
    return video


def list_complaints(page: Page) -> list[dict]:
    """Errors, beside the missing picture of a page that is none of ours."""
    return [one for one in page.complaints() if "favicon.ico" not in json.dumps(one)]


def seek(page: Page, time_s: float) -> tuple[int, list[int]]:
    """Seek; returns number and colour of the frame that is shown.

    A busy browser draws the former frame for a while after the seek has ended.
    """
    page.value(
        "window.shown = null; v.requestVideoFrameCallback((_, frame) => { shown = frame.mediaTime;"
        f"}}); v.currentTime = {time_s}"
    )
    page.wait_for("shown !== null && !v.seeking && v.readyState >= 2 || errors.length")
    assert page.value("errors") == []
    number, colour = page.value(READ_FRAME)
    return number, colour


@pytest.mark.parametrize("name", [*DEFAULT, *SLOW])
def test_a_film_plays_and_seeks(browser, address, name):
    film = FILM_NAMED[name]
    open_stream(browser, address, film)
    assert browser.value("[v.videoWidth, v.videoHeight]") == [WIDTH, HEIGHT]
    assert browser.value("v.duration") == pytest.approx(13, abs=0.05)
    browser.value("v.play(); 1")
    browser.wait_for("v.currentTime > 1 || errors.length")
    browser.value("v.pause()")
    browser.wait_for("player.source.readyState === 'ended' || errors.length")
    ((start, end),) = browser.value(RANGES)  # all of it, without a gap
    assert start == pytest.approx(0, abs=0.05) and end == pytest.approx(13, abs=0.05)
    for time_s in (12.5, 0.02, 4.82, 6.02, 7.98):
        number, colour = seek(browser, time_s)
        assert number == int(time_s * FPS)
        wanted = np.array(COLOURS[number // FPS % len(COLOURS)])
        assert np.abs(wanted - colour).max() < 24
    browser.value("v.currentTime = 12.3; v.play(); 1")
    browser.wait_for("v.ended || errors.length")
    assert (browser.value("v.webkitAudioDecodedByteCount") > 0) == (film.sound is not None)
    assert browser.value("errors") == [] and list_complaints(browser) == []


def test_only_what_is_played_soon_is_loaded(browser, address):
    open_stream(browser, address, LONG, 31.0)
    browser.wait_for("player.source.readyState === 'ended' || errors.length")
    asked = [url for url in browser.requests() if "/segments/" in url]
    assert [url.rpartition("/")[2] for url in asked] == ["5.mp4", "6.mp4"]
    assert seek(browser, 2.02)[0] == round(2 * FPS)  # before that
    browser.wait_for(f"({RANGES})[0][1] >= 20 || errors.length")
    asked = [url.rpartition("/")[2] for url in browser.requests() if "/segments/" in url]
    assert asked[2:] == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert seek(browser, 39.9)[0] == round(39.88 * FPS)  # still there
    browser.value("v.currentTime = 19; v.play(); 1")  # over the gap, without a stop
    browser.wait_for("v.currentTime > 20 || errors.length")
    browser.wait_for(f"({RANGES}).length === 1 || errors.length")
    assert browser.value("errors") == []


def test_what_is_loaded_is_given_up_when_the_player_is_closed(browser, address):
    open_stream(browser, address, LONG)
    browser.value("player.close()")
    before = len(browser.requests())
    assert browser.value("v.hasAttribute('src')") is False
    browser.value("v.load(); player.close(); 1")
    browser.wait_for("v.readyState === 0")
    browser.ask("Runtime.evaluate", expression="new Promise(done => setTimeout(done, 700))",
                awaitPromise=True)  # fmt: skip
    assert len(browser.requests()) == before
    assert browser.value("errors") == [] and list_complaints(browser) == []


def test_what_can_not_be_made_is_said(browser, address):
    video = open_stream(browser, address, FILM_NAMED["remux.mkv"])
    browser.value("player.close()")
    playback = json.dumps(video["playback"] | {"num_segments": 99, "duration_s": 590})
    browser.value(f"""v.removeAttribute("src"); v.load(); errors.length = 0;
        player.open("/api/videos/{video["id"]}", {playback}, 500); 1""")
    browser.wait_for("errors.length === 2")
    assert "the video has 3 segments" in browser.value("errors.join()")
