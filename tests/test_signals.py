"""SIGTERM and SIGINT to real processes: finish the step, save, end; a second one ends at once."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.processes import arguments, finish, start
from tests.test_distributed_run import TORCHRUN, environment
from tests.trainer.test_resume import differences
from tests.trainer.test_resume_steps import metrics
from utils.checkpoint.files import load_checkpoint
from utils.interrupt import SAME_S

LONG = ["trainer.epochs=40", "trainer.save_period=1000", "data_loader.args.batch_size=4"]
LAUNCH = "import sys; from utils.launch import launch; sys.exit(launch(sys.argv[1:], 2))"


def wait_for(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def epochs_done(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


PROGRESS = r"samples/s|batch/s|\?batch|\ds/ ?(batch|samples)"  # fast bars, new ones, slow ones


def said(stderr: Path) -> list[str]:
    """The lines of standard error but for progress bars and those of torchrun."""
    lines = stderr.read_text().replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip() and not re.search(PROGRESS, line)]


@pytest.fixture(scope="module")
def undisturbed(demo, dropout_text_model, tmp_path_factory):
    """Return a function: changes -> the folder of a run that was never touched."""
    done = {}

    def run(*changes: str) -> Path:
        if changes not in done:
            folder = tmp_path_factory.mktemp("whole") / "run"
            text = f"arch.args.text_params.model={dropout_text_model}"
            assert finish(arguments(demo, folder, *LONG, text, *changes), folder.parent / "e") == 0
            done[changes] = folder
        return done[changes]

    return run


def check_equal(whole: Path, folder: Path) -> None:
    states = [load_checkpoint(f / "model_last.pth") for f in (whole, folder)]
    assert differences(*states) == [] and states[0]["epoch"] == 40
    assert metrics(whole) == metrics(folder)


@pytest.mark.parametrize(
    ("signum", "workers", "epoch"),
    [
        (signal.SIGTERM, 0, 3),
        pytest.param(signal.SIGINT, 0, 5, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, 2, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_gone_on_with(
    signum, workers, epoch, undisturbed, demo, dropout_text_model, tmp_path
):
    change = f"data_loader.args.num_workers={workers}"
    text = f"arch.args.text_params.model={dropout_text_model}"
    folder, stderr = tmp_path / "run", tmp_path / "stderr"
    argv = arguments(demo, folder, *LONG, text, change)
    process = start(argv, stderr)
    wait_for(lambda: epochs_done(folder) >= epoch)
    os.kill(process.pid, signum)
    process.join(30)
    assert process.exitcode == 128 + signum
    [line] = said(stderr)
    assert re.fullmatch(
        rf"stopped and saved after step \d+; go on with python train.py -r {folder}/model_last.pth",
        line,
    )
    step = load_checkpoint(folder / "model_last.pth")["step"]
    assert f"after step {step};" in line and 2 * epoch <= step < 80
    assert finish(argv, stderr) == 0
    check_equal(undisturbed(change), folder)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(signum, demo, tmp_path):
    """Even where the main thread does not listen: it waits for a video for an hour."""
    code = (
        "import sys, time, threading\n"
        "from utils.interrupt import StopSignals\n"
        "with StopSignals() as signals:\n"
        "    print('ready', flush=True)\n"
        "    lock = threading.Lock(); lock.acquire()\n"
        "    lock.acquire()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signum)
    time.sleep(SAME_S / 4)
    process.send_signal(signum)  # the same one, sent by two
    time.sleep(SAME_S)
    assert process.poll() is None
    process.send_signal(signum)
    assert process.wait(5) == 128 + signum
    assert process.stderr.read() == b"stopped at once, without saving\n"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["torchrun", "launch"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_with_loading_ones(by, signum, demo, dropout_text_model, tmp_path):
    text = f"arch.args.text_params.model={dropout_text_model}"
    changes = [*LONG, text, "data_loader.args.num_workers=2"]
    first = [*TORCHRUN, "2"] if by == "torchrun" else [sys.executable, "-c", LAUNCH, sys.executable]

    def command(folder: Path) -> list[str]:
        return [*first, str(ROOT / "train.py"), *arguments(demo, folder, *changes)]

    folder, stderr = tmp_path / "run", tmp_path / "stderr"
    with stderr.open("w") as file:
        process = subprocess.Popen(
            command(folder), cwd=ROOT, env=environment(), stderr=file, start_new_session=True
        )
        wait_for(lambda: epochs_done(folder) >= 2)
        begin = time.monotonic()
        os.killpg(process.pid, signum)  # as Ctrl-C does, which also reaches every process
        assert process.wait(60) == (128 + signum if by == "launch" else 1)
    seconds = time.monotonic() - begin
    assert seconds < 20
    assert any("stopped and saved after step" in line for line in said(stderr))
    assert len(load_checkpoint(folder / "model_last.pth")["random_states"]) == 2
    wait_for(lambda: not process_of(folder), seconds=10)  # loading ones look every 5 seconds
    if signum == signal.SIGINT:
        return
    for name in (folder, tmp_path / "whole"):
        done = subprocess.run(command(name), cwd=ROOT, env=environment(), timeout=180)
        assert done.returncode == 0
    check_equal(tmp_path / "whole", folder)


def process_of(folder: Path) -> str:
    """The processes whose command line names the folder."""
    found = subprocess.run(["pgrep", "-f", f"run_dir {folder}"], capture_output=True, text=True)
    return found.stdout
