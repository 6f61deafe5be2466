"""OCR words read from a URL: the same words as from the documents, which need not be there."""

import pickle
import shutil

import pytest

from base.batch import SampleKey
from data_loader.ocr.ocr_reader import OcrReader, export_stores
from parse_config import load_config
from tests.data_loader.cached_folder import CONFIG, overrides
from tests.data_loader.ocr_documents import RULES, reader, write_odd
from tests.data_loader.textvr_folder import DOCUMENTS, change_json, write_textvr
from tests.range_server import serve_folder
from tools import cache_words
from trainer.build import build_dataset
from utils import remote_files
from utils.errors import UserError

pytest.importorskip("aiohttp")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(remote_files, "PAUSES_S", (0.01, 0.01))


@pytest.fixture
def texts(demo, tmp_path):
    folder = write_textvr(tmp_path / "data")
    return overrides(demo, folder, 'arch.args.modalities=["vision", "ocr"]')


@pytest.fixture
def server(texts, tmp_path, run_main):
    """A server of the words that the command wrote; ``bin`` is what the server can spoil."""
    changes = [part for text in texts for part in ("--set", text)]
    code, said, _ = run_main(cache_words, "-c", CONFIG, *changes, "--out", tmp_path / "words")
    assert (code, said) == (0, f"{tmp_path / 'words'}: the words of 4 OCR documents\n")
    with serve_folder(tmp_path / "words", spoilt=".safetensors") as running:
        yield running


def make_dataset(texts, cache_dir, training=False):
    """The data set of a configuration, prepared as its loader does it."""
    split = {} if training else {"split": "test"}
    data = build_dataset(load_config(CONFIG, texts), 0, training=training, **split)
    data.prepare(cache_dir)
    return data


def read(data):
    return [data[SampleKey(1, index)] for index in range(len(data))]


def assert_equal_words(some, others):
    for one, other in zip(some, others, strict=True):
        assert (one.words, one.ocr_skipped) == (other.words, other.ocr_skipped)
        assert one.tracks.tobytes() == other.tracks.tobytes()


@pytest.mark.parametrize("training", [False, True])
def test_words_and_digests_are_those_of_the_documents_without_them(
    training, texts, tmp_path, server
):
    local = make_dataset(texts, tmp_path / "cache", training)
    expected, content = read(local), local.describe_content()
    flags = local.needs_reading()
    assert [len(sample.words) for sample in expected] == [3, 2, 0, 1] and any(flags) is False
    shutil.rmtree(tmp_path / "data/Kwai_VideoOCR")
    remote = make_dataset(texts, server.url, training)
    assert_equal_words(read(remote), expected)
    assert remote.describe_content() == content  # a run goes on with either
    assert remote.needs_reading() == flags


def test_a_document_that_is_here_and_differs_comes_first(texts, tmp_path, server):
    document = tmp_path / "data/Kwai_VideoOCR" / DOCUMENTS["Sports/a.mp4"]
    content = document.read_text()
    document.write_text(content + " ")  # another stamp and another digest
    change_json(document, lambda value: value["0"].update(text="other words"))
    remote = make_dataset(texts, server.url)
    assert remote.get_words(0) == ["other", "words"]
    document.write_text(content)  # another time of change alone
    remote = make_dataset(texts, server.url)
    document.unlink()
    assert remote.get_words(0) == ["sale", "now", "open"]


@pytest.mark.parametrize("params", RULES)
def test_odd_documents_are_the_same_to_the_bit(params, tmp_path):
    paths = write_odd(tmp_path / "ocr")
    plain = reader(paths, None, params)
    expected = [plain.read(index) for index in range(len(paths))]
    export_stores([plain], tmp_path / "words")
    shutil.rmtree(tmp_path / "ocr")
    with serve_folder(tmp_path / "words") as server:
        remote = OcrReader(plain.entries, params, tmp_path / "ocr", server.url)
        remote.open_store()
        for found in (remote, pickle.loads(pickle.dumps(remote))):  # to a spawned process
            for index, wanted in enumerate(expected):
                one = found.read(index)
                assert (one.words, one.num_skipped) == (wanted.words, wanted.num_skipped)
                assert one.tracks.tobytes() == wanted.tracks.tobytes()


@pytest.mark.parametrize("fault", ["short", "drop", "error", "flip"])
def test_a_fault_is_tried_again_and_never_read_as_words(fault, texts, server):
    data = make_dataset(texts, server.url)
    server.fault, server.num_faults = fault, 1
    assert data.get_words(0) == ["sale", "now", "open"]
    server.num_faults = None
    with pytest.raises(UserError, match=r"words of News_Movie/b.mp4 can't be read in 3 tries \("):
        data.get_words(1)
    with pytest.raises(UserError, match="words-.*safetensors: (can't be read|is no)"):
        make_dataset(texts, server.url)


def test_other_rules_and_files_of_another_kind_are_refused(texts, server):
    with pytest.raises(UserError, match="holds no OCR words of these ocr_params .*tools.cache_wor"):
        make_dataset([*texts, "data_loader.args.ocr_params.min_length=1"], server.url)
    for path in server.folder.iterdir():
        path.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="is no store of OCR words .*a header of"):
        make_dataset(texts, server.url)
