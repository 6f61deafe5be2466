"""The one command on ten made videos in ten containers: found, and played, as a user would."""

from pathlib import Path
from urllib.parse import urlencode

import pytest
from headless_browser import browser_page, find_browser

from benchmarks.own_videos import ask, make_videos, measure, running, wait_until_done

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder of videos and library, and what was found in it."""
    folder = tmp_path_factory.mktemp("own")
    return folder, measure(folder)


def test_what_was_shown_and_said_is_found_at_its_time(measured):
    _, result = measured
    assert result["videos"] == result["made"] >= 9 and result["failed"] == []
    found = [row for row in result["found"] if row["kind"] != "speech"]
    assert len(found) == sum(len(v.shown) for v in make_videos()) - 2
    assert sum(row["first"] for row in found) >= 0.95 * len(found)
    assert sum(row["time"] for row in found) >= 0.95 * len(found), found


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
def test_every_video_plays_from_its_moment_in_a_browser(measured, tmp_path: Path):
    folder, _ = measured
    library = "--library", folder / "library", "--model", "none"
    with running(folder / "videos", *library) as (_, address), browser_page(tmp_path) as page:
        wait_until_done(address)
        names = {video["video"] for video in ask(address, "/api/library")["latest"]}
        assert len(names) >= 9
        for name in sorted(names):
            page.open(f"{address}/?{urlencode({'v': name, 't': 7.5})}", 1280)
            is_there = (
                "v => v.videoWidth > 0 && v.readyState >= 2 && Math.abs(v.currentTime - 7.5) < 0.2"
            )
            page.wait_for(f"[...document.querySelectorAll('#player video')].some({is_there})")
            page.click("#play")  # browsers play nothing that nobody has asked for
            playing = "v => v.currentTime > 7.8 && v.currentTime <= 12.1"
            page.wait_for(f"[...document.querySelectorAll('#player video')].some({playing})")
        assert page.complaints() == []
