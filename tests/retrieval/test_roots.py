"""Folders of an index: how they are named, what is in them, and where they lie by now."""

from pathlib import Path

import pytest

from retrieval.index.relocation import plan_relocation
from retrieval.index.roots import ONLY, Roots
from utils.errors import UserError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def roots(tmp_path) -> Roots:
    films = touch(tmp_path / "a/Films", "1.mp4", "x/2.mkv"), touch(tmp_path / "b/Films", "1.mp4")
    clips = touch(tmp_path / "Clips", "3.mp4")
    return Roots({}).add(films[0]).add(clips).add(films[1])


def test_names_are_unique_and_stay(roots, tmp_path):
    assert list(roots.folders) == ["Films", "Clips", "Films-2"]
    assert Roots.from_meta(roots.to_meta()) == roots
    left = roots.remove(["Films"])
    assert list(left.folders) == ["Clips", "Films-2"]
    assert list(left.add(tmp_path / "c/Clips").folders) == ["Clips", "Films-2", "Clips-2"]
    assert Roots({}).add(Path("/")).folders == {"root": Path("/")}
    only = Roots.of(tmp_path)
    assert only.folders == {ONLY: tmp_path} and Roots.from_meta(only.to_meta()) == only


def test_videos_of_all_of_them(roots, tmp_path):
    listing = roots.list_videos()
    assert listing.names == ["Clips/3.mp4", "Films-2/1.mp4", "Films/1.mp4", "Films/x/2.mkv"]
    assert roots.locate("Films-2/1.mp4") == tmp_path / "b/Films/1.mp4"
    assert roots.find_root(tmp_path / "a/Films/x") == ("Films", "x")
    assert roots.find_root(tmp_path / "Clips") == ("Clips", ".")
    assert roots.find_root(tmp_path / "a") is None
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert roots.find_root(tmp_path / "link/Films/x") == ("Films", "x")
    with pytest.raises(UserError, match="Others is no folder of this library any more"):
        roots.locate("Others/1.mp4")


def test_what_can_not_be_seen_stays(roots, tmp_path):
    known = roots.list_videos().names
    (tmp_path / "Clips").rename(tmp_path / "unplugged")
    (tmp_path / "b/Films/1.mp4").unlink()  # the empty place of a disk
    listing = roots.list_videos()
    assert listing.names == ["Films/1.mp4", "Films/x/2.mkv"]
    assert listing.absent == {"Clips": "is not there", "Films-2": "holds no video"}
    assert listing.find_kept(known) == {"Clips/3.mp4", "Films-2/1.mp4"}


def test_a_root_that_lies_elsewhere(roots, tmp_path):
    names = roots.list_videos().names
    (tmp_path / "a").rename(tmp_path / "disk")
    for old, new in (("a", "disk"), ("a/Films", "disk/Films")):
        found = plan_relocation(roots, names, tmp_path / old, tmp_path / new)
        assert found.roots.folders["Films"] == tmp_path / "disk/Films"
        assert found.concerned == ["Films/1.mp4", "Films/x/2.mkv"] and not found.renamed
        assert found.roots.folders["Clips"] == roots.folders["Clips"]
    for old, new, message in (
        ("a", "nowhere", "nowhere: no such folder"),
        ("a", "Clips", "holds none of the 2 videos"),
        ("z", "disk", "z: nothing in it is indexed; the folders are"),
    ):
        with pytest.raises(UserError, match=message):
            plan_relocation(roots, names, tmp_path / old, tmp_path / new)


def test_a_folder_within_a_root_that_lies_elsewhere(roots, tmp_path):
    names = roots.list_videos().names
    (tmp_path / "a/Films/x").rename(tmp_path / "y")
    found = plan_relocation(roots, names, tmp_path / "a/Films/x", tmp_path / "y")
    assert found.renamed == {"y/2.mkv": "Films/x/2.mkv"}
    assert found.roots.folders == {**roots.folders, "y": tmp_path / "y"}
    (tmp_path / "y").rename(tmp_path / "Clips/z")
    found = plan_relocation(roots, names, tmp_path / "a/Films/x", tmp_path / "Clips/z")
    assert found.renamed == {"Clips/z/2.mkv": "Films/x/2.mkv"} and found.roots == roots
