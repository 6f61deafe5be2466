"""Reading frames from a cache in place of the videos."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from base.batch import SampleKey
from data_loader.frame_cache.store import FrameSpec, Store
from data_loader.frame_sampling import choose_candidates, sample_frame_indices
from data_loader.readers.base_reader import VideoError
from data_loader.readers.video_readers import open_video
from data_loader.transforms import ClipGeometry, TransformParams, resize
from model.frozen_in_time import FrozenInTime
from tests.data_loader.cached_folder import dataset, overrides, run
from tests.data_loader.textvr_folder import VIDEOS, change_json, write_textvr
from tests.videos import write_video
from utils.errors import UserError

RES, FRAMES = 64, 2  # of the demo's configuration
FROZEN = "data_loader.args.tsfm_params.recipe=frozen_in_time"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_textvr(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def texts(demo, folder):
    return overrides(demo, folder)


@pytest.fixture(scope="module")
def cache(texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("cache")
    assert run(texts, "--out", str(out)) == 0
    return out


def samples(data, epoch=1):
    return [data[SampleKey(epoch, index)] for index in range(len(data))]


@pytest.mark.parametrize("recipe", ["textvr", "textvr_mild", "frozen_in_time"])
def test_test_frames_are_those_of_the_video_bit_for_bit(recipe, texts, tmp_path):
    texts = [*texts, f"data_loader.args.tsfm_params.recipe={recipe}"]
    assert run(texts, "--out", str(tmp_path), "--split", "val") == 0
    plain, cached = samples(dataset(texts, None)), samples(dataset(texts, tmp_path))
    assert len(plain) == len(VIDEOS)
    for one, other in zip(plain, cached, strict=True):
        assert one.frames.any() and other.frames.equal(one.frames)
        assert (other.id, other.num_frames, other.captions) == (
            (one.id, one.num_frames, one.captions)
        )


def test_track_vectors_are_in_the_units_of_the_video(texts, cache):
    texts = [*texts, 'arch.args.modalities=["vision", "ocr"]']
    plain, cached = samples(dataset(texts, None)), samples(dataset(texts, cache))
    assert plain[0].words == ["sale", "now", "open"] == cached[0].words
    for one, other in zip(plain, cached, strict=True):
        np.testing.assert_array_equal(one.tracks, other.tracks)


def test_training_draws_as_from_the_video_among_the_candidates(folder, texts, cache):
    data, videos = dataset(texts, cache, training=True), dataset(texts, None, training=True)
    geometry = data.transform.geometry
    distinct = set()
    for epoch in range(1, 7):
        for index, (name, length) in enumerate(VIDEOS.items()):
            rng = np.random.default_rng((data.options.seed, epoch, index))
            rng.integers(3)  # the caption
            drawn = sample_frame_indices(FRAMES, length, rng=rng)
            kept = choose_candidates(4, FRAMES, length)
            edges = np.linspace(0, length, len(drawn) + 1).astype(int)
            nearest = [
                min((k for k in kept if a <= k < b), key=lambda k: (abs(k - frame), k))  # noqa: B023
                for frame, a, b in zip(drawn, edges[:-1], edges[1:], strict=True)
            ]
            with open_video(folder / "Videos" / name) as video:
                frames = torch.from_numpy(video.frames(nearest)).permute(0, 3, 1, 2)
            found, plain = data[SampleKey(epoch, index)], videos[SampleKey(epoch, index)]
            assert found.frames[: len(drawn)].equal(geometry(frames, rng))
            assert not found.frames[len(drawn) :].any() and found.num_frames == len(drawn)
            np.testing.assert_array_equal(found.color, plain.color)
            assert found.captions == plain.captions
            distinct.add(found.frames.numpy().tobytes())
    assert len(distinct) > 18


def test_training_draws_depend_on_seed_epoch_and_index_only(texts, cache):
    data, fresh = (dataset(texts, cache, training=True) for _ in range(2))
    keys = [SampleKey(epoch, index) for epoch in (1, 2) for index in range(len(data))]
    first = {key: data[key] for key in keys}
    torch.manual_seed(5)
    np.random.seed(5)
    for key in reversed(keys):
        assert fresh[key].frames.equal(first[key].frames)


def test_crops_of_frozen_in_time_are_drawn_from_smaller_frames(folder, texts, tmp_path):
    texts = [*texts, FROZEN]
    assert run(texts, "--out", str(tmp_path), "--split", "train", "--candidates", "4") == 0
    data = dataset(texts, tmp_path, training=True)
    side = round(RES * 256 / 224)
    assert FrameSpec.of(data).size == (side,)
    found = data[SampleKey(3, 0)]
    rng = np.random.default_rng((data.options.seed, 3, 0))
    rng.integers(3)
    drawn = sample_frame_indices(FRAMES, 30, rng=rng)
    kept = choose_candidates(2, FRAMES, 30)
    own = kept.reshape(FRAMES, 2)
    nearest = own[np.arange(FRAMES), np.abs(own - drawn[:, None]).argmin(1)]
    with open_video(folder / "Videos" / "Sports/a.mp4") as video:
        frames = torch.from_numpy(video.frames(nearest)).permute(0, 3, 1, 2)
    frames = resize(frames, [side], antialias=False)
    expected = ClipGeometry(TransformParams().resolve("frozen_in_time", RES), train=True)
    assert found.frames.equal(expected(frames, rng))


def test_jpeg_is_near_and_smaller(texts, cache, tmp_path):
    options = ("--out", str(tmp_path), "--split", "val", "--format", "jpeg")
    assert run(texts, *options, "--quality", "90") == 0
    for one, other in zip(
        samples(dataset(texts, cache)), samples(dataset(texts, tmp_path)), strict=True
    ):
        away = (one.frames.float() - other.frames.float()).abs()
        assert 0 < away.mean() < 12 and not one.frames.equal(other.frames)
    (raw,), (jpeg,) = (list(root.glob("TextVR-test-*/*.bin")) for root in (cache, tmp_path))
    assert jpeg.stat().st_size < raw.stat().st_size / 2


def test_another_size_is_resized_once_more(texts, tmp_path):
    assert run(texts, "--out", str(tmp_path), "--split", "val", "--size", "40") == 0
    data = dataset(texts, tmp_path)
    (folder,) = tmp_path.iterdir()
    stored = Store(folder).read_videos()
    assert set(stored) == set(f"Videos/{name}" for name in VIDEOS)
    assert all(video.shape == (40, 40) for video in stored.values())
    small = samples(data)[0].frames
    away = (small.float() - samples(dataset(texts, None))[0].frames.float()).abs()
    assert small.shape == (FRAMES, 3, RES, RES) and 0 < away.mean() < 30


def tower(monkeypatch, way, interpolation):
    """Let the model say how its frames are made."""
    own = {"resize": way, "interpolation": interpolation, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    plain = FrozenInTime.describe_input
    describe = classmethod(lambda cls, **arguments: replace(plain(**arguments), **own))
    monkeypatch.setattr(FrozenInTime, "describe_input", describe)


@pytest.mark.parametrize(
    ("way", "size"), [("square", "64x64"), ("shorter_side", "64")], ids=["square", "shorter"]
)
def test_frames_of_a_tower_are_cached_by_how_they_are_made(
    way, size, texts, cache, tmp_path, monkeypatch
):
    texts = [*texts, "data_loader.args.tsfm_params=null"]
    tower(monkeypatch, way, "bicubic")
    # The cache of the plain recipe is of other frames.
    with pytest.raises(UserError, match=f"no TextVR-test-{size}-antialias-bicubic-2f"):
        dataset(texts, cache)
    assert run(texts, "--out", str(tmp_path), "--split", "val") == 0
    assert run(texts, "--out", str(tmp_path), "--split", "train", "--candidates", "64") == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        f"TextVR-{use}-{size}-antialias-bicubic-2f" for use in ("train", "test")
    }
    plain, cached = samples(dataset(texts, None)), samples(dataset(texts, tmp_path))
    assert all(one.frames.equal(other.frames) for one, other in zip(plain, cached, strict=True))
    plain, cached = (samples(dataset(texts, c, training=True)) for c in (None, tmp_path))
    assert all(one.frames.equal(other.frames) for one, other in zip(plain, cached, strict=True))
    tower(monkeypatch, way, "bilinear")
    with pytest.raises(UserError, match=f"no TextVR-test-{size}-antialias-2f"):
        dataset(texts, tmp_path)


def test_a_cache_of_a_former_release_says_nothing_of_interpolation(texts, tmp_path):
    assert run(texts, "--out", str(tmp_path), "--split", "val") == 0
    (folder,) = tmp_path.iterdir()
    change_json(folder / "cache.json", lambda value: value["wanted"].pop("interpolation"))
    plain, cached = samples(dataset(texts, None)), samples(dataset(texts, tmp_path))
    assert all(one.frames.equal(other.frames) for one, other in zip(plain, cached, strict=True))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("data_loader.args.video_params.num_frames=1", "no TextVR-test-64x64-1f .*it has TextVR-"),
        ("data_loader.args.tsfm_params.antialias=true", "no TextVR-test-64x64-antialias-2f"),
        (FROZEN, "no TextVR-test-73-2f .*--split test"),
    ],
)
def test_a_cache_of_other_frames_is_refused(change, text, texts, cache):
    with pytest.raises(UserError, match=text):
        dataset([*texts, change], cache)


def test_a_cache_of_other_videos_is_refused(demo, cache, tmp_path):
    other = write_textvr(tmp_path)
    data = dataset(overrides(demo, other), None)
    for name in ("Sports", "Cooking"):
        shutil.move(other / "Videos" / name, other / "Videos" / f"{name}2")
    text = (other / "TextVR_test.json").read_text()
    (other / "TextVR_test.json").write_text(
        text.replace('"path": "Sports', '"path": "Sports2').replace(
            '"path": "Cooking', '"path": "Cooking2'
        )
    )
    with pytest.raises(UserError, match="3 of 4 videos are not in .*Sports2/a.mp4"):
        dataset(overrides(demo, other), cache)
    assert len(data) == 4


def test_no_cache_at_all_is_refused(texts, tmp_path):
    with pytest.raises(UserError, match="it has nothing. Make it with: python -m tools.cache"):
        dataset(texts, tmp_path / "nowhere", training=True)


def test_the_videos_need_not_be_there_but_must_not_be_changed(demo, cache, tmp_path):
    folder = write_textvr(tmp_path / "data")
    texts = overrides(demo, folder)
    assert run(texts, "--out", str(tmp_path / "cache"), "--split", "val") == 0
    expected = samples(dataset(texts, None))
    (folder / "Videos/Sports/a.mp4").unlink()
    write_video(folder / "Videos/Sports/d.mp4", 22)
    data = dataset(texts, tmp_path / "cache")
    assert data[SampleKey(1, 0)].frames.equal(expected[0].frames)
    with pytest.raises(UserError, match="d.mp4: was changed after") as caught:
        data[SampleKey(1, 3)]
    assert not isinstance(caught.value, VideoError)  # no black clip may stand in for it


def test_a_sliding_window_and_images_are_refused(texts, cache):
    with pytest.raises(UserError, match="sliding_window_stride to -1"):
        dataset([*texts, "data_loader.args.sliding_window_stride=4"], cache)
    images = dataset(texts, None)
    images.images = True
    with pytest.raises(UserError, match="TextVR: reads images"):
        FrameSpec.of(images)


def test_testing_the_training_split_is_refused(texts, cache):
    data = dataset(texts, None)
    object.__setattr__(data.options, "split", "train")
    with pytest.raises(UserError, match="cached for training alone"):
        FrameSpec.of(data)


def test_a_damaged_frame_is_an_error_of_its_video(texts, tmp_path):
    assert run(texts, "--out", str(tmp_path), "--split", "val", "--format", "jpeg") == 0
    (path,) = tmp_path.glob("*/00000.bin")
    data = bytearray(path.read_bytes())
    data[:100] = bytes(100)
    path.write_bytes(data)
    strict = dataset(texts, tmp_path)
    with pytest.raises(VideoError, match="a.mp4: its frames in .*00000.bin are damaged.*--verify"):
        strict[SampleKey(1, 0)]
    lax = dataset([*texts, "data_loader.args.video_params.loading=lax"], tmp_path)
    found = lax[SampleKey(1, 0)]
    assert found.unreadable.path.endswith("Sports/a.mp4") and not found.frames.any()
    assert lax[SampleKey(1, 1)].unreadable is None


def test_many_shards_are_read_with_few_open(texts, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.cache_frames.SHARD_BYTES", 1)
    monkeypatch.setattr("data_loader.frame_cache.store._MAX_MAPS", 2)
    assert run(texts, "--out", str(tmp_path), "--split", "val") == 0
    data = dataset(texts, tmp_path)
    assert len(list(tmp_path.glob("*/0*.bin"))) == 4
    for one, other in zip(samples(dataset(texts, None)), samples(data), strict=True):
        assert one.frames.equal(other.frames)
        assert 0 < Path("/proc/self/maps").read_text().count(str(tmp_path)) <= 2
