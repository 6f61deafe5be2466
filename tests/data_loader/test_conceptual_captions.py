import pytest

from data_loader.datasets.annotations import AnnotationError
from tests.data_loader.frozen_folders import (
    CC3M,
    dataset,
    document,
    image,
    image_number,
    samples,
    text,
    write_cc3m,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("cc3m")
    write_cc3m(root, "train")
    return write_cc3m(root, "val", rows=",http://c,9\n")


def test_the_number_of_an_image_is_the_crc_32_of_its_address(tmp_path):
    text(tmp_path / CC3M["val"][1], "caption,thumbnailUrl\na hat,123456789\n")
    (found,) = dataset("ConceptualCaptions3M", tmp_path).entries
    assert found.video.name == str(0xCBF43926)  # the value by which CRC-32 is known


@pytest.mark.parametrize(("split", "kind"), [("train", "train"), ("val", "val"), ("test", "val")])
def test_images_are_clips_of_one_frame(folder, caplog, split, kind):
    data = dataset("ConceptualCaptions3M", folder, split)
    where, file = CC3M[kind]
    assert data.annotation_file == folder / file
    numbers = [image_number(url) for url in ("http://b/é.jpg", "http://a")]
    assert [entry.video for entry in data.entries] == [folder / where / str(n) for n in numbers]
    assert [entry.captions for entry in data.entries] == [("a red car",), ("a hat",)]
    found = samples(data)
    assert [sample.num_frames for sample in found] == [1, 1]
    assert not found[0].frames[0].equal(found[1].frames[0]) and not found[0].frames[1:].any()
    assert ("1 rows have an empty field" in caplog.text) == (kind == "val")


def test_training_draws_a_caption_and_a_crop(folder):
    data = dataset("ConceptualCaptions3M", folder, "train", training=True, modalities=("vision",))
    (found, _) = samples(data)
    assert found.captions == ["a red car"] and found.num_frames == 1 and found.color is not None


def test_a_sliding_window_and_another_reader_change_nothing(folder):
    plain = samples(dataset("ConceptualCaptions3M", folder))
    again = samples(dataset("ConceptualCaptions3M", folder, sliding_window_stride=1, reader="cv2"))
    assert [s.captions for s in again] == [s.captions for s in plain]
    assert all(a.frames.equal(b.frames) for a, b in zip(again, plain, strict=True))


def test_documents_mirror_the_images(folder, tmp_path):
    number = image_number("http://a")
    document(tmp_path / f"validation/{number}.json", "Fine hat")
    found = samples(dataset("ConceptualCaptions3M", folder, ocr_dir=str(tmp_path)))
    assert [sample.words for sample in found] == [[], ["fine", "hat"]]
    assert found[1].tracks[0, 5] == pytest.approx(0.5)  # the box is half as wide as the image


def test_urls_of_the_same_image_file_are_one_entry(tmp_path, caplog):
    data = dataset("ConceptualCaptions3M", write_cc3m(tmp_path, rows="a cap,http://a,9\n"), "val")
    assert [entry.captions for entry in data.entries] == [("a red car",), ("a hat", "a cap")]
    assert "1 rows name a file" in caplog.text


def test_validation_draws_and_test_takes_all(tmp_path):
    rows = "".join(f"caption {n},http://{n},9\n" for n in range(1100))
    write_cc3m(tmp_path, rows=rows)
    assert len(dataset("ConceptualCaptions3M", tmp_path, "val")) == 1000
    assert len(dataset("ConceptualCaptions3M", tmp_path, "test")) == 1102


@pytest.mark.parametrize("loading", ["strict", "lax"])
def test_a_missing_image(folder, tmp_path, loading):
    write_cc3m(tmp_path)
    number = image_number("http://a")
    (tmp_path / f"validation/{number}").unlink()
    data = dataset("ConceptualCaptions3M", tmp_path, loading=loading)
    if loading == "strict":
        with pytest.raises(ValueError, match=f"validation/{number}: is missing"):
            samples(data)
    else:
        assert samples(data)[1].unreadable.reason == "is missing"


def test_a_missing_column(tmp_path):
    path = text(tmp_path / CC3M["val"][1], "caption,url\na,b\n")
    with pytest.raises(AnnotationError, match="no column thumbnailUrl") as caught:
        dataset("ConceptualCaptions3M", tmp_path)
    assert str(path) in str(caught.value)


def test_metadata_may_lie_elsewhere(folder, tmp_path):
    image(tmp_path / f"validation/{image_number('http://a')}")
    text(tmp_path / "meta" / CC3M["val"][1], "caption,thumbnailUrl\na hat,http://a\n")
    data = dataset("ConceptualCaptions3M", tmp_path, metadata_dir=str(tmp_path / "meta"))
    assert samples(data)[0].frames.any()
