"""Loading processes that hang or die: named, and the run ends."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from base.base_model import ModelInput
from data_loader.datasets.text_video_dataset import TextVideoDataset
from data_loader.loader import TextVideoDataLoader
from tests.data_loader.textvr_folder import write_textvr
from tests.processes import arguments, run_training
from utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_textvr(tmp_path_factory.mktemp("data"))


def made(folder, demo, **options):
    options = {"num_workers": 2, "batch_size": 2} | options
    return TextVideoDataLoader(
        "TextVR", str(folder), split="test", training=False, seed=0,
        model_input=ModelInput(("vision",), str(demo / "text_model")), **options,
    )  # fmt: skip


def broken(monkeypatch, act):
    """Let a loading process ``act`` when it reads the video Cooking/c.mp4."""
    whole = TextVideoDataset.__getitem__

    def read(self, key):
        if self.get_entry(key.index).id == "Cooking/c.mp4":
            act()
        return whole(self, key)

    monkeypatch.setattr(TextVideoDataset, "__getitem__", read)


def test_a_video_that_hangs_the_decoder_ends_the_run_and_is_named(folder, demo, monkeypatch):
    broken(monkeypatch, lambda: time.sleep(3600))
    with pytest.raises(UserError) as caught:
        list(made(folder, demo, item_timeout=1.0))
    text = str(caught.value)
    assert text.startswith(f"{folder}/Videos/Cooking/c.mp4: could not be read within 1 s")
    assert "data_loader.args.item_timeout" in text and "\n" not in text


def test_a_process_that_dies_is_named_with_what_it_read(folder, demo, monkeypatch):
    broken(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError) as caught:
        list(made(folder, demo))
    text = str(caught.value)
    assert f"while it read {folder}/Videos/Cooking/c.mp4." in text
    assert "num_workers" in text and "another video reader" in text and "\n" not in text


def read_slowly(monkeypatch):
    """Let every sample take 0.4 s of a process that runs, whatever clocks say meanwhile."""
    whole = TextVideoDataset.__getitem__

    def read(self, key):
        for _ in range(40):
            time.sleep(0.01)
        return whole(self, key)

    monkeypatch.setattr(TextVideoDataset, "__getitem__", read)


def train_in_own_group(argv, stderr):
    os.setpgrp()
    run_training(argv, stderr)


def test_a_run_that_was_suspended_goes_on(demo, tmp_path, monkeypatch):
    read_slowly(monkeypatch)
    loading = ["data_loader.args.num_workers=1", "data_loader.args.item_timeout=1.0"]
    argv, stderr = arguments(demo, tmp_path / "run", *loading), tmp_path / "stderr"
    process = multiprocessing.get_context("fork").Process(
        target=train_in_own_group, args=(argv, stderr)
    )
    process.start()
    while not (tmp_path / "run" / "train.log").exists():
        time.sleep(0.05)
        assert process.is_alive(), stderr.read_text()
    for _ in range(2):
        time.sleep(1.3)  # within a sample, of which there are 16
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(2.5)
        assert process.is_alive()
        os.killpg(process.pid, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0, stderr.read_text()
    assert (tmp_path / "run" / "model_last.pth").exists()


def test_a_loading_process_that_was_suspended_alone_goes_on(folder, demo, monkeypatch):
    read_slowly(monkeypatch)
    loader = made(folder, demo, item_timeout=1.0, num_workers=1)
    batches = iter(loader)
    next(batches)

    def suspend():
        worker = int(loader.watch.rows[0, 2])
        os.kill(worker, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(worker, signal.SIGCONT)

    thread = threading.Thread(target=suspend)
    thread.start()
    assert len(list(batches)) == 1
    thread.join()


def test_time_between_batches_does_not_count(folder, demo):
    loader = made(folder, demo, item_timeout=1.0, prefetch_factor=1)
    ids = []
    for batch in loader:
        time.sleep(1.3)
        ids += batch.ids
    assert len(ids) == 4


def test_other_errors_stay_what_they_are(folder, demo):
    loader = made(folder, demo)
    with pytest.raises(RuntimeError, match="of another kind") as caught, loader.watch.guard():
        raise RuntimeError("of another kind")
    assert not isinstance(caught.value, UserError)
