import logging
import shutil
import weakref
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch

import data_loader.registrations  # noqa: F401
from base.base_model import ModelInput
from base.batch import Tokens, Words
from base.registry import DATA_LOADERS
from data_loader.collate import load_tokenizer
from data_loader.datasets.text_video_dataset import LoaderVideoParams
from data_loader.loader import TextVideoDataLoader
from data_loader.transforms import TransformParams
from tests.data_loader.textvr_folder import FRAMES, RES, VIDEOS, entry, write_json, write_textvr
from utils.distributed import show_progress
from utils.errors import UserError

TEXT_MODEL = "tests/reference/text_model"
MODEL_KEYS = [field.name for field in fields(ModelInput)]
VIDEO = LoaderVideoParams(input_res=RES, num_frames=FRAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_textvr(tmp_path_factory.mktemp("data"))


@pytest.fixture
def offline(monkeypatch):
    """No network: the hub's own switch, so that nothing is tried again and again."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def model_input(modalities=("vision", "ocr"), tokenizer_name=TEXT_MODEL, **more):
    return ModelInput(modalities, tokenizer_name, **more)


def loader(folder, training=True, **changes):
    options = {
        "dataset_name": "TextVR",
        "data_dir": str(folder),
        "split": "train" if training else "test",
        "video_params": VIDEO,
        "batch_size": 3,
        "num_workers": 0,
        "model_input": model_input(**{k: changes.pop(k) for k in MODEL_KEYS if k in changes}),
        "seed": 0,
        "training": training,
    }
    return TextVideoDataLoader(**(options | changes))


def same(one, other):
    """Whether two batches, or parts of batches, are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.equal(other)
    if type(one).__name__ in ("Batch", "Tokens", "Words"):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return one == other


def epoch_of(batches, epoch, num_batches=99):
    batches.set_epoch(epoch, num_batches)
    return list(batches)


def test_the_number_of_workers_changes_nothing(folder):
    plain, parallel = loader(folder), loader(folder, num_workers=2)
    epochs = []
    for epoch in (1, 2, 1):  # workers stay alive between epochs
        one, other = epoch_of(plain, epoch), epoch_of(parallel, epoch)
        assert [len(batch) for batch in one] == [3, 1]
        assert all(same(*pair) for pair in zip(one, other, strict=True))
        epochs.append(other)
    assert all(same(*pair) for pair in zip(epochs[0], epochs[2], strict=True))


def test_an_epoch_is_another_order_and_other_draws(folder):
    batches = loader(folder, batch_size=4)
    found = [epoch_of(batches, epoch)[0] for epoch in range(6)]
    assert {tuple(sorted(batch.ids)) for batch in found} == {tuple(sorted(VIDEOS))}
    assert len({tuple(batch.ids) for batch in found}) > 1
    place = [batch.ids.index("Sports/a.mp4") for batch in found]
    clips = {batch.video[row].numpy().tobytes() for batch, row in zip(found, place, strict=True)}
    assert len(clips) == 6
    fixed = loader(folder, batch_size=4, shuffle=False)
    assert all(epoch_of(fixed, epoch)[0].ids == list(VIDEOS) for epoch in (1, 2))


def test_the_epoch_limits_the_number_of_batches(folder):
    batches = loader(folder, batch_size=1)
    whole = epoch_of(batches, 1)
    assert len(whole) == len(batches) == 4
    cut = epoch_of(batches, 1, num_batches=2)
    assert len(cut) == len(batches) == 2
    assert all(same(*pair) for pair in zip(cut, whole[:2], strict=True))


def test_validation_is_in_order_whatever_shuffle_says(folder):
    batches = loader(folder, training=False, shuffle=True)
    first, again = epoch_of(batches, 0), epoch_of(batches, 7)
    assert [name for batch in first for name in batch.ids] == list(VIDEOS)
    assert torch.cat([batch.video_index for batch in first]).tolist() == [0, 1, 2, 3]
    assert all(same(*pair) for pair in zip(first, again, strict=True))
    assert first[0].color is None and batches.name == "TextVR test"


def test_a_batch_and_its_way_to_the_device(folder):
    batches = loader(folder, batch_size=4, shuffle=False, tsfm_params=TransformParams())
    (batch,) = batches
    assert batch.video.shape == (4, FRAMES, 3, RES, RES) and batch.video.dtype == torch.uint8
    assert batch.num_frames.tolist() == [4, 3, 1, 4]
    assert isinstance(batch.query, Tokens) and isinstance(batch.words, Words)
    moved = batches.to_device(batch, torch.device("cpu"))
    assert moved.video.dtype == torch.float32 and batch.video.dtype == torch.uint8
    empty = [moved.video[row, n:].eq(0).all() for row, n in enumerate([4, 3, 1, 4])]
    assert all(empty) and -3 < moved.video.min() < -1 < 1 < moved.video.max() < 3


def test_the_models_own_mean_and_std_normalise_the_frames(folder):
    own = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.25)}
    options = {"batch_size": 4, "training": False}
    (batch,) = loader(folder, **options)
    moved = loader(folder, **options, **own).to_device(batch, torch.device("cpu"))
    pixels = batch.video[0, 0, :, 5, 7] / 255
    expected = (pixels - torch.tensor(own["mean"])) / torch.tensor(own["std"])
    assert torch.allclose(moved.video[0, 0, :, 5, 7], expected)
    # A resolved configuration has the defaults written out, or the model's own.
    for params in (TransformParams(antialias=True), TransformParams(norm_mean=own["mean"])):
        written_out = TransformParams(**params.model_dump())
        again = loader(folder, **options, **own, tsfm_params=written_out)
        assert (again.device_transform.mean, again.device_transform.std) == tuple(own.values())
    other = TransformParams(norm_std=(0.2, 0.2, 0.2))
    with pytest.raises(UserError, match=r"norm_std is \[0.2, 0.2, 0.2\].*\[0.5, 0.5, 0.25\]"):
        loader(folder, **options, **own, tsfm_params=other)
    assert loader(folder, **options, tsfm_params=other).device_transform.std == (0.2, 0.2, 0.2)


TOWER = {
    "frame_size": 48, "resize": "shorter_side", "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
def test_the_frames_of_a_tower_have_its_size_and_its_black_clips_too(folder, tmp_path, training):
    root = shutil.copytree(folder, tmp_path / "data")
    (root / "Videos/Sports/a.mp4").write_bytes(b"no video")
    options = {"batch_size": 4, "shuffle": False, "video_params": LoaderVideoParams(loading="lax")}
    batches = loader(root, training, **options, **TOWER)
    (batch,) = batches
    assert batch.video.shape == (4, FRAMES, 3, 48, 48) and len(batch.unreadable) == 1
    assert not batch.video[0].any() and batch.video[1].any()
    moved = batches.to_device(batch, torch.device("cpu"))
    assert moved.video[0].eq(-1).all() and moved.video.amax() > 0
    with pytest.raises(UserError, match='recipe is "textvr", but the frames of the model are cut'):
        loader(root, training, **options, **TOWER, tsfm_params=TransformParams(recipe="textvr"))


def test_a_towers_training_clips_are_not_mirrored_unasked(folder):
    problems = TextVideoDataLoader.find_problems
    args = SimpleNamespace(
        dataset_name="WebVid", cut="2M", split="train", tsfm_split=None, tsfm_params=None
    )
    plain, own = model_input(), model_input(**TOWER)
    assert [where for where, _ in problems(args, plain, True)] == [("tsfm_params", "hflip")]
    assert problems(args, plain, False) == problems(args, own, True) == []
    args.tsfm_params = TransformParams(hflip=True, norm_std=(0.2, 0.2, 0.2))
    found = [where for where, _ in problems(args, own, True)]
    assert found == [("tsfm_params", "norm_std"), ("tsfm_params", "hflip")]
    assert [where for where, _ in problems(args, own, False)] == [("tsfm_params", "norm_std")]


@pytest.mark.parametrize(("modality", "absent"), [("vision", "words"), ("ocr", "video")])
def test_what_a_modality_does_not_use_is_absent(folder, modality, absent):
    batches = loader(folder, modalities=(modality,))
    batch = next(iter(batches))
    assert getattr(batch, absent) is None
    assert getattr(batch, "video" if absent == "words" else "words") is not None
    assert batches.to_device(batch, torch.device("cpu")).ids == batch.ids


def test_options_reach_the_data_set(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTVR_TEST_DIR", str(folder))
    sliding = {"sliding_window_stride": 2}
    moved = loader("$TEXTVR_TEST_DIR", training=False, subsample=0.5, **sliding)
    assert [item.id for item in moved.dataset.entries] == list(VIDEOS)[:2]
    assert len(moved.dataset) == 4 and len(loader(folder, **sliding).dataset) == 4
    write_json(folder / "mine.json", [entry("Sports/d.mp4", ["x"])])
    own = {"annotation_file": "mine.json"}
    assert len(loader(folder, training=False, **own).dataset) == 1
    assert len(loader(folder, **own).dataset) == 4  # it replaces no training annotations
    names = {"dataset_name": "TextVR_"}
    with pytest.raises(UserError, match="TextVR"):
        loader(folder, **names)
    for name in ("TextVideoDataLoader", "MultiDistTextVideoDataLoader"):
        assert DATA_LOADERS.get(name) is TextVideoDataLoader


def test_tsfm_split_test_augments_nothing(folder):
    options = {"batch_size": 4, "shuffle": False}
    plain = loader(folder, tsfm_split="test", **options)
    identity = [1, 1, 1, 0, 0, 1, 2, 3, 0]
    (batch,) = plain
    assert batch.color.tolist() == [identity] * 4
    one_frame = next(iter(loader(folder, training=False, batch_size=4))).video[2]
    assert batch.video[2].equal(one_frame)  # nothing to draw: the test's clip
    (augmented,) = loader(folder, **options)
    assert not augmented.video[2].equal(one_frame) and augmented.color.tolist() != [identity] * 4


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["video", "ocr"])
def test_an_error_in_a_worker_arrives_as_one_clear_user_error(folder, tmp_path, num_workers, kind):
    (folder / "Videos/empty.mp4").touch()
    bad = folder / "Kwai_VideoOCR/bad.json"
    bad.write_text("{")
    video = "empty.mp4" if kind == "video" else "Sports/a.mp4"
    write_json(tmp_path / "TextVR_test.json", [entry(video, ["x"], "bad.json")])
    batches = loader(folder, training=False, metadata_dir=str(tmp_path), num_workers=num_workers)
    with pytest.raises(UserError) as caught:
        list(batches)
    message = str(caught.value)
    assert str(folder / "Videos/empty.mp4" if kind == "video" else bad) in message
    assert "Traceback" not in message and "worker" not in message and len(message) < 400
    gone = weakref.ref(batches)
    del caught, batches
    assert gone() is None  # no cycle: a worker that the garbage collector ends takes 5 seconds


def test_the_reader_is_chosen_by_name(folder):
    other = next(iter(loader(folder, training=False, reader="av")))
    assert same(other, next(iter(loader(folder, training=False))))
    with pytest.raises(UserError, match="decord"):
        next(iter(loader(folder, training=False, reader="decor")))


def test_without_network_the_message_says_which_file_to_put_where(folder, offline):
    with pytest.raises(UserError) as caught:
        loader(folder, tokenizer_name="distilbert-base-nowhere")
    message = str(caught.value)
    assert "distilbert-base-nowhere" in message and "Hugging Face hub" in message
    assert "put tokenizer.json (or vocab.txt) and tokenizer_config.json" in message
    assert "arch.args.text_params.model" in message


CONTENTS = {
    "empty": {},
    "configuration only": {"config.json": '{"model_type": "distilbert"}'},
    "no JSON": {"tokenizer.json": "{", "config.json": '{"model_type": "distilbert"}'},
    "another JSON": {"tokenizer.json": '{"a": 1}', "config.json": '{"model_type": "distilbert"}'},
    "empty vocabulary": {"vocab.txt": "", "config.json": '{"model_type": "distilbert"}'},
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_folder_without_a_tokenizer_is_an_error(tmp_path, offline, kind, caplog):
    for name, text in CONTENTS[kind].items():
        (tmp_path / name).write_text(text)
    with caplog.at_level(logging.CRITICAL), pytest.raises(UserError) as caught:
        load_tokenizer(str(tmp_path))
    assert f'"{tmp_path}"' in str(caught.value) and "folder must hold tokenizer.json" in str(
        caught.value
    )


@pytest.mark.parametrize(("delay", "rank", "shown"), [(0, 0, True), (60, 0, False), (0, 1, False)])
def test_a_bar_is_shown_by_the_first_process_alone_and_not_for_a_moment(
    delay, rank, shown, monkeypatch, capsys
):
    monkeypatch.setattr("utils.distributed.BAR_DELAY_S", delay)
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    assert list(show_progress([1, 2, 3], "counting", " videos")) == [1, 2, 3]
    out, err = capsys.readouterr()
    assert out == "" and ("counting" in err and "3/3" in err) is shown
