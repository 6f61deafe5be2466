"""OCR documents of every data set: where they are looked for, and what is said without them."""

import pytest

from base.batch import SampleKey
from data_loader.datasets import csv_tables
from data_loader.datasets.annotations import AnnotationError
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


def read_words(root, **options):
    """File -> words of a folder of videos."""
    return {
        sample.id: sample.words for sample in samples(dataset("VideoDirectory", root, **options))
    }


def test_a_document_named_after_the_whole_file_comes_before_the_published_form(written, tmp_path):
    name, root, options, first = written
    entry = dataset(name, root, **options).entries[0]
    document(tmp_path / f"{first}.json", "published")
    document(tmp_path / f"{first}{entry.video.suffix}.json", "named fully")
    found = dataset(name, root, ocr_dir=str(tmp_path), **options)[SampleKey(0, 0)]
    # Images of Conceptual Captions have no extension, so that both names are the same.
    assert found.words == ["named", "fully"]


def test_two_files_share_no_document_and_that_is_said(tmp_path, caplog):
    root = tmp_path / "data"
    for file in ("p/talk.mp4", "p/talk.mov", "p/other.mp4"):
        video(root / file)
    documents = root / "Kwai_VideoOCR"
    document(documents / "p/other.json", "other")
    assert read_words(root)["p/other.mp4"] == ["other"] and "none of them" not in caplog.text
    document(documents / "p/talk.json", "whose")
    assert read_words(root) == {"p/other.mp4": ["other"], "p/talk.mov": [], "p/talk.mp4": []}
    assert caplog.text.count("is used for none of them") == 1
    assert (
        f"{documents}/p/talk.json: could be the text of p/talk.mov and of p/talk.mp4" in caplog.text
    )
    document(documents / "p/talk.mp4.json", "mine")
    assert read_words(root) == {"p/other.mp4": ["other"], "p/talk.mov": [], "p/talk.mp4": ["mine"]}
    document(documents / "p/talk.mov.json", "too")
    caplog.clear()
    assert read_words(root)["p/talk.mov"] == ["too"] and "none of them" not in caplog.text


def test_the_document_of_another_file_is_not_taken_for_the_published_form(tmp_path, caplog):
    for file in ("x.mp4", "x.mp4.mov"):
        video(tmp_path / file)
    document(tmp_path / "Kwai_VideoOCR/x.mp4.json", "text")
    assert read_words(tmp_path) == {"x.mp4": ["text"], "x.mp4.mov": []}
    assert "none of them" not in caplog.text


def test_what_annotations_name_is_read_and_the_full_name_where_it_is_missing(tmp_path):
    root = write_annotated(tmp_path, "MSVD.json", MSVD)
    documents = root / "Kwai_VideoOCR"
    document(documents / "b.mp4.json", "named fully")
    assert samples(dataset("MSVD", root))[1].words == ["word1"]
    (documents / "b.json").unlink()
    assert samples(dataset("MSVD", root))[1].words == ["named", "fully"]
    (documents / "b.mp4.json").unlink()
    assert samples(dataset("MSVD", root))[1].ocr_missing == str(documents / "b.json")


def test_a_table_looks_for_no_document_until_an_entry_is_asked_for(tmp_path, monkeypatch):
    root = write_webvid(tmp_path, "test")
    (root / "Kwai_VideoOCR").mkdir()
    looked = []
    find = csv_tables.find_document
    monkeypatch.setattr(csv_tables, "find_document", lambda *a: looked.append(a[1]) or find(*a))
    data = dataset("WebVid", root, cut="2M", modalities=("vision",))
    assert looked == []
    assert data.entries[1].ocr == root / "Kwai_VideoOCR/000001_000050/1052.json"
    assert looked == ["000001_000050/1052.mp4"]
