"""Text that changes in place: how much is found at its time, and what is read that isn't there.

    python -m benchmarks.changing_text                 # a table
    python -m benchmarks.changing_text --json          # the same as JSON, each reading that is lost

Writes videos (640 x 360 pixels, 12 seconds) of clocks, scores, prices, progress, counters, slide
titles and subtitles, before a picture that stands still and before one that moves, at two rates of
compression. A reading that is shown for a second or longer is found where a line of the document
has its text, lies at its time, and covers no second and no half of another reading of that place.
Then of text that never changes, with noise, blur, motion, fades, flicker, zoom and compression:
each line of the document is false whose text was not written, or was there already.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from benchmarks import measuring
from benchmarks.inputs import FPS, TEXT_WORDS, render_line
from data_loader.synthetic.layout import write_video
from retrieval.spotting.rapid_ocr import RapidOcrSpotter
from retrieval.spotting.text_spotter import TextSpotter
from retrieval.spotting.video import spot_video
from utils.cli import positive_int, run_cli

WIDTH, HEIGHT, SECONDS = 640, 360, 12.0
BACKDROPS = ("still", "moving")
RATES = (20, 28)  # x264's crf
LEAST_S = 1.0  # of a reading that has to be found

TITLES = ("What", "Why", "How", "Who pays", "Where next", "Results", "Related work", "Questions")
SENTENCES = (
    "I have never been here before.",
    "You should have told me sooner!",
    "Where did you leave the car?",
    "It was raining all night.",
    "They will be back tomorrow.",
    "Nobody knows what happened.",
    "Then let us go there at once.",
    "She has never seen the sea.",
)
UNCHANGING = ("Gate 12", "Room 204", "SINCE 1987", "$24.95", "Grand Hotel", "Departures")


class Reading(NamedTuple):
    """What is shown in a place from one second to another."""

    text: str
    start_s: float
    end_s: float


# What is shown one after the other: a text, and for how many seconds


def count_seconds(rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """A clock."""
    second = int(rng.integers(36_000, 80_000))
    while True:
        yield f"{second // 3600}:{second // 60 % 60:02}:{second % 60:02}", 1.0
        second += 1


def count_goals(rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """A score of two teams."""
    goals = [int(number) for number in rng.integers(0, 30, 2)]
    while True:
        yield f"{goals[0]} : {goals[1]}", rng.uniform(1.0, 3.0)
        goals[rng.integers(2)] += int(rng.integers(1, 4))


def count_points(rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """A game's points in six digits."""
    points = 0
    while True:
        yield f"{points:06}", rng.uniform(1.0, 3.0)
        points += 100 * int(rng.integers(1, 10))


def change_price(rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """A price."""
    while True:
        yield f"${rng.uniform(10, 99):.2f}", rng.uniform(1.0, 3.0)


def make_progress(rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """A share in per cent."""
    share = 0
    while True:
        yield f"Loading {share} %", rng.uniform(1.0, 2.0)
        share = min(100, share + int(rng.integers(1, 20)))


def count_frames(rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """A counter."""
    frame, step = 0, int(rng.integers(1, 30))
    while True:
        yield f"Frame {frame}", 1.0
        frame += step


def show_slides(rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """Titles of slides."""
    while True:
        for title in rng.permutation(TITLES).tolist():
            yield title, rng.uniform(2.0, 4.0)


def show_subtitles(rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """Sentences."""
    while True:
        for sentence in rng.permutation(SENTENCES).tolist():
            yield sentence, rng.uniform(1.2, 2.5)


# Kind -> the texts, the height of a capital letter in pixels
KINDS: dict[str, tuple[Callable, int]] = {
    "clock": (count_seconds, 18),
    "clock, small": (count_seconds, 10),
    "score": (count_goals, 24),
    "points": (count_points, 16),
    "price": (change_price, 20),
    "progress": (make_progress, 14),
    "counter": (count_frames, 14),
    "slide title": (show_slides, 32),
    "subtitles": (show_subtitles, 16),
}


@dataclass(frozen=True)
class Disturbance:
    """What happens to text that stays the same."""

    noise: float = 0.0  # standard deviation, levels of 255
    blur: float = 0.0  # standard deviation of a Gaussian, pixels
    speed: float = 0.0  # pixels a second
    fade: bool = False  # it comes and goes over a second, three times
    flicker: float = 0.0  # of the brightness, as a share
    zoom: float = 1.0  # the size at the end, as a multiple of that at the beginning
    moving: bool = False  # what lies behind
    crf: int = 20


DISTURBANCES = {
    "none": Disturbance(),
    "noise": Disturbance(noise=12.0, crf=28),
    "blur": Disturbance(blur=1.5, moving=True),
    "motion": Disturbance(speed=60.0),
    "fades": Disturbance(fade=True),
    "flicker": Disturbance(flicker=0.15),
    "zoom": Disturbance(zoom=1.5),
    "moving backdrop": Disturbance(moving=True),
    "compression": Disturbance(moving=True, noise=6.0, crf=35),
    "together": Disturbance(moving=True, noise=12.0, blur=1.5, flicker=0.1, crf=32),
}


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--videos", type=positive_int, default=2, help="of each kind")
    asked = parser.parse_args()
    result = measuring.describe_machine() | measure(RapidOcrSpotter(), asked.videos)
    measuring.write_result(result, asked.json, make_table)


def measure(spotter: TextSpotter, num_videos: int) -> measuring.Result:
    """Write and spot all videos.

    Returns:
        "changing" and "unchanging": a list of kinds each.
    """
    spotter.load()
    changing, unchanging = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        for kind in KINDS:
            for backdrop in BACKDROPS:
                found = [
                    measure_changing(path, spotter, kind, backdrop, RATES[seed % 2], seed)
                    for seed in range(num_videos)
                ]
                changing.append({"kind": kind, "backdrop": backdrop} | _add_up(found))
        for name, disturbance in DISTURBANCES.items():
            found = [
                measure_unchanging(path, spotter, disturbance, seed) for seed in range(num_videos)
            ]
            unchanging.append({"kind": name} | _add_up(found))
    return {"changing": changing, "unchanging": unchanging}


def _add_up(counts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: sum((count[name] for count in counts[1:]), counts[0][name]) for name in counts[0]}


def measure_changing(
    path: Path, spotter: TextSpotter, kind: str, backdrop: str, crf: int, seed: int
) -> dict[str, Any]:
    """Write and spot one video; returns the number of readings to find, and those not found."""
    rng = np.random.default_rng(seed)
    make_texts, height = KINDS[kind]
    readings, start = [], 0.0
    for text, seconds in make_texts(rng):
        readings.append(Reading(text, start, min(SECONDS, start + seconds)))
        start += seconds
        if start >= SECONDS:
            break
    masks = {reading.text: render_line(reading.text, height) / 255 for reading in readings}

    def draw(number: int) -> list[tuple[np.ndarray, float, float]]:
        now = next(r for r in readings if r.start_s <= number / FPS < r.end_s)
        mask = masks[now.text]
        left = (WIDTH - mask.shape[1]) / 2 if kind in ("slide title", "subtitles") else 60
        return [(mask, left, 280 if kind == "subtitles" else 60)]

    frames = render_frames(rng, draw, Disturbance(moving=backdrop == "moving"))
    write_video(path, frames, FPS, crf)
    document = spot_video(path, spotter)
    due = [reading for reading in readings if reading.end_s - reading.start_s >= LEAST_S - 1e-6]
    lost = [list(reading) for reading in due if not is_found(document, reading, readings)]
    return {"readings": len(due), "lost": lost, "lines": len(document)}


def is_found(document: dict[str, Any], reading: Reading, readings: list[Reading]) -> bool:
    """Whether a line of a document has a reading's text at its time, and not at others'."""
    for record in document.values():
        frames = [int(frame) for frame in record["tracks"]]
        first, last = min(frames) / FPS, max(frames) / FPS
        if _fold(record["text"]) != _fold(reading.text):
            continue
        if last < reading.start_s or first >= reading.end_s:
            continue
        common = [
            (min(last, other.end_s) - max(first, other.start_s), other.end_s - other.start_s)
            for other in readings
            if _fold(other.text) != _fold(reading.text)
        ]
        if all(shared < min(1.0, length / 2) for shared, length in common):
            return True
    return False


def measure_unchanging(
    path: Path, spotter: TextSpotter, disturbance: Disturbance, seed: int
) -> dict[str, Any]:
    """Write and spot one video of text that stays the same; returns its lines, and false ones."""
    rng = np.random.default_rng(seed)
    texts = rng.permutation(UNCHANGING).tolist()[:3] + [str(rng.choice(TEXT_WORDS)).upper()]
    heights = rng.permutation([12, 16, 24, 32]).tolist()
    lines = list(zip(texts, heights, strict=True))
    still = [render_line(text, height) / 255 for text, height in lines]

    def draw(number: int) -> list[tuple[np.ndarray, float, float]]:
        share = number / (SECONDS * FPS)
        span = WIDTH - 260
        way = disturbance.speed * number / FPS
        left = 20 + span - abs(span - way % (2 * span))  # thrown back at the edges
        size = 1 + (disturbance.zoom - 1) * share
        masks = still
        if size > 1:
            masks = [render_line(text, round(height * size)) / 255 for text, height in lines]
        strength = min(1.0, 2 * np.sin(np.pi * number / (4 * FPS)) ** 2) if disturbance.fade else 1
        return [(mask * strength, left, 20 + 85 * row) for row, mask in enumerate(masks)]

    write_video(path, render_frames(rng, draw, disturbance), FPS, disturbance.crf)
    right, false = {_fold(text) for text in texts}, []
    for record in spot_video(path, spotter).values():
        text = _fold(record["text"])
        if text in right:
            right.remove(text)
        else:
            false.append(record["text"])
    return {"seconds": SECONDS, "written": len(texts), "lost": sorted(right), "false": false}


def render_frames(
    rng: np.random.Generator,
    draw: Callable[[int], list[tuple[np.ndarray, float, float]]],
    disturbance: Disturbance,
) -> Iterator[np.ndarray]:
    """Yield pictures (H, W, 3) of light text.

    ``draw`` returns of a frame its lines: ink (h, w) in [0, 1], left, top.
    """
    coarse = rng.uniform(20, 120, (12, 40, 3)).astype(np.uint8)
    wide = Image.fromarray(coarse).resize((2 * WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    scenery = np.asarray(wide, dtype=np.float32)
    for number in range(round(SECONDS * FPS)):
        shift = number * 2 if disturbance.moving else 0
        picture = np.roll(scenery, -shift, axis=1)[:, :WIDTH].copy()
        for mask, left, top in draw(number):
            row, column = int(top), int(left)
            part = picture[row : row + mask.shape[0], column : column + mask.shape[1]]
            part += mask[: part.shape[0], : part.shape[1], None] * (235 - part)
        picture *= 1 + disturbance.flicker * rng.uniform(-1, 1)
        if disturbance.blur:
            image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
            soft = image.filter(ImageFilter.GaussianBlur(disturbance.blur))
            picture = np.asarray(soft, dtype=np.float32)
        if disturbance.noise:
            picture = picture + rng.normal(0, disturbance.noise, (HEIGHT, WIDTH, 1))
        yield picture.clip(0, 255).astype(np.uint8)


def _fold(text: str) -> str:
    """Return letters and digits alone: blanks and signs are not what is measured here."""
    return "".join(sign for sign in text.casefold() if sign.isalnum())


def make_table(result: measuring.Result) -> str:
    """Return the results as Markdown: changing text, then what never changes."""
    rows = [[kind["kind"], kind["backdrop"], *_count_found(kind)] for kind in result["changing"]]
    total = _add_up([{"readings": k["readings"], "lost": k["lost"]} for k in result["changing"]])
    rows.append(["all", "all", *_count_found(total)])
    changing = measuring.format_table(("kind", "backdrop", "readings", "found, %"), rows, 2)
    rows = [[kind["kind"], *_count_false(kind)] for kind in result["unchanging"]]
    names = ("seconds", "written", "lost", "false")
    total = _add_up([{name: kind[name] for name in names} for kind in result["unchanging"]])
    rows.append(["all", *_count_false(total)])
    unchanging = measuring.format_table(
        ("disturbance", "lines", "found, %", "false a minute"), rows
    )
    return f"{measuring.format_head(result)}\n\n{changing}\n{unchanging}"


def _count_found(kind: dict[str, Any]) -> list[str]:
    number = kind["readings"]
    return [str(number), f"{100 * (1 - len(kind['lost']) / number):.1f}"]


def _count_false(kind: dict[str, Any]) -> list[str]:
    share = 1 - len(kind["lost"]) / kind["written"]
    a_minute = 60 * len(kind["false"]) / kind["seconds"]
    return [str(kind["written"]), f"{100 * share:.1f}", f"{a_minute:.1f}"]


if __name__ == "__main__":
    run_cli(main)
