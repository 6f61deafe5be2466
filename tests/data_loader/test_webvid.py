import logging

import pandas
import pytest

from data_loader.datasets.annotations import AnnotationError
from data_loader.datasets.csv_tables import VAL_ROWS, TableEntries
from tests.data_loader.frozen_folders import (
    annotated,
    dataset,
    document,
    samples,
    text,
    write_annotated,
    write_webvid,
)

DOG, CAT = "000051_000100/7.mp4", "000001_000050/1052.mp4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("webvid")
    for split in ("train", "val", "test"):
        write_webvid(root, split)
    return root


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_rows_of_a_split_in_their_order(folder, caplog, split):
    data = dataset("WebVid", folder, split, cut="2M")
    assert data.annotation_file == folder / f"metadata/results_2M_{split}.csv"
    assert [(entry.id, entry.captions) for entry in data.entries] == [
        (DOG, ("a dog, running",)),
        (CAT, ("A cat",)),
    ]
    assert data.entries[0].video == folder / "videos" / DOG
    assert "1 rows have an empty field" in caplog.text
    assert all(sample.frames.any() for sample in samples(data))


def test_ids_keep_their_zeros_and_captions_their_first_350_characters(tmp_path):
    rows = f"0012,u,PT1S,000001_000050,{'x' * 400}\n"
    data = dataset("WebVid", write_webvid(tmp_path, rows=rows), "val", cut="2M")
    assert data.entries[2].id == "000001_000050/0012.mp4"
    assert data.entries[2].captions == ("x" * 350,)


def test_documents_mirror_the_pages(folder, tmp_path):
    path = document(tmp_path / "000051_000100/7.json", "Good dog")
    data = dataset("WebVid", folder, cut="2M", ocr_dir=str(tmp_path))
    dog, cat = samples(data)
    assert data.entries[0].ocr == path and dog.words == ["good", "dog"]
    assert cat.ocr_missing == str(tmp_path / "000001_000050/1052.json")


def test_rows_of_the_same_video_are_one_entry(tmp_path, caplog):
    rows = "7,v,P,000051_000100,again\n7,w,P,000051_000100,again\n7,w,P,other,no\n"
    data = dataset("WebVid", write_webvid(tmp_path, rows=rows), "val", cut="2M")
    assert [entry.id for entry in data.entries] == [DOG, CAT, "other/7.mp4"]
    assert data.entries[0].captions == ("a dog, running", "again")
    assert "2 rows name a file that an earlier row names" in caplog.text


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """1300 rows, of which row 5 is not whole."""
    root = tmp_path_factory.mktemp("long")
    rows = [f"{n},p,{'' if n == 5 else f'caption {n}'}\n" for n in range(1300)]
    for split in ("train", "val", "test"):
        text(root / f"metadata/results_2M_{split}.csv", "videoid,page_dir,name\n" + "".join(rows))
    return root


def test_validation_draws_the_published_rows_of_a_long_file(long_file, caplog):
    with caplog.at_level(logging.INFO):
        data = dataset("WebVid", long_file, "val", cut="2M")
    drawn = pandas.DataFrame({"row": range(1300)}).sample(1000, random_state=0)["row"].tolist()
    assert [entry.id for entry in data.entries] == [f"p/{n}.mp4" for n in drawn if n != 5]
    assert f"{VAL_ROWS} of its 1300 rows are drawn, as published" in caplog.text
    # What pandas draws today is what it drew then: numpy's legacy generator does not change.
    assert drawn[:5] == [579, 1014, 759, 446, 186]


@pytest.mark.parametrize("split", ["train", "test"])
def test_training_and_test_take_all_rows(long_file, split):
    assert len(dataset("WebVid", long_file, split, cut="2M")) == 1299


def test_a_share_of_the_validation_set_is_its_first_rows(long_file):
    data = dataset("WebVid", long_file, "val", cut="2M", subsample=0.1)
    assert isinstance(data.entries, TableEntries) and len(data) == 130
    assert [entry.id for entry in data.entries][4:6] == ["p/4.mp4", "p/6.mp4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such annotation file"),
        ("", "is no csv file"),
        ("videoid,name\n1,x\n", "has no column page_dir; it has videoid, name"),
        ("videoid,page_dir,name\n1,p,\n", "holds no row without an empty field"),
        ("videoid,page_dir,name\n1,p,x,y,z\n2,p\n3,p,1,2,3,4,5\n", "is no csv file"),
        ("videoid,page_dir,name\n7,p,x,more\n8,p,x,more\n", "is no csv file .Length of header"),
        ("videoid,page_dir,name,name\n7,p,x,y\n", "has two columns name; keep one"),
        (f"videoid,page_dir,name\n{'x' * 300},p,y\n", "row 1: the path 'p/xxx.* is too long"),
        ("videoid,page_dir,name\n7,a\\b,x\n", r"row 1: .* between its folders, as on Windows"),
        ("videoid,page_dir,name\n7,../..,x\n", r"'../../7.mp4' leads out of the data folder"),
        (
            "videoid,page_dir,name\n7,/etc,x\n",
            r"1 entries can't be used\n  row 1: the path '/etc/7.mp4' leads",
        ),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "metadata/results_9M_test.csv"
    if content is not None:
        text(path, content)
    with pytest.raises(AnnotationError, match=message) as caught:
        dataset("WebVid", tmp_path, cut="9M")
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text(tmp_path):
    path = text(tmp_path / "metadata/results_2M_test.csv", "")
    path.write_bytes(b"videoid,page_dir,name\n1,p,\xff\xfe\n")
    with pytest.raises(AnnotationError, match=r"2M_test.csv: is not UTF-8 text .byte 26.; save it"):
        dataset("WebVid", tmp_path, cut="2M")


def test_a_blank_caption_is_an_empty_field(tmp_path, caplog):
    data = dataset("WebVid", write_webvid(tmp_path, rows='9,u,P,p," "\n'), "val", cut="2M")
    assert len(data) == 2 and "2 rows have an empty field" in caplog.text


def test_without_a_cut_the_choices_are_told(folder):
    with pytest.raises(AnnotationError, match='cut to "2M" or "10M".*"split" for the TextVR'):
        dataset("WebVid", folder)


ENTRIES = [annotated("p/a.mp4", "train"), annotated("p/b.mp4", "val", ["of b"])]


def test_the_annotations_with_ocr(tmp_path):
    write_annotated(tmp_path, "webvid.json", ENTRIES)
    (found,) = samples(dataset("WebVid", tmp_path, cut="split"))
    assert (found.id, found.captions, found.words) == ("p/b.mp4", ["of b"], ["word1"])
    (found,) = dataset("WebVid", tmp_path, "train", cut="split").entries
    assert found.id == "p/a.mp4" and found.category == "p"


def test_a_json_file_needs_no_cut(tmp_path):
    write_annotated(tmp_path, "mine.json", ENTRIES)
    data = dataset("WebVid", tmp_path, annotation_file="mine.json")
    assert [entry.id for entry in data.entries] == ["p/b.mp4"]


def test_what_looks_like_nothing_is_a_caption(tmp_path, caplog):
    captions = ["NA", "null", "None", "nan", "#N/A", "-1.#IND", "", "1.0"]
    rows = "".join(f"{n},u,P,p,{text}\n" for n, text in enumerate(captions))
    data = dataset("WebVid", write_webvid(tmp_path, rows=rows), "val", cut="2M")
    found = [entry.captions[0] for entry in data.entries]
    assert found[2:] == [text for text in captions if text]
    assert "2 rows have an empty field and are left out: 1, 10" in caplog.text


def test_a_file_of_windows(tmp_path):
    root = write_webvid(tmp_path, "test", rows="é,u,P,./p,café\n")
    path = root / "metadata/results_2M_test.csv"
    plain = path.read_text()
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes(plain.replace("\n", "\r\n").encode(encoding))
        data = dataset("WebVid", root, cut="2M")
        assert [(entry.id, entry.captions) for entry in data.entries] == [
            (DOG, ("a dog, running",)),
            (CAT, ("A cat",)),
            ("p/é.mp4", ("café",)),
        ]


def test_a_table_finds_names_in_both_normal_forms(tmp_path):
    root = write_webvid(tmp_path, "test", rows="\u00e9,u,P,p,x\n")
    video = root / "videos/p/e\u0301.mp4"
    video.parent.mkdir()
    video.touch()
    assert dataset("WebVid", root, cut="2M").entries[2].video == video
