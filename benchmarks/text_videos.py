"""Videos whose words are known: lines of text that drift over a smooth background.

Legend: H, W = height and width of the picture in pixels; h, w = those of a line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data_loader.synthetic.files import write_video
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from data_loader.synthetic.words import DISTRACTORS, SIGN_WORDS, change_case

WORDS = tuple(word for word in (*SIGN_WORDS, *DISTRACTORS) if len(word) > 3)
FPS = 25


@dataclass(frozen=True)
class TextVideo:
    """What a video depends on, beside its seed.

    Attributes:
        letter_height: of a capital letter, pixels.
        blur: standard deviation of a Gaussian, pixels.
        speed: pixels a second; faster lines are smeared as by a shutter open half of the time.
        width, height: of the picture, pixels, even.
        num_frames: at 25 a second.
    """

    letter_height: int
    blur: float = 0.0
    speed: float = 0.0
    width: int = 640
    height: int = 360
    num_frames: int = 100

    def write(self, path: Path, seed: int) -> list[str]:
        """Write the video; returns its lines as they are written in it."""
        rng = np.random.default_rng(seed)
        lines = self._lines(rng)
        write_video(path, self._frames(rng, lines), FPS)
        return lines

    def _lines(self, rng: np.random.Generator) -> list[str]:
        """As many lines as stand one below the other, up to 4, of words that fit the width."""
        count = min(4, int(self.height // (2.2 * self.letter_height)))
        words = iter(rng.permutation(WORDS).tolist())
        lines = []
        for _ in range(count):
            line = ""
            for _ in range(rng.integers(1, 4)):
                longer = f"{line} {next(words)}".strip()
                fits = mask_of(longer.upper(), self.letter_height).shape[1] < 0.8 * self.width
                line = longer if fits or not line else line
            lines.append(change_case(rng, line))
        return lines

    def _frames(self, rng: np.random.Generator, lines: list[str]) -> Iterator[np.ndarray]:
        masks = [self._blurred(mask_of(line, self.letter_height)) for line in lines]
        dark, light = rng.uniform(20, 100), rng.uniform(215, 255)
        ink, ground = (dark, light) if rng.random() < 0.5 else (light, dark)
        background = _smooth(rng, self.width, self.height, ground)  # (H, W, 3)
        band = self.height / len(lines)
        starts = rng.uniform(0, 1, len(lines))
        turns = rng.choice([-1, 1], len(lines))
        for number in range(self.num_frames):
            picture = background.copy()
            for row, mask in enumerate(masks):
                span = max(1, self.width - mask.shape[1])
                way = starts[row] * span + turns[row] * self.speed * number / FPS
                left = round(span - abs(span - way % (2 * span)))  # thrown back at the edges
                _lay(picture, mask, left, int(row * band + (band - mask.shape[0]) / 2), ink)
            yield picture.astype(np.uint8)

    def _blurred(self, mask: np.ndarray) -> np.ndarray:
        """Blur and smear a line, (h, w) -> (h + 2p, w + 2p) with p for what runs over its edges."""
        smear = round(self.speed / FPS / 2)
        pad = int(3 * self.blur) + smear
        image = Image.fromarray(np.pad(mask, pad)).filter(ImageFilter.GaussianBlur(self.blur))
        soft = np.asarray(image, dtype=np.float64) / 255
        if smear > 1:
            soft = np.mean([np.roll(soft, shift - smear // 2, axis=1) for shift in range(smear)], 0)
        return soft


def mask_of(text: str, letter_height: int) -> np.ndarray:
    """Return a line's ink, (h, w) uint8, 255 where it is."""
    font = ImageFont.load_default(size=_font_size(letter_height))
    left, top, right, bottom = map(int, font.getbbox(text))
    image = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, font=font, fill=255)
    return np.asarray(image)


def _font_size(letter_height: int) -> int:
    """Return the largest size of Pillow's font whose H is no higher."""
    size = letter_height
    while True:
        _, top, _, bottom = ImageFont.load_default(size=size + 1).getbbox("H")
        if bottom - top > letter_height:
            return size
        size += 1


def _smooth(rng: np.random.Generator, width: int, height: int, level: float) -> np.ndarray:
    """Return a background of soft colours around a brightness, (H, W, 3) float64."""
    coarse = np.clip(level + rng.uniform(-35, 35, (5, 8, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float64)


def _lay(picture: np.ndarray, mask: np.ndarray, left: int, top: int, ink: float) -> None:
    """Lay a line over a picture, in place; what lies outside is cut off."""
    top = max(0, top)
    part = picture[top : top + mask.shape[0], left : left + mask.shape[1]]  # (h, w, 3)
    alpha = mask[: part.shape[0], : part.shape[1], None]
    part += alpha * (ink - part)
