"""``python -m benchmarks.data``: what it compares, and the tables it writes."""

import json

import av
import numpy as np
import pytest
import torch

from benchmarks import baseline_data, data
from benchmarks.inputs import make_video_folder

PICTURES = {1: "I", 2: "P", 3: "B"}  # as FFmpeg numbers them
PATHS = [data.PLAIN, data.DECODED, data.WITH_DEVICE, *data.CACHES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos") / "TextVR"
    return make_video_folder(root, 160, 96, seconds=2, cuts=1, count=2)


def test_the_videos_are_what_the_benchmark_says(folder):
    names = sorted(path.name for path in folder.glob("Videos/*"))
    assert names == ["0.mp4", "1.mp4"]
    with av.open(str(folder / "Videos/0.mp4")) as container:
        stream = container.streams.video[0]
        kinds = [PICTURES[frame.pict_type] for frame in container.decode(stream)]
        context = stream.codec_context
        assert (context.name, context.width, context.height) == ("h264", 160, 96)
    assert len(kinds) == 50 and kinds.count("B") > 15
    assert [number for number, kind in enumerate(kinds) if kind == "I"] == [0, 25]  # the cut


def test_a_whole_run_writes_json(monkeypatch, capsys):
    monkeypatch.setattr(data, "VIDEOS", ((160, 96, 0),))
    argv = ["data", "--rounds", "2", "--videos", "1", "--seconds", "1", "--json"]
    monkeypatch.setattr("sys.argv", argv)
    data.main()
    result = json.loads(capsys.readouterr().out)
    test, training = result["cases"]
    assert (test["transforms"], training["transforms"]) == ("test", "training")
    for case in (test, training):
        assert case["video"] == "160x96, 0 cuts" and case["kbit_s"] > 10
        assert list(case["seconds"]) == PATHS
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in case["seconds"].values())
        assert set(case["parts"]) == {*PATHS} - {data.WITH_DEVICE}
        assert all(set(parts) == set(data.PARTS) for parts in case["parts"].values())
    lines = data.make_table(result).splitlines()
    assert sum("| cache, raw |" in line for line in lines) == 4


def test_the_tables_have_medians_ratios_and_parts():
    seconds = {"plain": [0.1, 0.2, 0.1], "video": [0.05, 0.05, 0.02]}
    parts = {"plain": dict.fromkeys(data.PARTS, [0.001, 0.002, 0.003])}
    case = {"video": "v", "kbit_s": 480.4, "transforms": "test", "seconds": seconds, "parts": parts}
    head = {"date": "2001-02-03", "machine": "1 thread", "versions": "torch 2"}
    lines = data.make_table(head | {"cases": [case]}).splitlines()
    assert lines[0] == "2001-02-03; 1 thread; torch 2"
    row = "| v, 480 kbit/s | test | video | 20.0 (20.0 … 50.0) | 4.00 (2.00 … 5.00) |"
    assert row in lines
    assert lines[-1] == "| v, 480 kbit/s | test | plain | 2.00 | 2.00 | 2.00 | 2.00 |"


@pytest.mark.parametrize("train", [False, True])
def test_other_frames_are_seen_before_anything_is_timed(folder, train, monkeypatch):
    dataset = data.build_loader(folder, train).dataset
    data.assert_equal_frames(dataset, train)
    real = baseline_data.sample_frame_indices
    shift = lambda *args, **options: real(*args, **options) - 1  # noqa: E731
    monkeypatch.setattr(baseline_data, "sample_frame_indices", shift)
    with pytest.raises(AssertionError, match="0.mp4: frames differ by .* levels"):
        data.assert_equal_frames(dataset, train)


def test_the_plain_path_ends_normalised(folder):
    change = baseline_data.build_transform(train=False)
    clip = baseline_data.read_clip(folder / "Videos/0.mp4", 4, change, None)
    ours = data.build_loader(folder, False)
    sample = ours.dataset[data.SampleKey(1, 0)]
    expected = ours.device_transform(sample.frames[None], None, torch.tensor([4]))[0]
    assert clip.dtype == torch.float32 and clip.shape == (4, 3, 224, 224)
    np.testing.assert_allclose(clip, expected, atol=1.01 / 255 / min(baseline_data.STD))
    torch.manual_seed(0)
    change = baseline_data.build_transform(train=True)
    clips = [
        baseline_data.read_clip(folder / "Videos/0.mp4", 4, change, np.random.default_rng(seed))
        for seed in (0, 1)
    ]
    assert clips[0].shape == (4, 3, 224, 224) and not clips[0].equal(clips[1])
