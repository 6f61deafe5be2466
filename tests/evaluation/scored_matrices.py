"""Rows and columns made up for the tests of scores."""

from pathlib import Path

import numpy as np

from evaluation.ground_truth import GroundTruth


def queries(captions, videos=None, shape=None, **changes):
    """Queries of ``captions``; ``videos`` says the column of each, by default one after another."""
    videos = list(range(len(captions))) if videos is None else videos
    count = shape or max(videos) + 1
    values = {
        "captions": tuple(captions),
        "video_of_query": np.array(videos),
        "ids": tuple(f"{number}.mp4" for number in range(count)),
        "categories": None,
        "reading": None,
        "reading_note": "",
        "annotation_file": Path("made_up.json"),
        "shuffled": False,
    }
    return GroundTruth(**values | changes)


def random_case(seed, videos=12, texts=9, captions=25):
    """A few texts, said of several videos, some twice of one; scores with ties."""
    rng = np.random.default_rng(seed)
    said = [f"{' ' * int(rng.integers(2))}Text {rng.integers(texts)}" for _ in range(captions)]
    found = queries(said, rng.integers(videos, size=captions).tolist(), videos)
    return rng.integers(6, size=found.shape).astype(np.float32), found
