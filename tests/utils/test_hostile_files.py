"""Hostile files: none is executed, and each error names what the file wanted.

Every command would leave a file behind; that it would, Python's own unpickler shows.
"""

import enum
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from utils.checkpoint import closed_unpickler, unpickling
from utils.checkpoint.closed_unpickler import RefusedError
from utils.checkpoint.files import CheckpointError, load_checkpoint
from utils.checkpoint.unpickling import InertRecord, read_pickle

MARKER = "executed"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def stack_name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


TOUCH = f"touch {MARKER}"
OPEN = f"open({MARKER!r}, 'w').close()"
ARGS = text(TOUCH) + b"\x85"  # (TOUCH,)
RUN = name("os", "system") + ARGS + b"R"
PARTIAL = name("functools", "partial") + name("os", "system") + text(TOUCH) + b"\x86R)R"
EMPTY_ARRAY = name("numpy._core.multiarray", "_reconstruct")
POPEN = b"](" + text("touch") + text(MARKER) + b"e\x85"  # (["touch", MARKER],)
RECORD = name("some.code", "Config") + b")\x81"
# What the pickle does, and what the message must name. Python itself would run those that ACT.
ACT = {
    "os.system": (RUN, "os.system"),
    "posix.system": (name("posix", "system") + ARGS + b"R", "posix.system"),
    "exec": (name("builtins", "exec") + text(OPEN) + b"\x85R", "builtins.exec"),
    "eval": (name("builtins", "eval") + text(OPEN) + b"\x85R", "builtins.eval"),
    "python 2": (name("__builtin__", "eval") + text(OPEN) + b"\x85R", "builtins.eval"),
    "partial": (PARTIAL, "functools.partial"),
    "inst": (b"(" + text(TOUCH) + b"ios\nsystem\n", "os.system"),
    "obj": (b"(" + name("os", "system") + text(TOUCH) + b"o", "os.system"),
    "newobj": (name("subprocess", "Popen") + POPEN + b"R", "subprocess.Popen"),
    "stack_global": (b"\x80\x04" + stack_name("os", "system") + ARGS + b"R", "os.system"),
    "dotted": (b"\x80\x04" + stack_name("shutil", "os.system") + ARGS + b"R", "shutil.os.system"),
    "through a library": (
        b"\x80\x04" + stack_name("torch.serialization", "os.system") + ARGS + b"R",
        "torch.serialization.os.system",
    ),
    "getattr": (
        name("builtins", "getattr") + name("os", "path") + text("os") + b"\x86R",
        "builtins.getattr",
    ),
    "import": (name("importlib", "import_module") + text("antigravity_") + b"\x85R", "importlib"),
    "nested": (b"](" + b"K\x01" + RUN + b"e", "os.system"),
    "in a popped value": (RUN + b"0N", "os.system"),
    "in a key": (b"}(" + RUN + b"K\x01u", "os.system"),
    "by the memo": (name("os", "system") + b"q\x05" + b"0" + b"h\x05" + ARGS + b"R", "os.system"),
    "in an argument": (name("collections", "OrderedDict") + b"](" + RUN + b"e\x85R", "os.system"),
    "another library": (name("timeit", "timeit") + text("1") + text(OPEN) + b"\x86R", "timeit"),
    "pydoc": (name("pydoc", "pipepager") + text("") + text(TOUCH) + b"\x86R", "pydoc.pipepager"),
    "a debugger": (name("bdb", "os.system") + ARGS + b"R", "bdb.os.system"),
    "torch": (
        b"\x80\x04" + stack_name("torch.utils.collect_env", "run") + ARGS + b"R",
        "torch.utils.collect_env.run",
    ),
    "numpy's runner": (
        name("numpy.testing._private.utils", "runstring") + text(OPEN) + b"}\x86R",
        "numpy.testing._private.utils.runstring",
    ),
}
CRAFTED = {
    "a class of a program, called": (name("some.code", "Config") + b")R", "some.code.Config"),
    "an enum of a program": (name("some.code", "Mode") + b"K\x01\x85R", "some.code.Mode"),
    "setstate on a function": (
        name("some.code", "run") + b"}" + text("__code__") + b"Nsb",
        "some.code.run by __setstate__",
    ),
    "copyreg with another base": (
        name("copyreg", "_reconstructor") + name("a.b", "C") + name("a.b", "D") + b"N\x87R",
        "a.b.D.__new__",
    ),
    "copyreg.constructor": (name("copy_reg", "constructor") + b")R", "copyreg.constructor"),
    "array of another class": (
        EMPTY_ARRAY + name("some.code", "Array") + b"K\x00\x85C\x01b\x87R",
        "some.code.Array",
    ),
    "a function named as dtype": (
        name("numpy._core.multiarray", "scalar") + name("os", "system") + b"C\x01b\x86R",
        "os.system",
    ),
    "type": (name("builtins", "type") + text("A") + b")}\x87R", "builtins.type"),
    "code": (name("types", "CodeType") + b")R", "types.CodeType"),
    "a file": (name("io", "open") + text(MARKER) + text("w") + b"\x86R", "io.open"),
    "nested torch file": (
        name("torch.storage", "_load_from_bytes") + b"C\x01a\x85R",
        "torch.storage._load_from_bytes",
    ),
    "encode": (
        name("_codecs", "encode") + text("a") + text("rot13") + b"\x86R",
        "_codecs.encode with rot13",
    ),
    "a name of two lines": (
        b"\x80\x04" + stack_name("a.b", "C\nfine\x1b[2J") + b")R",
        "wants to call a.b.C?fine?[2J;",
    ),
}
REFUSED = {**ACT, **CRAFTED}
# What data does without: an error, whose text is Python's.
DAMAGED = {
    "a record, called": RECORD + b")R",
    "setstate on a dict": b"}}" + text("__class__") + b"Nsb",
    "setstate on text": text("a") + b"}b",
    "appended to text": text("a") + b"K\x01a",
    "items of a list": b"]K\x01K\x02s",
    "added to a list": b"\x80\x04](K\x01\x90",
    "extension 1": b"\x82\x07",
    "extension 4": b"\x84\x07\x00\x00\x00",
    "a value as storage": name("torch._tensor", "_rebuild_from_type_v2") + b"(])NNtR",
    "buffers": b"\x80\x05\x97",
    "no class": text("a") + b")\x81",
}
# Objects of classes, made without calling them: records, which do nothing.
INERT = {
    "a class that acts": (name("subprocess", "Popen") + POPEN + b"\x81", "subprocess.Popen"),
    "with keywords": (name("subprocess", "Popen") + POPEN + b"}\x92", "subprocess.Popen"),
    "newobj of a partial": (
        name("functools", "partial") + name("os", "system") + b"\x85\x81",
        "functools.partial",
    ),
    "a function, named": (name("os", "system"), "os.system"),
}


def zipped(data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", "3\n")
    return target.getvalue()


def legacy(data: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save("here", buffer, _use_new_zipfile_serialization=False)
    plain = pickle.dumps("here", protocol=2)
    assert buffer.getvalue().count(plain) == 1
    return buffer.getvalue().replace(plain, data)


def write_forms(folder: Path, data: bytes) -> list[tuple[Path, Callable]]:
    """Files that hold ``{"state_dict": what the pickle makes}`` in every format; their readers."""
    head, data = (data[:2], data[2:]) if data[:1] == b"\x80" else (b"\x80\x02", data)
    data = head + b"}" + text("state_dict") + data + b"s."
    files = []
    for form, read in (("pickle", read_pickle), ("zip", load_checkpoint), ("old", load_checkpoint)):
        path = folder / f"{form}.pth"
        path.write_bytes({"pickle": bytes, "zip": zipped, "old": legacy}[form](data))
        files.append((path, read))
    return files


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name_and_runs_nothing(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    data, wanted = REFUSED[case]
    files = write_forms(tmp_path, data)
    for path, read in files:
        with pytest.raises(CheckpointError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and message.isprintable()
        assert wanted in message and "never executed" in message
    assert set(os.listdir(tmp_path)) == {path.name for path, _ in files}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_data_does_without_is_an_error(tmp_path, case):
    for path, read in write_forms(tmp_path, DAMAGED[case]):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ") and str(caught.value).isprintable()


@pytest.mark.parametrize("case", INERT)
def test_objects_that_would_act_are_inert(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    data, wanted = INERT[case]
    files = write_forms(tmp_path, data)
    for path, read in files:
        record = read(path)["state_dict"]
        assert isinstance(record, InertRecord) and record.class_name == wanted
        assert not callable(record)
    assert set(os.listdir(tmp_path)) == {path.name for path, _ in files}


def test_refused_in_this_process_too(tmp_path, monkeypatch):
    """What keeps code in a file from running is the closed unpickler, not the other process."""
    monkeypatch.chdir(tmp_path)
    for case, (data, wanted) in ACT.items():
        data = data if data[:1] == b"\x80" else b"\x80\x02" + data
        with pytest.raises(RefusedError, match=re.escape(wanted)):
            closed_unpickler.read_pickles(io.BytesIO(data + b"."), 1)
        assert os.listdir(tmp_path) == [], case


RUNS = ["os.system", "exec", "partial", "inst", "obj", "newobj", "dotted",
        "by the memo", "in a key", "numpy's runner"]  # fmt: skip


def test_python_itself_would_run_them(tmp_path):
    """Without this the corpus could be wrong, and the test above would not see it."""
    code = "import sys, pickle; pickle.loads(sys.stdin.buffer.read()); sys.exit()"
    running = {}
    for case in RUNS:
        (tmp_path / case.replace(" ", "_")).mkdir()
        running[case] = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path / case.replace(" ", "_"),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    for case in RUNS:
        running[case].stdin.write(b"\x80\x04" + ACT[case][0].removeprefix(b"\x80\x04") + b".")
        running[case].stdin.close()
    for case in RUNS:
        running[case].wait()
        running[case].stderr.close()
        assert (tmp_path / case.replace(" ", "_") / MARKER).exists(), case


class Trap:
    """Leaves a mark when a state is given to it."""

    def __setstate__(self, state):
        open(state, "w").close()

    def __new__(cls, *args):
        for path in args:
            open(path, "w").close()
        return super().__new__(cls)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_class_that_is_here_is_not_used_either(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    trap = name(__name__, "Trap")
    for data in (trap + ARGS + b"\x81", trap + b")\x81" + text(MARKER) + b"b"):
        (tmp_path / "a.pkl").write_bytes(b"\x80" + bytes([protocol]) + data + b".")
        record = read_pickle(tmp_path / "a.pkl")
        assert record.class_name == f"{__name__}.Trap" and not os.path.exists(MARKER)
    pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert os.path.exists(MARKER)  # Python would have


OBJECTS = (
    EMPTY_ARRAY + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R(K\x01K\x01\x85"
    + name("numpy", "dtype") + text("O8") + b"\x89\x88\x87R(K\x03" + text("|")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]" + name("a.b", "C") + b"atb"
)  # fmt: skip


def test_an_array_of_objects(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x03" + OBJECTS + b".")
    with pytest.raises(CheckpointError, match="wants an array of dtype O8"):
        read_pickle(tmp_path / "a.pkl")


BOMBS = {
    "a storage of a petabyte": (
        b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu")
        + b"\x8a\x06\x00\x00\x00\x00\x00\x01tQ"
    ),
    "keys in keys": b"}" + b")" + b"\x85" * 200_000 + b"K\x01s",
    "a key that doubles": b"})" + b"2\x86" * 60 + b"K\x01s",
    "a set of keys that double": b"(" + b")" + b"2\x86" * 60 + b"\x91",
    "bytes by number": name("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R",
    "a set of a range": name("builtins", "set") + name("builtins", "range")
    + b"J\xff\xff\xff\x7f\x85R\x85R",
    "text of 4 GB": b"X\xff\xff\xff\xffabc",
    "an array of 4 GB": EMPTY_ARRAY + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R(K\x01"
    + b"J\xff\xff\xff\x7f\x85" + name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R\x89C\x01btb",
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_a_small_file_that_would_take_all_memory_or_time(tmp_path, monkeypatch, case):
    monkeypatch.setattr(unpickling, "SECONDS", 1)
    for path, read in write_forms(tmp_path, BOMBS[case]):
        with pytest.raises(CheckpointError, match=f"{path}: is damaged or no checkpoint"):
            read(path)


def test_a_key_that_crashes_python_is_a_message(tmp_path):
    """Without the process of its own the reader would be gone."""
    (path, read), *_ = write_forms(tmp_path, BOMBS["keys in keys"])
    with pytest.raises(CheckpointError, match="memory or .* s, or crashes Python"):
        read(path)


def test_values_that_hold_themselves_are_nested_deeply_or_grow(tmp_path):
    deep = b"]" * 5000 + b"a" * 4999
    cases = {b"]q\x01h\x01a": "hold themselves", deep: "nested too deeply"}
    for data, message in cases.items():
        for path, read in write_forms(tmp_path, data):
            with pytest.raises(CheckpointError, match=message):
                read(path)
    grown = b"]q\x000" + b"".join(b"](h%ch%ceq%c0" % (i, i, i + 1) for i in range(60))
    for config in (b"}" + text("a") + b"h\x3cs",
                   name("some.code", "ConfigParser") + b")\x81}" + text("_config") + b"}"
                   + text("a") + b"h\x3cssb"):  # fmt: skip
        data = b"\x80\x02" + grown + b"}" + text("config") + config + b"s."
        (tmp_path / "a.pth").write_bytes(zipped(data))
        with pytest.raises(CheckpointError, match="there are too many values"):
            load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="there are too many values"):
        read_pickle_of(tmp_path, grown + b"h\x3c")
    read = read_pickle_of(tmp_path, grown + b"h\x0a")  # 2**10 of them: shared, not copied
    assert read[0] is read[1]


def read_pickle_of(folder: Path, data: bytes):
    (folder / "shared.pkl").write_bytes(b"\x80\x02" + data + b".")
    return read_pickle(folder / "shared.pkl")


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/constants.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="is a TorchScript program; .* never executed"):
        load_checkpoint(tmp_path / "a.pth")


class Mode(enum.Enum):
    FAST = 1


def test_a_value_of_an_enum_is_refused(tmp_path):
    torch.save({"mode": Mode.FAST}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"wants to call {__name__}.Mode; .* never executed"):
        load_checkpoint(tmp_path / "a.pth")
