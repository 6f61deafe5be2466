import numpy as np
import pytest
import torch

from base.batch import SampleKey
from data_loader.collate import Collate, load_tokenizer
from data_loader.datasets.text_video_dataset import LoaderTextParams
from data_loader.frame_sampling import list_window_starts, sample_frame_indices
from data_loader.readers.base_reader import VideoError
from data_loader.readers.video_readers import open_video
from data_loader.transforms import ClipGeometry, DeviceTransform, TransformParams
from tests.data_loader.textvr_folder import (
    FRAMES,
    RES,
    VIDEOS,
    change_json,
    dataset,
    entry,
    write_json,
    write_textvr,
)
from tests.videos import truncate, write_video
from utils.errors import UserError

A, B, C, D = VIDEOS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_textvr(tmp_path_factory.mktemp("data"))


def samples(data, epoch=0):
    return [data[SampleKey(epoch, index)] for index in range(len(data))]


def frames_of(path, indices):
    with open_video(path, "decord") as video:
        return torch.from_numpy(video.frames(indices)).permute(0, 3, 1, 2)


def test_a_test_sample_holds_the_middle_frames_resized(folder):
    found = dataset(folder)[SampleKey(0, 0)]
    assert (found.id, found.video_index, found.captions) == (A, 0, [f"test 0 of {A}"])
    frames = frames_of(folder / "Videos" / A, sample_frame_indices(FRAMES, 30))
    plain = TransformParams().resolve("textvr", RES)
    expected = ClipGeometry(plain, train=False)(frames, None)
    assert expected.shape == (FRAMES, 3, RES, RES) and expected.dtype == torch.uint8
    assert found.frames.equal(expected) and found.num_frames == FRAMES and found.color is None
    assert found.words == ["sale", "now", "open"]
    # 30 frames, 64 x 48 pixels; the box is 32 x 24 in frame 0.
    expected = [0, 0, 1 / 30, 0.25, 0.25, 0.5, 0.5, 0.25, 0.25, 1, 1, 0.5]
    np.testing.assert_allclose(found.tracks, [expected] * 3, atol=1e-6)


def test_validation_and_test_depend_on_no_epoch_or_seed(folder):
    for split in ("val", "test"):
        first = samples(dataset(folder, split=split))
        again = samples(dataset(folder, split=split, seed=9), epoch=5)
        for one, other in zip(first, again, strict=True):
            assert one.frames.equal(other.frames) and one.captions == other.captions


def drawn(data, epoch, index):
    found = data[SampleKey(epoch, index)]
    return found.captions[0], found.frames.numpy().tobytes(), found.color.tobytes()


def test_training_draws_depend_on_seed_epoch_and_index_only(folder):
    data = dataset(folder, training=True, seed=1)
    first = {(e, i): drawn(data, e, i) for e in range(16) for i in (0, 3)}
    fresh = dataset(folder, training=True, seed=1)
    torch.manual_seed(5)
    np.random.seed(5)
    for key in reversed(first):  # another order, other global states
        assert drawn(fresh, *key) == first[key]
    for index in (0, 3):
        captions, frames, colors = zip(*(first[e, index] for e in range(16)), strict=True)
        assert len(set(captions)) == 3 and len(set(frames)) == len(set(colors)) == 16
    other = dataset(folder, training=True, seed=2)
    assert all(drawn(other, *key)[2] != first[key][2] for key in first)


def test_training_frames_are_random_frames_of_their_intervals(folder):
    """No augmentation: each frame is one of the video's, and every frame is drawn in time."""
    data = dataset(folder, training=True, augment=False)
    plain = TransformParams().resolve("textvr", RES)
    every = ClipGeometry(plain, train=False)(frames_of(folder / "Videos" / D, range(20)), None)
    names = {frame.numpy().tobytes(): number for number, frame in enumerate(every)}
    seen = [set() for _ in range(FRAMES)]
    for epoch in range(60):
        for place, frame in enumerate(data[SampleKey(epoch, 3)].frames):
            seen[place].add(names[frame.numpy().tobytes()])
    assert seen == [set(range(n, n + 5)) for n in (0, 5, 10, 15)]  # both ends included


def test_caption_first_is_not_random(folder):
    data = dataset(folder, training=True, text=LoaderTextParams(caption_sample="first"))
    assert {data[SampleKey(epoch, 1)].captions[0] for epoch in range(9)} == {f"train 0 of {B}"}


def test_all_captions_count_in_validation(folder):
    data = dataset(folder, split="train")
    assert data[SampleKey(0, 1)].captions == [f"train {n} of {B}" for n in range(3)]


def test_transforms_of_another_split(folder):
    whole = TransformParams(color_jitter_p=1.0)
    augmented = dataset(folder, training=True, transform_params=whole)[SampleKey(0, 0)]
    plain = dataset(folder, training=True, transform_params=whole, augment=False)[SampleKey(0, 0)]
    assert augmented.frames.shape == plain.frames.shape
    assert not augmented.frames.equal(plain.frames)
    assert plain.color.tolist() == [1, 1, 1, 0, 0, 1, 2, 3, 0] != augmented.color.tolist()


def test_a_short_clip_is_zero_behind_its_frames_after_normalisation(folder):
    for training in (False, True):
        found = dataset(folder, training=training)[SampleKey(0, 1)]
        assert found.num_frames == 3 and found.frames.shape == (FRAMES, 3, RES, RES)
        color = None if found.color is None else torch.from_numpy(found.color)[None]
        transform = DeviceTransform(TransformParams().resolve("textvr", RES))
        clip = transform(found.frames[None], color, torch.tensor([found.num_frames]))[0]
        assert clip[3].eq(0).all() and (clip[:3].abs().mean(dim=(1, 2, 3)) > 0.1).all()


def test_one_frame_is_a_clip_of_one_frame(folder):
    for training in (False, True):
        found = dataset(folder, training=training)[SampleKey(1, 2)]
        assert found.num_frames == 1 and found.frames[0].float().std() > 1
        assert found.words == [] and found.ocr_missing is None


def added(folder, tmp_path, name, captions=("x",)):
    """The folder's annotations with one entry more, whose OCR document is that of A."""
    value = [entry(A, ["y"], "Sports/a.json"), entry(name, list(captions), "Sports/a.json")]
    write_json(tmp_path / "TextVR_test.json", value)
    return {"metadata_dir": tmp_path}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("odd.mp4", {"pix_fmt": "yuv444p", "width": 63, "height": 47}),
        ("ten.mp4", {"pix_fmt": "yuv420p10le"}),
        ("narrow.mp4", {"width": 32, "height": 256}),
    ],
)
def test_odd_sizes_and_10_bits_are_read(folder, tmp_path, name, options):
    write_video(folder / "Videos" / name, 6, **options)
    found = dataset(folder, **added(folder, tmp_path, name))[SampleKey(0, 1)]
    assert found.unreadable is None and found.frames.float().std() > 1
    # The longest side of the box is half of the width of 64: tracks scale by the decoded size.
    assert found.tracks[0, 5] == pytest.approx(32 / options.get("width", 64))


@pytest.fixture(scope="module")
def broken(folder):
    """Files that can't be read -> what the message must say."""
    videos = folder / "Videos"
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("no video\n" * 99)
    truncate(videos / "cut.mp4", videos / A, 0.6)
    return {"missing": "is missing", "empty": "is empty", "cut": "cut short", "text": "text.mp4"}


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "text"])
@pytest.mark.parametrize("training", [False, True])
def test_strict_an_unreadable_video_is_an_error_that_names_it(
    folder, broken, tmp_path, kind, training
):
    options = added(folder, tmp_path, f"{kind}.mp4") | {"training": training, "split": "test"}
    data = dataset(folder, **options)
    with pytest.raises(VideoError, match=broken[kind]) as caught:
        data[SampleKey(0, 1)]
    assert isinstance(caught.value, UserError)
    assert str(folder / "Videos" / f"{kind}.mp4") in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "text"])
@pytest.mark.parametrize("training", [False, True])
def test_lax_an_unreadable_video_is_a_black_clip_and_reported(
    folder, broken, tmp_path, kind, training
):
    options = added(folder, tmp_path, f"{kind}.mp4", captions=["only this"])
    data = dataset(folder, **options, loading="lax", training=training, split="test")
    found = data[SampleKey(3, 1)]
    assert found.id == f"{kind}.mp4" and found.captions == ["only this"] and found.video_index == 1
    assert found.frames.shape == (FRAMES, 3, RES, RES) and found.frames.eq(0).all()
    assert found.frames.dtype == torch.uint8 and found.num_frames == FRAMES
    assert found.unreadable.path == str(folder / "Videos" / f"{kind}.mp4")
    assert broken[kind].removesuffix(".mp4") in f"{found.unreadable.path} {found.unreadable.reason}"
    assert found.words == ["sale", "now", "open"] and found.tracks is None  # of no known size
    good = data[SampleKey(3, 0)]
    assert good.unreadable is None and good.frames.any()
    batch = Collate(load_tokenizer("tests/reference/text_model"), True)([good, found])
    assert batch.unreadable == [found.unreadable] and batch.words.mask.all()
    assert (batch.color is not None) == training


def words_with(folder, tmp_path, document, **options):
    """The sample of an entry with an OCR document; None: the file is missing."""
    name = "own.json"
    path = folder / "Kwai_VideoOCR" / name
    path.unlink(missing_ok=True)
    if document is not None:
        path.write_text(document)
    write_json(tmp_path / "TextVR_test.json", [entry(A, ["x"], name)])
    return path, lambda: dataset(folder, metadata_dir=tmp_path, **options)[SampleKey(0, 0)]


def test_the_words_of_a_video_without_decoding_it(folder, tmp_path):
    data = dataset(folder, **added(folder, tmp_path, "nowhere.mp4"))
    assert [data.get_words(n) for n in (0, 1)] == [["sale", "now", "open"]] * 2
    assert dataset(folder, uses_ocr=False).get_words(0) == []


def test_a_missing_ocr_document_is_no_words_and_reported(folder, tmp_path):
    path, read = words_with(folder, tmp_path, None)
    found = read()
    assert found.words == [] and found.ocr_missing == str(path) and found.frames.any()


def test_an_entry_that_names_no_ocr_document_is_reported(folder, tmp_path):
    write_json(tmp_path / "TextVR_test.json", [entry(A, ["x"])])
    found = dataset(folder, metadata_dir=tmp_path)[SampleKey(0, 0)]
    assert found.words == [] and A in found.ocr_missing
    assert (
        dataset(folder, metadata_dir=tmp_path, uses_ocr=False)[SampleKey(0, 0)].ocr_missing is None
    )


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{not json", "no readable OCR document"),
        ("[]", "holds a list"),
        ('{"7": {"text": "x", "score": "high", "tracks": {}}}', "record '7'.*\"score\""),
        ('{"7": {"text": "x", "score": 1, "tracks": {"0": [1]}}}', "record '7'.*corners"),
    ],
)
@pytest.mark.parametrize("loading", ["strict", "lax"])
def test_a_broken_ocr_document_is_an_error_that_names_it(
    folder, tmp_path, document, reason, loading
):
    path, read = words_with(folder, tmp_path, document, loading=loading)
    with pytest.raises(UserError, match=reason) as caught:
        read()
    assert str(path) in str(caught.value)


def test_records_with_empty_tracks_are_left_out_and_counted(folder, tmp_path):
    _, read = words_with(folder, tmp_path, '{"0": {"text": "word", "score": 1, "tracks": {}}}')
    found = read()
    assert found.words == [] and found.ocr_skipped == 1 and found.ocr_missing is None


def test_what_a_modality_does_not_use_is_not_read(folder, tmp_path, monkeypatch):
    name = "nowhere.mp4"
    data = dataset(
        folder, **added(folder, tmp_path, name), uses_vision=False, sliding_window_stride=1
    )
    assert len(data) == 2  # one sample a video: windows are of frames
    found = data[SampleKey(0, 1)]
    assert found.frames is None and found.words == ["sale", "now", "open"]
    assert found.tracks is None and found.unreadable is None
    change_json(tmp_path / "TextVR_test.json", lambda v: v[1]["videos_info"].update(Kwai_OCR="n"))
    change_json(tmp_path / "TextVR_test.json", lambda v: v[1].update(path=B))
    found = dataset(folder, metadata_dir=tmp_path, uses_ocr=False)[SampleKey(0, 1)]
    assert found.frames.any() and found.words == [] and found.ocr_missing is None


def test_sliding_windows_are_clips_of_one_video_with_its_captions_once(folder):
    data = dataset(folder, sliding_window_stride=2)
    starts = [list_window_starts(FRAMES, length, 2) for length in VIDEOS.values()]
    assert starts == [[0, 2, 4], [0], [0], [0, 2]] and len(data) == 7
    found = samples(data)
    assert [item.video_index for item in found] == [0, 0, 0, 1, 2, 3, 3]
    assert [len(item.captions) for item in found] == [1, 0, 0, 1, 1, 1, 0]
    plain = TransformParams().resolve("textvr", RES)
    for item, start in zip(found[:3], starts[0], strict=True):
        wanted = frames_of(folder / "Videos" / A, sample_frame_indices(FRAMES, 30, fix_start=start))
        assert item.frames.equal(ClipGeometry(plain, train=False)(wanted, None))
        assert item.words == found[0].words
    assert len(dataset(folder, training=True, sliding_window_stride=2)) == 4


def test_sliding_windows_of_an_unreadable_video(folder, broken, tmp_path):
    options = added(folder, tmp_path, "empty.mp4") | {"sliding_window_stride": 2}
    assert len(dataset(folder, **options)) == 4
    with pytest.raises(VideoError, match="empty.mp4"):
        samples(dataset(folder, **options))
    found = samples(dataset(folder, **options, loading="lax"))[3]
    assert found.unreadable is not None and found.captions == ["x"]


@pytest.mark.parametrize(("share", "count"), [(1.0, 4), (0.5, 2), (0.3, 1), (0.001, 1)])
def test_subsample_keeps_the_first_entries(folder, share, count):
    data = dataset(folder, subsample=share)
    assert [item.id for item in data.entries] == list(VIDEOS)[:count] and len(data) == count
