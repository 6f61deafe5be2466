"""search.py --open: a media player at the moment of a hit."""

import time
from pathlib import Path

import pytest

import search as search_script
from retrieval.media_player import open_player
from tests.retrieval.made_index import index_of_lines
from utils.errors import UserError


@pytest.fixture
def player(tmp_path: Path, monkeypatch) -> Path:
    """The file in which the only player of this machine, "vlc", writes what it was given."""
    programs, told = tmp_path / "bin", tmp_path / "told"
    programs.mkdir()
    script = programs / "vlc"
    script.write_text(f"#!/bin/sh\nfor word; do echo \"$word\"; done > '{told}.part'\n"
                      f"/bin/mv '{told}.part' '{told}'\n")  # fmt: skip
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return told


def read_told(told: Path) -> list[str]:
    deadline = time.monotonic() + 20
    while not told.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return told.read_text().splitlines()


def test_a_player_is_opened_at_the_moment_of_the_hit(player, tmp_path, run_main):
    folder = index_of_lines(tmp_path / "i", [["hotel"], ["casino"]])
    videos = Path("videos").absolute()
    with search_script.VideoIndex.open(folder) as index:
        videos = index.videos
    command = [folder, "casino", "--mode", "keyword"]
    code, _, said = run_main(search_script, *command, "--open")
    assert code == 2 and f"{videos / '1.mp4'}: is not there any more" in said
    code, _, said = run_main(search_script, *command, "--open", 2)
    assert code == 2 and said.strip() == "--open 2: there are 1 hits"


def test_the_player_is_told_file_and_second(player, tmp_path):
    video = tmp_path / "-a b.mp4"
    video.write_bytes(b"film")
    assert open_player(video, 61.5) == "vlc"
    assert read_told(player) == ["--start-time=61.50", "--", str(video)]


def test_without_a_player_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    video = tmp_path / "a.mp4"
    video.write_bytes(b"film")
    with pytest.raises(UserError, match="needs mpv or vlc; install one of them, or open .*a.mp4"):
        open_player(video, 1.0)
