"""The calls that data in pickles is made of, done by our own code on checked arguments.

Each entry of ``REBUILDERS`` stands in for one function or class that files name: paths become
text, times ISO text, numpy scalars Python numbers. What is not in the table is not called.
"""

import datetime
import math
import pathlib
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from utils.checkpoint.rebuild_tensors import TENSOR_REBUILDERS
from utils.checkpoint.records import InertName, InertRecord, RefusedError, kind_of

MAX_PATH = 100_000  # characters
MAX_KEY_ITEMS = 10_000
_CODES = re.compile(r"[biufcSUV?]\d{0,9}")  # numbers, text and bytes: no objects, no fields


def hashable(value: Any) -> Hashable:
    """Return a key of a dict or member of a set.

    Raises:
        ValueError: it is nested so deeply, or shares so much, that hashing it would have no end.
    """
    left, room = [value], MAX_KEY_ITEMS
    while left:
        item = left.pop()
        if type(item) in (tuple, frozenset):
            room -= len(item) + 1
            if room < 0:
                raise ValueError("a key holds too much")
            left.extend(item)
    return value


def set_array_state(array: np.ndarray, state: Any) -> None:
    """Give an array its shape and numbers.

    Raises:
        RefusedError: it holds objects.
        ValueError: the state is not an array's.
    """
    _, shape, dtype, fortran, data = state
    dtype = _dtype(dtype)
    data = _bytes(data)
    if len(data) != math.prod(_shape(shape)) * dtype.itemsize:
        raise ValueError("an array has another size than its shape says")
    array.__setstate__((1, shape, dtype, bool(fortran), data))


def _dtype(record: Any) -> np.dtype:
    """The dtype of a record of one."""
    if type(record) is not InertRecord or record.class_name != "numpy.dtype":
        raise ValueError("an array has no dtype")
    code, order = record.args[0], "="
    if isinstance(record.state, tuple):
        order, parts, fields = record.state[1], record.state[2], record.state[4]
        if parts is not None or fields is not None:
            raise RefusedError("wants an array of structures")
    if type(code) is not str or not _CODES.fullmatch(code) or order not in ("<", ">", "=", "|"):
        shown = code if type(code) is str else kind_of(code)
        raise RefusedError(f"wants an array of dtype {shown}")
    return np.dtype(code).newbyteorder(order)


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("an array has no shape")
    return shape


def _bytes(value: Any) -> bytes:
    """Bytes; what Python 2 wrote is read as text of as many characters."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise ValueError("bytes are missing")


def _list(value: Any = ()) -> list | tuple:
    if type(value) not in (list, tuple, set, frozenset):
        raise ValueError("a list is missing")
    return value


def _number_of(dtype: Any, data: Any) -> Any:
    (value,) = np.frombuffer(_bytes(data), _dtype(dtype)).tolist()
    return value


def _new_array(cls: Any, shape: Any, code: Any) -> np.ndarray:
    if type(cls) is not InertName or cls.class_name != "numpy.ndarray":
        raise RefusedError(f"wants to call {kind_of(cls)} as an array")
    return np.empty(0, np.uint8)


def _array_of(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    flat = np.frombuffer(_bytes(data), _dtype(dtype))
    return flat.reshape(_shape(shape), order="F" if order == "F" else "C").copy()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1") or type(text) is not str:
        codec = encoding if type(encoding) is str else kind_of(encoding)
        raise RefusedError(f"wants to call _codecs.encode with {codec}")
    return text.encode("latin-1")


def _byte_array(value: Any = b"", encoding: str = "latin-1") -> bytearray:
    return bytearray(_bytes(value))


def _path(kind: type[pathlib.PurePath]) -> Callable[..., str]:
    def rebuild(*parts: Any) -> str:
        if sum(len(part) if type(part) is str else MAX_PATH for part in parts) >= MAX_PATH:
            raise ValueError("a path is not made of text")
        return str(kind(*parts))

    return rebuild


def _datetime(data: Any, zone: Any = None) -> str:
    return datetime.datetime(_bytes(data), *_zone(zone)).isoformat()


def _time(data: Any, zone: Any = None) -> str:
    return datetime.time(_bytes(data), *_zone(zone)).isoformat()


def _date(data: Any) -> str:
    return datetime.date(_bytes(data)).isoformat()


def _zone(zone: Any) -> tuple[datetime.timezone, ...]:
    if zone is None:
        return ()
    if type(zone) is not InertRecord or zone.class_name != "datetime.timezone":
        raise ValueError("a time zone is missing")
    return (datetime.timezone(datetime.timedelta(seconds=zone.args[0])),)


def _seconds(days: int, seconds: int, microseconds: int) -> float:
    return datetime.timedelta(int(days), int(seconds), int(microseconds)).total_seconds()


def _ordered(pairs: Any = ()) -> OrderedDict:
    return OrderedDict((hashable(key), value) for key, value in _list(pairs))


def _counter(counts: Any = None) -> dict:
    if counts is not None and type(counts) is not dict:
        raise ValueError("a Counter holds no counts")
    return counts or {}


def _default_dict(factory: Any = None) -> dict:
    """The factory is named in the file and never used."""
    return {}


def _deque(items: Any = (), longest: Any = None) -> list:
    return list(_list(items))


def _range(*ends: Any) -> range:
    return range(*map(int, ends))


def _record(class_name: str) -> Callable[..., InertRecord]:
    return lambda *args: InertRecord(class_name, args)


def _new(cls: Any, *args: Any) -> InertRecord:
    if type(cls) is not InertName:
        raise RefusedError("wants an object of what is no class")
    return InertRecord(cls.class_name, args)


def _new_with_keywords(cls: Any, args: Any, keywords: Any) -> InertRecord:
    return _new(cls, *_list(args), *([keywords] if keywords else []))


def _reconstructor(cls: Any, base: Any, state: Any) -> InertRecord:
    if type(base) is not InertName or not base.class_name.startswith("builtins."):
        raise RefusedError(f"wants to call {kind_of(base)}.__new__")
    return _new(cls, *([] if state is None else [state]))


_PATHS = {
    f"{module}.{name}": _path(
        pathlib.PureWindowsPath if "Windows" in name else pathlib.PurePosixPath
    )
    for module in ("pathlib", "pathlib._local")
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
}
_ARRAYS = {
    f"numpy.{core}.{name}": rebuild
    for core in ("core", "_core")
    for name, rebuild in (
        ("multiarray.scalar", _number_of),
        ("multiarray._reconstruct", _new_array),
        ("numeric._frombuffer", _array_of),
    )
}
_RECORDS = ("numpy.dtype", "datetime.timezone", "types.SimpleNamespace")
REBUILDERS: dict[str, Callable[..., Any]] = {
    **TENSOR_REBUILDERS,
    **_PATHS,
    **_ARRAYS,
    **{name: _record(name) for name in _RECORDS},
    "_codecs.encode": _encode,
    "builtins.bytearray": _byte_array,
    "builtins.bytes": lambda value=b"", encoding="latin-1": _bytes(value),
    "builtins.complex": lambda real, imag=0.0: complex(float(real), float(imag)),
    "builtins.frozenset": lambda items=(): frozenset(map(hashable, _list(items))),
    "builtins.range": _range,
    "builtins.set": lambda items=(): set(map(hashable, _list(items))),
    "builtins.slice": slice,
    "builtins.xrange": _range,
    "collections.Counter": _counter,
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _default_dict,
    "collections.deque": _deque,
    "copyreg.__newobj__": _new,
    "copyreg.__newobj_ex__": _new_with_keywords,
    "copyreg._reconstructor": _reconstructor,
    "datetime.date": _date,
    "datetime.datetime": _datetime,
    "datetime.time": _time,
    "datetime.timedelta": _seconds,
    "decimal.Decimal": lambda text: str(text),
    "logging.getLogger": lambda *args: InertRecord("logging.Logger", args),
}
