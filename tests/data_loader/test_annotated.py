import logging

import pytest

from data_loader.datasets.annotations import AnnotationError
from tests.data_loader.frozen_folders import annotated, dataset, samples, write_annotated
from tests.data_loader.textvr_folder import write_json

SETS = ("MSVD", "DiDeMo", "YouCook2")
ENTRIES = [
    annotated("b.mp4", "val", ["of b", "again"]),
    annotated("a.mp4", "train"),
    annotated("c/d.mp4", "test"),
    annotated("e.mp4", "val", ocr=False),
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos and OCR documents of the entries."""
    return write_annotated(tmp_path_factory.mktemp("annotated"), "unused.json", ENTRIES)


@pytest.fixture
def read(videos, tmp_path):
    """Return a function: a data set, annotation files by name, a split -> the data set read."""

    def read_split(name, files, split, **changes):
        for file, entries in files.items():
            write_json(tmp_path / file, entries)
        return dataset(name, videos, split, metadata_dir=str(tmp_path), **changes)

    return read_split


def names_of(data):
    return [entry.id for entry in data.entries]


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_one_file_whose_entries_name_their_splits(read, name, lower):
    file = f"{name.lower() if lower else name}.json"
    expected = {"train": ["a.mp4"], "val": ["b.mp4", "e.mp4"], "test": ["c/d.mp4"]}
    for split, ids in expected.items():
        data = read(name, {file: ENTRIES}, split)
        assert names_of(data) == ids and data.annotation_file.name == file
    b, e = samples(read(name, {file: ENTRIES}, "val"))
    assert b.captions == ["of b"] and b.words == ["word0"] and b.frames.any()
    assert e.words == [] and "has no OCR document" in e.ocr_missing
    assert type(data).__name__ == name and data.get_recipe(None) == "textvr"


@pytest.mark.parametrize(("has", "lacks"), [("test", "val"), ("val", "test")])
def test_validation_and_test_stand_for_each_other(read, caplog, has, lacks):
    entries = [annotated("a.mp4", "train"), annotated("b.mp4", has)]
    with caplog.at_level(logging.INFO):
        assert names_of(read("MSVD", {"MSVD.json": entries}, lacks)) == ["b.mp4"]
    assert f"has no split {lacks}; {has} is used for it" in caplog.text


def test_nothing_stands_for_training(read):
    entries = [annotated("a.mp4", "test"), annotated("b.mp4", "val")]
    with pytest.raises(AnnotationError, match='"split" is train; the file has test, val'):
        read("DiDeMo", {"DiDeMo.json": entries}, "train")


@pytest.mark.parametrize(("has", "lacks"), [("test", "val"), ("val", "test")])
def test_a_file_for_each_split_comes_first_and_is_read_whole(read, caplog, has, lacks):
    own = {f"MSVD_{has}.json": [annotated("c/d.mp4", {}), annotated("a.mp4", "train")]}
    assert names_of(read("MSVD", own, has)) == ["c/d.mp4", "a.mp4"]
    with caplog.at_level(logging.INFO):
        assert names_of(read("MSVD", own, lacks)) == ["c/d.mp4", "a.mp4"]
    assert f"MSVD_{has}.json is used for the split {lacks}" in caplog.text
    both = own | {"MSVD.json": ENTRIES}
    assert names_of(read("MSVD", both, has)) == ["c/d.mp4", "a.mp4"]
    assert names_of(read("MSVD", both, "train")) == ["a.mp4"]
    assert names_of(read("MSVD", both, lacks)) == (["b.mp4", "e.mp4"] if lacks == "val"
                                                   else ["c/d.mp4"])  # fmt: skip


def test_another_annotation_file_and_another_cut(read):
    mine = {"mine.json": [annotated("a.mp4", {"half": "val"}), annotated("b.mp4", {"half": "x"})]}
    options = {"annotation_file": "mine.json", "cut": "half"}
    assert names_of(read("YouCook2", mine, "test", **options)) == ["a.mp4"]
    with pytest.raises(
        AnnotationError, match="2 entries can't be used\n  entry 0: .* no split as .spli"
    ):
        read("YouCook2", mine, "test", annotation_file="mine.json")
    own = {"mine_test.json": [annotated("a.mp4", {}), annotated("b.mp4", {})]}
    assert len(read("YouCook2", own, "test", annotation_file="mine_test.json")) == 2


@pytest.mark.parametrize("name", SETS)
def test_no_annotation_file_names_what_was_looked_for(tmp_path, name):
    with pytest.raises(AnnotationError, match=f"{name}_test.json, {name}.json") as caught:
        dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value) and "data_dir" in str(caught.value)


def test_no_video_folder(tmp_path):
    (tmp_path / "MSVD_test.json").write_text("[{}]")
    with pytest.raises(AnnotationError, match="no folder Videos or Video; correct"):
        dataset("MSVD", tmp_path)


def test_errors_are_told_with_the_number_in_the_file(read):
    entries = [annotated("a.mp4", "train"), annotated("b.mp4", "test", [])]
    with pytest.raises(
        AnnotationError, match="1 entries can't be used\n  entry 1: b.mp4: has no capt"
    ):
        read("MSVD", {"MSVD.json": entries}, "test")
    assert len(read("MSVD", {"MSVD.json": entries}, "train")) == 1
