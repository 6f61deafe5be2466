"""A closed unpickler: nothing that a pickle names is imported, called or filled.

Runs as a program of its own, under limits of memory and time: it reads a file from standard input,
with the directory of its zip archive where it is one, and writes what is in its pickles to standard
output, as plain values and the classes below. A file that is made to exhaust the machine, or to
crash Python, ends this process alone; one whose values would exhaust those who read them is refused
by the limits below. So that it starts in milliseconds it imports nothing but Python's standard
library.
"""

import collections
import copyreg
import datetime
import io
import pathlib
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO, Any

try:
    import resource
except ImportError:  # Windows
    resource = None

REFUSED, DAMAGED = 3, 4  # exit codes
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # how a torch file begins that is no zip archive
MAX_TEXT = 500  # characters of an error, and of a class's name
# What a file may hold: more than any checkpoint or data set, and little enough that whoever walks,
# copies, compares or shows it is done in seconds.
MAX_DEPTH = 100  # of values inside values
MAX_VALUES = 2**22  # in all; what is inside two others counts twice, as for those who walk it
MAX_PARTS = 2**18  # tensors, storages, arrays
MAX_BITS = 1000  # of an integer, as many as fit a float; Python writes out no more than 14,000
MAX_KEY = 2**63  # of integers as keys: larger ones can be chosen to have equal hashes
MAX_TUPLE_KEYS = 10_000  # in all: these can be chosen so, too
MAX_PICKLE = 2**27  # bytes, where tensors lie elsewhere
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a part of a zip archive: 30 bytes, then two names


class RefusedError(Exception):
    """A file asks for something that would run code; the text says for what."""


class InertRecord:
    """An object of a class that is not imported: what the file says about it, and no behaviour.

    Attributes:
        class_name: ``module.Class``, as the file has it.
        args: what the class would be given.
        state: what the object would be filled with, mostly a dict of its attributes.
        items: what it would hold, where the class is a kind of list or dict.
    """

    def __init__(
        self, class_name: str, args: tuple = (), state: Any = None, items: Any = None
    ) -> None:
        self.class_name, self.args, self.state, self.items = class_name, args, state, items


class InertName(InertRecord):
    """A class or function that the file only names."""


class _Name(type):
    """The type of what stands for the classes and functions that a file names.

    Attributes:
        rebuild: our own code for what data is made of; None: it can't be called.
    """

    class_name: str
    rebuild: Callable[..., Any] | None = None

    def __call__(cls, *args: Any) -> Any:
        if cls.rebuild is None:
            raise RefusedError(f"wants to call {cls.class_name}")
        return cls.rebuild(*args)

    @property
    def __setstate__(cls) -> None:
        raise RefusedError(f"wants to change {cls.class_name} by __setstate__")


class _Object(metaclass=_Name):
    """An object of a class that a file names, made without calling it."""

    __slots__ = ("args", "items", "state")

    def __new__(cls, *args: Any, **keywords: Any) -> "_Object":
        self = object.__new__(cls)
        self.args = (*args, keywords) if keywords else args
        self.state = self.items = None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        self.items = [] if self.items is None else self.items
        self.items.append(item)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items = {} if self.items is None else self.items
        self.items[key] = value

    def __reduce__(self) -> tuple:
        return InertRecord, (type(self).class_name, self.args, self.state, self.items)


class Part:
    """Something of torch or numpy, which the reader of the output makes: its kind and arguments."""

    def __init__(self, kind: str, *args: Any) -> None:
        self.kind, self.args = kind, args

    def __setstate__(self, state: Any) -> None:
        if self.kind == "dtype":
            _, order, parts, _, fields, *_ = state
            if parts is not None or fields is not None:
                raise RefusedError("wants an array of structures")
            self.args = (self.args[0], order)
        elif self.kind == "array":
            _, shape, dtype, fortran, data = state
            self.args = (data, dtype, shape, "F" if fortran else "C")
        else:
            raise RefusedError(f"wants to change a {self.kind} by __setstate__")

    def __reduce__(self) -> tuple:
        return Part, (self.kind, *self.args)


class OrderedDict(collections.OrderedDict):
    """Without attributes: torch's ``_metadata`` is read by nobody here."""

    def __setstate__(self, state: Any) -> None:
        pass


def _make_name(class_name: str, rebuild: Callable[..., Any] | None = None) -> _Name:
    return _Name("_Name", (_Object,), {"class_name": class_name, "rebuild": rebuild})


def _make_object(cls: Any, *args: Any) -> _Object:
    if type(cls) is not _Name:
        raise RefusedError("wants an object of what is no class")
    return cls.__new__(cls, *args)


def _reconstruct(cls: Any, base: Any, state: Any) -> _Object:
    name = getattr(base, "class_name", "what is no class")
    if not name.startswith("builtins."):
        raise RefusedError(f"wants to call {name}.__new__")
    return _make_object(cls, *([] if state is None else [state]))


def _to_bytes(value: Any = b"", encoding: str = "latin-1") -> bytes:
    """Bytes; what Python 2 wrote, and what older protocols have, is text of as many characters."""
    if encoding not in ("latin1", "latin-1"):
        codec = getattr(encoding, "class_name", encoding)
        raise RefusedError(f"wants to call _codecs.encode with {codec}")
    if not isinstance(value, str | bytes | bytearray):  # bytes(10**9) would be as many
        raise ValueError("bytes are made of what is no text")
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Part:
    if len(others) > 2 and others[2]:  # requires_grad, hooks, metadata
        raise ValueError("a conjugated or negated view of a tensor")
    return Part("tensor", storage, offset, size, stride)


def _tensor_of_dtype(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Part:
    """For dtypes that have no class of storages; size and stride count their elements."""
    return Part("tensor", storage, offset, size, stride, dtype)


def _tensor_of_type(function: Any, cls: Any, args: Any, state: Any) -> Part:
    """A tensor of a subclass, or with attributes: the tensor alone."""
    return function(*args)  # the name of another refuses


def _new_array(cls: Any, shape: Any, code: Any) -> Part:
    if getattr(cls, "class_name", "") != "numpy.ndarray":
        raise RefusedError(f"wants to call {getattr(cls, 'class_name', cls)} as an array")
    return Part("array", b"", Part("dtype", "u1"), (0,), "C")


def _in_zone(kind: type) -> Callable[..., str]:
    return lambda data, *zone: kind(_to_bytes(data), *zone).isoformat()


def _record(class_name: str) -> Callable[..., _Object]:
    return lambda *args: _make_object(_make_name(class_name), *args)


_REBUILD: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_type,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda kind, *index: ":".join(map(str, (kind, *index))),
    "numpy.dtype": lambda code, *_: Part("dtype", code),
    "numpy.core.multiarray.scalar": lambda dtype, data: Part("scalar", data, dtype),
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy.core.numeric._frombuffer": lambda *args: Part("array", *args),
    "_codecs.encode": _to_bytes,
    "builtins.bytearray": lambda *args: bytearray(_to_bytes(*args)),
    "builtins.bytes": _to_bytes,
    "builtins.complex": complex,
    "builtins.frozenset": frozenset,
    "builtins.range": range,
    "builtins.xrange": range,
    "builtins.set": set,
    "builtins.slice": slice,
    "collections.Counter": lambda counts=(): dict(counts),
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": lambda factory=None: {},  # which is named and never used
    "collections.deque": lambda items=(), longest=None: list(items),
    "copyreg.__newobj__": _make_object,
    "copyreg.__newobj_ex__": lambda cls, args, keywords: _make_object(cls, *args, keywords),
    "copyreg._reconstructor": _reconstruct,
    "datetime.date": lambda data: datetime.date(_to_bytes(data)).isoformat(),
    "datetime.datetime": _in_zone(datetime.datetime),
    "datetime.time": _in_zone(datetime.time),
    "datetime.timedelta": lambda *parts: datetime.timedelta(*parts).total_seconds(),
    "datetime.timezone": lambda s, *_: datetime.timezone(datetime.timedelta(seconds=s)),
    "decimal.Decimal": lambda text: str(text),
    "logging.getLogger": _record("logging.Logger"),
    "types.SimpleNamespace": _record("types.SimpleNamespace"),
}
for _kind in ("Path", "PosixPath", "PurePath", "PurePosixPath"):
    _REBUILD[f"pathlib.{_kind}"] = lambda *parts: str(pathlib.PurePosixPath(*parts))
for _kind in ("WindowsPath", "PureWindowsPath"):
    _REBUILD[f"pathlib.{_kind}"] = lambda *parts: str(pathlib.PureWindowsPath(*parts))
# Modules as Python 2 called them, and as newer versions of numpy and Python do.
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_NEWER = {"numpy._core.": "numpy.core.", "pathlib._local.": "pathlib."}


class _ClosedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the name; nothing is imported."""
        class_name = known = f"{_PYTHON_2.get(module, module)}.{name}"
        if len(class_name.encode()) > MAX_TEXT:
            raise ValueError("names a class by too many letters")
        for new, old in _NEWER.items():
            known = known.replace(new, old)
        return _make_name(class_name, _REBUILD.get(known))

    def persistent_load(self, value: Any) -> Any:
        """Return a storage of a tensor, or the class of a pickled module."""
        if type(value) is tuple and len(value) == 4 and value[0] == "module":
            return value[1]  # the others are its source
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
            raise ValueError("a stored value is no storage")
        _, kind, key, _, count, *view = value
        if type(key) is not str or type(count) is not int or count < 0:
            raise ValueError("a stored value is no storage")
        return Part("storage", kind, key, count, *view)


def read_file(source: IO[bytes], kind: str) -> bytes:
    """Read the pickles of a file.

    Args:
        source: the file, from its start.
        kind: ``zip``: a torch file; ``legacy``: one of before torch 1.6; ``pickle``: a plain one.

    Returns:
        Two pickles: where the tensors are (of a zip archive the ``Places`` of its parts and the
        name of its pickle, of a legacy file its first storage), and the list of what they hold.

    Raises:
        RefusedError: one would run something.
        Exception: of many kinds, where the file is damaged.
    """
    if kind == "zip":
        places, name = _read_directory(source)
        return read_pickles(io.BytesIO(_read_part(source, places, name)), 1, (places, name))
    return read_pickles(source, 5 if kind == "legacy" else 1)


Places = dict[str, tuple[int, int, int]]  # name -> first byte, bytes and checksum of a part


def _read_directory(source: IO[bytes]) -> tuple[Places, str]:
    """Return where the parts of a torch file are, and which of them is its pickle."""
    places: Places = {}
    with zipfile.ZipFile(source) as archive:
        end = archive.start_dir
        parts = sorted(archive.infolist(), key=lambda part: -part.header_offset)
    for part in parts:  # the last one first
        if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
            raise ValueError("its parts are compressed, which torch's are not")
        source.seek(part.header_offset)
        magic, *lengths = _LOCAL_HEADER.unpack(source.read(_LOCAL_HEADER.size))
        start = part.header_offset + _LOCAL_HEADER.size + sum(lengths)
        if magic != b"PK\3\4" or start + part.file_size > end or part.filename in places:
            raise ValueError("its parts overlap, or two have one name")
        places[part.filename] = start, part.file_size, part.CRC
        end = part.header_offset
    names = [name for name in places if name.split("/")[1:] == ["data.pkl"]]
    if len(names) != 1:
        raise ValueError("a zip archive without data.pkl")
    folder = names[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in places:
        raise RefusedError("is a TorchScript program")
    order = f"{folder}byteorder"
    if order in places and _read_part(source, places, order).strip() != b"little":
        raise ValueError("its numbers are big-endian")
    return places, names[0]


def _read_part(source: IO[bytes], places: Places, name: str) -> bytes:
    start, size, checksum = places[name]
    if size > MAX_PICKLE:
        raise ValueError("its pickle is too large; tensors belong beside it")
    source.seek(start)
    data = source.read(size)
    if zlib.crc32(data) != checksum:
        raise ValueError(f"the checksum of {name} does not fit")
    return data


def read_pickles(source: IO[bytes], count: int, places: Any = None) -> bytes:
    """Read ``count`` pickles; returns a pickle of ``places`` and one of the list of them.

    Without ``places``, the first is of where ``source`` stands after them.

    Raises:
        RefusedError: one would run something.
        Exception: of many kinds, where one is damaged.
    """
    values: list[Any] = []
    for _ in range(count):
        values.append(_ClosedUnpickler(source, encoding="latin-1").load())
        if count > 1 and values[0] != TORCH_MAGIC:
            raise ValueError("it does not begin as torch's files do")
    _Census().count(values, 0)
    output = io.BytesIO()
    pickler = pickle.Pickler(output, protocol=5)
    pickler.dispatch_table = copyreg.dispatch_table | {
        _Name: lambda name: (InertName, (name.class_name,)),
        datetime.timezone: lambda zone: (InertRecord, ("datetime.timezone", (str(zone),))),
    }
    pickler.dump(source.tell() if places is None and count > 1 else places)
    pickler.dump(values)
    return output.getvalue()


class _Census:
    """Counts values, so that all who read them may recurse, walk and compare without a limit."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[int, int]] = {}
        self.num_parts = self.num_tuple_keys = 0

    def count(self, value: Any, above: int) -> tuple[int, int]:
        """Return how many values are in one, itself included, and how many lie inside each other.

        Raises:
            ValueError: they are more than a file may hold, or of a kind that it may not hold.
        """
        if id(value) not in self.known:
            if above > MAX_DEPTH:
                raise ValueError("its values are nested too deeply, or hold themselves")
            self.known[id(value)] = 0, 0  # of one that holds itself: until it is too deep
            self.known[id(value)] = self._count_inside(value, above)
        size, depth = self.known[id(value)]
        if above + depth > MAX_DEPTH + 1 or not depth:
            raise ValueError("its values are nested too deeply, or hold themselves")
        return size, depth

    def _count_inside(self, value: Any, above: int) -> tuple[int, int]:
        size, depth = 1, 0
        for item in self._list_inside(value):
            kind = type(item)
            if kind is str:
                item.encode()  # half a surrogate pair could not be written anywhere
            elif kind is int:
                if item.bit_length() > MAX_BITS:
                    raise ValueError(f"an integer of {item.bit_length()} bits")
            elif kind not in _PLAIN:
                inside, below = self.count(item, above + 1)
                size, depth = size + inside - 1, max(depth, below)
            size += 1
            if size > MAX_VALUES:
                raise ValueError("there are too many values")
        return size, depth + 1

    def _list_inside(self, value: Any) -> Iterable[Any]:
        if isinstance(value, dict):
            self._check_keys(value)
            return [*value, *value.values()]
        if isinstance(value, set | frozenset):
            self._check_keys(value)
            return value
        if isinstance(value, _Object):
            return value.args, value.state, value.items
        if isinstance(value, Part):
            self.num_parts += 1
            if self.num_parts > MAX_PARTS:
                raise ValueError("there are too many tensors")
            return value.args
        if isinstance(value, range | slice):
            return value.start, value.stop, value.step
        return value if isinstance(value, list | tuple) else ()

    def _check_keys(self, keys: Iterable[Any]) -> None:
        """Refuse keys of a dictionary that can be chosen to make each next one slower."""
        for key in keys:
            if type(key) is int and not -MAX_KEY <= key < MAX_KEY:
                raise ValueError("an integer as key has too many digits")
            if isinstance(key, tuple | frozenset | range | complex):
                self.num_tuple_keys += 1
                if self.num_tuple_keys > MAX_TUPLE_KEYS:
                    raise ValueError("there are too many keys that are no text")


_PLAIN = {float, bool, type(None), bytes, bytearray, complex}


def main(kind: str, memory: int, seconds: int) -> int:
    """Translate the file in standard input; the text of an error goes to standard error.

    Args:
        kind: of the file.
        memory: bytes that this process may take.
        seconds: of the processor.
    """
    for name, limit in (("RLIMIT_CORE", 0), ("RLIMIT_CPU", seconds), ("RLIMIT_AS", memory)):
        with suppress(AttributeError, ValueError, OSError):  # none on this system, or a lower one
            resource.setrlimit(getattr(resource, name), (limit, limit))
    try:
        output = read_file(sys.stdin.buffer, kind)
    except MemoryError:
        return 1
    except Exception as error:  # damaged bytes end in KeyError, struct.error, IndexError …
        sys.stderr.write(str(error)[:MAX_TEXT] or type(error).__name__)
        return REFUSED if isinstance(error, RefusedError) else DAMAGED
    sys.stdout.buffer.write(output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
