"""Shuffled annotation files: known by name, and by what they hold."""

import json

import pytest

from data_loader.datasets.annotations import (
    explain_shuffled,
    find_shuffled_beside,
    find_unshuffled_beside,
)

VIDEOS = [f"Sports/{number}.mp4" for number in range(8)]


def write(path, videos, captions=None):
    captions = captions or [f"caption {number}" for number in range(len(videos))]
    entries = [
        {"path": video, "captions_info": [{"caption": caption}]}
        for video, caption in zip(videos, captions, strict=True)
    ]
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def right(tmp_path):
    return write(tmp_path / "TextVR_test.json", VIDEOS)


def test_by_its_name(tmp_path):
    file = write(tmp_path / "mine_rand.json", VIDEOS)
    assert explain_shuffled(file) == 'its name ends in "_rand"'
    write(tmp_path / "mine.json", VIDEOS)
    assert "mine.json beside it is the right one" in explain_shuffled(file)


def test_by_its_content(right, tmp_path):
    moved = VIDEOS[1:] + VIDEOS[:1]
    file = write(tmp_path / "downloaded.json", moved)
    reason = explain_shuffled(file)
    assert "captions of TextVR_test.json in the same order, but 8 of 8" in reason
    assert explain_shuffled(right) is None
    right.unlink()
    assert explain_shuffled(file) is None


def test_under_another_name_in_a_link(right, tmp_path):
    (tmp_path / "link.json").symlink_to(right)
    assert explain_shuffled(tmp_path / "link.json") is None
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    rand = write(folder / "TextVR_test_rand.json", VIDEOS[::-1])
    (tmp_path / "val.json").symlink_to(rand)
    assert "TextVR_test.json" in explain_shuffled(tmp_path / "val.json")


OTHERS = {
    "a copy": (VIDEOS, None),
    "few moved": (VIDEOS[1::-1] + VIDEOS[2:], None),
    "other captions": (VIDEOS[::-1], [f"other {number}" for number in range(8)]),
    "captions in another order": (VIDEOS[::-1], [f"caption {7 - n}" for n in range(8)]),
    "fewer": (VIDEOS[:5][::-1], None),
    "other names of the videos": ([f"{name[:-4]}.webm" for name in VIDEOS], None),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_shuffled(kind, right, tmp_path):
    assert explain_shuffled(write(tmp_path / "other.json", *OTHERS[kind])) is None


@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", '[{"path": 3}]', "[{"])
def test_broken_files_are_left_to_those_who_read_them(content, right, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text(content)
    assert explain_shuffled(broken) is None
    other = write(tmp_path / "other.json", VIDEOS[::-1])
    right.write_text(content)
    assert explain_shuffled(other) is None


def test_what_lies_beside(right, tmp_path):
    assert find_shuffled_beside(right) is None and find_unshuffled_beside(right) is None
    rand = write(tmp_path / "TextVR_test_rand.json", VIDEOS[::-1])
    assert find_shuffled_beside(right) == rand and find_unshuffled_beside(rand) == right
