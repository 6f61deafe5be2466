"""RapidOCR behind the interface: what it reads, where, in which script; files it can't use."""

import hashlib
import sys
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from retrieval.spotting import rapid_ocr
from retrieval.spotting.rapid_ocr import RapidOcrSpotter
from utils.errors import UserError

pytest.importorskip("rapidocr_onnxruntime")


@pytest.fixture(scope="module")
def spotter():
    return RapidOcrSpotter()


def picture(*texts: tuple[str, int, int], size=(320, 180), font_size=24) -> np.ndarray:
    image = Image.new("RGB", size, (40, 90, 60))
    font = ImageFont.load_default(size=font_size)
    for text, x, y in texts:
        ImageDraw.Draw(image).text((x, y), text, font=font, fill=(240, 240, 240))
    return np.asarray(image)


def test_lines_from_the_top_down_with_their_corners(spotter):
    image = picture(("Grand Royal", 100, 120), ("SALE 60", 20, 20))
    lines = spotter.spot(image)
    assert [line.text for line in lines] == ["SALE 60", "Grand Royal"]
    assert all(0.8 < line.score <= 1 for line in lines)
    for line, top in zip(lines, (20, 120), strict=True):
        assert line.corners.shape == (4, 2) and line.corners.dtype == np.float64
        ink = np.argwhere((image > 200).all(axis=2))[:, ::-1]
        line_ink = ink[np.abs(ink[:, 1] - top - 12) < 20]
        low, high = line.corners.min(axis=0), line.corners.max(axis=0)
        assert (low <= line_ink.min(axis=0) + 1).all() and (high >= line_ink.max(axis=0) - 1).all()
        assert (low > line_ink.min(axis=0) - 12).all() and (high < line_ink.max(axis=0) + 12).all()
        np.testing.assert_allclose(line.corners[0], low, atol=3)  # begins at the upper left


def test_corners_are_those_of_a_picture_that_the_detector_saw_smaller():
    image = picture(("Grand Royal", 500, 300), size=(1000, 500), font_size=50)
    centers = [
        RapidOcrSpotter(max_side=side).spot(image)[0].corners.mean(axis=0) for side in (640, 1000)
    ]
    np.testing.assert_allclose(*centers, atol=6)


@pytest.mark.parametrize("shape", [(180, 320), (1, 1), (2, 900), (900, 2), (96, 96)])
def test_without_text_there_are_no_lines(spotter, shape):
    assert spotter.spot(np.full((*shape, 3), 90, np.uint8)) == []


def test_channels_are_red_green_blue(monkeypatch):
    seen = []
    spotter = RapidOcrSpotter()
    spotter.load()
    monkeypatch.setattr(spotter._engine, "auto_text_det", lambda x: (seen.append(x) or None, 0))
    assert spotter.spot(picture(("CASINO", 60, 60))) == []
    assert seen[0][0, 0].tolist() == [60, 90, 40]  # as OpenCV, which RapidOCR is written for


def test_blanks_between_words_are_kept(spotter):
    lines = spotter.spot(picture(("SALE UP TO 60 OFF", 20, 60), size=(640, 180), font_size=48))
    assert [line.text for line in lines] == ["SALE UP TO 60 OFF"]


@pytest.mark.parametrize(
    ("script", "expected", "score"),
    [("latin", "B：", 0.6), ("chinese", "区：", 0.75), (None, "B：", 0.6)],
)
def test_the_script_decides_which_letters_may_be_read(script, expected, score):
    spotter = RapidOcrSpotter(script=script)
    spotter.load()
    decoder = spotter._engine.text_rec.postprocess_op
    characters = decoder.characters
    probabilities = np.zeros((1, 2, len(characters)), np.float32)
    for step, character, value in ((0, "区", 0.6), (0, "B", 0.3), (1, "：", 0.9)):
        probabilities[0, step, characters.index(character)] = value
    (reading,) = decoder(probabilities)
    assert (reading.text, reading.score) == (expected, pytest.approx(score))


@pytest.mark.parametrize(
    ("read", "plain"),
    [("Ｏｐｅｎ：１０", "Open:10"), ("it’s “5–6”…", 'it\'s "5-6"...'), ("été", "été")],
)
def test_latin_signs_become_plain_ones(read, plain):
    assert rapid_ocr._normalise_signs(read) == plain


@pytest.mark.parametrize(
    ("read", "meant"),
    [
        ("LIONS O : O BEARS", "LIONS 0 : 0 BEARS"), ("O-1", "0-1"), ("1O:O5", "10:05"),
        ("O : OSLO", "O : OSLO"), ("REO-1", "REO-1"), ("HELLO - OK", "HELLO - OK"), ("O", "O"),
    ],
)  # fmt: skip
def test_a_lone_zero_of_a_score_is_no_letter(read, meant):
    assert rapid_ocr._normalise_signs(read) == meant


def test_a_ball_is_no_text_that_cant_be_read(spotter):
    image = Image.new("RGB", (640, 360), (222, 226, 231))
    spotter.reset()
    for left in range(40, 520, 20):
        frame = image.copy()
        ImageDraw.Draw(frame).ellipse((left, 120, left + 90, 210), fill=(180, 60, 60))
        assert spotter.spot(np.asarray(frame)) == []
    assert spotter.describe_unread() is None


def test_small_pictures_are_seen_as_they_are_and_larger_ones_smaller(monkeypatch):
    seen = []
    spotter, small = RapidOcrSpotter(), RapidOcrSpotter(max_side=960)
    for each in (spotter, small):
        each.load()
        monkeypatch.setattr(
            each._engine, "auto_text_det", lambda x: (seen.append(x.shape[:2]) or None, 0)
        )
    for width, height in ((320, 240), (1280, 720), (1920, 1080), (1080, 1920), (3840, 2160)):
        spotter.spot(np.zeros((height, width, 3), np.uint8))
    small.spot(np.zeros((720, 1280, 3), np.uint8))
    assert seen == [(240, 320), (630, 1120), (900, 1600), (1600, 900), (1080, 1920), (540, 960)]


def test_small_letters_of_a_large_picture_are_found():
    image = picture(("Grand Royal", 1500, 900), size=(1920, 1080), font_size=13)
    assert [line.text for line in RapidOcrSpotter().spot(image)] == ["Grand Royal"]


@pytest.mark.parametrize("width", [20, 26])
def test_an_icon_beside_a_line_is_not_read_as_a_letter(spotter, monkeypatch, width):
    canvas = Image.fromarray(picture(("Profile", 40, 60), size=(320, 120)))
    for top in (62, 62 + width / 3, 62 + 2 * width / 3):  # a menu's bars
        ImageDraw.Draw(canvas).line((124, top, 124 + width, top), fill=(240, 240, 240), width=3)
    assert [line.text for line in spotter.spot(np.asarray(canvas))] == ["Profile"]
    monkeypatch.setattr(rapid_ocr, "drop_icons", lambda reading: reading)
    assert [line.text for line in spotter.spot(np.asarray(canvas))] != ["Profile"]


def test_unsure_lines_are_left_out():
    image = picture(("SALE 60", 20, 20))
    assert RapidOcrSpotter(min_score=0.999999).spot(image) == []


def test_without_the_package_there_is_an_install_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    for use in (RapidOcrSpotter().identity, RapidOcrSpotter().load):
        with pytest.raises(UserError, match=r"pip install --no-deps rapidocr-onnxruntime==1\.4"):
            use()


def test_another_recogniser_that_cant_be_used_is_named(tmp_path):
    model, keys = tmp_path / "model.onnx", tmp_path / "keys.txt"
    with pytest.raises(UserError, match=r"model\.onnx: no such file"):
        RapidOcrSpotter(rec_model=model)
    model.write_text("not a network")
    with pytest.raises(UserError, match=r"model\.onnx: can't be used as a recogniser"):
        RapidOcrSpotter(rec_model=model).load()
    keys.write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"keys\.txt: .*6625 classes, but 4 characters.*--rec_keys"):
        RapidOcrSpotter(rec_keys=keys).load()


def test_the_packaged_files_can_be_named_like_any_others(tmp_path):
    import rapidocr_onnxruntime as package

    model = package.main.root_dir / "models/ch_PP-OCRv4_rec_infer.onnx"
    spotter = RapidOcrSpotter(rec_model=model)
    assert [line.text for line in spotter.spot(picture(("CASINO", 20, 20)))] == ["CASINO"]
    assert spotter.identity() == RapidOcrSpotter().identity() | {"script": "any"}
    assert RapidOcrSpotter(rec_model=model, script="latin").identity()["script"] == "latin"


def test_the_identity_names_what_the_readings_depend_on(tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("a\nb\n", encoding="utf-8")
    named = RapidOcrSpotter(rec_keys=keys).identity()
    packaged = RapidOcrSpotter(min_score=0.3, max_side=500).identity()
    assert packaged["engine"] == "rapidocr" and packaged["script"] == "latin"
    assert packaged["version"] == version("rapidocr-onnxruntime")
    assert named == packaged | {"characters": hashlib.sha256(keys.read_bytes()).hexdigest()}
    assert len(packaged["recogniser"]) == 64
