"""Times of frames: the time stamps of a container, made to follow the order of showing.

Times are integers, in units of the stream.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise
from statistics import median_low

MAX_REORDERED = 16  # frames that a decoder holds back (H.264 and HEVC)


def is_nearly_ascending(times: Sequence[int]) -> bool:
    """Whether times are distinct, and out of order no more than a decoder reorders frames.

    Args:
        times: in the order of decoding.
    """
    if _replace_outliers(times, MAX_REORDERED * _find_step(times)) != list(times):
        return False
    places = sorted(range(len(times)), key=times.__getitem__)
    is_near = all(abs(place - number) <= MAX_REORDERED for number, place in enumerate(places))
    return is_near and len(set(times)) == len(times)


def mend_times(times: Sequence[int]) -> list[int]:
    """Return times that ascend, for frames in the order in which the decoder shows them.

    A single time that is far from those around it is put between them. Times that are exchanged
    among neighbours, as of decoding, are sorted. Where a second recording begins within the stream,
    times go back; they go on from there, a frame after the one before.
    """
    step = _find_step(times)
    mended: list[int] = []
    for part in _split_recordings(_replace_outliers(times, MAX_REORDERED * step)):
        shift = mended[-1] + step - part[0] if mended else 0
        mended += [time + shift for time in part]
    return mended


def _find_step(times: Sequence[int]) -> int:
    """Return the time from a frame to the next one, mostly."""
    steps = [after - before for before, after in pairwise(sorted(times)) if after > before]
    return median_low(steps) if steps else 1


def _replace_outliers(times: Sequence[int], reach: int) -> list[int]:
    """Replace each time that is farther than ``reach`` from its neighbours, which are not."""
    mended = list(times)
    if len(mended) > 1 and mended[0] > mended[1] + reach:
        mended[0] = mended[1]
    for number in range(1, len(mended) - 1):
        before, after = mended[number - 1], mended[number + 1]
        low, high = min(before, after), max(before, after)
        if high - low <= reach and not low - reach <= mended[number] <= high + reach:
            mended[number] = (before + after) // 2
    return mended


def _split_recordings(times: Sequence[int]) -> list[list[int]]:
    """Split times where they go back by more than a decoder reorders; each part is sorted."""
    parts: list[list[int]] = []
    for time in times:
        if not parts or len(parts[-1]) - bisect_right(parts[-1], time) > MAX_REORDERED:
            parts.append([])
        insort(parts[-1], time)
    return parts
