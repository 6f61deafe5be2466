import pytest

from tests.data_loader.frozen_folders import (
    dataset,
    document,
    pickled,
    samples,
    text,
    write_lsmdc,
)
from utils.errors import UserError

FILM, OTHER = "1001_Film_00.01", "0002_Other_00.07"
CAPTIONS = "structured-symlinks/raw-captions.pkl"


@pytest.fixture
def folder(tmp_path):
    return write_lsmdc(tmp_path)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_clips_in_the_order_of_the_list(folder, split):
    data = dataset("LSMDC", folder, split, reader="av")
    assert data.annotation_file == folder / f"structured-symlinks/{split}_list.txt"
    assert [(entry.id, entry.captions) for entry in data.entries] == [
        (FILM, ("SOMEONE smiles .",)),
        (OTHER, ("He runs",)),
    ]
    assert data.entries[0].video == folder / f"videos/1001_Film/{FILM}.avi"
    assert all(sample.frames.any() for sample in samples(data))


def test_documents_mirror_the_films(folder):
    document(folder / f"Kwai_VideoOCR/0002_Other/{OTHER}.json", "The END")
    film, other = samples(dataset("LSMDC", folder, reader="av"))
    assert other.words == ["the", "end"] and film.ocr_missing.endswith(f"1001_Film/{FILM}.json")


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({FILM: [["a"]]}, f"{OTHER}: has 0 captions"),
        ({FILM: [["a"]], OTHER: [None, [" "]]}, f"{OTHER}: has 0 captions"),
        ({FILM: [["a"], ["b"]], OTHER: [["a"]]}, f"{FILM}: has 2 captions in raw-captions.pkl"),
        (["a"], "raw-captions.pkl: must hold a dict"),
    ],
)
def test_a_clip_has_one_caption(folder, captions, message):
    pickled(folder / CAPTIONS, captions)
    with pytest.raises(UserError, match=message):
        dataset("LSMDC", folder)


@pytest.mark.parametrize(
    ("tars", "message"),
    [
        (
            f"x/1001_Film/{FILM}.tar\n",
            f"1 entries can't be used\n  {OTHER}: is not in frame_tar_list",
        ),
        (
            f"f/{OTHER}.tar\n../{FILM}.tar",
            f"{FILM}: the path '../{FILM}.avi' leads out of the data folder",
        ),
        (
            "alone.tar\n",
            "frame_tar_list.txt: 1 entries can.*\n.*'alone.tar' does not end in FILM/ID",
        ),
    ],
)
def test_a_clip_has_a_film(folder, tars, message):
    text(folder / "frame_tar_list.txt", tars)
    with pytest.raises(UserError, match=message):
        dataset("LSMDC", folder)


@pytest.mark.parametrize(
    "name", ["frame_tar_list.txt", CAPTIONS, "structured-symlinks/test_list.txt"]
)
def test_a_missing_or_damaged_file_is_named(folder, name):
    (folder / name).write_bytes(b"\x80\xff")
    with pytest.raises(UserError) as caught:
        dataset("LSMDC", folder)
    assert str(folder / name) in str(caught.value)
    (folder / name).unlink()
    with pytest.raises(UserError) as caught:
        dataset("LSMDC", folder)
    assert str(folder / name) in str(caught.value)
