"""``spot_text.py`` that is stopped: killed, interrupted, on a full disk, without permission."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import spot_text
from data_loader.ocr.ocr_words import load_ocr_document
from tests.retrieval.spotting.engines import (  # noqa: F401 - fixtures
    list_documents,
    make_clip,
    put,
    spot,
)
from utils.cli import run_cli


def _run_slowly(videos: Path, out: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = ["--engine", "slow_text", "--out", str(out), "--workers", "2"]
    sys.argv = ["spot_text.py", str(videos), *options]
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process is stopped
    run_cli(spot_text.main)


@pytest.fixture
def stopped(tmp_path, clip):
    """Return a function that stops a run of 14 videos by a signal, after its first document.

    It gives the exit code, the folders, and when each document was written.
    """
    videos, out = put(tmp_path / "videos", clip, *(f"{n}.mp4" for n in range(14))), tmp_path / "out"

    def stop(signum: int) -> tuple[int, Path, Path, dict[Path, int]]:
        process = multiprocessing.get_context("fork").Process(
            target=_run_slowly, args=(videos, out)
        )
        process.start()
        while not list(out.glob("*.mp4.json")):
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(process.pid, signum)
        process.join(30)
        while any(Path(f"/proc/{pid}").exists() for pid in children):  # they end by themselves
            time.sleep(0.01)
        times = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4.json")}
        assert 0 < len(times) < 14 and all(load_ocr_document(path) for path in times)
        return process.exitcode, videos, out, times

    return stop


def test_killed_at_any_moment_it_goes_on_where_it_was(stopped, capsys):
    code, videos, out, kept = stopped(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert spot(videos, "--out", out) == 0
    assert f"; {len(kept)} kept" in capsys.readouterr().out
    assert len(list(out.glob("*.mp4.json"))) == 14
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_interrupted_it_ends_at_once_with_its_processes(stopped):
    assert stopped(signal.SIGINT)[0] == 130


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_ends_it_and_what_is_written_stays(tmp_path, clip, small_disk, capsys):
    videos = put(tmp_path / "videos", clip, *(f"{n}.mp4" for n in range(9)))
    (small_disk / "ballast").write_bytes(bytes(8192))
    assert spot(videos, "--out", small_disk / "out", "--workers", 1) == 2
    error = capsys.readouterr().err
    assert "No space left on device: free some space, or write to another folder" in error
    # The next run goes on from a journal (.part), where one fitted in.
    written = [x for x in list_documents(small_disk / "out") if not x.endswith(".part")]
    assert 0 < len(written) < 9 and all(load_ocr_document(small_disk / "out" / x) for x in written)
    (small_disk / "ballast").unlink()
    for name in written:
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / name).write_bytes((small_disk / "out" / name).read_bytes())
    assert spot(videos, "--out", tmp_path / "moved") == 0
    assert len(list_documents(tmp_path / "moved")) == 9


def test_a_limit_of_file_sizes_fails_the_documents_above_it(tmp_path, clip, capsys):
    videos, out = put(tmp_path / "videos", clip, "a.mp4"), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        assert spot(videos, "--out", out, "--workers", 1) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert f"a.mp4: {out}/a.mp4.json can't be written (File too large); give another --out" in error
    assert list_documents(out) == []


def _run_unprivileged(videos: Path, out: Path) -> None:
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    sys.stderr = (out / "stderr").open("w")
    os._exit(spot(videos, "--out", out, "--workers", 1))


def test_a_video_without_permission_is_named(clip):
    """Root may read everything, so that the command runs as another user, where it is root."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        videos, out = put(folder / "videos", clip, "a.mp4", "closed.mp4"), folder / "out"
        out.mkdir()
        for path, mode in ((folder, 0o755), (out, 0o777), (videos / "closed.mp4", 0o000)):
            path.chmod(mode)
        process = multiprocessing.get_context("fork").Process(
            target=_run_unprivileged, args=(videos, out)
        )
        process.start()
        process.join(60)
        assert process.exitcode == 1
        error = (out / "stderr").read_text()
        assert "closed.mp4: can't be read (Permission denied); check its access rights" in error
        assert list_documents(out) == ["a.mp4.json", "stderr"]
