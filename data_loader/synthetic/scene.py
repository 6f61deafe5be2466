"""Pictures of the made-up TextVR: a big moving shape of one pure colour on another, and signs.

Legend: W = H = ``size``, the width and height of the square picture in pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.errors import UserError

# The corners of the RGB cube, or nearly: any two differ by at least 150 in some channel.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 15, 15),
    "cyan": (0, 220, 225),
    "yellow": (250, 230, 0),
    "blue": (15, 30, 230),
    "white": (245, 245, 245),
    "green": (0, 165, 30),
    "purple": (190, 0, 200),
    "black": (10, 10, 10),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond", "star", "bar")
_POLYGONS = {  # corners, angle of the first one, share of the radius of every second one
    "square": (4, math.pi / 4, 1.0),
    "triangle": (3, -math.pi / 2, 1.0),
    "diamond": (4, 0.0, 1.0),
    "star": (10, -math.pi / 2, 0.5),
}
# Pairs that are told apart badly, by eye and after colour jitter.
PALE_PAIRS = ({"white", "yellow"}, {"white", "cyan"}, {"black", "blue"})
BANDS = 4  # signs stand in different horizontal bands, so that none hides another
SMALLEST_FONT = 7

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class Look:
    """What is seen in a clip, apart from its text."""

    shape: str
    colour: str
    background: str

    @property
    def name(self) -> str:
        """Return the look in words: "red circle on blue"."""
        return f"{self.colour} {self.shape} on {self.background}"


def list_looks() -> tuple[Look, ...]:
    """Return every look there is; no two share both colours, and the first ones share neither."""
    names = list(COLOURS)
    looks: list[Look] = []
    for shift in range(1, len(names)):
        for index, background in enumerate(names):
            colour = names[(index + shift) % len(names)]
            if {colour, background} not in PALE_PAIRS:
                # +shift: the shape goes with no colour in particular
                shape = SHAPES[(index + 3 * shift) % len(SHAPES)]
                looks.append(Look(shape, colour, background))
    return tuple(looks)


@dataclass(frozen=True)
class Sign:
    """A line of text on a plate. boxes: frame -> (left, top, right, bottom) of its ink, pixels."""

    text: str
    font_size: int
    dark_plate: bool
    boxes: dict[int, Box]


@dataclass(frozen=True)
class Scene:
    """All that a clip's pictures depend on. Lengths in pixels, centres (x, y) frame by frame."""

    look: Look
    size: int
    fps: int
    gain: float  # 0.85-1: brightness of all colours
    radius: float
    angle: float  # radians
    centres: tuple[tuple[float, float], ...]
    signs: tuple[Sign, ...]

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return len(self.centres)


def plan_scene(rng: np.random.Generator, look: Look, size: int, texts: list[str]) -> Scene:
    """Draw by lot how a clip looks.

    ``texts`` are the signs' lines, at most ``BANDS``; each must fit (``find_font_size``).
    """
    num_frames = int(rng.integers(12, 25))
    fps = int(rng.choice([12, 15, 24, 25]))
    radius = float(rng.uniform(0.27, 0.36)) * size
    margin = 0.9 * radius
    speed = float(rng.uniform(0.006, 0.025)) * size
    direction = float(rng.uniform(0, 2 * math.pi))
    xs = _move(rng, margin, size - margin, speed * math.cos(direction), num_frames)
    ys = _move(rng, margin, size - margin, speed * math.sin(direction), num_frames)
    bands = rng.permutation(BANDS)
    signs = tuple(
        _plan_sign(rng, text, size, int(band), num_frames)
        for text, band in zip(texts, bands, strict=False)
    )
    return Scene(
        look=look,
        size=size,
        fps=fps,
        gain=float(rng.uniform(0.85, 1)),
        radius=radius,
        angle=float(rng.uniform(-0.25, 0.25)),
        centres=tuple(zip(xs, ys, strict=True)),
        signs=signs,
    )


def draw_frames(scene: Scene) -> Iterator[np.ndarray]:
    """Yield the pictures of a clip: (H, W, 3), uint8 RGB."""
    ink, ground = (
        tuple(round(scene.gain * channel) for channel in COLOURS[name])
        for name in (scene.look.colour, scene.look.background)
    )
    for frame, centre in enumerate(scene.centres):
        picture = Image.new("RGB", (scene.size, scene.size), ground)
        draw = ImageDraw.Draw(picture)
        _draw_shape(draw, scene, centre, ink, ground)
        for sign in scene.signs:
            if frame in sign.boxes:
                _draw_sign(draw, sign, sign.boxes[frame])
        yield np.asarray(picture)


def find_font_size(text: str, size: int, wanted: int = SMALLEST_FONT) -> int | None:
    """Return the largest font size up to ``wanted`` in which the line fits, or None."""
    for font_size in range(wanted, SMALLEST_FONT - 1, -1):
        left, _, right, _ = load_font(font_size).getbbox(text)
        if right - left <= size - 6:
            return font_size
    return None


@lru_cache(maxsize=64)
def load_font(font_size: int) -> ImageFont.FreeTypeFont:
    """Load the font that comes with Pillow, so that no font file is needed."""
    font = ImageFont.load_default(size=font_size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UserError("this Pillow was built without FreeType: install it with pip")
    return font


def _plan_sign(rng: np.random.Generator, text: str, size: int, band: int, num_frames: int) -> Sign:
    """Place a line in its band; it may move there, and may appear late or leave early."""
    wanted = int(rng.integers(round(0.095 * size), round(0.13 * size) + 1))
    font_size = find_font_size(text, size, max(wanted, SMALLEST_FONT))
    assert font_size is not None, f"{text!r} does not fit {size} pixels"
    left, top, right, bottom = map(round, load_font(font_size).getbbox(text))
    width, height = right - left, bottom - top
    speed = 0.0 if rng.random() < 0.4 else float(rng.uniform(-0.01, 0.01)) * size
    band_top = band * size / BANDS
    xs = _move(rng, 3, size - 3 - width, speed, num_frames)
    ys = _move(rng, band_top + 3, band_top + size / BANDS - 3 - height, speed / 2, num_frames)
    first = int(rng.integers(num_frames // 4)) if rng.random() < 0.5 else 0
    last = num_frames - 1 - (int(rng.integers(num_frames // 4)) if rng.random() < 0.5 else 0)
    boxes = {}
    for frame in range(first, last + 1):
        x, y = round(xs[frame]), round(ys[frame])
        boxes[frame] = (x, y, x + width, y + height)
    return Sign(text, font_size, bool(rng.random() < 0.5), boxes)


def _move(
    rng: np.random.Generator, low: float, high: float, speed: float, num_frames: int
) -> list[float]:
    """Positions frame by frame from a random start, thrown back at ``low`` and ``high``."""
    span = max(high - low, 1e-6)
    travelled = rng.uniform(0, span) + speed * np.arange(num_frames)
    return list(low + span - np.abs(span - travelled % (2 * span)))


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    scene: Scene,
    centre: tuple[float, float],
    ink: tuple[int, ...],
    ground: tuple[int, ...],
) -> None:
    """Draw the scene's shape around ``centre``, turned by its angle."""
    kind, r = scene.look.shape, scene.radius
    x, y = centre
    c, s = math.cos(scene.angle), math.sin(scene.angle)

    def draw_circle(radius: float, fill: tuple[int, ...]) -> None:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def draw_polygon(points: list[tuple[float, float]]) -> None:
        turned = [(x + c * px - s * py, y + s * px + c * py) for px, py in points]
        draw.polygon(turned, fill=ink)

    def draw_rectangle(w: float, h: float) -> None:
        draw_polygon([(-w, -h), (w, -h), (w, h), (-w, h)])

    if kind in ("circle", "ring"):
        draw_circle(r, ink)
        if kind == "ring":
            draw_circle(0.5 * r, ground)
    elif kind == "bar":
        draw_rectangle(1.25 * r, 0.55 * r)
    elif kind == "cross":
        draw_rectangle(r, 0.4 * r)
        draw_rectangle(0.4 * r, r)
    else:
        corners, first, inner = _POLYGONS[kind]
        angles = [first + 2 * math.pi * index / corners for index in range(corners)]
        radii = [1.15 * r * (inner if index % 2 else 1.0) for index in range(corners)]
        pairs = zip(radii, angles, strict=True)
        draw_polygon([(radius * math.cos(a), radius * math.sin(a)) for radius, a in pairs])


def _draw_sign(draw: ImageDraw.ImageDraw, sign: Sign, box: Box) -> None:
    """Draw a plate and on it the text, whose ink fills ``box``."""
    plate, ink = ((0, 0, 0), (255, 255, 255))[:: 1 if sign.dark_plate else -1]
    left, top, right, bottom = box
    draw.rectangle((left - 2, top - 2, right + 1, bottom + 1), fill=plate)
    font = load_font(sign.font_size)
    offset_x, offset_y, _, _ = font.getbbox(sign.text)
    draw.text((left - offset_x, top - offset_y), sign.text, font=font, fill=ink)
