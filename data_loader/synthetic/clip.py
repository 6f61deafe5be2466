"""One clip of the made-up TextVR: its video, its OCR document and its annotation entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.synthetic.files import OCR_FOLDER, VIDEO_FOLDER, write_json, write_video
from data_loader.synthetic.scene import (
    Scene,
    all_looks,
    draw_frames,
    fitting_font_size,
    plan_scene,
)
from data_loader.synthetic.words import (
    SIGN_WORDS,
    Box,
    change_case,
    make_captions,
    make_document,
    make_record,
    noise_text,
    pick_distractor,
    random_boxes,
)
from utils.errors import UserError

SPLITS = ("train", "test")
CATEGORIES = ("Activity", "Cooking", "Driving", "Games", "Sports", "Street_View_Outdoor")
VERSION = 1  # raise it when the same options make other files


@dataclass(frozen=True)
class DemoOptions:
    """What a made-up data set depends on.

    Attributes:
        looks: number of looks, 2 to `len(all_looks())`.
        words: number of words, 2 to `len(SIGN_WORDS)`.
        clips_per_pair: training videos of each training pair, at least 1.
        size: width and height of the videos in pixels, even, 64 to 512.
        seed: 0 or more.
    """

    looks: int = 32
    words: int = 32
    clips_per_pair: int = 2
    size: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("looks", 2, len(all_looks())),
            ("words", 2, len(SIGN_WORDS)),
            ("clips_per_pair", 1, 1000),
            ("size", 64, 512),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {value}: it must lie between {low} and {high}")
        if self.size % 2:
            raise UserError(f"--size is {self.size}: H.264 needs an even number of pixels")

    def described(self) -> dict[str, Any]:
        """The options as they stand in synthetic.json; equal options make equal files."""
        return {
            "version": VERSION,
            "seed": self.seed,
            "size": self.size,
            "clips_per_pair": self.clips_per_pair,
            "looks": [look.name for look in all_looks()[: self.looks]],
            "words": list(SIGN_WORDS[: self.words]),
        }


@dataclass(frozen=True)
class Clip:
    """One video: its place in the data set says everything about it, given the seed."""

    split: str
    look: int
    word: int
    variant: int

    @property
    def stem(self) -> str:
        """<category>/<name>, the path of the video and of its OCR document without ending."""
        category = CATEGORIES[(self.look + 5 * self.word) % len(CATEGORIES)]
        return f"{category}/{self.split}_{self.look:02d}_{self.word:02d}_{self.variant}"

    @property
    def path(self) -> str:
        """The video's path as the annotations give it."""
        return f"{self.stem}.mp4"


def write_clip(out: Path, options: DemoOptions, anew: bool, clip: Clip) -> dict[str, Any]:
    """Writes a clip's video and OCR document (if missing, or `anew`) and gives its annotation."""
    numbers = [options.seed, SPLITS.index(clip.split), clip.look, clip.word, clip.variant]
    rng = np.random.default_rng(np.random.SeedSequence(numbers))
    look, word = all_looks()[clip.look], SIGN_WORDS[clip.word]
    captions = make_captions(rng, look, word, 2 if clip.split == "train" else 1)
    scene = plan_scene(rng, look, options.size, _sign_texts(rng, word, options.size))
    document = _ocr_document(rng, scene)

    video = out / VIDEO_FOLDER / clip.path
    if anew or not video.exists():
        write_video(video, draw_frames(scene), scene.fps)
    ocr_path = f"{clip.stem}.json"
    if anew or not (out / OCR_FOLDER / ocr_path).exists():
        write_json(out / OCR_FOLDER / ocr_path, document)
    duration = round(scene.num_frames / scene.fps, 3)
    return {
        "path": clip.path,
        "captions_info": [
            {"caption": caption, "caption_info": {"duration": duration, "desc_id": 0}}
            for caption in captions
        ],
        "videos_info": {"source": "synthetic", "split": clip.split, "Kwai_OCR": ocr_path},
    }


def _sign_texts(rng: np.random.Generator, word: str, size: int) -> list[str]:
    """The lines drawn in a clip: first the word's, sometimes with a distractor, then others'."""
    line = word
    if rng.random() < 0.15:
        pair = [word, pick_distractor(rng)]
        longer = " ".join(pair if rng.random() < 0.5 else reversed(pair))
        if fitting_font_size(longer.upper(), size) is not None:
            line = longer
    others = [pick_distractor(rng) for _ in range(rng.integers(0, 2))]
    return [change_case(rng, text) for text in (line, *others)]


def _ocr_document(rng: np.random.Generator, scene: Scene) -> dict[str, dict[str, Any]]:
    """What text spotting gives for a clip: its signs, words that nobody sees, and noise.

    The tracker loses the word's sign a few times and takes it for another one when it comes back,
    so that it has several records, as signs of real videos have.
    """
    target, *drawn = scene.signs
    pieces = _pieces(target.boxes, int(rng.integers(3, 5)))
    records = [make_record(rng, target.text, piece, lowest_score=0.6) for piece in pieces]
    records += [make_record(rng, sign.text, sign.boxes, lowest_score=0.3) for sign in drawn]
    num_unseen = rng.integers(0 if drawn else 1, 2)  # each document holds a distractor
    unseen = [change_case(rng, pick_distractor(rng)) for _ in range(num_unseen)]
    noise = [noise_text(rng) for _ in range(rng.integers(1, 3))]
    for text in (*unseen, *noise):
        boxes = random_boxes(rng, scene.num_frames, scene.size, scene.size)
        records.append(make_record(rng, text, boxes, lowest_score=0.2))
    return make_document(rng, records)


def _pieces(boxes: Mapping[int, Box], count: int) -> list[dict[int, Box]]:
    """A track cut into runs of frames: ``count`` of them, fewer where there are fewer frames."""
    runs = np.array_split(np.array(sorted(boxes)), min(count, len(boxes)))
    return [{int(frame): boxes[int(frame)] for frame in run} for run in runs]
