"""Files from elsewhere, read as data: every format, and every kind of value that data is of."""

import argparse
import datetime
import importlib
import io
import os
import pathlib
import pickle
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

from utils.checkpoint.files import CheckpointError, load_checkpoint
from utils.checkpoint.unpickling import InertName, InertRecord, read_pickle, read_torch_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
    pytest.mark.filterwarnings("ignore:Casting complex values"),
    pytest.mark.filterwarnings("ignore:Picklers and unpicklers"),
]
FORMATS = [(zipped, protocol) for zipped in (True, False) for protocol in (2, 3, 4, 5)]
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
          "bool", "complex64", "uint16", "float8_e4m3fn")  # fmt: skip


def save(path, state, zipped=True, protocol=2):
    torch.save(state, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def pickled(path, value, protocol):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return read_pickle(path)


@pytest.mark.parametrize(("zipped", "protocol"), FORMATS)
def test_tensors_of_every_format(tmp_path, zipped, protocol):
    base = torch.arange(24.0)
    state = {dtype: torch.tensor([0, 1, 3]).to(getattr(torch, dtype)) for dtype in DTYPES}
    state |= {"whole": base, "part": base[4:10].view(2, 3).t(), "empty": torch.empty(0, 3)}
    state |= {"scalar": torch.tensor(2.5), "parameter": nn.Parameter(torch.ones(2, 2))}
    state["module"] = nn.Linear(2, 3).state_dict()
    read = read_torch_file(save(tmp_path / "a.pth", state, zipped, protocol))
    assert read.keys() == state.keys() and type(read["module"]) is OrderedDict
    for name, value in (state | state.pop("module")).items():
        found = read["module"].get(name, read.get(name))
        assert found.dtype == value.dtype and found.stride() == value.stride(), name
        assert torch.equal(found.float(), value.detach().float()), name
    read["whole"][4] = 100  # both still show the same memory
    assert read["part"][0, 0] == 100


class Options:
    """Stands for a class of a program that is not here when the file is read."""

    def __init__(self, values):
        self.__dict__.update(values)


def foreign_module(name):
    """A module of that name with a ConfigParser, as the published code has one."""
    module = types.ModuleType(name)
    cls = type("ConfigParser", (Options,), {"__module__": name})
    module.ConfigParser = cls
    return module


@pytest.mark.parametrize(
    ("name", "zipped", "protocol"),
    [("parse_config_dist_multi", *form) for form in FORMATS] + [("old.code.parse_config", True, 2)],
)
def test_a_pickled_configuration_of_any_module(tmp_path, monkeypatch, name, zipped, protocol):
    module = foreign_module(name)
    monkeypatch.setitem(sys.modules, name, module)
    for parent in ("old", "old.code"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    inside = {
        "name": "TextVR_fusion",
        "lr": np.float32(0.5),
        "sizes": (np.int64(3), np.arange(2)),
        "dir": pathlib.PurePosixPath("exp/a"),
        "windows": pathlib.PureWindowsPath(r"D:\data\a"),
        "at": datetime.datetime(2021, 5, 4, 12, 30),
        "args": argparse.Namespace(device="0"),
        5: {"b"},
    }
    config = module.ConfigParser({"_config": inside, "_save_dir": pathlib.Path("exp/b")})
    state = {"epoch": np.int64(7), "state_dict": {"module.w": torch.ones(2)}, "config": config}
    path = save(tmp_path / "a.pth", state, zipped, protocol)
    monkeypatch.undo()  # the program is not here
    with pytest.raises(ImportError):
        importlib.import_module(name)
    read = load_checkpoint(path)
    assert read["epoch"] == 7 and type(read["epoch"]) is int
    assert read["config"] == {
        "name": "TextVR_fusion",
        "lr": 0.5,
        "sizes": [3, [0, 1]],
        "dir": "exp/a",
        "windows": r"D:\data\a",
        "at": "2021-05-04T12:30:00",
        "args": "<argparse.Namespace>",
        "5": ["b"],
    }
    record = read_torch_file(path)["config"]
    assert type(record) is InertRecord and record.class_name == f"{name}.ConfigParser"
    assert record.state["_save_dir"] == "exp/b" and record.state["_config"]["dir"] == "exp/a"
    assert record.state["_config"]["args"].state == {"device": "0"}


EAST = datetime.timezone(datetime.timedelta(hours=2))
VALUES = [
    ([1, -(2**70), 1.5, True, None, "é", b"\x00\xff", (), (1, [2]), {"a": {}}],) * 2,
    ({1, 2}, {1, 2}),
    (frozenset("ab"), frozenset("ab")),
    (bytearray(b"ab\xff"), bytearray(b"ab\xff")),
    (slice(1, None, 2), slice(1, None, 2)),
    (range(3, 9, 2), range(3, 9, 2)),
    (1 + 2j, 1 + 2j),
    (OrderedDict(b=1, a=2), OrderedDict(b=1, a=2)),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (deque([1, 2], 5), [1, 2]),
    (np.float64(0.1), 0.1),
    (np.int64(-3), -3),
    (np.bool_(True), True),
    (np.str_("word"), "word"),
    (np.float32([1.5])[0], 1.5),
    (datetime.date(2021, 2, 3), "2021-02-03"),
    (datetime.time(1, 2, 3, 4), "01:02:03.000004"),
    (datetime.datetime(2021, 2, 3, tzinfo=EAST), "2021-02-03T00:00:00+02:00"),
    (datetime.timedelta(minutes=1, microseconds=5), 60.000005),
    (pathlib.Path("a/b"), "a/b"),
    (pathlib.PureWindowsPath("C:/a/b"), r"C:\a\b"),
    (torch.Size([2, 3]), (2, 3)),
    (torch.device("cuda", 1), "cuda:1"),
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values(tmp_path, protocol):
    read = pickled(tmp_path / "a.pkl", [(value, value) for value, _ in VALUES], protocol)
    for (first, second), (value, expected) in zip(read, VALUES, strict=True):
        assert first == second == expected and type(first) is type(expected), value


@pytest.mark.parametrize("protocol", range(6))
def test_arrays(tmp_path, protocol):
    arrays = []
    for dtype in ("f4", ">f8", "i8", "?", "U3", "S2", "c8"):
        array = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
        arrays += [array, np.asfortranarray(array), array[:0], array[0, 0, None][0:1]]
    read = pickled(tmp_path / "a.pkl", [(array, array) for array in arrays], protocol)
    for (first, second), array in zip(read, arrays, strict=True):
        np.testing.assert_array_equal(first, array)
        assert first.dtype.newbyteorder("=") == array.dtype.newbyteorder("=") and first is second


def test_a_data_sets_pickles(tmp_path):
    """Of the shapes that MSR-VTT's and LSMDC's come in, numpy numbers included."""
    picks = {f"video{i}": np.int64(i % 20) for i in range(1000)}
    captions = {f"clip_{i}": ["someone", "walks", str(i)] for i in range(1000)}
    assert pickled(tmp_path / "a.pkl", picks, 3) == {k: int(v) for k, v in picks.items()}
    assert type(read_pickle(tmp_path / "a.pkl")["video3"]) is int
    assert pickled(tmp_path / "b.pkl", captions, 4) == captions


def test_a_pickle_of_python_2(tmp_path):
    data = (b"\x80\x02}q\x00(U\x01aq\x01cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
            b"U\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            b"U\x08\x05\x00\x00\x00\x00\x00\x00\x00\x86RU\x01bccollections\nOrderedDict\n"
            b"]](K\x01K\x02ea\x85RU\x01cc__builtin__\nset\n]K\x07a\x85Ru.")  # fmt: skip
    (tmp_path / "a.pkl").write_bytes(data)
    read = read_pickle(tmp_path / "a.pkl")
    assert read == {"a": 5, "b": OrderedDict({1: 2}), "c": {7}}


class Words(dict):
    """A kind of dict with attributes, as configuration libraries have."""


class Rows(list):
    pass


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_kinds_of_dict_and_list_and_names_are_records(tmp_path, protocol):
    words, rows = Words(a=1), Rows([1, 2])
    words.b = 2
    first, second, third = pickled(tmp_path / "a.pkl", [words, rows, Words], protocol)
    if protocol:
        assert (first.items, first.state, second.items) == ({"a": 1}, {"b": 2}, [1, 2])
    else:
        assert (first.args, first.state, second.args) == (({"a": 1},), {"b": 2}, ([1, 2],))
    assert type(third) is InertName and third.class_name == f"{__name__}.Words"


def test_a_whole_pickled_model_is_records(tmp_path):
    path = save(tmp_path / "a.pth", {"model": nn.Linear(2, 3)})
    model = read_torch_file(path)["model"]
    assert model.class_name == "torch.nn.modules.linear.Linear"
    assert model.state["_parameters"]["weight"].shape == (3, 2)


def test_arrays_in_a_checkpoint_are_tensors(tmp_path):
    array = np.array([[1.5, 2]], dtype=">f4")
    state = {"state_dict": {"w": array}, "names": np.array(["a"]), "again": array}
    state["config"] = pathlib.Path("x")
    read = load_checkpoint(save(tmp_path / "a.pth", state))
    assert read["state_dict"]["w"].dtype == torch.float32
    assert read["state_dict"]["w"].tolist() == read["again"].tolist() == [[1.5, 2]]
    assert read["names"] == ["a"]


def broken(kind):
    """Bytes of a torch file that says something impossible."""
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(64.0)[:4]}, buffer)
    source, target = zipfile.ZipFile(buffer), io.BytesIO()
    how = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", how) as archive:
        for name in source.namelist():
            data = source.read(name)
            if kind == "reaching outside" and name.endswith("data.pkl"):
                assert data.count(b"K\x00K\x04\x85") == 1
                data = data.replace(b"K\x00K\x04\x85", b"K\x3dK\x04\x85")  # offset 61
            if kind == "repeated without end" and name.endswith("data.pkl"):
                assert data.count(b"K\x04\x85") == data.count(b"K\x01\x85") == 1
                data = data.replace(b"K\x04\x85", b"J\x00\x00\x00\x40\x85")  # 2**30 numbers
                data = data.replace(b"K\x01\x85", b"K\x00\x85")  # all of them the same
            if kind == "no pickle":
                name = name.replace("data.pkl", "other.pkl")
            if kind == "short storage" and name.endswith("data/0"):
                data = data[:-4]
            if kind == "big-endian" and name.endswith("byteorder"):
                data = b"big"
            if kind != "no storage" or not name.endswith("data/0"):
                archive.writestr(name, data)
    return target.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        "reaching outside",
        "repeated without end",
        "no pickle",
        "short storage",
        "big-endian",
        "no storage",
        "compressed",
    ],
)
def test_a_file_that_says_the_impossible(tmp_path, kind):
    path = tmp_path / "a.pth"
    path.write_bytes(broken(""))
    assert read_torch_file(path)["w"].tolist() == [0, 1, 2, 3]
    path.write_bytes(broken(kind))
    with pytest.raises(CheckpointError, match="a.pth: is damaged or no checkpoint") as caught:
        read_torch_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "other", "reason"),
    [(1, 1002, "does not begin as torch's files do"), (2, {"little_endian": False}, "big-endian")],
)
def test_an_old_file_that_says_the_impossible(tmp_path, number, other, reason):
    path = tmp_path / "a.pth"
    save(path, {"w": torch.arange(4.0)}, zipped=False)
    data = io.BytesIO(path.read_bytes())
    heads = [pickle.load(data) for _ in range(3)]  # magic number, protocol, system
    heads[number] = other
    path.write_bytes(b"".join(pickle.dumps(head, 2) for head in heads) + data.read())
    with pytest.raises(CheckpointError, match=f"a.pth: is damaged or no checkpoint.*{reason}"):
        read_torch_file(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_anywhere(tmp_path, zipped):
    path = save(tmp_path / "a.pth", {"w": torch.ones(50), "c": pathlib.Path("a")}, zipped)
    data = path.read_bytes()
    for size in range(0, len(data), 101):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=f"^{path}: is damaged or no checkpoint"):
            load_checkpoint(path)
    os.remove(path)
    with pytest.raises(CheckpointError, match="can't be read .No such file"):
        read_pickle(path)
