"""Text of other scripts, which a recogniser of Latin letters reads as look-alikes."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from data_loader.synthetic.layout import write_video
from retrieval.spotting.ctc import Reading
from retrieval.spotting.foreign_text import ForeignText, Noticed
from retrieval.spotting.rapid_ocr import RapidOcrSpotter
from retrieval.spotting.video import spot_video

pytest.importorskip("rapidocr_onnxruntime")
font_manager = pytest.importorskip("matplotlib.font_manager")
FONT = Path(font_manager.__file__).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"  # in its package

CYRILLIC = ["КРАСОТА В МЫСЛЯХ", "Добро пожаловать", "Спасибо за внимание", "Новости дня"]
GREEK = ["Καλημέρα κόσμε", "Η θάλασσα είναι μπλε", "Ξενοδοχείο", "Εισιτήρια εδώ"]
LATIN = [
    *("WELCOME TO PARIS", "iPod Nano", "eBay WiFi", "RE16 B2B", "Model X-200B", "$19.99"),
    *("getElementById(id)", "def foo(self, bar=None):", "Djokovic 6 4 7", "MacBook Pro M1"),
    *("COVID-19 R2-D2", "192.168.0.1", "Boeing 747-400", "Gare du Nord", "Strasse GmbH"),
    *("SCORE 000300", "Plan B", "Vitamin C", "McDonald's", "SELECT * FROM t", "BMW 320d", "MP3"),
]


def draw(*lines: str, size: int = 26) -> np.ndarray:
    image = Image.new("RGB", (480, 60 * len(lines)), (40, 60, 90))
    font = ImageFont.truetype(str(FONT), size)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((20, 60 * number + 12), line, font=font, fill=(240, 240, 240))
    return np.asarray(image)


@pytest.fixture(scope="module")
def engine():
    return RapidOcrSpotter()


@pytest.fixture
def spotter(engine):
    engine.reset()
    return engine


@pytest.mark.parametrize("lines", [CYRILLIC, GREEK], ids=["cyrillic", "greek"])
def test_look_alikes_are_left_out_and_named_with_the_option_that_reads_them(spotter, lines):
    assert spotter.spot(draw(*lines)) == []
    said = spotter.describe_unread()
    assert said[1:] == (
        " lines look like another script than latin and are left out: --script cyrillic (or greek, "
        "arabic, devanagari) reads such text, or says which file it needs"
    )
    assert 2 <= int(said[0]) <= 4  # some are read so badly that they are left out anyway
    spotter.reset()
    assert spotter.describe_unread() is None


@pytest.mark.parametrize("size", [18, 26])
def test_latin_is_kept_with_its_part_numbers_prices_and_code(spotter, size):
    for start in range(0, len(LATIN), 4):
        lines = LATIN[start : start + 4]
        assert len(spotter.spot(draw(*lines, size=size))) == len(lines)
    assert spotter.describe_unread() is None


def test_latin_beside_other_scripts_is_kept(spotter):
    lines = spotter.spot(draw(*CYRILLIC, "Gare du Nord", "SAMSUNG", "MP3 player"))
    assert [line.text for line in lines] == ["Gare du Nord", "SAMSUNG", "MP3 player"]


def make_reading(text: str, confidence: float, foreign: float, unmasked: str = "") -> Reading:
    shape = len(text)
    return Reading(
        text,
        confidence,
        np.full(shape, confidence),
        np.arange(shape),
        np.full(shape, foreign),
        unmasked,
    )


def test_the_video_decides_about_lines_that_could_be_either():
    doubtful, own = make_reading("HOBOCTU AHA", 0.9, 0.003), make_reading("SALE", 0.97, 0.0)
    sure = make_reading("CHaCH6o 3a BHHMaHHe", 0.7, 0.02)
    text = ForeignText()
    assert text.sort_out([doubtful, own])[0] == [True, True]
    assert text.sort_out([sure, sure])[0] == [False, False]  # two may be chance
    assert text.sort_out([doubtful, own])[0] == [True, True]
    assert text.confirm("HOBOCTU AHA") and text.confirm("SALE")
    assert text.sort_out([sure, sure, sure])[0] == [False, False, False]
    assert text.sort_out([doubtful, own])[0] == [False, True]
    # Nor is it kept where it was read before.
    assert not text.confirm("HOBOCTU AHA") and text.confirm("SALE") and text.confirm("never read")
    assert text.describe().startswith("2 lines look like")


def test_what_was_noticed_goes_on_in_another_run():
    """Through JSON, as the journal keeps it."""
    doubtful, sure = (
        make_reading("HOBOCTU AHA", 0.9, 0.003),
        make_reading("CHaCH6o BHHM", 0.7, 0.02),
    )
    text, later = ForeignText(), ForeignText()
    for readings in ([doubtful], [sure, sure], [sure, sure, sure]):
        _, noticed = text.sort_out(readings, 2)
        later.add(Noticed(*json.loads(json.dumps(noticed))))
    assert vars(later) == vars(text)
    assert not later.confirm("HOBOCTU AHA") and not text.confirm("HOBOCTU AHA")
    assert later.describe() == text.describe() is not None


def test_chinese_under_latin_is_told_by_what_may_not_be_read():
    text = ForeignText()
    lines = [make_reading("", 0.0, 0.0, chinese) for chinese in ("欢迎光临", "出口", "出口")]
    assert text.sort_out(lines)[0] == [False, False, False]
    assert text.describe().startswith("2 lines look like another script than latin and are left ")
    assert "--script chinese (or japanese) reads" in text.describe()


def test_text_that_cant_be_read_at_all_is_said_where_it_is_most_of_it():
    text = ForeignText()
    text.sort_out([], 9)
    assert text.describe() is None
    text.sort_out([], 3)
    assert "most of what looks like text can't be read" in text.describe()
    text.sort_out([make_reading("SALE", 0.97, 0.0)] * 12)
    assert text.describe() is None


def test_few_doubtful_lines_among_many_are_not_worth_saying():
    text = ForeignText()
    text.sort_out([make_reading("SALE", 0.97, 0.0)] * 99 + [make_reading("n0ob", 0.3, 0.2)])
    assert text.describe() is None


def test_it_is_said_once_a_video_and_other_settings_judge_nothing(tmp_path, caplog):
    path = tmp_path / "clip.mp4"
    frames = (draw(*CYRILLIC) for _ in range(5))
    write_video(path, (np.roll(frame, 8 * n, axis=1) for n, frame in enumerate(frames)), 2)
    with caplog.at_level(logging.WARNING):
        assert spot_video(path, RapidOcrSpotter()) == {}
    (said,) = caplog.messages
    assert said.startswith(f"{path}: ") and "--script cyrillic" in said and "\n" not in said
    caplog.clear()
    assert spot_video(path, RapidOcrSpotter(script="chinese"))
    assert not caplog.messages
