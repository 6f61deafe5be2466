"""Checkpoints of any content: each is read, or ends in one message, in bounded time and memory."""

import io
import multiprocessing
import os
import pickle
import pickletools
import resource
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.expensive_checkpoints import VALUES, archive, list_files
from tests.fuzz.fuzzing import check_message, end_well, fuzz
from tests.utils.test_hostile_files import ACT
from tools import checkpoint as command
from utils.checkpoint import closed_unpickler, unpickling
from utils.checkpoint.closed_unpickler import RefusedError
from utils.checkpoint.files import load_checkpoint
from utils.checkpoint.unpickling import CheckpointError
from utils.checkpoint.weights import get_weights, hash_weights
from utils.errors import UserError

pytestmark = pytest.mark.slow
SECONDS, MEMORY = 30, 2**31  # of the processor; bytes beyond those of the file
MAX_OUTPUT = 2**22  # letters that a command may show of a file


def use(path: Path) -> None:
    """What every command does that reads a checkpoint; one that can't be read is read once."""
    load_checkpoint(path)
    shown = io.StringIO()
    sys.stdout = shown
    command.main(["inspect", "--config", str(path)])
    command.main(["convert", str(path), str(path.with_suffix(".out.pth"))])
    command.main(["convert", str(path), str(path.with_suffix(".out.safetensors"))])
    hash_weights(get_weights(load_checkpoint(path), path))
    text = shown.getvalue()
    assert len(text) < MAX_OUTPUT, f"{len(text)} letters shown"
    assert all(line.isprintable() for line in text.split("\n"))


def use_and_measure(path: Path, before: int) -> None:
    """In a process of its own: end with 0 where the file was read or refused as it should."""
    size = path.stat().st_size
    for name, limit in (("AS", 24 * 2**30), ("CPU", 2 * SECONDS), ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    signal.alarm(8 * SECONDS)  # of the clock, where other processes take theirs
    try:
        use(path)
    except UserError as error:
        check_message(str(error))
    whole, parts = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    seconds = (
        sum(used.ru_utime + used.ru_stime for used in (whole, parts)) / 5
    )  # five reads, or one
    assert seconds < SECONDS, f"{seconds:.0f} s"
    memory = max(whole.ru_maxrss * 1024 - before, parts.ru_maxrss * 1024) - size
    assert memory < MEMORY, f"{memory >> 20} MiB"


def run(path: Path, stderr: Path) -> str:
    """Return what is wrong with how a file was met; empty: nothing."""

    def child() -> None:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        use_and_measure(path, before)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    if process.exitcode == 0:
        return ""
    return (
        f"{process.exitcode}: {(stderr.read_text(errors='replace').splitlines() or [''])[-1][:200]}"
    )


def test_expensive_files(tmp_path, monkeypatch):
    """Some 600 files of 90 kinds, each read by every command in a process of its own."""
    monkeypatch.setattr(command, "build_configured_models", cache(lambda: ({}, {})))
    wrong, files = {}, list_files()
    for number, (kind, suffix, make) in enumerate(files):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / f"a{suffix}"
        path.write_bytes(make())
        found = run(path, tmp_path / "stderr")
        if found:
            wrong[kind] = found
        for file in folder.iterdir():
            file.unlink()
    assert not wrong, f"{len(wrong)} of {len(files)}: " + "\n".join(map(str, wrong.items()))


def make_seeds() -> list[tuple[str, bytes]]:
    """Valid files of every format, and some that would act: what is mutated."""
    config = {"name": "a", "arch": {"args": {"x": [1, 2.5, None]}}, "é": "ü"}
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}}
    weights = {"a.w": torch.ones(2, 3), "b.w": torch.arange(6.0).view(2, 3).t()}
    state = {"arch": "Net", "epoch": 3, "state_dict": weights, "config": config}
    state |= {"optimizer": {"state": moments}, "at": torch.Size([1, 2]), "b": torch.bfloat16}
    seeds = []
    for zipped in (True, False):
        for protocol in (2, 4):
            file = io.BytesIO()
            arguments = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
            torch.save(state if zipped else state | {"b": None}, file, **arguments)
            seeds.append(("zip" if zipped else "legacy", file.getvalue()))
    seeds += [("pickle", pickle.dumps(config | {"many": list(range(300))}, p)) for p in range(6)]
    for acts, _ in ACT.values():
        seeds.append(("pickle", b"\x80\x04" + acts.removeprefix(b"\x80\x04") + b"."))
    for make, sizes in VALUES.values():
        seeds.append(("pickle", b"\x80\x04" + make(min(sizes)).removeprefix(b"\x80\x04") + b"."))
    return [seed for seed in seeds if len(seed[1]) < 20_000]


SEEDS = make_seeds()
OPCODES = [code.code.encode("latin-1") for code in pickletools.opcodes]
ODD = [b"\xff\xff\xff\x7f", b"\x00" * 8, b"\xed\xa0\x80", b"PK\5\6", b"2\x86" * 40]
PIECES = st.one_of(
    st.sampled_from(OPCODES + ODD),
    st.sampled_from([acts for acts, _ in ACT.values()]),
    st.binary(max_size=6),
)


@st.composite
def mutated_files(draw: Callable) -> tuple[str, bytes]:
    """A file of which bytes were replaced, taken out, repeated, or put in."""
    kind, data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.sampled_from([0, 0, 1, 1, 2, 4, 16, len(data)]))
        piece = draw(PIECES | st.just(data[start:end] * 2))
        data = data[:start] + piece + data[end:]
    if kind == "zip" and draw(st.booleans()):  # a good archive with another pickle
        inner = draw(st.sampled_from([seed for seed in SEEDS if seed[0] == "pickle"]))[1]
        data = archive([("a/data.pkl", inner), ("a/data/0", bytes(16))])
    return kind, data


def translate_here(source: io.BufferedReader, kind: str) -> bytes:
    """As ``unpickling._translate``, without a process of its own."""
    try:
        return closed_unpickler.read_file(source, kind)
    except (RefusedError, OSError):
        raise
    except Exception as error:  # as its main function
        raise ValueError(str(error)[: closed_unpickler.MAX_TEXT]) from error


def test_mutated_files(tmp_path, monkeypatch):
    """10,000 files of every format; what acts leaves no mark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unpickling, "_translate", translate_here)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    path = tmp_path / "a.pth"

    def read(kind: str) -> None:
        if kind == "pickle":
            unpickling.read_pickle(path)
        state = load_checkpoint(path)
        command.describe_checkpoint(path, state, whole_config=True)
        weights = get_weights(state, path)
        command.copy_weights(weights, keep_tied=False)
        hash_weights(weights)

    def too_long(*_: object) -> None:
        raise AssertionError("it takes more than 10 s")

    @fuzz()
    @given(mutated_files())
    def run(file: tuple[str, bytes]) -> None:
        kind, data = file
        path.write_bytes(data)
        signal.alarm(10)
        try:
            error = end_well(lambda: read(kind), path.name)
        finally:
            signal.alarm(0)
        assert error is None or isinstance(error, CheckpointError)
        assert os.listdir(tmp_path) == [path.name]

    handler = signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        run()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)
