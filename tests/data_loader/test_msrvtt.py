import os

import pytest

from data_loader.datasets.annotations import AnnotationError
from tests.data_loader.frozen_folders import (
    annotated,
    dataset,
    document,
    pickled,
    samples,
    text,
    write_annotated,
    write_msrvtt,
)
from tests.data_loader.textvr_folder import change_json, write_json
from utils.errors import UserError

LISTS = "high-quality/structured-symlinks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_msrvtt(tmp_path_factory.mktemp("msrvtt"))


@pytest.fixture
def own(tmp_path, folder):
    """Annotations to change: a copy without the videos."""
    (tmp_path / "videos").symlink_to(folder / "videos")
    for file in (*folder.glob("annotation/*"), *folder.glob(f"{LISTS}/*")):
        target = tmp_path / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("cut", "split", "ids"),
    [
        ("miech", "train", ["video1", "video9"]),
        ("miech", "val", ["video10", "video7"]),  # sorted as text
        ("miech", "test", ["video10", "video7"]),
        ("jsfusion", "train", ["video1", "video10"]),
        ("jsfusion", "val", ["video7", "video9"]),
        ("jsfusion", "test", ["video7", "video9"]),
        ("full-val", "train", ["video1"]),
        ("full-val", "test", ["video9"]),
        ("full-test", "val", ["video10", "video7"]),
        ("full-test", "test", ["video10", "video7"]),
        ("val", "train", ["video1", "video7"]),
        ("val", "val", ["video9"]),
        ("val", "test", ["video9"]),
        ("public_server_val", "train", ["video1", "video7"]),
        ("public_server_val", "test", ["video10", "video9"]),
        ("public_server_test", "train", ["video1", "video7"]),
        ("public_server_test", "val", ["video10"]),
        ("public_server_test", "test", ["video10"]),
    ],
)
def test_the_lists_of_each_cut(folder, cut, split, ids):
    data = dataset("MSRVTT", folder, split, cut=cut)
    assert [entry.id for entry in data.entries] == ids
    assert data.annotation_file == folder / "annotation/MSR_VTT.json"
    assert data.entries[0].video == folder / f"videos/all/{ids[0]}.mp4"
    if (cut, split) not in [("jsfusion", "val"), ("jsfusion", "test")]:
        # Validation and test have the first of the three as their query, as published.
        assert data.entries[0].captions == (f"a of {ids[0]}",)
    if split == "train":
        data = dataset("MSRVTT", folder, split, cut=cut, training=True, modalities=("ocr",))
        assert data.entries[0].captions == tuple(f"{letter} of {ids[0]}" for letter in "abc")


def test_jsfusion_tests_with_the_caption_that_its_list_chooses(folder):
    data = dataset("MSRVTT", folder, cut="jsfusion")
    assert [entry.captions for entry in data.entries] == [("c of video7",), ("b of video9",)]
    found = samples(data)
    assert all(sample.frames.any() and len(sample.captions) == 1 for sample in found)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"video7": 3, "video9": 1}, "video7: 3 is no number of its 3 captions"),
        ({"video7": -1, "video9": 1}, "video7: -1 is no number"),
        ({"video7": 1}, "video9: None is no number"),
        ([1, 2], "must hold a dict"),
    ],
)
def test_broken_caption_numbers(own, numbers, message):
    path = pickled(own / LISTS / "jsfusion_val_caption_idx.pkl", numbers)
    with pytest.raises(UserError, match=message) as caught:
        dataset("MSRVTT", own, cut="jsfusion")
    assert str(path) in str(caught.value)
    assert len(dataset("MSRVTT", own, "train", cut="jsfusion")) == 2  # not asked for


class Hostile:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_hostile_caption_numbers_are_refused_and_never_run(own, tmp_path):
    harm = tmp_path / "harm"
    path = pickled(own / LISTS / "jsfusion_val_caption_idx.pkl", {"video7": Hostile(harm)})
    with pytest.raises(UserError) as caught:
        dataset("MSRVTT", own, cut="jsfusion")
    assert str(path) in str(caught.value) and not harm.exists()


@pytest.mark.parametrize("cut", [None, "jsfusio", "2M"])
def test_another_cut_or_none_is_an_error_that_lists_them(folder, cut):
    for more in ({}, {"annotation_file": "annotation/MSR_VTT.json"}):
        with pytest.raises(AnnotationError, match="full-test, val, .*_server_test, split, off"):
            dataset("MSRVTT", folder, cut=cut, **more)


def test_a_listed_video_without_caption(own):
    path = text(own / LISTS / "test_list_full.txt", "video7\nvideo8\nvideo11")
    with pytest.raises(
        AnnotationError, match="2 entries can't be used\n  video11: has no capt"
    ) as caught:
        dataset("MSRVTT", own, cut="full-test")
    assert str(path) in str(caught.value)


def test_a_listed_video_outside_of_the_folder(own):
    text(own / LISTS / "test_list_full.txt", "../x")
    entry = {"image_id": "../x", "caption": "y"}
    change_json(own / "annotation/MSR_VTT.json", lambda v: v["annotations"].append(entry))
    with pytest.raises(AnnotationError, match="leads out of the data folder"):
        dataset("MSRVTT", own, cut="full-test")


def test_an_id_that_is_listed_twice_counts_once_with_a_warning(own, caplog):
    text(own / LISTS / "test_list_full.txt", "video7\nvideo10\n\nvideo7")
    assert len(dataset("MSRVTT", own, cut="full-test")) == 2
    assert "1 lines repeat an id" in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], 'must hold an object with a list "annotations"'),
        ({"annotations": [{"image_id": "a"}, {"caption": "b"}]}, "2 entries can.*\n.*annotation 0"),
        ({"annotations": [{"image_id": "a", "caption": " "}, 3]}, "annotation 1: needs texts"),
    ],
)
def test_broken_captions(own, value, message):
    path = write_json(own / "annotation/MSR_VTT.json", value)
    with pytest.raises(AnnotationError, match=message) as caught:
        dataset("MSRVTT", own, cut="miech")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["annotation/MSR_VTT.json", f"{LISTS}/test_list_miech.txt"])
def test_a_missing_file_is_named(own, name):
    (own / name).unlink()
    with pytest.raises(AnnotationError, match="no such annotation file") as caught:
        dataset("MSRVTT", own, cut="miech")
    assert str(own / name) in str(caught.value)


def test_ocr_documents_of_the_lists_cuts(folder, tmp_path):
    document(tmp_path / "video7.json", "SALE today")
    data = dataset("MSRVTT", folder, cut="miech", ocr_dir=str(tmp_path))
    ten, seven = samples(data)
    assert seven.words == ["sale", "today"] and seven.tracks.shape == (2, 12)
    assert ten.words == [] and ten.ocr_missing == str(tmp_path / "video10.json")


CUTS = {
    "official_split": {"train": "b", "val": "c", "test": "c"},
    "oneka_split": {"train": "c", "val": "b", "test": "b"},
    "split": {"train": "a", "val": "b", "test": "c"},
}


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    splits = {
        "a": {"official_split": "-", "oneka_split": "-", "split": "train"},
        "b": {"official_split": "train", "oneka_split": "val", "split": "val"},
        "c": {"official_split": "test", "oneka_split": "train", "split": "test"},
    }
    entries = [annotated(f"{name}.mp4", split, [f"{name} text"]) for name, split in splits.items()]
    return write_annotated(tmp_path_factory.mktemp("msrvtt"), "msrvtt.json", entries)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("cut", CUTS)
def test_the_annotations_with_ocr_and_their_splits(annotations, cut, split):
    data = dataset("MSRVTT", annotations, split, cut=cut)
    name = CUTS[cut][split]
    (found,) = samples(data)
    assert (found.id, found.captions) == (f"{name}.mp4", [f"{name} text"])
    assert found.words == [f"word{'abc'.index(name)}"] and found.frames.any()
