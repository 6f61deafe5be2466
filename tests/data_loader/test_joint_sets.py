"""The new data sets through the registered loader, as a configuration builds them."""

import json
import logging

import pytest
import torch

import trainer.registrations  # noqa: F401
from parse_config import load_config
from tests.conftest import ROOT
from tests.data_loader.frozen_folders import (
    RES,
    TEXT_MODEL,
    annotated,
    document,
    write_annotated,
    write_cc3m,
    write_lsmdc,
    write_msrvtt,
    write_webvid,
)
from trainer.build import build_loader
from trainer.trainer import plan_epoch


def small(name, folders, *more):
    """A shipped configuration of small frames, whose loaders read ``folders``."""
    blocks = json.loads((ROOT / f"configs/{name}.json").read_text())["data_loader"]
    changes = [f"arch.args.text_params.model={ROOT / TEXT_MODEL}",
               f"arch.args.video_params.input_res={RES}", *more]  # fmt: skip
    for number, folder in enumerate(folders):
        here = f"data_loader.{number}.args" if isinstance(blocks, list) else "data_loader.args"
        values = {"data_dir": folder, "num_workers": 0, "batch_size": 1, "reader": "av"}
        changes += [f"{here}.{key}={value}" for key, value in values.items()]
        changes.append(f"{here}.video_params.input_res={RES}")
    return load_config(ROOT / f"configs/{name}.json", changes)


def test_images_and_videos_take_turns_in_an_epoch(tmp_path):
    images, videos = write_cc3m(tmp_path / "cc", "train"), write_webvid(tmp_path / "wv", "train")
    write_cc3m(images)
    write_webvid(videos)
    config = small("CC3M_WebVid", [images, videos])
    loaders = [build_loader(config, number, training=True) for number in (0, 1)]
    plan = plan_epoch(loaders, config.trainer.max_samples_per_epoch)
    assert plan == [(0, 1), (1, 1), (0, 1), (1, 1)]  # loader, videos
    for loader in loaders:
        loader.set_epoch(1, 2)
    batches = [iter(loader) for loader in loaders]
    seen = []
    for number, _ in plan:
        batch = loaders[number].to_device(next(batches[number]), torch.device("cpu"))
        assert batch.video.shape == (1, 1, 3, RES, RES) and batch.video.std() > 0.1
        assert batch.words is None and batch.num_frames.tolist() == [1]
        assert len(batch.query.input_ids) == 1
        seen.append(batch.ids[0].split("/")[0])
    assert seen[::2] == ["training"] * 2 and sorted(seen[1::2])[0] == "000001_000050"
    for number in (0, 1):
        valid = build_loader(config, number, training=False, split="val")
        assert valid.name.endswith(" val") and len(list(valid)) == 2


def get_words(loader):
    """The number of words of each batch, and whether they have a place."""
    batches = list(loader)
    assert all(batch.video.any() for batch in batches)
    return [batch.words.mask.sum().item() for batch in batches], [
        batch.words.tracks.any().item() for batch in batches
    ]


@pytest.mark.parametrize(
    ("config", "file"),
    [("MSRVTT_ocr", "msrvtt"), ("WebVid_ocr", "WebVid"), ("YouCook2_ocr", "youcook2")],
)
def test_ocr_words_arrive(tmp_path, config, file, caplog):
    splits = {"a": "train", "b": "val", "c": "val"}
    entries = [annotated(f"p/{name}.mp4", split) for name, split in splits.items()]
    write_annotated(tmp_path, f"{file}.json", entries)
    document(tmp_path / "Kwai_VideoOCR/p/b.json", "three words here")
    built = small(config, [tmp_path])
    with caplog.at_level(logging.WARNING):
        test = build_loader(built, 0, training=False, split="test")
        assert get_words(test) == ([3, 1], [True, True])
        train = build_loader(built, 0, training=True)
        assert get_words(train) == ([1], [True])
    assert "no video has an OCR document" not in caplog.text
    assert train.name == f"{config.removesuffix('_ocr')} train"


@pytest.mark.parametrize(
    ("config", "write"), [("MSRVTT_jsfusion", write_msrvtt), ("LSMDC", write_lsmdc)]
)
def test_videos_and_queries_of_the_lists_arrive(tmp_path, config, write):
    built = small(config, [write(tmp_path)])
    for training, split in ((True, "train"), (False, "val"), (False, "test")):
        loader = build_loader(built, 0, training=training, split=split)
        batches = list(loader)
        assert len(batches) == 2
        for batch in batches:
            assert batch.video.shape == (1, 4, 3, RES, RES) and batch.words is None
            assert batch.query_row.tolist() == [0] and not batch.unreadable
