import logging
import os

import pytest

from base.batch import SampleKey
from data_loader.datasets.annotations import AnnotationError
from data_loader.datasets.directory import IMAGE_EXTENSIONS
from data_loader.readers.container import VIDEO_EXTENSIONS
from tests.data_loader.frozen_folders import dataset, document, image, loader, samples, text, video
from utils.errors import UserError
from utils.files import list_files


def names_of(data):
    return [entry.id for entry in data.entries]


def test_videos_below_a_folder_sorted_by_path(tmp_path, caplog):
    for name in ("b.mp4", "a/z.MP4", "a/b/c.avi", "a.b/x.mkv", "B.mov"):
        video(tmp_path / name)
    text(tmp_path / "a/notes.txt", "x")
    for hidden in (".hidden/x.mp4", ".x.mp4"):
        text(tmp_path / hidden, "")
    with caplog.at_level(logging.INFO):
        data = dataset("VideoDirectory", tmp_path, reader="av")
    assert names_of(data) == ["B.mov", "a.b/x.mkv", "a/b/c.avi", "a/z.MP4", "b.mp4"]
    assert data.annotation_file == tmp_path and "1 files of other kinds" in caplog.text
    found = samples(data)
    assert all(sample.frames.any() and sample.captions == [] for sample in found)
    assert all(entry.captions == () and entry.category is None for entry in data.entries)


@pytest.mark.parametrize(
    ("name", "extensions"),
    [("VideoDirectory", VIDEO_EXTENSIONS), ("ImageDirectory", IMAGE_EXTENSIONS)],
)
def test_every_usual_extension(tmp_path, name, extensions):
    files = sorted(f"x{end}" for ending in extensions for end in (ending, ending.upper()))
    for file in (*files, "other.json", "noextension"):
        text(tmp_path / file, "")
    assert names_of(dataset(name, tmp_path)) == files
    usual = {"VideoDirectory": ".mp4 .avi .mkv .webm .mov", "ImageDirectory": ".jpg .png .webp"}
    assert set(usual[name].split()) <= set(extensions)


def test_links_are_followed_and_loops_end(tmp_path):
    root = tmp_path / "root"
    video(root / "a/x.mp4")
    video(tmp_path / "elsewhere/y.mp4")
    for link, target in (("a/up", ".."), ("a/same", "."), ("far", "../elsewhere")):
        (root / link).symlink_to(target)
    (root / "self.mp4").symlink_to("self.mp4")
    data = dataset("VideoDirectory", root)
    assert names_of(data) == ["a/x.mp4", "far/y.mp4", "self.mp4"]
    assert data[SampleKey(0, 1)].frames.any()
    with pytest.raises(ValueError, match="self.mp4: can't be read"):
        data[SampleKey(0, 2)]


def test_images_are_clips_of_one_frame(tmp_path):
    kinds = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP",
             ".tif": "TIFF"}  # fmt: skip
    for number, (extension, kind) in enumerate(kinds.items()):
        image(tmp_path / f"{number}{extension}", number, kind)
    found = samples(dataset("ImageDirectory", tmp_path))
    assert [sample.num_frames for sample in found] == [1] * 6
    assert all(sample.frames[0].float().std() > 1 for sample in found)


def test_documents_mirror_the_files(tmp_path):
    path = image(tmp_path / "a/b.v2.jpg")
    document(tmp_path / "Kwai_VideoOCR/a/b.v2.json", "Read me")
    (found,) = samples(dataset("ImageDirectory", tmp_path))
    assert found.words == ["read"] and path.exists()


def test_a_batch_without_queries(tmp_path):
    for name in "ab":
        video(tmp_path / f"{name}.mp4")
    (batch,) = loader("VideoDirectory", tmp_path)
    assert batch.ids == ["a.mp4", "b.mp4"] and batch.video.any()
    assert len(batch.query.input_ids) == len(batch.query_row) == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_there_is_nothing_to_train_or_validate_with(tmp_path, split):
    video(tmp_path / "a.mp4")
    with pytest.raises(AnnotationError, match=f"no captions, so nothing to {split} with.*save_fe"):
        dataset("VideoDirectory", tmp_path, split)
    with pytest.raises(AnnotationError, match="nothing to train with"):
        dataset("VideoDirectory", tmp_path, "test", training=True)


def test_annotations_are_no_argument(tmp_path):
    image(tmp_path / "a.jpg")
    for more in ({"annotation_file": "x.json"}, {"metadata_dir": "/"}):
        with pytest.raises(AnnotationError, match="ImageDirectory reads no annotations"):
            dataset("ImageDirectory", tmp_path, **more)


def test_an_empty_and_a_missing_folder(tmp_path):
    text(tmp_path / "a.jpg", "")
    with pytest.raises(AnnotationError, match=r"no file with an extension of: \.mp4 \.m4v"):
        dataset("VideoDirectory", tmp_path)
    with pytest.raises(UserError, match="nowhere: no such folder; give the folder"):
        dataset("VideoDirectory", tmp_path / "nowhere")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    video(tmp_path / "a/x.mp4")
    scandir = os.scandir

    def refuse(folder):  # the system's answer to any user but root
        if os.path.basename(folder) == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="a: the folder can't be read .Permission denied"):
        dataset("VideoDirectory", tmp_path)


def test_hidden_folders_behind_a_link_and_names_with_blanks(tmp_path):
    video(tmp_path / "far/.hidden/x.mp4")
    video(tmp_path / "far/a b.mp4")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "far")
    data = dataset("VideoDirectory", tmp_path / "root")
    assert names_of(data) == list_files(tmp_path / "root", VIDEO_EXTENSIONS).names
    assert names_of(data) == ["link/a b.mp4"]
