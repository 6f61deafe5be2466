"""Frame sampling: which frames of a video make a clip (TextVR, arXiv 2305.03347; Frozen in Time).

Frames are counted from 0 in presentation order. ``num_frames`` is the number of a clip's frames and
``num_available`` that of the video's, both at least 1; another value is a ``UserError``.
"""

import numpy as np

from utils.errors import UserError


def split_into_intervals(num_frames: int, num_available: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a video into equal intervals; return the first and the last frame of each.

    Returns:
        Two arrays (min(num_frames, num_available),) int64.
    """
    if num_frames < 1:
        raise UserError(f"num_frames is {num_frames}; ask for at least 1 frame")
    if num_available < 1:
        raise UserError(
            f"the video has {num_available} frames, so none can be taken; "
            "remove it from the annotations or replace the file"
        )
    num_intervals = min(num_frames, num_available)
    edges = np.linspace(0, num_available, num_intervals + 1).astype(np.int64)
    return edges[:-1], edges[1:] - 1


def sample_frame_indices(
    num_frames: int,
    num_available: int,
    rng: np.random.Generator | None = None,
    fix_start: int | None = None,
) -> np.ndarray:
    """Choose one frame from each of ``num_frames`` equal intervals of a video.

    For training ``rng`` draws a frame of each interval; for a sliding window ``fix_start`` takes
    the frame this many after each interval's start. Without either it is the middle frame of each
    interval, rounded down ("uniform").

    Returns:
        (min(num_frames, num_available),) int64, ascending.

    Raises:
        UserError: ``rng`` together with ``fix_start``, or a ``fix_start`` that leads past the end.
    """
    first, last = split_into_intervals(num_frames, num_available)
    if rng is not None and fix_start is not None:
        raise UserError("give rng (training) or fix_start (sliding window), not both")
    if rng is not None:
        return rng.integers(first, last, endpoint=True, dtype=np.int64)
    if fix_start is None:
        return (first + last) // 2
    if fix_start < 0:
        raise UserError(f"fix_start is {fix_start}; it counts frames from 0")
    indices = first + fix_start
    if indices[-1] >= num_available:
        raise UserError(
            f"fix_start={fix_start} leads to frame {indices[-1]} of a video of {num_available} "
            f"frames; use at most {num_available - 1 - first[-1]} for {num_frames} frames"
        )
    return indices


def choose_candidates(per_interval: int, num_frames: int, num_available: int) -> np.ndarray:
    """Choose the frames of a video that a cache keeps for clips of ``num_frames``.

    They are the middle frame of each interval, which "uniform" asks for, and others evenly over
    the rest of it; of a short interval all frames.

    Returns:
        (at most per_interval * num_frames,) int64, ascending, distinct.
    """
    chosen = []
    for first, last in zip(*split_into_intervals(num_frames, num_available), strict=True):
        frames = first + sample_frame_indices(per_interval, int(last - first) + 1)
        middle = (first + last) // 2
        frames[np.abs(frames - middle).argmin()] = middle
        chosen.append(frames)
    return np.concatenate(chosen)


def find_nearest_candidates(
    candidates: np.ndarray, indices: np.ndarray, num_frames: int, num_available: int
) -> np.ndarray:
    """Return for each frame of a clip the position of the nearest candidate of its interval.

    ``candidates`` come from ``choose_candidates``, ``indices`` from ``sample_frame_indices``.

    Returns:
        (len(indices),) positions in ``candidates``; of two equally near ones the earlier.
    """
    first, last = split_into_intervals(num_frames, num_available)
    distance = np.abs(candidates - indices[:, None])  # (F, candidates)
    in_interval = (candidates >= first[:, None]) & (candidates <= last[:, None])
    return np.where(in_interval, distance, num_available).argmin(axis=1)


def list_window_starts(num_frames: int, num_available: int, stride: int) -> list[int]:
    """Return the ``fix_start`` values of a sliding window: 0, stride, 2·stride …

    They lie below ``int(num_available / (num_frames + 1))``; the first window is always there.
    """
    counts = {"num_frames": num_frames, "num_available": num_available, "stride": stride}
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1")
    return list(range(0, num_available // (num_frames + 1), stride)) or [0]
