import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_loader.frame_sampling import (
    choose_candidates,
    find_nearest_candidates,
    list_window_starts,
    sample_frame_indices,
    split_into_intervals,
)

REFERENCE = Path(os.environ.get("TEXTVR_REFERENCE_DIR", "tests/reference"))


@pytest.mark.parametrize("case", json.loads((REFERENCE / "sampling.json").read_text()), ids=str)
def test_published_indices(case):
    indices = sample_frame_indices(case["num_frames"], case["vlen"])
    assert indices.tolist() == case["uniform"] and indices.dtype == np.int64
    if case["fix_start"] is not None:
        fixed = sample_frame_indices(case["num_frames"], case["vlen"], fix_start=2)
        assert fixed.tolist() == case["fix_start"]


def test_training_draws_every_frame_of_every_interval_evenly():
    rng = np.random.default_rng(0)
    draws = np.stack([sample_frame_indices(3, 10, rng) for _ in range(6000)])
    # linspace(0, 10, 4) cut to int: 0, 3, 6, 10
    for column, interval in zip(draws.T, [range(0, 3), range(3, 6), range(6, 10)], strict=True):
        counts = Counter(column.tolist())
        assert sorted(counts) == list(interval)  # both ends included, nothing else
        expected = len(column) / len(interval)
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


@pytest.mark.parametrize("num_available", [1, 2, 3, 4, 5, 7])
def test_training_works_on_the_shortest_videos(num_available):
    rng = np.random.default_rng(0)
    for _ in range(50):
        indices = sample_frame_indices(4, num_available, rng)
        assert len(indices) == min(4, num_available)
        assert (np.diff(indices) > 0).all() and 0 <= indices[0] and indices[-1] < num_available


def test_training_draws_depend_on_the_generator_only():
    first, again, other = (
        sample_frame_indices(8, 999, np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert first.tolist() == again.tolist() != other.tolist()


def test_fix_start_past_the_end_names_the_largest():
    assert sample_frame_indices(4, 8, fix_start=1).tolist() == [1, 3, 5, 7]
    with pytest.raises(ValueError, match="at most 1"):
        sample_frame_indices(4, 8, fix_start=2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_frames": 4, "num_available": 0},
        {"num_frames": 0, "num_available": 4},
        {"num_frames": 4, "num_available": 9, "fix_start": -1},
        {"num_frames": 4, "num_available": 9, "fix_start": 0, "rng": np.random.default_rng(0)},
    ],
)
def test_impossible_requests_are_errors(arguments):
    with pytest.raises(ValueError):
        sample_frame_indices(**arguments)


def test_window_starts():
    assert list_window_starts(4, 100, 5) == [0, 5, 10, 15]  # below int(100 / 5) = 20
    assert list_window_starts(4, 101, 5) == [0, 5, 10, 15]
    assert list_window_starts(4, 105, 5) == [0, 5, 10, 15, 20]
    assert list_window_starts(4, 3, 5) == [0]
    with pytest.raises(ValueError, match="stride"):
        list_window_starts(4, 100, 0)


@pytest.mark.parametrize("num_available", [*range(1, 60), 250, 999])
def test_every_window_lies_within_the_video(num_available):
    for start in list_window_starts(4, num_available, 1):
        assert sample_frame_indices(4, num_available, fix_start=start)[-1] < num_available


@pytest.mark.parametrize("num_frames", [1, 2, 4, 12])
@pytest.mark.parametrize("per_interval", [1, 2, 3, 5])
def test_candidates_hold_the_uniform_frames_and_lie_evenly(num_frames, per_interval):
    for available in [*range(1, 40), 250, 1001]:
        found = choose_candidates(per_interval, num_frames, available)
        uniform = sample_frame_indices(num_frames, available)
        assert np.isin(uniform, found).all() and (np.diff(found) > 0).all()
        first, last = split_into_intervals(num_frames, available)
        assert first[0] == 0 and last[-1] == available - 1 and (first[1:] == last[:-1] + 1).all()
        for low, high in zip(first, last, strict=True):
            own = found[(found >= low) & (found <= high)]
            length = high - low + 1
            assert len(own) == min(per_interval, length)
            gaps = np.diff([2 * low - own[0] - 1, *own, 2 * high - own[-1] + 1])
            assert gaps.max() <= 2 * length / len(own) + 1
        if per_interval == 1:
            np.testing.assert_array_equal(found, uniform)


def test_the_nearest_candidate_is_one_of_the_frame_s_own_interval():
    candidates = np.array([1, 4, 10, 16])  # of the split_into_intervals 0 … 9 and 10 … 19
    for drawn, expected in {
        (0, 10): [0, 2],
        (3, 13): [1, 2],
        (9, 14): [1, 3],
        (2, 19): [0, 3],
    }.items():
        found = find_nearest_candidates(candidates, np.array(drawn), 2, 20)
        assert found.tolist() == expected
