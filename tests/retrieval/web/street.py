"""A folder of small H.264 videos with signs that can be read, and an index of them."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from base.config import Config
from data_loader.synthetic.layout import write_video
from retrieval.index.embedding import ModelFile
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.update import IndexOptions, UpdateResult, update_index
from trainer.build import build_model
from utils.checkpoint.files import save_checkpoint

WIDTH, HEIGHT, FPS = 320, 180, 25
EVERY = 10  # frames, from one that was spotted to the next
WINDOW_S = 2.0
EVIL = "<img src=x onerror=\"document.title='taken'\">"


@dataclass(frozen=True)
class Sign:
    """A text that moves from one point to another; pixels of its top left corner, frames."""

    text: str
    start: tuple[int, int] = (20, 20)
    end: tuple[int, int] = (20, 20)
    first: int = 0
    last: int = 49

    def corner(self, frame: int) -> tuple[int, int]:
        """Where it is on a frame."""
        share = (frame - self.first) / max(1, self.last - self.first)
        x, y = (round(a + share * (b - a)) for a, b in zip(self.start, self.end, strict=True))
        return x, y

    def box(self, frame: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        x, y = self.corner(frame)
        return x, y, x + 10 * len(self.text) + 10, y + 26


# Seconds and signs; names as people have them, and as attackers may.
SCENES: dict[str, tuple[int, list[Sign]]] = {
    "holiday/casino.mp4": (
        6,
        [
            Sign("CASINO ROYALE", (10, 20), (150, 60), 50, 110),
            Sign("Open 24 hours", (30, 140), (30, 140), 0, 149),
        ],
    ),
    'holiday/beach/café "à la" <b>&.mp4': (2, [Sign(EVIL)]),
    "street/two\nlines.mp4": (2, [Sign("RE16 TGK", (100, 80), (180, 80))]),
    os.fsdecode(b"street/caf\xe9/no text.mp4"): (2, []),
    "top.mp4": (2, [Sign("\U0001f600 SALE up to 60%, up to the top"), Sign("casino", (20, 90))]),
}


def draw(
    seconds: int, signs: list[Sign], seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8: a sky, a road, and the signs."""
    width, height = size
    rng = np.random.default_rng(seed)
    sky, road = rng.integers(60, 220, 3), rng.integers(40, 110, 3)
    shade = np.linspace(1, 0.6, height)[:, None, None]
    scene = np.broadcast_to(sky * shade, (height, width, 3)).astype(np.uint8).copy()
    scene[height * 2 // 3 :] = road
    for frame in range(seconds * FPS):
        image = scene.copy()
        x = (4 * frame) % width
        cv2.rectangle(image, (x, 120), (x + 50, 142), (200, 40, 40), -1)
        for sign in signs:
            if sign.first <= frame <= sign.last:
                left, top, right, bottom = sign.box(frame)
                cv2.rectangle(image, (left, top), (right, bottom), (245, 245, 235), -1)
                origin = (left + 5, bottom - 8)
                cv2.putText(image, sign.text, origin, cv2.FONT_HERSHEY_PLAIN, 1, (20, 20, 20), 1)
        yield image


def document(signs: list[Sign]) -> dict[str, object]:
    """The signs as an OCR document."""
    lines: dict[str, object] = {}
    for number, sign in enumerate(signs):
        tracks = {}
        for frame in range(sign.first, sign.last + 1, EVERY):
            left, top, right, bottom = sign.box(frame)
            tracks[str(frame)] = [left, top, right, top, right, bottom, left, bottom, 0.9, 0]
        lines[str(number)] = {"text": sign.text, "score": 0.9, "tracks": tracks}
    return lines


def write_scene(
    folder: Path,
    name: str,
    seconds: int,
    signs: list[Sign],
    size: tuple[int, int] = (WIDTH, HEIGHT),
    spoken: Sequence[tuple[str, float, float]] = (),
) -> None:
    """Write ``videos/NAME`` and, where it has signs, the document beside it in ``ocr/``.

    Args:
        size: of a frame, width and height.
        spoken: lines that are said, with the seconds from and to which they are.
    """
    write_video(folder / "videos" / name, draw(seconds, signs, len(name), size), FPS)
    file = (folder / "ocr" / name).with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    if signs:
        lines = document(signs)
        for line, start_s, end_s in spoken:
            span = {"kind": "spoken", "start_s": start_s, "end_s": end_s}
            lines[f"spoken {len(lines)}"] = {"text": line, "score": 0.9} | span
        file.write_text(json.dumps(lines), encoding="utf-8")


def write_street(folder: Path, config: Config) -> None:
    """Write all scenes, the weights of an untrained model, and the index ``my.index``."""
    for name, (seconds, signs) in SCENES.items():
        write_scene(folder, name, seconds, signs)
    weights = build_model(config, torch.device("cpu")).state_dict()
    save_checkpoint(folder / "model.pth", {"state_dict": weights})
    update(folder, config)


def update(folder: Path, config: Config) -> UpdateResult:
    """What index.py does."""
    model = ModelFile(folder / "model.pth", config)
    options = IndexOptions(window_s=WINDOW_S, stride_s=WINDOW_S)
    source = OcrFolder(folder / "ocr")
    outcome = update_index(folder / "videos", folder / "my.index", model, source, options)
    assert not outcome.failed, outcome.failed
    return outcome
