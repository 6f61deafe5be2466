"""The store of OCR words: the same words as from the documents, and when these are read again."""

import json
import multiprocessing
import os
import pickle
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_loader.ocr import ocr_reader
from data_loader.ocr.ocr_words import read_ocr_words
from tests.data_loader.ocr_documents import (
    RULES,
    aged,
    reader,
    same_bits,
    words,
    write,
    write_odd,
)
from utils.errors import UserError


@pytest.fixture
def parsed(monkeypatch):
    """The names of the documents that were parsed since it was last cleared."""
    names = []

    def noting(path, params):
        names.append(Path(path).name)
        return read_ocr_words(path, params)

    monkeypatch.setattr(ocr_reader, "read_ocr_words", noting)
    return names


@pytest.fixture
def three(tmp_path):
    return [write(tmp_path / f"ocr/{name}.json", f"word {name}{name}{name}") for name in "abc"]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "made/cache"


def stores(cache):
    return sorted(path.name for path in cache.glob("*.safetensors"))


@pytest.mark.parametrize("params", RULES)
def test_words_from_the_store_are_those_of_the_documents_to_the_bit(tmp_path, cache, params):
    paths = write_odd(tmp_path / "ocr")
    paths += paths[3:5]  # entries may share a document
    plain = reader(paths, None, params)
    assert sum(map(len, words(plain))) > 5
    for _ in ("made", "found"):
        stored = reader(paths, cache, params)
        assert same_bits(plain, stored)
        assert (stored._rows >= 0).all() and stored._rows[3] == stored._rows[-2]


def test_each_set_of_rules_has_its_own_store(cache, three):
    for number, params in enumerate(RULES, 1):
        reader(three, cache, params)
        assert len(stores(cache)) == number
    by_document, by_time = (reader(three, cache, RULES[place]).read(0) for place in (0, -1))
    assert by_document.tracks[0, :2].tolist() == [3, 0] == by_time.tracks[0, 1::-1].tolist()


def test_a_second_opening_parses_nothing(three, cache, parsed):
    reader(three, cache)
    assert parsed == ["a.json", "b.json", "c.json"]
    parsed.clear()
    written = (cache / stores(cache)[0]).stat().st_mtime_ns
    assert words(reader(three, cache)) == [["word", name * 3] for name in "abc"] and parsed == []
    assert (cache / stores(cache)[0]).stat().st_mtime_ns == written


def test_only_a_changed_document_is_parsed_again(three, cache, parsed):
    reader(three, cache)
    parsed.clear()
    write(three[1], "another one", age_s=30)
    found = reader(three, cache)
    assert parsed == ["b.json"]
    assert words(found) == [["word", "aaa"], ["another", "one"], ["word", "ccc"]]
    parsed.clear()
    reader(three, cache)
    assert parsed == []


def test_a_touched_document_is_compared_and_not_parsed(three, cache, parsed):
    reader(three, cache)
    parsed.clear()
    os.utime(three[0], (1, 1))
    assert words(reader(three, cache))[0] == ["word", "aaa"] and parsed == []
    written = (cache / stores(cache)[0]).stat().st_mtime_ns
    reader(three, cache)
    assert (cache / stores(cache)[0]).stat().st_mtime_ns == written


def test_a_change_within_the_clocks_tick_is_seen(tmp_path, cache):
    path = write(tmp_path / "ocr/a.json", "early", age_s=0)
    before = path.stat()
    assert words(reader([path], cache)) == [["early"]]
    write(path, "later", age_s=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert words(reader([path], cache)) == [["later"]]


def test_documents_that_appear_and_disappear(tmp_path, three, cache, parsed):
    new = tmp_path / "ocr/d.json"
    paths = [*three, new, None]
    assert words(reader(paths, cache))[3:] == [None, None]
    write(new, "here now")
    parsed.clear()
    assert words(reader(paths, cache))[3:] == [["here", "now"], None] and parsed == ["d.json"]
    three[0].unlink()
    parsed.clear()
    found = reader(paths, cache)
    assert parsed == [] and str(three[0]) not in found._store.rows
    assert words(found) == [None, ["word", "bbb"], ["word", "ccc"], ["here", "now"], None]


def test_another_split_keeps_the_words_of_the_first(three, cache, parsed):
    reader(three[:2], cache)
    reader(three[2:], cache)
    assert parsed == ["a.json", "b.json", "c.json"] and len(stores(cache)) == 1
    parsed.clear()
    assert len(words(reader(three, cache))) == 3 and parsed == []
    three[2].unlink()
    write(three[0], "other")
    assert list(reader(three[:2], cache)._store.rows) == [str(three[1]), str(three[0])]


@pytest.mark.parametrize("content", ["{not json", "[]", '{"7": {"text": 1}}', '{"7": 5}'])
def test_a_broken_document_is_said_when_it_is_read(three, cache, content):
    aged(three[1], content)
    for _ in ("made", "found"):
        found = reader(three, cache)
        with pytest.raises(UserError) as caught:
            found.read(1)
        with pytest.raises(UserError) as plain:
            read_ocr_words(three[1], RULES[0])
        assert str(caught.value) == str(plain.value) and str(three[1]) in str(caught.value)
        assert found.read(0).words == ["word", "aaa"] and found.read(2).words == ["word", "ccc"]
    write(three[1], "mended")
    assert words(reader(three, cache))[1] == ["mended"]


def test_where_there_are_no_documents_nothing_is_written(tmp_path, cache):
    assert words(reader([tmp_path / "no/a.json", None], cache)) == [None, None]
    assert not cache.parent.exists()


def damaged(path, how):
    content = bytearray(path.read_bytes())
    if how == "empty":
        content = b""
    elif how == "cut":
        content = content[:-9]
    elif how == "other":
        content = b"no store at all" * 99
    elif how == "zeros":
        content = bytes(len(content))
    else:
        content[how] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["empty", "cut", "other", "zeros", 0, 9, 40, 300, -1, -40, -200])
def test_a_damaged_store_is_made_anew_and_said(tmp_path, cache, how, caplog):
    paths = write_odd(tmp_path / "ocr")
    reader(paths, cache)
    path = cache / stores(cache)[0]
    good = path.read_bytes()
    damaged(path, how)
    assert same_bits(reader(paths, cache), reader(paths, None))
    assert caplog.text.count("is damaged") == 1 and str(path) in caplog.text
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, three, caplog):
    blocked = tmp_path / "file"
    blocked.touch()
    for _ in ("training", "test"):
        assert same_bits(reader(three, blocked / "cache"), reader(three, None))
    assert caplog.text.count("can't be kept there (Not a directory)") == 1
    assert str(blocked / "cache") in caplog.text and "cache_dir" in caplog.text


@contextmanager
def full_disk():
    """Let no file grow past 100 bytes; pytest writes its own only after that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_an_older_store_serves_what_has_not_changed(
    three, cache, parsed, monkeypatch
):
    warnings = []
    monkeypatch.setattr(ocr_reader, "warn_once", warnings.append)  # no file for the log, either
    reader(three, cache)
    write(three[2], "new")
    with full_disk():
        found = reader(three, cache)
        parsed.clear()
        read = words(found)
    assert read == [["word", "aaa"], ["word", "bbb"], ["new"]] and parsed == ["c.json"]
    assert len(warnings) == 1 and "File too large" in warnings[0] and str(cache) in warnings[0]
    assert not list(cache.glob(".*"))  # nothing half-written is left


def test_many_documents_are_read_by_several_processes(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(ocr_reader, "_BYTES_A_PROCESS", 1)
    monkeypatch.setattr(ocr_reader, "count_cpus", lambda: 2)
    monkeypatch.setattr(ocr_reader, "read_ocr_words", _noting_process(tmp_path / "log"))
    paths = write_odd(tmp_path / "ocr", 40)
    aged(paths[7], "{")
    found = reader(paths, cache)
    processes = {line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}
    assert str(os.getpid()) not in processes and len(processes) in (1, 2)
    assert found._rows[7] == -1
    aged(paths[7], "{}")
    assert same_bits(reader(paths, cache), reader(paths, None))


def _noting_process(log):
    def noting(path, params):
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {path}\n")
        return read_ocr_words(path, params)

    return noting


def test_processes_that_open_at_once_parse_each_document_once(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(ocr_reader, "read_ocr_words", _noting_process(tmp_path / "log"))
    paths = write_odd(tmp_path / "ocr", 30)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)

    def open_and_compare(name):
        barrier.wait()
        found = reader(paths, cache)
        monkeypatch.undo()
        good = same_bits(found, reader(paths, None))
        (tmp_path / name).write_text(json.dumps(good))

    started = [context.Process(target=open_and_compare, args=(f"{n}",)) for n in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [(tmp_path / f"{n}").read_text() for n in range(4)] == ["true"] * 4
    read = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(read) == sorted(map(str, paths))


def test_the_store_is_mapped_and_not_copied(three, cache):
    found = reader(three, cache)
    store = found._store
    assert str(store.path) in Path("/proc/self/maps").read_text()
    assert not store._tracks.flags.owndata and not store._tracks.flags.writeable
    assert found.read(0).tracks.flags.writeable  # its own


def test_a_process_that_is_not_forked_maps_the_same_store(three, cache, parsed):
    sent = pickle.dumps(reader(three, cache))
    parsed.clear()
    assert words(pickle.loads(sent)) == [["word", name * 3] for name in "abc"] and parsed == []
    write(three[0], "other")
    reader([three[2], three[0]], cache)  # rewritten: its rows may be others
    parsed.clear()
    assert words(pickle.loads(sent)) == [["other"], ["word", "bbb"], ["word", "ccc"]]
    assert parsed == ["a.json", "b.json", "c.json"]
    assert words(pickle.loads(pickle.dumps(reader(three, None))))[0] == ["other"]
