"""OCR documents of every data set: where they are looked for, and what is said without them."""

import pytest

from data_loader.annotations import AnnotationError
from tests.data_loader.frozen_folders import (
    annotated,
    dataset,
    document,
    image,
    samples,
    video,
    write_annotated,
    write_cc3m,
    write_lsmdc,
    write_msrvtt,
    write_webvid,
)

MSVD = [annotated("p/a.mp4", "test"), annotated("b.mp4", "test")]
# data set -> (writer, arguments, first video within its folder)
SETS = {
    "MSRVTT": (write_msrvtt, {"cut": "miech"}, "video10"),
    "WebVid": (lambda root: write_webvid(root, "test"), {"cut": "2M"}, "000051_000100/7"),
    "ConceptualCaptions3M": (write_cc3m, {}, None),
    "LSMDC": (write_lsmdc, {"reader": "av"}, "1001_Film/1001_Film_00.01"),
    "VideoDirectory": (lambda root: video(root / "p/x.mp4").parents[1], {}, "p/x"),
    "ImageDirectory": (lambda root: image(root / "p/x.jpg").parents[1], {}, "p/x"),
}


@pytest.fixture(params=SETS)
def written(request, tmp_path):
    write, options, first = SETS[request.param]
    root = write(tmp_path / "data")
    if first is None:
        first = dataset(request.param, root).entries[0].id
    return request.param, root, options, first


@pytest.mark.parametrize("own", [False, True])
def test_a_document_mirrors_the_path_of_its_video(written, tmp_path, own, caplog):
    name, root, options, first = written
    folder = tmp_path / "documents" if own else root / "Kwai_VideoOCR"
    document(folder / f"{first}.json", "Mirrored")
    options = options | ({"ocr_dir": str(folder)} if own else {})
    found = samples(dataset(name, root, **options))
    assert found[0].words == ["mirrored"] and len(found[0].tracks) == 1
    assert all(sample.ocr_missing.startswith(str(folder)) for sample in found[1:])
    assert "no video has an OCR document" not in caplog.text


def test_without_the_folder_there_are_none_which_is_said_once(written, caplog):
    name, root, options, _ = written
    data = dataset(name, root, **options)
    assert all(entry.ocr is None for entry in data.entries)
    assert data.needs_reading() is None
    warnings = [r.getMessage() for r in caplog.records if "no video has" in r.getMessage()]
    assert len(warnings) == 1 and warnings[0].startswith(f"{name} test: the model reads OCR")
    assert str(root / "Kwai_VideoOCR") in warnings[0]
    assert all(sample.words == [] and sample.ocr_missing for sample in samples(data))
    caplog.clear()
    dataset(name, root, modalities=("vision",), **options)
    assert "OCR" not in caplog.text


def test_annotations_name_their_documents_within_the_folder(tmp_path, caplog):
    root = write_annotated(tmp_path / "data", "MSVD.json", MSVD)
    own = document(tmp_path / "mine/p/a.json", "Mine").parents[1]
    first, second = samples(dataset("MSVD", root, ocr_dir=str(own)))
    assert first.words == ["mine"] and second.ocr_missing == str(own / "b.json")
    assert "no video has" not in caplog.text
    (root / "Kwai_VideoOCR").rename(tmp_path / "away")
    dataset("MSVD", root)
    assert "no video has an OCR document" in caplog.text


def test_a_folder_that_is_not_there_is_an_error(written, tmp_path, monkeypatch):
    name, root, options, _ = written
    with pytest.raises(AnnotationError, match="no such folder; correct data_loader.args.ocr_dir"):
        dataset(name, root, ocr_dir=str(tmp_path / "nowhere"), **options)
    monkeypatch.setenv("TEXTVR_TEST_OCR", str(tmp_path))
    assert dataset(name, root, ocr_dir="$TEXTVR_TEST_OCR", **options).ocr_dir == tmp_path
