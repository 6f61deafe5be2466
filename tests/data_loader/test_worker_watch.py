"""Loading processes that hang or die: named, and the run ends."""

import ctypes
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
from utils import interrupt
from utils.checkpoint.files import load_checkpoint
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


def hang(library=ctypes.CDLL):
    """Wait without end in C, where no signal's handler runs: for a lock that is held.

    With ``ctypes.PyDLL`` no other thread of Python runs meanwhile, either.
    """
    lock = ctypes.create_string_buffer(64)
    for _ in range(2):
        library(None).pthread_mutex_lock(lock)


def test_the_main_process_that_hangs_itself_ends_and_names_the_video(
    folder, demo, monkeypatch, tmp_path
):
    broken(monkeypatch, hang)

    def load():
        os.dup2(os.open(tmp_path / "stderr", os.O_WRONLY | os.O_CREAT), 2)
        list(made(folder, demo, item_timeout=1.0, num_workers=0))

    process = multiprocessing.get_context("fork").Process(target=load)
    process.start()
    process.join(60)
    assert process.exitcode == 2
    [line] = (tmp_path / "stderr").read_text().splitlines()
    assert line.startswith(f"{folder}/Videos/Cooking/c.mp4: could not be read within 1 s")


def test_a_loading_process_that_lets_no_thread_run_is_ended_too(folder, demo, monkeypatch):
    broken(monkeypatch, lambda: hang(ctypes.PyDLL))
    with pytest.raises(UserError, match="Cooking/c.mp4: could not be read within 1 s"):
        list(made(folder, demo, item_timeout=1.0))


def train_and_hang(demo, tmp_path, monkeypatch, act, workers, then=(signal.SIGTERM,)):
    """Signal a run whose third video hangs; returns its exit code and what it said."""
    whole = TextVideoDataset.__getitem__

    def read(self, key):
        if key.epoch == 1 and self.options.training:
            (tmp_path / f"read {key.index}").touch()
            if len(list(tmp_path.glob("read *"))) > 5:
                (tmp_path / "hangs").touch()
                act()
        return whole(self, key)

    monkeypatch.setattr(TextVideoDataset, "__getitem__", read)
    loading = [f"data_loader.args.num_workers={workers}", "data_loader.args.batch_size=4"]
    argv, stderr = arguments(demo, tmp_path / "run", *loading), tmp_path / "stderr"
    process = multiprocessing.get_context("fork").Process(target=run_training, args=(argv, stderr))
    process.start()
    while not (tmp_path / "hangs").exists():
        time.sleep(0.05)
        assert process.is_alive(), stderr.read_text()
    time.sleep(1)
    for signum in then:
        os.kill(process.pid, signum)
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode, stderr.read_text()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_a_wait_for_data_and_saves(demo, tmp_path, monkeypatch, workers, signum):
    act = lambda: time.sleep(3600)  # noqa: E731
    code, said = train_and_hang(demo, tmp_path, monkeypatch, act, workers, [signum])
    assert code == 128 + signum, said
    assert "stopped and saved after step 1; go on with python train.py -r" in said
    assert load_checkpoint(tmp_path / "run" / "model_last.pth")["step"] == 1


def test_a_loading_process_that_hangs_in_c_does_not_outlive_the_run(demo, tmp_path, monkeypatch):
    act = lambda: (tmp_path / "pid").write_text(str(os.getpid())) and hang(ctypes.PyDLL)  # noqa: E731
    code, said = train_and_hang(demo, tmp_path, monkeypatch, act, 1)
    assert code == 128 + signal.SIGTERM and "stopped and saved after step" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_one_signal_ends_a_decoder_that_does_not_come_back(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupt, "STUCK_S", 1.0)
    code, said = train_and_hang(demo, tmp_path, monkeypatch, hang, 0)
    assert code == 128 + signal.SIGTERM
    assert said.endswith("stopped without saving: data was waited for in vain\n")


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
