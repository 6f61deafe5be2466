import logging

import pytest

from base.batch import SampleKey
from base.registry import DATASETS
from data_loader.datasets.annotations import AnnotationError
from data_loader.datasets.textvr import TextVR
from tests.data_loader.textvr_folder import VIDEOS, dataset, entry, write_json, write_textvr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_textvr(tmp_path_factory.mktemp("data"), folder="Video")


def empty_folder(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
    return tmp_path


def test_it_is_registered():
    assert DATASETS.get("TextVR") is TextVR and TextVR.get_recipe(None) == "textvr"


@pytest.mark.parametrize(
    ("names", "used"),
    [(["Videos"], "Videos"), (["Video"], "Video"), (["Video", "Videos"], "Videos")],
)
def test_both_names_of_the_video_folder(tmp_path, names, used):
    root = empty_folder(tmp_path, *names)
    write_json(root / "TextVR_test.json", [entry("Sports/a.mp4", ["x"], "Sports/a.json")])
    (found,) = dataset(root).entries
    assert found.video == root / used / "Sports/a.mp4"
    assert found.ocr == root / "Kwai_VideoOCR/Sports/a.json"


def test_samples_are_read_from_the_published_folder_too(folder):
    assert dataset(folder)[SampleKey(0, 0)].frames.any()


def test_no_video_folder(tmp_path):
    write_json(tmp_path / "TextVR_test.json", [entry("a.mp4", ["x"])])
    with pytest.raises(AnnotationError, match="no folder Videos or Video; README.md") as caught:
        dataset(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_file_of_each_split(folder, split):
    data = dataset(folder, split=split)
    expected = "TextVR_train.json" if split == "train" else "TextVR_test.json"
    assert data.annotation_file == folder / expected
    assert [item.id for item in data.entries] == list(VIDEOS) and data.shuffled is False
    assert len(data.entries[0].captions) == (3 if split == "train" else 1)


def test_another_file_and_another_folder_of_annotations(folder, tmp_path):
    write_json(tmp_path / "mine.json", [entry("Sports/d.mp4", ["x"])])
    data = dataset(folder, metadata_dir=tmp_path, annotation_file="mine.json")
    assert data.annotation_file == tmp_path / "mine.json"
    assert data[SampleKey(0, 0)].frames.any()  # the videos stay where they are


def test_a_missing_annotation_file_says_where_it_comes_from(tmp_path):
    root = empty_folder(tmp_path, "Videos")
    with pytest.raises(AnnotationError, match="no such annotation file; README.md") as caught:
        dataset(root)
    assert str(root / "TextVR_test.json") in str(caught.value)
    assert "shuffled" not in str(caught.value)


def test_the_shuffled_file_never_takes_the_place_of_a_missing_one(tmp_path):
    root = empty_folder(tmp_path, "Videos")
    write_json(root / "TextVR_test_rand.json", [entry("a.mp4", ["x"])])
    with pytest.raises(AnnotationError, match="TextVR_test.json: no such") as caught:
        dataset(root)
    message = str(caught.value)
    assert "TextVR_test_rand.json lies beside it, but its videos are shuffled" in message
    assert "data_loader.args.annotation_file" in message


def test_the_shuffled_file_is_used_on_request_only_and_loudly(tmp_path, caplog):
    root = empty_folder(tmp_path, "Videos")
    write_json(root / "TextVR_test_rand.json", [entry("a.mp4", ["x"])])
    with caplog.at_level(logging.WARNING):
        data = dataset(root, annotation_file="TextVR_test_rand.json")
    assert data.shuffled is True and len(data) == 1
    assert "SHUFFLED" in caplog.text and "chance" in caplog.text


def test_the_right_file_warns_of_nothing(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert dataset(folder).shuffled is False
    assert not caplog.records
