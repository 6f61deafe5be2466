"""A validation set of one's own, and a part of the training set that is held out in its place."""

import logging
from dataclasses import replace

import pytest

from base.batch import SampleKey
from data_loader.datasets.annotations import AnnotationError, is_held_out
from data_loader.frame_cache.store import FrameSpec
from tests.data_loader.frozen_folders import (
    CC3M,
    annotated,
    dataset,
    pickled,
    text,
    write_msrvtt,
)
from tests.data_loader.textvr_folder import entry, write_json, write_textvr
from utils.errors import UserError

NAMES = [f"Sports/v{number}.mp4" for number in range(40)]
SHARE = 0.3


def ids(data) -> list[str]:
    return [found.id for found in data.entries]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """TextVR with four videos of its own, and 40 more that are only named."""
    root = write_textvr(tmp_path_factory.mktemp("data"))
    known = [entry(name, ["x"], None) for name in NAMES]
    mine = [entry("Sports/a.mp4", ["a", "b", "c"], "Sports/a.json")]
    write_json(root / "TextVR_train.json", mine + known)
    return root


def read(root, split, share=SHARE, **changes):
    return dataset("TextVR", root, split, val_share=share, **changes)


def test_training_and_the_held_out_part_are_all_of_training_and_share_nothing(folder):
    whole = ids(dataset("TextVR", folder, "train", training=True))
    trained, held_out = read(folder, "train", training=True), read(folder, "val")
    assert set(ids(trained)) | set(ids(held_out)) == set(whole)
    assert not set(ids(trained)) & set(ids(held_out)) and 4 < len(held_out.entries) < 20
    for part in (trained, held_out):
        assert ids(part) == [name for name in whole if name in set(ids(part))]  # the file's order
        assert part.annotation_file == folder / "TextVR_train.json"
    assert ids(read(folder, "train")) == ids(trained)  # test.py --split train
    assert ids(read(folder, "test")) == ids(dataset("TextVR", folder, "test"))


def test_the_part_depends_on_names_alone():
    """Neither on other videos, nor on their order; a larger share holds the smaller one's, too."""
    parts = [{name for name in NAMES if is_held_out(name, share)} for share in (0.1, 0.3, 0.9)]
    assert parts[0] < parts[1] < parts[2] < set(NAMES)
    numbers = (4, 13, 14, 17, 28, 30, 31, 36)  # of every release and machine
    assert parts[0] == {NAMES[number] for number in numbers}
    many = [is_held_out(f"{number}.mp4", 0.25) for number in range(4000)]
    assert sum(many) == pytest.approx(1000, abs=100)


def test_samples_of_the_held_out_part_are_those_of_validation(folder):
    share = next(n / 100 for n in range(1, 99) if is_held_out("Sports/a.mp4", n / 100))
    held_out = read(folder, "val", share)
    sample = held_out[SampleKey(0, ids(held_out).index("Sports/a.mp4"))]
    assert sample.captions == ["a", "b", "c"] and sample.color is None and sample.frames.any()
    spec = FrameSpec.of(held_out)
    assert spec == FrameSpec.of(read(folder, "test")) and spec.use == "test"


def test_a_validation_file_is_used_where_it_is(folder, tmp_path, caplog):
    for split in ("train", "test"):
        (tmp_path / f"TextVR_{split}.json").symlink_to(folder / f"TextVR_{split}.json")
    options = {"metadata_dir": str(tmp_path)}
    assert dataset("TextVR", folder, "val", **options).annotation_file.name == "TextVR_test.json"
    write_json(tmp_path / "TextVR_val.json", [entry("Sports/d.mp4", ["x"], None)])
    data = dataset("TextVR", folder, "val", **options)
    assert ids(data) == ["Sports/d.mp4"] and data.annotation_file == tmp_path / "TextVR_val.json"
    assert dataset("TextVR", folder, "test", **options).annotation_file.name == "TextVR_test.json"
    own = dataset("TextVR", folder, "val", annotation_file="TextVR_test.json", **options)
    assert own.annotation_file.name == "TextVR_test.json"
    with caplog.at_level(logging.INFO):
        held_out = read(folder, "val", annotation_file="TextVR_test.json", **options)
    assert held_out.annotation_file.name == "TextVR_train.json"
    assert "TextVR_val.json is not used: data_loader.args.val_share" in caplog.text


@pytest.mark.parametrize("name", ["MSVD", "DiDeMo", "YouCook2", "MSRVTT", "WebVid"])
def test_sets_of_the_same_form(name, tmp_path):
    (tmp_path / "Videos").mkdir()
    entries = [annotated(video, "train") for video in NAMES]
    entries += [annotated("t.mp4", "test"), annotated("v.mp4", "val")]
    write_json(tmp_path / f"{name}.json", entries)
    cut = {"cut": "split", "val_share": SHARE}
    expected = [video for video in NAMES if is_held_out(video, SHARE)]
    assert ids(dataset(name, tmp_path, "val", **cut)) == expected
    rest = ids(dataset(name, tmp_path, "train", training=True, **cut))
    assert rest == [video for video in NAMES if video not in expected]
    assert ids(dataset(name, tmp_path, "test", **cut)) == ["t.mp4"]


def test_sets_of_lists_and_tables(tmp_path):
    names = [f"video{number}" for number in range(40)]
    root = write_msrvtt(tmp_path / "msrvtt")
    captions = [{"image_id": n, "caption": f"{c} of {n}", "id": 5} for n in names for c in "ab"]
    write_json(root / "annotation/MSR_VTT.json", {"annotations": captions, "images": []})
    text(root / "high-quality/structured-symlinks/train_list_miech.txt", "\n".join(names))
    rows = "".join(f"{number},u,PT1S,page,caption {number}\n" for number in range(40))
    head = "videoid,contentUrl,duration,page_dir,name\n"
    text(tmp_path / "webvid/metadata/results_2M_train.csv", head + rows)
    rows = "".join(f"caption {number},http://{number},9\n" for number in range(40))
    text(tmp_path / "cc3m" / CC3M["train"][1], "caption,thumbnailUrl,size\n" + rows)
    root = tmp_path / "lsmdc"
    text(root / "structured-symlinks/train_list.txt", "\n".join(names))
    sentences = {name: [["He", "runs"]] for name in names}
    pickled(root / "structured-symlinks/raw-captions.pkl", sentences)
    text(root / "frame_tar_list.txt", "\n".join(f"frames/Film/{name}.tar" for name in names))
    for name, folder, cut in (
        ("MSRVTT", "msrvtt", "miech"),
        ("WebVid", "webvid", "2M"),
        ("ConceptualCaptions3M", "cc3m", None),
        ("LSMDC", "lsmdc", None),
    ):
        options = {"cut": cut, "modalities": ("vision",)}
        whole = dataset(name, tmp_path / folder, "train", training=True, **options)
        options["val_share"] = SHARE
        trained = dataset(name, tmp_path / folder, "train", training=True, **options)
        held_out = dataset(name, tmp_path / folder, "val", **options)
        expected = [video for video in ids(whole) if is_held_out(video, SHARE)]
        assert ids(held_out) == expected and 0 < len(expected) < 40
        assert ids(trained) == [video for video in ids(whole) if video not in expected]
        assert trained.entries[0] in whole.entries
        [same] = [entry for entry in whole.entries if entry.id == held_out.entries[-1].id]
        # MSR-VTT validates with each video's first caption, as published.
        assert held_out.entries[-1] == replace(same, captions=same.captions[:1])


def test_what_can_not_be_held_out_is_one_message(folder):
    with pytest.raises(AnnotationError, match="val_share 1e-06 holds 0 of its 41 videos out"):
        read(folder, "val", 1e-6)
    with pytest.raises(AnnotationError, match="holds 41 of its 41 videos out"):
        read(folder, "train", 0.999999, training=True)
    with pytest.raises(UserError, match='val_share .* but split is "test"; set split to "train"'):
        read(folder, "test", training=True)
