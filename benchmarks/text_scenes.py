"""Scenes of known words that are hard to read: signage, pixel fonts, watermarks and the like.

Where ``benchmarks.inputs.TextVideo`` varies one thing at a time, a scene is made as such text
occurs: boards seen from the side before a crowd, a game's bitmap letters, a mark laid over a film.
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.inputs import FPS, TEXT_WORDS, render_line
from data_loader.synthetic.layout import write_video
from data_loader.synthetic.words import change_case

# Bitmap fonts: rows of the capitals A to Z, a digit each: 3 x 5 pixels, octal, and 5 x 7, base 32.
TINY = (
    "25755 65656 34443 65556 74647 74644 34553 55755 72227 11152 55655 44447 57755 65555 25552 "
    "65644 25563 65655 34216 72222 55557 55552 55775 55255 55222 71247"
).split()
SMALL = (
    "4AHHVHH UHHUHHU EHGGGHE UHHHHHU VGGUGGV VGGUGGG EHGNHHF HHHVHHH E44444E 72222IC HIKOKIH "
    "GGGGGGV HRLLHHH HPLJHHH EHHHHHE UHHUGGG EHHHLID UHHUKIH FGGE11U V444444 HHHHHHE HHHHHA4 "
    "HHHLLRH HHA4AHH HHA4444 V1248GV"
).split()
_PAN = 1  # pixels a frame


@dataclass(frozen=True)
class TextScene:
    """A kind of scene; with a seed, a video.

    Attributes:
        name: of the kind.
        width, height: of the picture, pixels, even.
        letters: least and greatest height of a capital letter, pixels; None: a bitmap font of
            5 to 7, not enlarged.
        num_lines: one below the other in two columns.
        warp: how far a line's corners are moved, as a share of its height.
        contrast: between ink and ground, levels of 255.
        tint: how far the ink is from grey, levels of 255.
        opacity: of the ink.
        smear: greatest length of the blur of a motion, pixels.
        blur: of the whole picture, as by a lens out of focus: standard deviation, pixels.
        board: whether lines stand on boards; else on what is behind them.
        texture: strength of what is behind, levels of 255.
    """

    name: str
    width: int = 1280
    height: int = 720
    letters: tuple[int, int] | None = (16, 40)
    num_lines: int = 8
    warp: float = 0.0
    contrast: float = 160.0
    tint: float = 10.0
    opacity: float = 1.0
    smear: int = 0
    blur: float = 0.0
    board: bool = False
    texture: float = 20.0
    num_frames: int = 21

    def write(self, path: Path, seed: int) -> list[str]:
        """Write the video; returns its lines as they are written in it."""
        rng = np.random.default_rng(seed)
        words = iter(rng.permutation(TEXT_WORDS).tolist())
        lines = []
        for _ in range(self.num_lines):
            line = change_case(rng, " ".join(next(words) for _ in range(rng.integers(1, 3))))
            lines.append(line)
        write_video(path, self._pan(self._draw(rng, lines)), FPS)
        return lines

    def _pan(self, picture: np.ndarray) -> Iterator[np.ndarray]:
        for number in range(self.num_frames):
            left = _PAN * number
            yield np.ascontiguousarray(picture[:, left : left + self.width])

    def _draw(self, rng: np.random.Generator, lines: list[str]) -> np.ndarray:
        """Return what the camera pans over, (H, W + the pan's length, 3) uint8."""
        width = self.width + _PAN * self.num_frames
        picture = make_texture(rng, width, self.height, self.texture)
        rows = -(-len(lines) // 2)
        cell_width, cell_height = width // 2, self.height // rows
        for number, line in enumerate(lines):
            mask = self._render(rng, line)
            mask = mask[:cell_height, :cell_width]
            room = cell_height - mask.shape[0], cell_width - mask.shape[1]
            top = number // 2 * cell_height + int(rng.integers(room[0] + 1))
            left = number % 2 * cell_width + int(rng.integers(room[1] + 1))
            place = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
            picture[place] = self._paint(rng, picture[place], mask)
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        image = image.filter(ImageFilter.GaussianBlur(self.blur))
        noise = rng.normal(0, 2, picture.shape)
        return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)

    def _render(self, rng: np.random.Generator, line: str) -> np.ndarray:
        """Return a line's ink (and board), (h, w, 2) float32 in [0, 1]."""
        if self.letters is None:
            font = (None, TINY, SMALL)[rng.integers(3)]
            ink = np.pad(draw_bitmap(line) if font is None else draw_dots(font, line), 2)
        else:
            ink = render_line(line, int(rng.integers(self.letters[0], self.letters[1] + 1)))
            ink = np.pad(ink, int(0.6 * ink.shape[0]))
        board = np.full_like(ink, 255)
        layers = [Image.fromarray(layer) for layer in (ink, board)]
        if self.warp:
            layers = warp_layers(rng, layers, self.warp)
        if self.smear:
            layers[0] = smear_ink(rng, layers[0], self.smear)
        return np.stack([np.asarray(layer, np.float32) / 255 for layer in layers], axis=2)

    def _paint(self, rng: np.random.Generator, ground: np.ndarray, mask: np.ndarray) -> np.ndarray:
        ink, board = mask[..., :1], mask[..., 1:]
        if self.board:
            colour = rng.uniform(20, 235, 3)
            ground = ground + board * (colour - ground)
        level = ground.mean()
        sign = 1 if level < 128 else -1
        tint = rng.uniform(-self.tint, self.tint, 3)
        colour = np.clip(level + sign * self.contrast + tint, 0, 255)
        return ground + self.opacity * ink * (colour - ground)


_SIGNAGE = {"warp": 0.35, "board": True, "texture": 60}
SCENES = (
    TextScene("signage", 1920, 1080, (16, 40), 14, contrast=110, blur=1.8, **_SIGNAGE),
    TextScene("signage, far", 1920, 1080, (9, 16), 14, contrast=110, blur=0.7, **_SIGNAGE),
    TextScene("perspective", letters=(20, 40), warp=1.0, board=True),
    TextScene("pixel font, 320", 320, 240, None, 10, contrast=110, tint=90, texture=15),
    TextScene("pixel font, 640", 640, 480, None, 16, contrast=110, tint=90, texture=15),
    TextScene("low contrast", letters=(14, 32), contrast=16.0, texture=6),
    TextScene("motion blur", letters=(20, 40), smear=9),
    TextScene("watermark", letters=(20, 40), opacity=0.4, texture=25),
)


def make_texture(rng: np.random.Generator, width: int, height: int, strength: float) -> np.ndarray:
    """Return a picture of patches of all sizes, as a crowd or foliage has, (H, W, 3) float32."""
    picture = np.full((height, width, 3), rng.uniform(60, 190), np.float32)
    for cell in (6, 16, 48, 160):
        size = max(2, width // cell), max(2, height // cell)
        coarse = rng.normal(128, strength * 0.7, (size[1], size[0], 3)).clip(0, 255)
        way = Image.Resampling.NEAREST if cell == 16 else Image.Resampling.BICUBIC
        patch = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), way)
        picture += np.asarray(patch, np.float32) - 128
    return picture.clip(0, 255)


def draw_bitmap(text: str) -> np.ndarray:
    """Return a line's ink in Pillow's bitmap font, capitals 6 pixels high, (h, w) uint8."""
    font = ImageFont.load_default_imagefont()
    image = Image.new("L", font.getbbox(text)[2:])
    ImageDraw.Draw(image).text((0, 0), text, font=font, fill=255)
    return np.asarray(image)


def draw_dots(letters: list[str], text: str) -> np.ndarray:
    """Return a line's ink in capitals of a table above, (h, w) uint8; letters and blanks only."""
    width, height = (3, 5) if letters is TINY else (5, 7)
    ink = np.zeros((height, (width + 1) * len(text)), np.uint8)
    for place, letter in enumerate(text.upper()):
        if letter in string.ascii_uppercase:
            rows = [int(row, 32) for row in letters[ord(letter) - ord("A")]]
            dots = np.array(rows)[:, None] >> np.arange(width)[::-1] & 1
            ink[:, (width + 1) * place :][:, :width] = dots
    return 255 * ink


def warp_layers(
    rng: np.random.Generator, layers: list[Image.Image], share: float
) -> list[Image.Image]:
    """Return pictures of one size as seen from the side, larger by what sticks out."""
    width, height = layers[0].size
    reach = share * height
    out = round(width + reach), round(height + reach)
    edges = [(0, 0), (1, 0), (1, 1), (0, 1)]
    corners = [
        (x * (out[0] - 1) + (1 - 2 * x) * reach * rng.random(),
         y * (out[1] - 1) + (1 - 2 * y) * reach * rng.random())
        for x, y in edges
    ]  # fmt: skip
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, edges, strict=True):
        u, v = u * (width - 1), v * (height - 1)
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    turn = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    return [
        layer.transform(out, Image.Transform.PERSPECTIVE, turn, Image.Resampling.BICUBIC)
        for layer in layers
    ]


def smear_ink(rng: np.random.Generator, ink: Image.Image, longest: int) -> Image.Image:
    """Return ink as a shutter that is open while it moves along a line shows it."""
    angle, length = rng.uniform(0, np.pi), rng.uniform(longest / 2, longest)
    pixels = np.asarray(ink, np.float32)
    way = np.linspace(-length / 2, length / 2, 2 * longest)
    shifts = np.rint(np.outer(way, (np.sin(angle), np.cos(angle)))).astype(int)
    mean = np.mean(
        [np.roll(pixels, tuple(shift), axis=(0, 1)) for shift in shifts.tolist()], axis=0
    )
    return Image.fromarray(mean.astype(np.uint8))
