"""Files replaced whole, one process at a time, texts of any encoding, and where the cache is."""

import codecs
import hashlib
import inspect
import json
import multiprocessing
import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.files import (
    FileFinder,
    FileLockedError,
    FileStamp,
    TextFileError,
    atomic_write,
    get_cache_folder,
    hash_file,
    list_files,
    lock_file,
    read_text,
    remove_temporary_files,
    write_array,
    write_json,
)


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    with pytest.raises(OSError, match="no space"), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise OSError("no space")
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["a.json"]


def _enter(lock, log, barrier):
    barrier.wait()
    with lock_file(lock), open(log, "a") as file:
        file.write("in\n")
        file.flush()
        time.sleep(0.05)
        file.write("out\n")


def test_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, log = context.Barrier(3), tmp_path / "log"
    arguments = (tmp_path / "lock", log, barrier)
    processes = [context.Process(target=_enter, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert log.read_text().split() == ["in", "out"] * 3


def _enter_and_die(lock):
    with lock_file(lock):
        os._exit(7)


def test_the_lock_goes_with_the_process(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=_enter_and_die, args=(tmp_path / "lock",)
    )
    process.start()
    process.join()
    assert process.exitcode == 7
    with lock_file(tmp_path / "lock"):
        pass


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path):
    with pytest.raises(OSError), lock_file(tmp_path / "nowhere/lock"):
        pytest.fail("went in")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEXTVR_CACHE", "")
    assert get_cache_folder(None) == tmp_path / ".cache/textvr"
    monkeypatch.setenv("TEXTVR_CACHE", "$HOME/x")
    assert get_cache_folder(None) == tmp_path / "x"
    assert get_cache_folder("~/mine") == tmp_path / "mine" and get_cache_folder("b/c") == Path(
        "b/c"
    )
    assert get_cache_folder("off") is None
    monkeypatch.setenv("TEXTVR_CACHE", "off")
    assert get_cache_folder(None) is None


def test_a_user_without_a_home_folder(monkeypatch):
    with pytest.raises(UserError, match="cache_dir or the environment variable TEXTVR_CACHE"):
        get_cache_folder("~no_such_user_here/cache")


def test_what_a_killed_writer_leaves_is_removed_and_nothing_else(tmp_path):
    for name in (".a.json.123.tmp", ".b.tmp", "c.tmp", ".d.x.tmp", "e.json"):
        (tmp_path / name).touch()
    assert remove_temporary_files(tmp_path) == [".a.json.123.tmp"]
    assert len(list(tmp_path.iterdir())) == 4


def test_an_array_is_written_whole_into_a_new_folder(tmp_path):
    write_array(tmp_path / "new" / "a.npy", np.arange(3), durable=True)
    assert np.load(tmp_path / "new" / "a.npy").tolist() == [0, 1, 2]


def test_a_lock_that_is_held_is_not_waited_for_where_that_is_asked(tmp_path):
    with lock_file(tmp_path / "lock"), pytest.raises(FileLockedError):
        with lock_file(tmp_path / "lock", wait=False):
            pytest.fail("went in")


def test_a_stamp_and_a_hash_tell_that_a_file_has_changed(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    stamp, digest = FileStamp.of(file), hash_file(file)
    file.write_bytes(b"other")
    assert FileStamp.of(file) != stamp and hash_file(file) != digest
    assert digest == hashlib.sha256(b"one").hexdigest()


def test_the_files_of_a_folder_are_listed_by_one_rule(tmp_path):
    root, outside = tmp_path / "in", tmp_path / "out"
    for name in ("b.MP4", "a/c.mp4", "a/x.txt", ".hidden.mp4", ".h/d.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    outside.mkdir()
    (outside / "e.mp4").touch()
    (root / "linked").symlink_to(outside)
    (root / "f.mp4").symlink_to(outside / "e.mp4")
    (root / "a" / "loop").symlink_to(root)
    (root / "gone.mp4").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "pipe.mp4")
    listing = list_files(root, {".mp4"})
    assert listing.names == ["a/c.mp4", "b.MP4", "f.mp4", "gone.mp4", "linked/e.mp4"]
    assert listing.num_others == 1
    assert sorted(listing.link_targets) == [outside, outside / "e.mp4"]
    with pytest.raises(UserError, match="no such folder; give the folder"):
        list_files(tmp_path / "none", {".mp4"})


TEXT = 'été 影片 🔥\n["a"]\n'


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.encode("utf-8-sig"),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    ],
)
def test_a_text_is_read_by_its_byte_order_mark(content, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert read_text(path) == TEXT


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("caf\xe9".encode("cp1252"), "is not UTF-8 text (byte 3); save it as UTF-8"),
        (codecs.BOM_UTF8 + b"ab\xff", "is not UTF-8 text (byte 5); save it as UTF-8"),
        ("ab".encode("utf-16-le"), "is not UTF-8 text (byte 1 is NUL: UTF-16 without a "),
        (codecs.BOM_UTF16_LE + b"a\0b", "is not UTF-16-LE text (byte 4); save it as UTF-8"),
        (codecs.BOM_UTF16_LE + b"a\0\0\xd8", "is not UTF-16-LE text (byte 4); save it as UTF-8"),
        ("é\0".encode(), "is not UTF-8 text (byte 2 is NUL"),
    ],
)
def test_another_encoding_is_never_guessed(content, reason, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(TextFileError) as error:
        read_text(path)
    assert str(error.value).startswith(f"{path}: {reason}")
    sent = pickle.loads(pickle.dumps(error.value))  # as by a loading process
    assert (str(sent), sent.reason) == (str(error.value), error.value.reason)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_what_no_file_can_be_called(name, tmp_path):
    with pytest.raises(TextFileError, match="no file has such a name"):
        read_text(tmp_path / name)


def test_a_text_file_is_a_file_of_a_bounded_size(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(TextFileError, match="is a pipe or device; write its text to a file"):
            read_text(path)
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(TextFileError, match="is too large .3 bytes, at most 2.; give another file"):
        read_text(tmp_path / "a", max_bytes=2)
    with pytest.raises(IsADirectoryError):
        read_text(tmp_path)


COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"


def test_a_file_is_found_in_another_normal_form_of_its_name(tmp_path):
    path = tmp_path / DECOMPOSED / f"a{COMPOSED}"
    path.parent.mkdir()
    path.touch()
    finder = FileFinder()
    for name in (f"{COMPOSED}/a{DECOMPOSED}", f"{DECOMPOSED}/a{COMPOSED}"):
        assert finder.locate(tmp_path, name) == path
    for name in ("b", f"{COMPOSED}/b", f"b/{COMPOSED}", "\0", "x" * 300, "\ud800"):
        assert str(finder.locate(tmp_path, name)).endswith(name.rsplit("/")[-1])


def test_the_form_that_is_asked_for_comes_first(tmp_path):
    for name in (COMPOSED, DECOMPOSED):
        (tmp_path / name).touch()
        assert FileFinder().locate(tmp_path, name).name == name


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_of_the_system_and_hidden_ones_are_left_out_and_counted(tmp_path):
    own = ["a.mp4", "lost and found/b.mp4", "recycling/c.mp4"]
    folders = ["lost+found", ".Trash-1000", "x/@eaDir", "$RECYCLE.BIN", "System Volume Information"]
    folders += [".@__thumb", "#recycle", "x/__MACOSX"]
    touch(tmp_path, *own, *(f"{folder}/no.mp4" for folder in folders), "x/._a.mp4", ".DS_Store")
    listing = list_files(tmp_path, {".mp4"})
    assert listing.names == own
    assert sorted(listing.hidden) == sorted([*folders, "x/._a.mp4"])
    assert "9 hidden or of the system and left out (" in listing.describe_left_out()


@pytest.mark.parametrize(
    "pattern, left",
    [
        ("b", ["a/b.mp4", "c.mp4"]),  # the folder a/b, and no file whose name only begins so
        ("a/b/", ["a/b.mp4", "b/e.mp4", "c.mp4"]),
        ("a/*", ["b/e.mp4", "c.mp4"]),
        ("*.mp4", []),
        ("[bc].*", ["a/b/d.mp4", "b/e.mp4"]),
        ("C.mp4", ["a/b.mp4", "a/b/d.mp4", "b/e.mp4", "c.mp4"]),
        ("", ["a/b.mp4", "a/b/d.mp4", "b/e.mp4", "c.mp4"]),
    ],
)
def test_what_fits_a_pattern_is_left_out(tmp_path, pattern, left):
    touch(tmp_path, "a/b.mp4", "a/b/d.mp4", "b/e.mp4", "c.mp4")
    listing = list_files(tmp_path, {".mp4"}, [pattern])
    assert listing.names == left
    assert bool(listing.excluded) == (len(left) < 4)
    assert ("left out by --exclude" in (listing.describe_left_out() or "")) == (len(left) < 4)


def test_every_folder_is_listed_once_however_links_lead_to_it(tmp_path):
    """Twelve folders that link to each other: half a milliard of paths, and twelve videos."""
    names = [f"f{number:02}" for number in range(12)]
    touch(tmp_path, *(f"in/{name}/a.mp4" for name in names))
    for one in names:
        for two in names:
            (tmp_path / "in" / one / two).symlink_to(tmp_path / "in" / two)
    touch(tmp_path, "out/b.mp4")
    (tmp_path / "in/a_first").symlink_to(tmp_path / "in/f05")  # the folder's own name is kept
    (tmp_path / "out/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/up").symlink_to(tmp_path / "out")
    listing = list_files(tmp_path / "in", {".mp4"})
    assert listing.names == [*(f"{name}/a.mp4" for name in names), "up/b.mp4"]
    assert listing.link_targets == [tmp_path / "out"] and listing.num_links == 1
    assert listing.describe_left_out() == "1 link leads out of the folder and is followed"


def test_a_link_to_itself_is_an_unreadable_file(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    (tmp_path / "one.mp4").symlink_to(tmp_path / "two.mp4")
    (tmp_path / "two.mp4").symlink_to(tmp_path / "one.mp4")
    (tmp_path / "folder").symlink_to(tmp_path / "folder")
    listing = list_files(tmp_path, {".mp4"})
    assert listing.names == ["a.mp4", "one.mp4", "self.mp4", "two.mp4"]
    assert listing.link_targets == []


def test_a_tree_deeper_than_python_s_stack_is_listed(tmp_path):
    name = "d/" * 200 + "a.mp4"
    touch(tmp_path, name)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 120)
    try:
        assert list_files(tmp_path, {".mp4"}).names == [name]
    finally:
        sys.setrecursionlimit(limit)


def test_folders_that_cant_be_read_are_counted(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "shut/b.mp4", "c/shut/d.mp4", "e/f.mp4")
    scandir = os.scandir

    def refuse(path):  # root reads everything: the system's answer is put in its place
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_files(tmp_path, {".mp4"})
    assert listing.names == ["a.mp4", "e/f.mp4"]
    assert listing.unreadable == {"shut": "Permission denied", "c/shut": "Permission denied"}
    assert "2 folders can't be read (" in listing.describe_left_out()
    with pytest.raises(UserError, match=r"shut: the folder can't be read \(Permission denied\)"):
        list_files(tmp_path / "shut", {".mp4"})
