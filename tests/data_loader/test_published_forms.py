"""What the published code does with each data set: its transforms, its test queries, no flips."""

import json

import pytest

from base.batch import SampleKey
from base.config import ConfigError
from data_loader.datasets.text_video_dataset import LoaderTextParams
from evaluation.ground_truth import build_ground_truth
from parse_config import load_config
from tests.conftest import ROOT
from tests.data_loader.frozen_folders import (
    annotated,
    dataset,
    loader,
    samples,
    write_annotated,
    write_msrvtt,
    write_webvid,
)
from trainer.build import build_loader
from utils.errors import UserError

# TextVR's code reads these with one pipeline; Frozen in Time's form has that project's.
TEXTVR = [("TextVR", None), ("MSVD", None), ("DiDeMo", "split"), ("YouCook2", "split"),
          ("WebVid", "split"), ("MSRVTT", "split"), ("MSRVTT", "official_split"),
          ("MSRVTT", "oneka_split")]  # fmt: skip
FROZEN = [("MSRVTT", "jsfusion"), ("MSRVTT", "miech"), ("MSRVTT", "full-val"),
          ("MSRVTT", "full-test"), ("WebVid", "2M")]  # fmt: skip
ENTRIES = [
    annotated("a.mp4", "train", ["a one", "a two", "a three"]),
    annotated("b.mp4", "test", ["b one", "b two"]),
    annotated("c.mp4", "test", ["c one"]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in TextVR's form for each set, and in Frozen in Time's for MSR-VTT and WebVid."""
    root = write_annotated(tmp_path_factory.mktemp("sets"), "MSVD.json", ENTRIES)
    for name in ("DiDeMo", "YouCook2", "WebVid", "TextVR_train", "TextVR_test"):
        (root / f"{name}.json").write_text((root / "MSVD.json").read_text())
    splits = [dict(entry, videos_info={**entry["videos_info"],
              "official_split": entry["videos_info"]["split"],
              "oneka_split": entry["videos_info"]["split"]}) for entry in ENTRIES]  # fmt: skip
    (root / "MSRVTT.json").write_text(json.dumps(splits))
    write_msrvtt(root)
    for split in ("train", "val", "test"):
        write_webvid(root, split)
    return root


@pytest.mark.parametrize(("name", "cut"), TEXTVR)
@pytest.mark.parametrize("modalities", [("vision", "ocr"), ("vision",)])
def test_sets_of_textvrs_form_have_its_transforms(folder, name, cut, modalities):
    for training in (True, False):
        split = "train" if training else "test"
        made = loader(name, folder, split, cut=cut, training=training, modalities=modalities)
        transform = made.dataset.transform
        params, res = transform.params, 32
        assert (params.recipe, params.hflip) == ("textvr", False)
        assert (params.resize_train, params.resize_test) == (round(res * 242 / 224), res)
        assert params.color_jitter == (0.5, 0.5, 0.5, 0.1) and params.color_jitter_p == 0.8
        assert params.grayscale_p == 0.3 and transform.train == training
        [first, *_] = next(iter(made.sampler))
        assert made.dataset[first].frames.any()


@pytest.mark.parametrize(("name", "cut"), FROZEN)
def test_sets_of_frozen_in_times_form_have_its_transforms(folder, name, cut):
    made = loader(name, folder, "train", cut=cut, training=True, modalities=("vision",))
    params = made.dataset.transform.params
    assert (params.recipe, params.hflip) == ("frozen_in_time", True)


def load(*changes, name="MSRVTT_jsfusion", training=True):
    return load_config(ROOT / f"configs/{name}.json", changes, training=training)


READS = 'arch.args.modalities=["vision", "ocr"]'
HFLIP = "data_loader.args.tsfm_params.hflip"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("MSRVTT_jsfusion", [READS]),
        ("MSRVTT_jsfusion", [READS, "data_loader.args.tsfm_params=null"]),
        ("TextVR_fusion", ["data_loader.args.tsfm_params.recipe=frozen_in_time"]),
        ("TextVR_fusion", [f"{HFLIP}=true"]),
    ],
)
def test_a_flip_never_meets_words(name, changes):
    with pytest.raises(ConfigError) as caught:
        load(*changes, name=name)
    [problem] = caught.value.problems
    assert problem.startswith(f"{HFLIP}: training clips are mirrored")
    assert problem.endswith("set it to false")
    assert load(*changes, f"{HFLIP}=false", name=name).name == name
    # Such a model can be tested, whatever it was trained with.
    assert load(*changes, name=name, training=False).name == name


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ['arch.args.modalities=["ocr"]'],
        [READS, "data_loader.args.tsfm_params.recipe=textvr"],
        [READS, "data_loader.args.tsfm_split=test"],
    ],
)
def test_flips_without_words_and_words_without_flips(changes):
    assert load(*changes).name == "MSRVTT_jsfusion"


def test_a_loader_of_a_run_that_is_resumed_refuses_it_too(folder):
    sizes = ["arch.args.video_params.input_res=32", "data_loader.args.video_params.input_res=32"]
    config = load(READS, f"data_loader.args.data_dir={folder}", *sizes, training=False)
    with pytest.raises(UserError, match=f"^{HFLIP}: training clips are mirrored"):
        build_loader(config, 0, training=True, only_dataset=True)
    assert build_loader(config, 0, training=False, split="test", only_dataset=True).dataset


FIRST = [("MSVD", None), ("DiDeMo", None), ("YouCook2", None), ("WebVid", "split"),
         ("MSRVTT", "split"), ("MSRVTT", "official_split")]  # fmt: skip


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize(("name", "cut"), FIRST)
def test_the_queries_of_a_test_are_the_first_captions_as_published(folder, name, cut, split):
    data = dataset(name, folder, split, cut=cut)
    assert [sample.captions for sample in samples(data)] == [["b one"], ["c one"]]
    assert data.caption_protocol == "the first caption of each video (as published)"
    queries = build_ground_truth(data)
    assert queries.shape == (2, 2) and queries.protocol == data.caption_protocol


@pytest.mark.parametrize("cut", ["miech", "full-val", "full-test", "jsfusion"])
def test_the_queries_of_each_cut_of_msrvtt(folder, cut):
    data = dataset("MSRVTT", folder, cut=cut)
    assert all(len(entry.captions) == 1 for entry in data.entries)
    if cut == "jsfusion":
        assert data.caption_protocol == "one caption a video"
        assert [entry.captions[0][0] for entry in data.entries] == ["c", "b"]  # its own list's
    else:
        assert {entry.captions[0][0] for entry in data.entries} == {"a"}


@pytest.mark.parametrize(
    ("name", "key", "count", "protocol"),
    [
        ("MSVD", "all", 3, "every caption of each video"),
        ("MSVD", "first", 2, 'the first caption of each video (caption_sample "first")'),
        ("TextVR", "rand", 6, "every caption of each video"),  # its own test has one a video
        ("TextVR", "first", 3, 'the first caption of each video (caption_sample "first")'),
    ],
)
def test_the_key_decides_at_test_too(folder, name, key, count, protocol):
    params = LoaderTextParams(caption_sample=key)
    data = dataset(name, folder, text_params=params)
    found = [caption for sample in samples(data) for caption in sample.captions]
    assert (len(found), data.caption_protocol) == (count, protocol)


def test_training_draws_among_all_captions_whatever_the_test_takes(folder):
    for key, most in (("rand", 3), ("all", 3), ("first", 1)):
        params = LoaderTextParams(caption_sample=key)
        data = dataset("MSVD", folder, "train", training=True, text_params=params)
        drawn = {tuple(data[SampleKey(epoch, 0)].captions) for epoch in range(30)}
        assert len(drawn) == most and all(len(captions) == 1 for captions in drawn)


def test_each_row_of_a_table_is_a_query(folder):
    data = dataset("WebVid", folder, "val", cut="2M")
    assert [len(sample.captions) for sample in samples(data)] == [1, 1]
    assert data.caption_protocol == "one caption a video"
