"""Real videos with known words through the real engine, and what training makes of the result."""

import json
import resource
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from data_loader.readers.video_readers import open_video
from data_loader.synthetic.layout import write_video as write_frames
from retrieval.spotting.video import ChangeDetector, average_windows, choose_frames, spot_video
from tests.processes import arguments, finish
from tests.retrieval.spotting.engines import SameText, run_command
from tests.test_test import ended  # noqa: F401 - a fixture
from tests.videos import break_packets, write_video
from utils.errors import UserError

NUM_FRAMES = 45  # at 25 a second


def write_lines(path: Path, lines: list[str], speed: int) -> None:
    """Write a video, 320 x 180, of lines that move to the right; speed: pixels a frame."""
    font = ImageFont.load_default(size=24)

    def draw(shift: int) -> np.ndarray:
        image = Image.new("RGB", (320, 180), (40, 90, 60))
        for number, line in enumerate(lines):
            corner = (20 + shift, 20 + 50 * number)
            ImageDraw.Draw(image).text(corner, line, font=font, fill=(240, 240, 240))
        return np.asarray(image)

    write_frames(path, (draw(speed * number) for number in range(NUM_FRAMES)), fps=25)


@pytest.fixture(scope="module")
def rapid():
    pytest.importorskip("rapidocr_onnxruntime")
    from retrieval.spotting.rapid_ocr import RapidOcrSpotter

    return RapidOcrSpotter()


def test_every_word_of_a_moving_video_is_in_one_track(rapid, tmp_path):
    lines = ["Grand Royal", "SALE 60", "casino"]
    write_lines(tmp_path / "a.mp4", lines, speed=2)
    shares = []
    document = spot_video(tmp_path / "a.mp4", rapid, progress=shares.append)
    assert sorted(record["text"] for record in document.values()) == sorted(lines)
    for record in document.values():
        assert list(record["tracks"]) == ["0", "10", "20", "30", "40"]
        lefts, reads = zip(*((box[0], box[-1]) for box in record["tracks"].values()), strict=True)
        assert len(set(lefts)) > 1 and set(reads) == {1}
    assert shares == [(index + 1) / NUM_FRAMES for index in range(0, NUM_FRAMES, 10)]


class Counting(SameText):
    pictures = 0

    def spot(self, picture):
        self.pictures += 1
        return super().spot(picture)


def test_a_video_that_stands_still_is_read_once(tmp_path):
    write_lines(tmp_path / "a.mp4", ["Grand Royal"], speed=0)
    spotter = Counting()
    document = spot_video(tmp_path / "a.mp4", spotter, every=0.2)
    assert spotter.pictures == 1
    assert list(document["0"]["tracks"]) == [str(frame) for frame in range(0, NUM_FRAMES, 5)]
    reads = [corners[-1] for corners in document["0"]["tracks"].values()]
    assert reads == [1] + [0] * 8


@pytest.mark.parametrize("reader", ["av", "decord", "cv2"])
def test_frames_have_the_same_numbers_with_every_reader(tmp_path, reader):
    path = write_video(tmp_path / "a.mp4", 30, x264="bframes=3")
    seen = []

    class Looking(SameText):
        def spot(self, picture):
            seen.append(picture)
            return []

    spot_video(path, Looking(), every=0.2, reader=reader)
    with open_video(path) as video:
        np.testing.assert_array_equal(np.stack(seen), video.frames(range(0, 30, 5)))


def test_looks_that_do_not_decode_are_left_out(tmp_path):
    good = write_video(tmp_path / "a.mp4", 60, gop=5, x264="bframes=0")
    path = break_packets(tmp_path / "damaged.mp4", good, list(range(18, 27)))
    shares, damage = [], []
    document = spot_video(
        path, SameText(), every=0.2, progress=shares.append, report_damage=damage.append
    )
    frames = {frame for record in document.values() for frame in record["tracks"]}
    assert frames == {str(number) for number in range(0, 60, 5) if number not in (20, 25)}
    assert shares == [(number + 1) / 60 for number in range(0, 60, 5) if number not in (20, 25)]
    assert damage == ["0:00.7-0:01.1 can't be decoded"]


def test_a_video_of_which_nothing_decodes_has_no_document(tmp_path):
    good = write_video(tmp_path / "a.mp4", 20)
    path = break_packets(tmp_path / "damaged.mp4", good, list(range(20)))
    with pytest.raises(UserError, match=r"damaged\.mp4: "):
        spot_video(path, SameText())


def test_train_and_test_read_what_spot_text_writes(demo, tmp_path, ended):  # noqa: F811
    pytest.importorskip("rapidocr_onnxruntime")
    ocr, run = tmp_path / "ocr", tmp_path / "run"
    assert run_command(demo / "Videos", "--out", ocr, "--every", 5, "--workers", 1) == 0
    names = {path.relative_to(ocr) for path in ocr.rglob("*.mp4.json")}
    given = {path.relative_to(demo / "Kwai_VideoOCR") for path in demo.rglob("Kwai_VideoOCR/*/*")}
    assert names == {name.with_suffix(".mp4.json") for name in given}
    assert any(json.loads((ocr / name).read_text()) for name in names)
    argv = arguments(demo, run, f"data_loader.args.ocr_dir={ocr}")
    assert finish(argv, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    code, out, errors = ended("-r", run / "model_last.pth", "--sim_path", tmp_path / "matrix.npy")
    assert code == 0, errors
    assert np.load(tmp_path / "matrix.npy").shape == (8, 8)
    assert json.loads((tmp_path / "data_report.json").read_text())["missing_ocr_documents"] == []


@pytest.mark.parametrize(
    ("times", "step", "expected"),
    [
        (np.arange(50) / 25, 0.4, [0, 10, 20, 30, 40]),
        (np.arange(5) / 25, 0.4, [0]),
        (np.arange(5) / 25, 0.001, [0, 1, 2, 3, 4]),
        ([0, 0.1, 0.5, 0.6, 3.0, 3.3], 0.4, [0, 2, 4, 5]),  # uneven: none is taken twice
        ([0, 0.399, 0.8], 0.4, [0, 1, 2]),  # a clock of milliseconds
        (np.arange(100) / 29.97, 1, [0, 30, 60, 90]),
    ],
)
def test_one_frame_for_each_step(times, step, expected):
    assert choose_frames(np.asarray(times, dtype=float), step).tolist() == expected


def test_average_windows_by_hand():
    values = np.zeros((9, 13), dtype=int)
    values[:4, :4], values[4:8, 4:8], values[8, 12] = 8, 4, 16
    expected = [[3, 1, 0, 0], [1, 1, 0.25, 0.25], [0, 0, 0.25, 0.25]]
    np.testing.assert_array_equal(average_windows(values), expected)


def draw_text(text: str, noise: int = 0) -> np.ndarray:
    image = Image.new("RGB", (640, 360), (120, 130, 110))
    font = ImageFont.load_default(size=13)
    ImageDraw.Draw(image).text((300, 170), text, font=font, fill=(200, 200, 200))
    drawn = np.asarray(image).astype(int)
    drawn += np.random.default_rng(noise).integers(-noise, noise + 1, drawn.shape)
    return drawn.clip(0, 255).astype(np.uint8)


def test_noise_is_no_change_and_one_small_letter_is():
    change = ChangeDetector()
    assert change.is_new(draw_text("PLATFORM 3"))
    assert not change.is_new(draw_text("PLATFORM 3", noise=6))
    assert change.is_new(draw_text("PLATFORM 8", noise=6))
    assert not change.is_new(draw_text("PLATFORM 8"))


def test_slow_changes_add_up():
    change = ChangeDetector()
    found = [change.is_new(np.full((48, 64, 3), level, np.uint8)) for level in range(0, 60, 10)]
    assert found == [True, False, False, True, False, False]


def test_another_size_is_a_change():
    change = ChangeDetector()
    assert change.is_new(np.zeros((48, 64, 3), np.uint8))
    assert change.is_new(np.zeros((64, 48, 3), np.uint8))


def _peak_of(path: Path, out: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spot_video(path, SameText(), every=0.04)
    out.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


@pytest.mark.slow
def test_a_long_video_is_never_in_memory(tmp_path):
    """1,500 pictures of 0.7 MB, each of them looked at."""
    path = write_video(tmp_path / "long.mp4", 1500, 640, 360)
    process = get_context("spawn").Process(target=_peak_of, args=(path, tmp_path / "peak"))
    process.start()
    process.join()
    assert int((tmp_path / "peak").read_text()) < 150_000  # KiB
