"""Text that changes in place, in real videos through the real engine: each reading at its time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from data_loader.synthetic.layout import write_video
from retrieval.spotting.video import ChangeDetector, spot_video

FPS = 25


@pytest.fixture(scope="module")
def rapid():
    pytest.importorskip("rapidocr_onnxruntime")
    from retrieval.spotting.rapid_ocr import RapidOcrSpotter

    return RapidOcrSpotter()


def write_texts(
    path: Path, texts: list[tuple[str, float]], size: int = 24, moving: bool = False, noise: int = 0
) -> None:
    """Write a video, 320 x 180, that shows texts one after the other in one place."""
    rng, font = np.random.default_rng(0), ImageFont.load_default(size=size)
    coarse = rng.integers(10, 90, (6, 24, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((640, 180), Image.Resampling.BICUBIC))

    def draw():
        number = 0
        for text, seconds in texts:
            for _ in range(round(seconds * FPS)):
                shift = 2 * number if moving else 0
                image = Image.fromarray(np.roll(wide, -shift, axis=1)[:, :320])
                ImageDraw.Draw(image).text((40, 60), text, font=font, fill=(240, 240, 240))
                grain = rng.normal(0, noise, (180, 320, 1)) if noise else 0
                yield (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
                number += 1

    write_video(path, draw(), FPS, crf=28)


def list_spans(document: dict[str, Any]) -> list[tuple[str, float, float]]:
    """The lines with the seconds of the first and the last look at them."""
    spans = []
    for record in document.values():
        frames = [int(frame) for frame in record["tracks"]]
        spans.append(("".join(record["text"].split()), frames[0] / FPS, frames[-1] / FPS))
    return spans


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize(
    "texts",
    [
        ["000000", "000100", "000300"],
        ["Loading 39 %", "Loading 61 %", "Loading 100 %"],
        ["12:03:59", "12:04:00", "12:04:01"],
        ["$24.95", "$19.95"],
        ["What", "Why"],
        ["Where did you leave the car?", "Where do you live then?"],
    ],
)
def test_each_text_is_a_line_with_its_own_time(rapid, tmp_path, texts, moving):
    size = 20 if len(texts[0]) < 20 else 16
    write_texts(tmp_path / "a.mp4", [(text, 1.0) for text in texts], size, moving)
    spans = list_spans(spot_video(tmp_path / "a.mp4", rapid))
    assert [text for text, *_ in spans] == ["".join(text.split()) for text in texts]
    for number, (_, first, last) in enumerate(spans):
        assert number <= first < number + 0.4 and first + 0.4 <= last < number + 1


@pytest.mark.parametrize("noise", [0, 10])
def test_text_that_stays_is_one_line(rapid, tmp_path, noise):
    write_texts(tmp_path / "a.mp4", [("SINCE 1987", 4.0)], moving=True, noise=noise)
    assert list_spans(spot_video(tmp_path / "a.mp4", rapid)) == [("SINCE1987", 0, 3.6)]


def test_the_frame_that_changes_without_the_line_confirms_no_misreading(rapid, tmp_path):
    """Something moves elsewhere, so that the line is read again though it is the same."""
    write_texts(tmp_path / "a.mp4", [("SCORE 38", 2.0)])

    class Misreading(type(rapid)):
        calls = 0

        def spot(self, picture):
            self.calls += 1
            lines = super().spot(picture)
            return [line._replace(text="SCORE 33") for line in lines] if self.calls > 2 else lines

    def move(frame, number):
        frame = frame.copy()
        frame[150:170, 10 * number : 10 * number + 20] = 255
        return frame

    from data_loader.readers.video_readers import open_video

    with open_video(tmp_path / "a.mp4") as video:
        pictures = list(video.frames(range(0, 50)))
    write_video(tmp_path / "b.mp4", (move(p, n) for n, p in enumerate(pictures)), FPS)
    spotter = Misreading()
    spans = list_spans(spot_video(tmp_path / "b.mp4", spotter))
    assert spotter.calls == 5 and len(spans) == 1


@pytest.mark.parametrize("digits", ["56", "38", "17", "08", "69"])
@pytest.mark.parametrize("left", range(20, 28, 3))
def test_one_small_digit_of_weak_contrast_is_a_change(digits, left):
    """9 pixels high, wherever it lies; the line and what is next to it are told from others."""
    change = ChangeDetector()
    for digit in digits:
        image = Image.new("RGB", (320, 180), (100, 100, 100))
        font = ImageFont.load_default(size=12)
        ImageDraw.Draw(image).text((left, 83), digit, font=font, fill=(180, 180, 180))
        assert change.is_new(np.asarray(image))
    box = np.array([[0, 0], [8, 0], [8, 9], [0, 9]], dtype=float)
    assert change.has_changed(box + [left, 85]) and change.has_changed(box + [left - 10, 85])
    assert not change.has_changed(box + [left, 120])
    assert not change.has_changed(box + [left + 40, 85])
