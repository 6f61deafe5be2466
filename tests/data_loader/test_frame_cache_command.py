"""Making, resuming and verifying a frame cache: ``python -m tools.cache_frames``."""

import fcntl
import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from base.batch import SampleKey
from data_loader.frame_cache import store as frame_store
from data_loader.frame_cache.store import Store
from data_loader.readers.base_reader import VideoError
from tests.conftest import ROOT
from tests.data_loader.cached_folder import arguments, dataset, overrides, run
from tests.data_loader.textvr_folder import VIDEOS, entry, write_json, write_textvr
from tests.videos import write_video
from tools import cache_frames
from utils.cli import run_cli
from utils.errors import UserError

NUM_VIDEOS = 16


@pytest.fixture
def texts(demo, tmp_path):
    return overrides(demo, write_textvr(tmp_path / "data"))


@pytest.fixture
def one_video_a_shard(monkeypatch):
    monkeypatch.setattr(cache_frames, "SHARD_BYTES", 1)


def store_of(out, use="test"):
    (folder,) = out.glob(f"TextVR-{use}-*")
    return Store(folder)


def content(store):
    """What a store holds, wherever it is kept: name -> stamp, candidates, bytes of the frames."""
    found = {}
    for name, held in store.read_videos().items():
        data = store.data_path(held.shard).read_bytes()[held.offsets[0] : held.offsets[-1]]
        found[name] = (held.stamp, held.candidates.tolist(), data)
    return found


def test_the_command_reads_its_folder_from_the_configuration(texts, tmp_path):
    out = tmp_path / "cache"
    argv = arguments([*texts, f"data_loader.args.frame_cache={out}"], "--workers", "2")[1:]
    done = subprocess.run(
        [sys.executable, "-m", "data_loader.frame_cache", *argv],  # the old spelling
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    new = "python -m data_loader.frame_cache is now python -m tools.cache_frames"
    assert new in done.stderr.splitlines()
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("4 of 4 videos, 4 of them read now" in line for line in lines)
    names = {"TextVR-train-69x69-2f", "TextVR-test-64x64-2f"}
    assert {path.name for path in out.iterdir()} == names
    with pytest.raises(UserError, match="Set data_loader.args.frame_cache to a folder, or give"):
        run(texts)


def test_what_is_there_is_not_made_again(texts, tmp_path, capsys):
    out = tmp_path / "cache"
    assert run(texts, "--out", str(out)) == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.bin")}
    capsys.readouterr()
    assert run(texts, "--out", str(out), "--split", "train", "test") == 0
    assert capsys.readouterr().out.count("4 of 4 videos, 0 of them read now") == 2
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*.bin")} == before


def test_changed_and_new_videos_are_added(texts, tmp_path, capsys):
    out, folder = tmp_path / "cache", tmp_path / "data"
    assert run(texts, "--out", str(out), "--split", "val") == 0
    write_video(folder / "Videos/Sports/d.mp4", 22)
    write_video(folder / "Videos/Sports/new.mp4", 9)
    names = [*VIDEOS, "Sports/new.mp4"]
    write_json(folder / "TextVR_test.json", [entry(name, ["a"]) for name in names])
    capsys.readouterr()
    assert run(texts, "--out", str(out), "--split", "val") == 0
    assert "5 of 5 videos, 2 of them read now" in capsys.readouterr().out
    plain, cached = dataset(texts, None), dataset(texts, out)
    for index in range(5):
        key = SampleKey(1, index)
        assert cached[key].frames.equal(plain[key].frames)


def test_videos_that_can_not_be_read_are_listed_and_the_others_kept(texts, tmp_path, capsys):
    out, folder = tmp_path / "cache", tmp_path / "data"
    bad, gone = folder / "Videos/Sports/a.mp4", folder / "Videos/Cooking/c.mp4"
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    gone.unlink()
    for _ in range(2):  # also where nothing is left to be done
        assert run(texts, "--out", str(out), "--split", "val") == 1
        said = capsys.readouterr().out
        assert "2 of 4 videos" in said
        assert f"can't be read: {bad}: is cut short" in said and f"{gone}: is missing" in said
    data = dataset(texts, out)
    plain = dataset(texts, None)
    for index, reason in ((0, "is cut short"), (2, "is missing")):
        with pytest.raises(VideoError, match=f"{reason}.* --split test") as caught:
            data[SampleKey(1, index)]
        with pytest.raises(VideoError) as from_video:
            plain[SampleKey(1, index)]
        assert (caught.value.path, caught.value.reason) == (
            (from_video.value.path, from_video.value.reason)
        )
    lax = dataset([*texts, "data_loader.args.video_params.loading=lax"], out)
    assert lax[SampleKey(1, 0)].unreadable.path == str(bad)
    assert lax[SampleKey(1, 1)].frames.equal(plain[SampleKey(1, 1)].frames)
    bad.write_bytes(good)
    write_video(gone, 1)
    assert run(texts, "--out", str(out), "--split", "val") == 0


@pytest.mark.parametrize("damage", ["data", "cut", "index", "not json", "no data"])
def test_damaged_shards_are_named_and_mended(damage, texts, tmp_path, capsys, one_video_a_shard):
    out = tmp_path / "cache"
    assert run(texts, "--out", str(out), "--split", "val") == 0
    assert run(texts, "--out", str(out), "--split", "val", "--verify") == 0
    store = store_of(out)
    data, index = store.data_path(2), store.index_path(2)
    before = content(store)
    named = index if damage in ("index", "not json") else data
    if damage == "data":
        changed = bytearray(data.read_bytes())
        changed[1000] ^= 1
        data.write_bytes(changed)
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "index":
        index.write_text(index.read_text().replace('"video": [', '"video": [1', 1))
    elif damage == "not json":
        index.write_text(index.read_text()[:-20])
    else:
        data.unlink()
    capsys.readouterr()
    assert run(texts, "--out", str(out), "--split", "val", "--verify") == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith(f"{named}: ") and f"{index.stem}.*" in said[0]
    assert said[1].endswith("1 of 4 shards are damaged")
    if damage != "data":  # seen without reading everything, too
        with pytest.raises(UserError, match=f"{named}.*delete .*run the command"):
            dataset(texts, out)
    for path in store.folder.glob(f"{index.stem}.*"):  # the remedy
        path.unlink()
    assert run(texts, "--out", str(out), "--split", "val") == 0
    assert run(texts, "--out", str(out), "--split", "val", "--verify") == 0
    assert content(store) == before


def test_other_options_on_the_same_frames_are_refused(texts, tmp_path):
    out = tmp_path / "cache"
    assert run(texts, "--out", str(out)) == 0
    for options in (("--format", "jpeg"), ("--size", "40"), ("--candidates", "4")):
        with pytest.raises(UserError, match="keeps its frames as raw, 4 cand.*or delete this one"):
            run(texts, "--out", str(out), "--split", "train", *options)
    with pytest.raises(UserError, match="--candidates 5 is no multiple of num_frames, 2"):
        run(texts, "--out", str(tmp_path / "other"), "--candidates", "5")
    manifest = store_of(out).folder / "cache.json"
    manifest.write_text("{}")
    with pytest.raises(UserError, match=f"{manifest}: is damaged; delete"):
        dataset(texts, out)


def test_only_one_command_makes_a_cache(texts, tmp_path, monkeypatch):
    out = tmp_path / "cache"
    assert run(texts, "--out", str(out), "--split", "val") == 0
    monkeypatch.setattr(frame_store, "_WAIT_S", 0.3)
    with (store_of(out).folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another command is making this cache"):
            run(texts, "--out", str(out), "--split", "val")
    assert run(texts, "--out", str(out), "--split", "val") == 0


def test_what_no_cache_can_be_made_of_is_refused(texts, demo, tmp_path):
    with pytest.raises(UserError, match="its model uses no frames"):
        run([*texts, 'arch.args.modalities=["ocr"]'], "--out", str(tmp_path / "cache"))
    images = ["data_loader.args.dataset_name=ImageDirectory"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    with pytest.raises(UserError, match="ImageDirectory: reads images"):
        run(overrides(demo, tmp_path / "images", *images), "--out", "x", "--split", "test")
    for number in ("1", "-1"):
        with pytest.raises(UserError, match=f"--loader {number}: .* has the loaders 0 to 0"):
            run(texts, "--out", str(tmp_path / "cache"), "--loader", number)
    with pytest.raises(UserError, match="no such frame cache; run the command without --verify"):
        run(texts, "--out", str(tmp_path / "cache"), "--verify")


def _process(argv, stderr):
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.setpgrp()
    sys.argv = argv
    run_cli(cache_frames.main)


def _started(argv, stderr):
    process = multiprocessing.get_context("fork").Process(target=_process, args=(argv, stderr))
    process.start()
    return process


@pytest.fixture(scope="module")
def whole(demo, tmp_path_factory):
    """A configuration of many videos, and the folder of their cache."""
    folder = write_textvr(tmp_path_factory.mktemp("data"))
    names = [f"Sports/v{number}.mp4" for number in range(NUM_VIDEOS)]
    for name in names:
        write_video(folder / "Videos" / name, 120, 192, 144)
    write_json(folder / "TextVR_test.json", [entry(name, ["a"]) for name in names])
    texts, out = overrides(demo, folder), folder / "whole"
    assert run(texts, "--out", str(out), "--split", "val") == 0
    return texts, out


def test_killed_at_any_moment_and_run_again(whole, tmp_path, one_video_a_shard):
    """The first process is killed: its two workers end, too, and what they had made is kept."""
    (texts, expected), out, stderr = whole, tmp_path / "cache", tmp_path / "stderr"
    argv = arguments(texts, "--out", str(out), "--split", "val")
    argv[argv.index("--workers") + 1] = "2"
    process = _started(argv, stderr)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*/0*.json"))) < 3:
        assert process.is_alive() and time.monotonic() < deadline, stderr.read_text()
        time.sleep(0.0005)
    process.kill()
    process.join()
    store = store_of(out)
    assert 0 < len(store.read_videos()) < NUM_VIDEOS  # readable at once, and not whole
    (store.folder / ".00099.bin.1.tmp").write_bytes(b"half")
    store.data_path(99).write_bytes(b"its index was not written")
    resumed = _started(argv, stderr)
    resumed.join(60)
    assert resumed.exitcode == 0, stderr.read_text()
    assert content(store) == content(store_of(expected)) and len(content(store)) == NUM_VIDEOS
    assert list(store.folder.glob(".*.tmp")) == []
    assert len(store.list_shards()) == NUM_VIDEOS  # none was made twice
    assert not store.data_path(99).exists()
    cached, plain = dataset(texts, out), dataset(texts, None)
    for index in range(0, NUM_VIDEOS, 5):
        found = cached[SampleKey(1, index)].frames
        np.testing.assert_array_equal(found, plain[SampleKey(1, index)].frames)
