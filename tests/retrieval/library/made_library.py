"""Small videos that show text, and runs of find.py in processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from retrieval import VideoIndex
from tests.conftest import ROOT

RATE = 5  # frames a second
LIMIT_S = 300.0  # that a busy machine may take for anything


def write_text_video(path: Path, *lines: str, seconds: float = 1.0) -> Path:
    """A video that shows each line, large and plain, for so many seconds."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 320, 96, "yuv420p"
        stream.codec_context.thread_count = 1
        number = 0
        for line in lines:
            picture = Image.new("RGB", (320, 96), (20, 40, 60))
            font = ImageFont.load_default(28)
            ImageDraw.Draw(picture).text((20, 30), line, fill="white", font=font)
            for _ in range(round(RATE * seconds)):
                frame = av.VideoFrame.from_ndarray(np.array(picture), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                container.mux(stream.encode(frame))
                number += 1
        container.mux(stream.encode())
    make_old(path)
    return path


def make_old(path: Path, seconds: float = 100.0) -> None:
    """Let a file look as if nobody were writing to it any more."""
    then = time.time() - seconds
    os.utime(path, (then, then))


class RunningFind:
    """A find.py in a process of its own."""

    def __init__(self, process: subprocess.Popen, output: Path) -> None:
        self.process, self._output = process, output

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Wait until something is so, while the process lives; returns it."""
        end = time.monotonic() + LIMIT_S
        while not (found := condition()):
            assert self.process.poll() is None and time.monotonic() < end, self.output
            time.sleep(0.05)
        return found

    @property
    def address(self) -> str:
        """Where the page answers."""
        return self.wait_for(lambda: re.search(r"http://\S+/", self.output)).group()

    def ask(self, path: str, **values: str) -> Any:
        return httpx.get(f"{self.address}api/{path}", params=values, timeout=LIMIT_S).json()

    def find(self, query: str) -> set[str]:
        """The videos that are found by their text."""
        return {hit["video"] for hit in self.ask("search", q=query, mode="keyword")["hits"]}

    def work(self) -> dict[str, Any]:
        """What the work is at."""
        return self.wait_for(lambda: self.ask("library")["work"])

    def wait_for_state(self, state: str) -> dict[str, Any]:
        return self.wait_for(lambda: (work := self.work())["state"] == state and work)

    def list_children(self) -> list[int]:
        """The processes that it has started, and theirs."""
        found, left = [], [self.process.pid]
        while left:
            number = left.pop()
            for file in Path(f"/proc/{number}/task").glob("*/children"):
                own = [int(text) for text in file.read_text().split()]
                found += own
                left += own
        return found

    def kill(self) -> None:
        """Kill it, and wait until its processes have ended by themselves."""
        children = self.list_children()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        wait_until_ended(children)


def wait_until_ended(processes: Sequence[int]) -> None:
    """Wait until processes have ended by themselves."""
    end = time.monotonic() + LIMIT_S
    while any(is_alive(number) for number in processes):
        assert time.monotonic() < end, processes
        time.sleep(0.05)


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def make_command(library: Path, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "find.py"), "--library", str(library),
            "--no-browser", "--workers", "1", *map(str, arguments)]  # fmt: skip


def make_environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@contextmanager
def running(library: Path, *arguments: object, folder: Path | None = None) -> Iterator[RunningFind]:
    """Run find.py, with its page at any free port, until the end of a ``with`` block."""
    output = library.parent / f"output-{time.monotonic_ns()}"
    with output.open("w") as file:
        process = subprocess.Popen(
            make_command(library, "--port", 0, *arguments), cwd=folder or library.parent,
            env=make_environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    run = RunningFind(process, output)
    try:
        yield run
    finally:
        if process.poll() is None:
            run.kill()


def run_find(library: Path, *arguments: object) -> tuple[int, str]:
    """Bring a library up to date; returns the exit code and all that is said."""
    command = make_command(library, "--no-page", *arguments)
    done = subprocess.run(
        command, cwd=library.parent, env=make_environment(), capture_output=True, text=True,
        timeout=2 * LIMIT_S,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def read_contents(
    library: Path,
) -> dict[str, tuple[list[float], Sequence[tuple[str, float, float]]]]:
    """Path of each video -> starts of its entries, and its lines with their times."""
    with VideoIndex.open(library / "index") as index, index.reading() as (reader, _):
        found = {}
        for video, path in reader.connection.execute("SELECT id, path FROM videos").fetchall():
            starts = reader.connection.execute(
                "SELECT start_s FROM entries WHERE video_id = ? ORDER BY id", (video,)
            ).fetchall()
            lines = reader.connection.execute(
                "SELECT text, start_s, end_s FROM tracks WHERE video_id = ? AND kind != 'name' "
                "ORDER BY start_s, text",
                (video,),
            ).fetchall()
            found[os.fsdecode(path)] = [start for (start,) in starts], lines
        return found


def read_ids(library: Path) -> dict[str, list[int]]:
    """Path of each video -> ids of its entries."""
    with VideoIndex.open(library / "index") as index, index.reading() as (reader, _):
        rows = reader.connection.execute(
            "SELECT path, entries.id FROM entries JOIN videos ON video_id = videos.id"
        )
        found: dict[str, list[int]] = {}
        for path, entry in rows:
            found.setdefault(os.fsdecode(path), []).append(entry)
        return found


def read_document(library: Path, video: str) -> dict[str, Any]:
    return json.loads((library / "text" / f"{video}.json").read_text())
