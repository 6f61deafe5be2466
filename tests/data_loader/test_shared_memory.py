"""Loading where /dev/shm is small: fewer batches ahead, or one message; never an endless wait."""

import logging
import os
import subprocess
import sys
import types

import pytest

from data_loader import shared_memory
from data_loader.shared_memory import BATCHES_HELD, OTHERS, plan_loading
from tests.conftest import ROOT
from tests.data_loader.textvr_folder import write_textvr
from utils.errors import UserError

MIB = 2**20
FRAMES = 39 * MIB  # with the rest of the batch 40


@pytest.fixture
def room(monkeypatch):
    """Return a function: MiB -> /dev/shm has as much room."""

    def have(mib: float) -> None:
        status = types.SimpleNamespace(f_bavail=int(mib * MIB) // 4096, f_frsize=4096)
        monkeypatch.setattr(os, "statvfs", lambda folder: status)

    assert OTHERS == MIB and BATCHES_HELD == 2
    return have


@pytest.mark.parametrize(
    ("mib", "planned"),
    [(400, (4, 2)), (399, (4, 1)), (240, (4, 1)), (239, (3, 1)), (120, (1, 1))],
)
def test_as_many_batches_ahead_as_there_is_room_for(room, caplog, mib, planned):
    room(mib)
    with caplog.at_level(logging.WARNING):
        assert plan_loading(4, 2, FRAMES) == planned
    assert bool(caplog.records) == (planned != (4, 2))
    if caplog.records:
        text = caplog.text
        assert f"/dev/shm has {mib} MiB free" in text and "400 MiB" in text
        assert "--shm-size" in text and "num_workers 0" in text


def test_no_room_for_one_batch_is_one_message(room):
    room(64)  # Docker's default
    with pytest.raises(UserError) as caught:
        plan_loading(4, 2, FRAMES)
    text = str(caught.value)
    assert text.startswith("/dev/shm has 64 MiB free, but 4 loading processes with 2 batches ahead")
    assert "of 40 MiB each take 400 MiB, and one with one batch 120 MiB" in text
    assert "--shm-size" in text and "num_workers 0" in text and "\n" not in text


def test_processes_of_one_machine_share_it(room, monkeypatch):
    room(480)
    assert plan_loading(4, 2, FRAMES) == (4, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert plan_loading(4, 2, FRAMES) == (4, 1)


def test_where_there_is_no_limit_nothing_is_changed(room, monkeypatch):
    room(1)
    assert plan_loading(0, 2, FRAMES) == (0, 2)  # the main process needs none
    monkeypatch.undo()
    monkeypatch.setattr(shared_memory, "FOLDER", ROOT / "no_such_folder")
    assert plan_loading(4, 2, FRAMES) == (4, 2)


LOAD = """
import logging, sys
import data_loader.registrations
from base.base_model import ModelInput
from data_loader import shared_memory
from data_loader.datasets.text_video_dataset import LoaderVideoParams
from data_loader.loader import TextVideoDataLoader
from utils.errors import UserError

logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")


def load(side):
    try:
        loader = TextVideoDataLoader(
            "TextVR", sys.argv[1], split="test", training=False, seed=0, num_workers=2,
            batch_size=2, video_params=LoaderVideoParams(input_res=side),
            model_input=ModelInput(("vision",), sys.argv[2]),
        )
        print(side, len(list(loader)), "batches")
    except UserError as error:
        print(side, error)


load(224)
load(2000)
shared_memory.get_free_shared_memory = lambda: None  # another program fills it after the start
load(2000)
"""


def test_a_disk_in_memory_that_is_full(demo, tmp_path):
    """With a real one of 8 MB, in a mount namespace of its own."""
    folder = write_textvr(tmp_path)
    script = 'mount -t tmpfs -o size=8M tmpfs /dev/shm && exec "$@"'
    program = [sys.executable, "-c", LOAD, str(folder), str(demo / "text_model")]
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", *program],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs unshare, of util-linux")
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()[-100:]}")
    assert done.returncode == 0, done.stderr
    warning, fewer, too_large, filled = done.stdout.splitlines()
    assert warning.startswith("/dev/shm has 8 MiB free, but 2 loading processes with 2 batches")
    assert fewer == "224 2 batches"
    assert too_large.startswith("2000 /dev/shm has 8 MiB free") and "--shm-size" in too_large
    assert filled.startswith("2000 a batch finds no room in shared memory, /dev/shm (")
    assert "num_workers 0" in filled
