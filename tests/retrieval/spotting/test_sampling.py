"""Which frames are read: every so many seconds, and only where something changed."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from retrieval.spotting.sampling import ChangeDetector, block_means, frames_every


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
    assert frames_every(np.asarray(times, dtype=float), step).tolist() == expected


def test_block_means_by_hand():
    values = np.zeros((9, 17))
    values[:8, :8], values[8, 16] = 2, 5
    np.testing.assert_array_equal(block_means(values), [[2, 0, 0], [0, 0, 5]])


def written(text: str, noise: int = 0) -> np.ndarray:
    image = Image.new("RGB", (640, 360), (120, 130, 110))
    font = ImageFont.load_default(size=13)
    ImageDraw.Draw(image).text((300, 170), text, font=font, fill=(200, 200, 200))
    drawn = np.asarray(image).astype(int)
    drawn += np.random.default_rng(noise).integers(-noise, noise + 1, drawn.shape)
    return drawn.clip(0, 255).astype(np.uint8)


def test_noise_is_no_change_and_one_small_letter_is():
    change = ChangeDetector()
    assert change.differs(written("PLATFORM 3"))
    assert not change.differs(written("PLATFORM 3", noise=6))
    assert change.differs(written("PLATFORM 8", noise=6))
    assert not change.differs(written("PLATFORM 8"))


def test_slow_changes_add_up():
    change = ChangeDetector()
    found = [change.differs(np.full((48, 64, 3), level, np.uint8)) for level in range(0, 60, 10)]
    assert found == [True, False, False, True, False, False]


def test_another_size_is_a_change():
    change = ChangeDetector()
    assert change.differs(np.zeros((48, 64, 3), np.uint8))
    assert change.differs(np.zeros((64, 48, 3), np.uint8))
