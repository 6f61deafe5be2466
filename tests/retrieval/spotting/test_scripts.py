"""Scripts of writing by name: the recogniser that reads each, its letters, and how it is given."""

import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from retrieval.spotting import scripts
from retrieval.spotting.rapid_ocr import RapidOcrSpotter, weigh_characters
from retrieval.spotting.scripts import SCRIPTS, find_recogniser, order_right_to_left
from utils.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The recognisers' folder, and no package that holds any."""
    monkeypatch.setenv("TEXTVR_RECOGNISERS", str(tmp_path / "recognisers"))
    monkeypatch.setattr(scripts, "_SHARED_PACKAGE", "no_such_package")
    (tmp_path / "recognisers").mkdir()
    return tmp_path / "recognisers"


NEEDING = [name for name, script in SCRIPTS.items() if script.file is not None]


def test_latin_and_chinese_need_nothing():
    assert {name for name in SCRIPTS if name not in NEEDING} == {"latin", "chinese"}
    assert find_recogniser("latin") == find_recogniser("chinese") == (None, None)


@pytest.mark.parametrize("name", NEEDING)
def test_without_its_file_a_script_says_which_one_from_where_and_how_it_is_given(name, folder):
    with pytest.raises(UserError) as error:
        RapidOcrSpotter(script=name)
    message, file = str(error.value), SCRIPTS[name].file.rpartition("/")[2]
    source = "https://www.modelscope.cn/models/RapidAI/RapidOCR/resolve/v3.10.0/onnx/"
    assert message.startswith(f"--script {name} needs the recogniser {file}, which is not there")
    assert source + SCRIPTS[name].file in message
    assert str(folder) in message and "--rec_model" in message and "--rec_keys" in message
    assert "\n" not in message
    assert ("pip install --no-deps" in message) == (name in ("latin+accents", "japanese"))


def test_no_such_script():
    with pytest.raises(UserError, match=r"--script klingon: no such script; give one of: latin, "):
        RapidOcrSpotter(script="klingon")


def test_the_folder_comes_first_then_the_newest_version_with_its_keys(folder):
    for name in ("PP-OCRv3_rec_mobile", "PP-OCRv5_rec_mobile"):
        (folder / f"cyrillic_{name}.onnx").write_bytes(b"")
    (folder / "latin_PP-OCRv5_rec_mobile.onnx").write_bytes(b"")
    newest = folder / "cyrillic_PP-OCRv5_rec_mobile.onnx"
    assert find_recogniser("cyrillic") == (newest, None)
    newest.with_suffix(".txt").write_text("а\nб\n", encoding="utf-8")
    assert find_recogniser("cyrillic") == (newest, newest.with_suffix(".txt"))


def test_the_users_data_folder_is_looked_into_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("TEXTVR_RECOGNISERS")
    assert scripts.recogniser_folder().parts[-2:] == ("textvr", "recognisers")


@pytest.mark.parametrize(
    ("name", "read", "left_out"),
    [
        ("latin", "Aé９€", "Жλ字あعह한"),
        ("latin+accents", "Aéłßğ¿", "Жλ字あعह한"),
        ("cyrillic", "AЖїё5№", "λ字あعह한é"),
        ("arabic", "Aعهپ٣٪", "Жλ字あह한"),
        ("devanagari", "Aहि३।", "Жλ字あع한"),
        ("greek", "Aλήϊ", "Ж字あعह한"),
        ("chinese", "A字Ж。", ""),
        ("japanese", "A字あアー々。「", "Жλعह한"),
        ("korean", "A한字", "Жλあعह"),
    ],
)
def test_letters_of_a_script_its_digits_and_ascii_are_read(name, read, left_out):
    weights = weigh_characters(["blank", *read, *left_out, " "], SCRIPTS[name], 1.0)
    assert weights[: 1 + len(read)].all() and weights[-1] == 1
    assert not weights[1 + len(read) : -1].any()


def test_a_script_s_file_is_used_and_part_of_the_identity(folder):
    package = pytest.importorskip("rapidocr_onnxruntime")
    file = folder / "cyrillic_PP-OCRv5_rec_mobile.onnx"
    shutil.copy(package.main.root_dir / "models/ch_PP-OCRv4_rec_infer.onnx", file)
    spotter = RapidOcrSpotter(script="cyrillic")
    packaged = RapidOcrSpotter().identity()
    assert spotter.identity() == packaged | {"script": "cyrillic"}
    file.write_bytes(b"another")
    assert spotter.identity()["recogniser"] != packaged["recogniser"]
    with pytest.raises(UserError, match=r"cyrillic_PP-OCRv5.*can't be used as a recogniser"):
        spotter.load()


@pytest.mark.parametrize(
    ("read", "written"),
    [
        ("ملاعلاب ابحرم", "مرحبا بالعالم"),
        ("2024 ماع", "عام 2024"),
        ("50% مصخ", "خصم 50%"),
        ("iPhone 15 ديدج", "جديد iPhone 15"),
        ("12:30 ةعاسلا", "الساعة 12:30"),
        ("CNN", "CNN"),
    ],
)
def test_arabic_is_put_into_the_order_in_which_it_is_written(read, written):
    assert order_right_to_left(read) == written


def test_a_package_that_ships_a_recogniser_reads_accents_and_kana(monkeypatch):
    monkeypatch.setattr(scripts, "_SHARED_PACKAGE", "rapidocr")
    if find_spec("rapidocr") is None or metadata.version("rapidocr") < "3.10":
        pytest.skip("rapidocr 3.10 is not installed")
    font_manager = pytest.importorskip("matplotlib.font_manager")
    file = Path(font_manager.__file__).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    image = Image.new("RGB", (520, 120), (40, 90, 60))
    font = ImageFont.truetype(str(file), 32)
    ImageDraw.Draw(image).text((30, 30), "Crème brûlée, Łódź", font=font, fill=(240, 240, 240))
    lines = RapidOcrSpotter(script="latin+accents").spot(np.asarray(image))
    assert [line.text for line in lines] == ["Crème brûlée, Łódź"]
