"""A few clips of a batch, with what the model is given of their text."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from base.batch import Batch
from trainer.loading import Loader

MOST_FRAMES = 8  # of a clip, side by side


@dataclass(frozen=True)
class ShownClip:
    """A clip to look at.

    Attributes:
        picture: (3, H, frames * W) uint8, or None where the model sees no frames.
        text: its id, caption and OCR words, in Markdown.
    """

    picture: NDArray | None
    text: str


def shown_clips(loader: Loader, batch: Batch, count: int) -> list[ShownClip]:
    """Return the first clips of a batch as they leave the loader, before colours are changed.

    Args:
        loader: that the batch came from.
        batch: on the CPU, its frames uint8.
        count: how many clips at most.
    """
    rows = range(min(count, len(batch) - batch.num_fillers))
    return [
        ShownClip(_picture(batch, row), _described(batch.ids[row], *loader.texts(batch, row)))
        for row in rows
    ]


def _picture(batch: Batch, row: int) -> NDArray | None:
    if batch.video is None:
        return None
    return filmstrip(batch.video[row], int(batch.num_frames[row]))


def filmstrip(frames: Tensor, num_frames: int) -> NDArray:
    """Lay frames (F, 3, H, W) side by side: (3, H, n * W), n real ones, at most ``MOST_FRAMES``."""
    count = min(num_frames, MOST_FRAMES)
    chosen = np.linspace(0, num_frames - 1, count).round().astype(int)
    return np.concatenate([frames[index].numpy() for index in chosen], axis=2)


def _described(name: str, captions: list[str], words: list[str] | None) -> str:
    lines = [f"video: `{_plain(name)}`"]
    lines += [f"caption: `{_plain(caption)}`" for caption in captions]
    if words is not None:
        lines.append("OCR words: " + (" ".join(f"`{_plain(word)}`" for word in words) or "none"))
    return "  \n".join(lines)


def _plain(text: str) -> str:
    return text.replace("`", "'")  # nothing of the data is taken for Markdown
