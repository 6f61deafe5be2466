"""Plain reference path of the data: from a video file to the model's input.

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


def open_video(path: Path) -> decord.VideoReader:
    """Open a video."""
    return decord.VideoReader(str(path), num_threads=1)


def decode_clip(
    video: decord.VideoReader, num_frames: int, rng: np.random.Generator | None
) -> np.ndarray:
    """Decode a clip's frames, drawn or, without ``rng``, the middle ones: (F, H, W, 3) uint8."""
    indices = sample_frame_indices(num_frames, len(video), rng=rng)
    return video.get_batch(indices.tolist()).asnumpy()


def convert_to_float(frames: np.ndarray) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, 3, H, W) float32 in [0, 1]."""
    return (torch.from_numpy(frames).float() / 255).permute(0, 3, 1, 2)


def build_resize(train: bool) -> transforms.Resize:
    """Return the resizing, which all clips begin with."""
    side, bilinear = RESIZE_TRAIN if train else RES, transforms.InterpolationMode.BILINEAR
    return transforms.Resize((side, side), interpolation=bilinear, antialias=False)


def build_transform(train: bool) -> transforms.Compose:
    """Return the transforms of TextVR: (F, 3, H, W) in [0, 1] -> (F, 3, R, R) normalised."""
    augmentation = [
        transforms.RandomCrop(RES),
        transforms.RandomApply([transforms.ColorJitter(0.5, 0.5, 0.5, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.3),
    ]
    normalise = transforms.Normalize(MEAN, STD)
    return transforms.Compose([build_resize(train), *augmentation * train, normalise])


def read_clip(
    path: Path, num_frames: int, transform: transforms.Compose, rng: np.random.Generator | None
) -> Tensor:
    """Return a clip, (F, 3, R, R) float32."""
    return transform(convert_to_float(decode_clip(open_video(path), num_frames, rng)))
