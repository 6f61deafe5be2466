"""Colour jitter of a batch of clips, each with its draw; same results as torchvision's functions.

A clip's colour is a vector of K = 9 numbers: factors of brightness, contrast and saturation, shift
of the hue in [-0.5, 0.5], the order of these four (numbers 0 to 3 in the order they are applied),
and whether the clip is then made gray (0 or 1).

Shapes: B clips, F frames, C = 3 channels, H x W pixels; colours in [0, 1].
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

NUM_OPERATIONS = 4
_LUMA = (0.2989, 0.587, 0.114)  # weights of R, G, B, as torchvision has them


def make_color_vector(
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    order: Sequence[int] | np.ndarray = (0, 1, 2, 3),
    gray: bool = False,
) -> np.ndarray:
    """Put a clip's colour into one (9,) float32 vector."""
    return np.array([brightness, contrast, saturation, hue, *order, gray], dtype=np.float32)


COLOR_SIZE = 9
IDENTITY_COLOR = make_color_vector(1, 1, 1, 0)


def apply_color(frames: Tensor, color: Tensor, inplace: bool = False) -> Tensor:
    """Apply each clip's colour, (B, 9) on the CPU, to all of its frames.

    ``frames`` and the result are (B, F, C, H, W) float32 in [0, 1].
    """
    # The clips of each operation are selected on the CPU: at most one wait for the device, not one
    # for each of the 16 selections.
    plan = color.detach().cpu()
    order, gray = plan[:, NUM_OPERATIONS : 2 * NUM_OPERATIONS], plan[:, -1]
    changes = plan[:, :NUM_OPERATIONS] != torch.from_numpy(IDENTITY_COLOR[:NUM_OPERATIONS])
    operations = _change_brightness, _change_contrast, _change_saturation, _shift_hue
    frames = frames if inplace else frames.clone()
    for slot in range(NUM_OPERATIONS):
        for number, operation in enumerate(operations):
            rows = ((order[:, slot] == number) & changes[:, number]).nonzero().flatten()
            if len(rows):
                amount = plan[rows, number].to(frames.device).view(-1, 1, 1, 1, 1)
                rows = rows.to(frames.device)
                frames[rows] = operation(frames[rows], amount)
    rows = (gray > 0).nonzero().flatten().to(frames.device)
    if len(rows):
        frames[rows] = _to_gray(frames[rows]).expand(-1, -1, 3, -1, -1)
    return frames


def _to_gray(frames: Tensor) -> Tensor:
    """(B, F, 3, H, W) -> (B, F, 1, H, W)."""
    red, green, blue = frames.unbind(dim=2)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(2)


# The operations change their argument, which is a copy of the selected frames.


def _change_brightness(frames: Tensor, factor: Tensor) -> Tensor:
    return frames.mul_(factor).clamp_(0, 1)


def _change_contrast(frames: Tensor, factor: Tensor) -> Tensor:
    mean = _to_gray(frames).mean(dim=(2, 3, 4), keepdim=True)  # of each frame
    return frames.sub_(mean).mul_(factor).add_(mean).clamp_(0, 1)


def _change_saturation(frames: Tensor, factor: Tensor) -> Tensor:
    gray = _to_gray(frames)
    return frames.sub_(gray).mul_(factor).add_(gray).clamp_(0, 1)


def _shift_hue(frames: Tensor, shift: Tensor) -> Tensor:
    """Turn the colours by ``shift`` of a full circle, value and saturation (HSV) kept."""
    red, green, blue = frames.unbind(dim=2)  # each (B, F, H, W)
    high, low = frames.amax(dim=2), frames.amin(dim=2)
    spread = high - low
    safe = torch.where(spread == 0, torch.ones_like(spread), spread)  # grays have no hue
    sixths = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths += 6 * shift.squeeze(2)
    # Each channel is the HSV value minus a share of the spread: its distance on the circle.
    for channel, offset in zip((red, green, blue), (5, 3, 1), strict=True):
        distance = torch.remainder(offset + sixths, 6)
        share = torch.minimum(distance, 4 - distance).clamp_(0, 1)
        torch.sub(high, share.mul_(spread), out=channel)
    return frames
