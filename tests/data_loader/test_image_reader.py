import numpy as np
import pytest
from PIL import Image

from base.registry import VIDEO_READERS
from data_loader.readers.base_reader import VideoError
from data_loader.readers.image_reader import open_image
from tests.data_loader.frozen_folders import image
from tests.videos import make_frames, truncate


def read(path):
    with open_image(path) as opened:
        frames = opened.frames([0])
        assert opened.num_frames == 1 and frames.dtype == np.uint8
        assert frames.shape == (1, opened.height, opened.width, 3)
    return frames[0]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_an_image_is_one_frame_to_the_bit(tmp_path, kind):
    path = image(tmp_path / "without_extension", kind=kind)
    np.testing.assert_array_equal(read(path), make_frames(1, 64, 48)[0])


def test_it_fulfils_the_contract_of_readers(tmp_path):
    with open_image(image(tmp_path / "a.png", kind="PNG")) as opened:
        assert opened.frames([0, 0]).shape == (2, 48, 64, 3)
        with pytest.raises(VideoError, match="frames 0 to 1 were asked for, but it has 1"):
            opened.frames([0, 1])
    assert "image" not in VIDEO_READERS.names()  # no choice for videos


def test_an_image_is_turned_as_it_asks(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = image(tmp_path / "a.png", kind="PNG", exif=exif)
    np.testing.assert_array_equal(read(path), np.rot90(make_frames(1, 64, 48)[0], -1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.fromarray(make_frames(1, 64, 48)[0]).convert(mode).save(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read(path), expected)
    assert expected.std() > 1


def test_16_bit_grey_keeps_its_shades(tmp_path):
    grey = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(48, axis=0)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png")[..., 0], grey >> 8)


def test_of_an_animation_the_first_image_is_read(tmp_path):
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def broken(tmp_path, kind):
    whole, path = image(tmp_path / "whole.jpg"), tmp_path / "a.jpg"
    if kind == "empty":
        path.touch()
    elif kind == "cut":
        truncate(path, whole, 0.6)
    elif kind == "text":
        path.write_text("no image\n" * 99)
    elif kind == "numbers":
        Image.fromarray(np.ones((4, 4), np.float32)).save(path, "TIFF")
    elif kind == "folder":
        path.mkdir()
    elif kind == "bomb":  # a header that promises 60000 x 60000 pixels
        data = bytearray(image(tmp_path / "bomb.png", kind="BMP").read_bytes())
        data[18:26] = (60000).to_bytes(4, "little") * 2
        path.write_bytes(data)
    return path


REASONS = {
    "missing": "is missing",
    "empty": "is empty",
    "cut": "can't be opened as an image .*[Tt]runcated",
    "text": "can't be opened as an image .*cannot identify",
    "numbers": "holds numbers, not colours",
    "folder": "is a folder",
    "bomb": "can't be opened as an image .*DecompressionBomb",
}


@pytest.mark.parametrize("kind", REASONS)
def test_an_image_that_cannot_be_read(tmp_path, kind):
    path = broken(tmp_path, kind)
    with pytest.raises(VideoError, match=REASONS[kind]) as caught:
        read(path)
    assert caught.value.path == str(path) and "\n" not in str(caught.value)
    assert "video reader" not in str(caught.value)


def test_a_file_that_begins_like_a_video_is_left_to_the_library(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypavif" + bytes(99))
    with pytest.raises(VideoError, match="can't be opened as an image"):
        read(tmp_path / "a.jpg")
