"""Loaders with a store of OCR words give what they give without one."""

import logging
import os
import shutil

import pytest

from base.batch import SampleKey
from data_loader.ocr import ocr_reader
from data_loader.ocr.ocr_words import read_ocr_words
from tests.data_loader.frozen_folders import document, loader, write_webvid
from tests.data_loader.test_loader import epoch_of, same
from tests.data_loader.test_loader import loader as textvr_loader
from tests.data_loader.textvr_folder import VIDEOS, write_textvr
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return write_textvr(tmp_path / "data")


@pytest.fixture
def read_once(monkeypatch):
    """Fail where a document is read by the same rules again."""
    seen = set()

    def read(path, params):
        key = os.path.abspath(path), params.model_dump_json()
        assert key not in seen, f"{path} is read again"
        seen.add(key)
        return read_ocr_words(path, params)

    monkeypatch.setattr(ocr_reader, "read_ocr_words", read)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_the_same_from_the_store(folder, tmp_path, training, num_workers, request):
    cache = str(tmp_path / "cache")
    options = {"training": training, "num_workers": num_workers, "sliding_window_stride": 2}
    plain = epoch_of(textvr_loader(folder, cache_dir="off", **options), 1)
    request.getfixturevalue("read_once")
    for _ in ("made", "found"):
        stored = epoch_of(textvr_loader(folder, cache_dir=cache, **options), 1)
        assert len(stored) == len(plain) and stored[0].words.mask.any()
        assert all(same(*pair) for pair in zip(plain, stored, strict=True))
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1


def test_what_is_missing_or_skipped_is_reported_from_the_store_as_well(folder, tmp_path):
    (folder / "Kwai_VideoOCR/Sports/a.json").unlink()
    lost = '{"0": {"text": "word", "score": 1, "tracks": {}}}'
    (folder / "Kwai_VideoOCR/Sports/d.json").write_text(lost)
    reports = []
    for cache in ("off", str(tmp_path / "cache")):
        batches = epoch_of(textvr_loader(folder, training=False, cache_dir=cache), 1)
        missing = [path for batch in batches for path in batch.ocr_missing]
        reports.append((missing, [batch.ocr_skipped for batch in batches]))
    assert reports[0] == reports[1]
    assert reports[0] == ([str(folder / "Kwai_VideoOCR/Sports/a.json")], [{}, {list(VIDEOS)[3]: 1}])


def test_words_of_a_video_and_captions_that_need_reading(folder, tmp_path, read_once):
    data = textvr_loader(folder, training=False, cache_dir=str(tmp_path / "cache")).dataset
    words = [data.get_words(number) for number in range(len(data.entries))]
    assert words == [["sale", "now", "open"], ["open", "breaking"], [], ["goal"]]
    assert words[0] == data[SampleKey(0, 0)].words
    assert data.needs_reading() == [False] * 4
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2  # of every word


def test_what_needs_no_words_and_what_only_looks_makes_no_store(folder, tmp_path):
    cache = tmp_path / "cache"
    textvr_loader(folder, cache_dir=str(cache), modalities=("vision",))
    textvr_loader(folder, cache_dir=str(cache), only_dataset=True)
    with pytest.raises(UserError, match="tokenizer"):  # said before documents are read
        textvr_loader(folder, cache_dir=str(cache), tokenizer_name=str(folder))
    assert not cache.exists()


def test_the_environment_names_the_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTVR_CACHE", str(tmp_path / "own"))
    textvr_loader(folder)
    assert list((tmp_path / "own").glob("*.safetensors"))


def test_tables_have_a_store_too(tmp_path, monkeypatch, caplog):
    root = write_webvid(tmp_path / "data", "test")
    document(root / "Kwai_VideoOCR/000051_000100/7.json", "Mirrored")
    caplog.set_level(logging.INFO)
    options = {"cut": "2M", "cache_dir": str(tmp_path / "cache")}
    loader("WebVid", root, **options)
    assert "keeps the words of 1 OCR documents" in caplog.text
    shutil.rmtree(root / "videos")
    monkeypatch.setattr(ocr_reader, "read_ocr_words", lambda *_: pytest.fail("read again"))
    opened = loader("WebVid", root, modalities=("ocr",), **options)
    assert opened.dataset.get_words(0) == ["mirrored"]
