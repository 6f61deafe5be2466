"""Damaged video files of six containers: by every reader they are frames, or an error that names
them; no process dies, and none hangs."""

import ast
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.fuzz.fuzzing import check_message, fuzz
from tests.videos import write_video

NUM_VIDEOS = 1_200  # each read in four ways by another process: about six minutes
LIMIT_S = 30  # of a machine that is busy
KINDS = {
    "mp4": {},
    "mkv": {},
    "webm": {"codec": "libvpx"},
    "avi": {"codec": "mpeg4"},
    "flv": {},
    "ts": {},
}
READERS = ["av", "cv2", "decord", "tolerant"]
# decord 0.6 is no longer developed and has crashed by itself before: counted, not mended.
MAY_CRASH = {"decord"}

Change = Callable[[bytearray, random.Random], None]


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 4, 40])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def change_header(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 3])):
        place = chance.randrange(min(len(data), 900))
        size = chance.choice([1, 2, 4, 8])
        data[place : place + size] = chance.choice([b"\0", b"\xff", b"\x7f"]) * size


def change_index(data: bytearray, chance: random.Random) -> None:
    """Change the end, where MP4, Matroska and AVI have the index."""
    for _ in range(chance.choice([1, 3])):
        place = len(data) - 1 - chance.randrange(min(len(data), 1500))
        data[place : place + 4] = chance.choice([b"\0" * 4, b"\xff" * 4, b"\0\0\0\1", b"\x7f" * 4])


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data)) :]


def cut_front(data: bytearray, chance: random.Random) -> None:
    del data[: chance.randrange(1, len(data))]


def swap_blocks(data: bytearray, chance: random.Random) -> None:
    size = chance.choice([16, 188, 1000])
    one, other = (chance.randrange(len(data)) // size * size for _ in range(2))
    first, second = bytes(data[one : one + size]), bytes(data[other : other + size])
    if len(first) == len(second):
        data[one : one + size], data[other : other + size] = second, first


def repeat(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data))
    data[place:place] = data[place : place + chance.choice([4, 188, 3000])]


def clear(data: bytearray, chance: random.Random) -> None:
    place, size = chance.randrange(len(data)), chance.choice([8, 200, 2000])
    data[place : place + size] = bytes(len(data[place : place + size]))


CHANGES: list[Change] = [
    flip, change_header, change_index, cut, cut_front, swap_blocks, repeat, clear,
]  # fmt: skip


class ReadingProcess:
    """A process that reads videos, started anew where it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def read(self, reader: str, path: Path) -> str:
        """Return the answer, or "crash" or "hang"."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.read_videos"],
                cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self._selector = DefaultSelector()
            self._selector.register(self._process.stdout, EVENT_READ)
        self._process.stdin.write(f"{reader} {path}\n")
        self._process.stdin.flush()
        is_answered = self._selector.select(LIMIT_S)
        answer = self._process.stdout.readline() if is_answered else "hang"
        if answer in ("", "hang"):
            self.end()
        return answer.strip() or "crash"

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._selector.close()
            self._process = None


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("intact")
    return {
        kind: write_video(folder / f"a.{kind}", 24, gop=8, **options).read_bytes()
        for kind, options in KINDS.items()
    }


@pytest.mark.slow
def test_damaged_videos_are_frames_or_an_error_that_names_them(intact, tmp_path):
    pytest.importorskip("decord")
    process, ends, faults = ReadingProcess(), Counter(), []

    @fuzz(NUM_VIDEOS)
    @given(
        kind=st.sampled_from(sorted(KINDS)),
        changes=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3),
        seed=st.integers(0, 2**32),
    )
    def read_damaged(kind, changes, seed):
        data, chance = bytearray(intact[kind]), random.Random(seed)
        for change in changes:
            if data:
                change(data, chance)
        path = tmp_path / f"damaged.{kind}"
        path.write_bytes(data)
        for reader in READERS:
            answer, _, detail = process.read(reader, path).partition(" ")
            ends[reader, answer] += 1
            if answer == "error":
                check_message(ast.literal_eval(detail), path.name)
            elif answer != "frames" and (answer, reader) not in {("crash", r) for r in MAY_CRASH}:
                names = [change.__name__ for change in changes]
                faults.append(f"{reader} {kind} {names} {seed}: {answer} {detail}")

    try:
        read_damaged()
    finally:
        process.end()
    sys.stderr.write(f"{dict(sorted(ends.items()))}\n")
    assert not faults, "\n".join([f"{len(faults)} faults of {ends}", *faults[:20]])
