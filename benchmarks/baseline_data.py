"""The plain path from a video file to the model's input, to compare with.

Written from the description of the published system: decord opens the file and decodes the frames
of the clip, which become float32 in [0, 1]; torchvision resizes, crops, changes colours and
normalises them one clip after the other on the CPU. Its training draws of frames are those of
``data_loader.frame_sampling`` (the published ones fail on short videos), the others torchvision's.

Shapes: F frames, H x W pixels, R = side of the model's input.
"""

from pathlib import Path

import decord
import numpy as np
import torch
from torch import Tensor
from torchvision import transforms

from data_loader.frame_sampling import sample_frame_indices

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RES, RESIZE_TRAIN = 224, 242
BILINEAR = transforms.InterpolationMode.BILINEAR


def opened(path: Path) -> decord.VideoReader:
    """Open a video."""
    return decord.VideoReader(str(path), num_threads=1)


def chosen(num_available: int, num_frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """Choose the frames of a clip: drawn, or the middle ones without ``rng``."""
    return sample_frame_indices(num_frames, num_available, rng=rng)


def decoded(video: decord.VideoReader, indices: np.ndarray) -> np.ndarray:
    """Decode frames, (F, H, W, 3) uint8."""
    return video.get_batch(indices.tolist()).asnumpy()


def as_float(frames: np.ndarray) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, 3, H, W) float32 in [0, 1]."""
    return (torch.from_numpy(frames).float() / 255).permute(0, 3, 1, 2)


def resized(train: bool) -> transforms.Resize:
    """Return the resizing, which all clips begin with."""
    side = RESIZE_TRAIN if train else RES
    return transforms.Resize((side, side), interpolation=BILINEAR, antialias=False)


def transform(train: bool) -> transforms.Compose:
    """Return the transforms of TextVR: (F, 3, H, W) in [0, 1] -> (F, 3, R, R) normalised."""
    augmentation = [
        transforms.RandomCrop(RES),
        transforms.RandomApply([transforms.ColorJitter(0.5, 0.5, 0.5, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.3),
    ]
    normalised = transforms.Normalize(MEAN, STD)
    return transforms.Compose([resized(train), *augmentation * train, normalised])


def clip(
    path: Path, num_frames: int, change: transforms.Compose, rng: np.random.Generator | None
) -> Tensor:
    """Return a clip, (F, 3, R, R) float32."""
    video = opened(path)
    return change(as_float(decoded(video, chosen(len(video), num_frames, rng))))
