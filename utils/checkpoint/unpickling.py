"""Files of torch, and plain pickles, read without running anything that is in them.

A torch file is a zip archive with a pickle and a file of bytes for each storage (torch 1.6 and
later), or a row of pickles followed by the storages (before, often named ``.pth.tar``). Directory
and pickles are translated by ``closed_unpickler`` in a process of its own, which also holds what
they say to its limits; the tensors are read here, and take no more memory than the file.
"""

import io
import math
import pickle
import re
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from utils.checkpoint import closed_unpickler
from utils.checkpoint.closed_unpickler import InertName, InertRecord, RefusedError
from utils.errors import UserError

__all__ = ["CheckpointError", "InertName", "InertRecord", "RefusedError", "check_dtype",
           "check_shape", "count_with_empty", "detect_format", "find_damaged_part",
           "make_printable", "read_pickle", "read_torch_file", "read_torch_values"]  # fmt: skip

LEGACY_PROTOCOL = 1001
COUNT_BYTES = 8  # before each storage of a file that is no zip archive
MEMORY, SECONDS = 2**30, 10  # what the process that reads the pickles of a file may take
# Tensors may show numbers of a storage again (tied weights, a stride of 0), but not so often that
# a copy is a trap: so many times the bytes that there are, and so many more.
MAX_SHOWN, MORE_SHOWN = 2, 2**30
MAX_DIMENSIONS, MAX_SIZE = 64, 2**48  # of a tensor's shape; the numbers it would have without zeros
_CHUNK = 2**20
_OTHER_SIZE = "storage {} has another size than the file says"
# Numbers, text and bytes: no objects, no fields.
_DTYPE_CODES = re.compile(r"[biufcSUV?]\d{0,9}")
# Types that can be computed with, so that nobody meets others: those of less than a byte, or whose
# numbers need a scale beside them, are none.
_DTYPES = {str(dtype): dtype for dtype in (
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
)}  # fmt: skip
_STORAGES = {
    "BFloat16Storage": torch.bfloat16, "BoolStorage": torch.bool, "ByteStorage": torch.uint8,
    "CharStorage": torch.int8, "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64, "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "IntStorage": torch.int32,
    "LongStorage": torch.int64, "ShortStorage": torch.int16, "UntypedStorage": torch.uint8,
}  # fmt: skip


class CheckpointError(UserError):
    """A checkpoint that can't be read, does not fit, or can't be written."""


def read_torch_file(path: str | Path) -> Any:
    """Read a torch file: tensors on the CPU, plain values, ``InertRecord`` for everything else.

    Numpy's arrays come as tensors, those of texts as lists.

    Raises:
        CheckpointError: it can't be read, is damaged, asks for too much memory or time, or would
            run something: what is named.
    """
    path = Path(path)
    return _explain(path, _read_zip if detect_format(path) == "zip" else _read_legacy)


def read_torch_values(path: str | Path) -> Any:
    """Read a torch file of 1.6 or later without its tensors, which come as None.

    Raises:
        CheckpointError: as ``read_torch_file``; the bytes of the tensors may be damaged.
    """
    return _explain(Path(path), lambda path: _read_zip(path, _ValueBuilder))


def read_pickle(path: str | Path) -> Any:
    """Read a plain pickle of data: numpy scalars as Python numbers, arrays as numpy arrays.

    Raises:
        CheckpointError: as ``read_torch_file``.
    """

    def read(path: Path) -> Any:
        with path.open("rb") as file:
            data = _translate(file, "pickle")
        _, (content,) = _Builder(data, path.stat().st_size, as_tensors=False).load_both()
        return content

    return _explain(Path(path), read)


def find_damaged_part(path: Path) -> str | None:
    """Return the first part of a torch file (zip) whose checksum does not fit; None: all do.

    Raises:
        CheckpointError: it is no such file, or as ``read_torch_file``.
    """

    def find(path: Path) -> str | None:
        with path.open("rb") as file:
            places, _ = _Builder(_translate(file, "zip")).load()
            for name, (start, size, checksum) in places.items():
                file.seek(start)
                found = 0
                for first in range(0, size, _CHUNK):
                    found = zlib.crc32(file.read(min(_CHUNK, size - first)), found)
                if found != checksum:
                    return name
        return None

    return _explain(path, find)


def detect_format(path: Path) -> str:
    """Return ``safetensors``, ``zip`` or ``legacy``: how torch would read the file."""
    if path.suffix == ".safetensors":
        return "safetensors"
    return "zip" if zipfile.is_zipfile(path) else "legacy"


def make_printable(text: str, longest: int = closed_unpickler.MAX_TEXT) -> str:
    """Return one line that is safe to show, of text that a file brings."""
    text = text if len(text) <= longest else text[:longest] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _explain(path: Path, read: Callable[[Path], Any]) -> Any:
    """Read, and say what is wrong with the file in one line."""
    try:
        return read(path)
    except RefusedError as error:
        raise CheckpointError(
            f"{path}: {make_printable(str(error))}; what a file asks for is never executed. Use "
            "one that holds tensors and plain values, such as the state_dict alone"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror or error})") from error
    except Exception as error:  # damaged bytes end in KeyError, RuntimeError, IndexError …
        text = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise CheckpointError(
            f"{path}: is damaged or no checkpoint ({make_printable(text)})"
        ) from error


def _translate(source: IO[bytes], kind: str) -> bytes:
    """Return what ``closed_unpickler.read_file`` makes of a file, from where it stands.

    Raises:
        RefusedError: it would run something.
        ValueError: it is damaged, or asks for more memory, time or values than checkpoints need.
    """
    program = [sys.executable, "-I", "-S", closed_unpickler.__file__]
    done = subprocess.run(
        [*program, kind, str(MEMORY), str(SECONDS)],
        stdin=source,
        capture_output=True,
        start_new_session=True,  # Ctrl-C is for the process that waits
    )
    text = done.stderr.decode("utf-8", "replace")
    if done.returncode == closed_unpickler.REFUSED:
        raise RefusedError(text)
    if done.returncode == closed_unpickler.DAMAGED:
        raise ValueError(text)
    if done.returncode:
        raise ValueError(
            f"to read it takes more than {MEMORY >> 20} MiB of memory or {SECONDS} s, or crashes "
            "Python"
        )
    return done.stdout


class _Builder(pickle.Unpickler):
    """Reads what ``closed_unpickler`` has written, and makes the tensors and arrays in it.

    Storages are made as tensors ask for them and filled afterwards.

    Args:
        data: its output.
        room: bytes that storages and arrays may take in all, those of the file.
        as_tensors: make tensors of arrays.
    """

    def __init__(self, data: bytes, room: int = 0, as_tensors: bool = True) -> None:
        super().__init__(io.BytesIO(data))
        self.room, self.shown = room, MAX_SHOWN * room + MORE_SHOWN
        self.num_texts = closed_unpickler.MAX_VALUES  # that arrays may hold
        self.as_tensors = as_tensors
        self.storages: dict[str, Tensor] = {}  # as bytes
        self.counts: dict[str, int] = {}
        self.names = {"Part": self.build, "InertRecord": InertRecord, "InertName": InertName}
        self.names |= {"OrderedDict": OrderedDict, "range": range, "slice": slice}
        self.names |= {"complex": complex, "bytearray": bytearray}

    def load_both(self) -> tuple[Any, Any]:
        """Return where the tensors are, and what the file's pickles hold."""
        return self.load(), self.load()

    def find_class(self, module: str, name: str) -> Any:
        return self.names[name]

    def build(self, kind: str, *args: Any) -> Any:
        return getattr(self, f"build_{kind}")(*args)

    def build_storage(
        self, kind: Any, key: str, count: int, view: tuple[str, int, int] | None = None
    ) -> Tensor:
        module, _, name = getattr(kind, "class_name", "").rpartition(".")
        if module not in ("torch", "torch.storage") or name not in _STORAGES:
            shown = getattr(kind, "class_name", type(kind).__name__)
            raise RefusedError(f"wants to use {shown} as a storage")
        size = count * _STORAGES[name].itemsize
        if key not in self.storages:
            self.take(size)
            self.storages[key] = torch.empty(size, dtype=torch.uint8)
            self.counts[key] = count
        if size != len(self.storages[key]):
            raise ValueError(_OTHER_SIZE.format(key))
        whole = self.storages[key].view(_STORAGES[name])
        return whole if view is None else torch.narrow(whole, 0, view[1], view[2])

    def take(self, size: int) -> None:
        """Take bytes of what the file has."""
        self.room -= size
        if self.room < 0:
            raise ValueError("its storages and arrays are larger than the file")

    def fill_storage(self, key: str, file: IO[bytes]) -> None:
        """Read the bytes of a storage from where ``file`` stands."""
        if file.readinto(memoryview(self.storages[key].numpy())) != len(self.storages[key]):
            raise ValueError("the file ends too early")

    def build_tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, dtype: InertName | None = None
    ) -> Tensor:
        """Return a view of numbers that are all within the storage."""
        if not isinstance(storage, Tensor):
            raise ValueError("a tensor has no storage")
        if dtype is not None:
            storage = storage.view(_DTYPES[check_dtype(dtype.class_name)])
        count = check_shape(size)
        if len(stride) != len(size) or not all(_is_size(n) for n in (offset, *stride)):
            raise ValueError("a tensor's shape is impossible")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count and last >= len(storage):
            raise ValueError("a tensor reaches outside its storage")
        self.shown -= count * storage.itemsize
        if self.shown < 0:
            raise ValueError("its tensors repeat their numbers without end")
        return torch.as_strided(storage, tuple(size), tuple(stride), offset)

    @staticmethod
    def build_dtype(code: Any, order: str = "=") -> np.dtype:
        if type(code) is not str or not _DTYPE_CODES.fullmatch(code) or order not in "<>=|":
            shown = getattr(code, "class_name", code)
            raise RefusedError(f"wants an array of dtype {shown}")
        return np.dtype(code).newbyteorder(order)

    def build_array(self, data: Any, dtype: Any, shape: tuple[int, ...], order: str) -> Any:
        array = self._read_numbers(data, dtype, check_shape(shape)).reshape(shape, order=order)
        if not self.as_tensors:
            return array.copy()
        if array.dtype.kind in "biufc":
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        self.num_texts -= count_with_empty(shape)
        if self.num_texts < 0:
            raise ValueError("its arrays hold too many texts")
        return array.tolist()

    def build_scalar(self, data: Any, dtype: Any) -> Any:
        return self._read_numbers(data, dtype, 1).item()

    def _read_numbers(self, data: Any, dtype: Any, count: int) -> np.ndarray:
        if not isinstance(dtype, np.dtype):
            shown = getattr(dtype, "class_name", type(dtype).__name__)
            raise RefusedError(f"wants an array of dtype {shown}")
        data = data.encode("latin-1") if isinstance(data, str) else bytes(data)  # str: of Python 2
        if count * dtype.itemsize != len(data) or count > max(len(data), 1):
            raise ValueError("an array has another size than its shape says")
        self.take(len(data))
        return np.frombuffer(data, dtype) if data else np.empty(count, dtype)


def check_dtype(dtype: Any) -> str:
    """Return a dtype's name; raises ``ValueError`` for one that can't be computed with."""
    if str(dtype) not in _DTYPES:
        raise ValueError(f"it holds numbers of the type {dtype}")
    return str(dtype)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_SIZE


def check_shape(shape: Any) -> int:
    """Return how many numbers a shape has; raises ``ValueError`` for one that torch can't hold."""
    if len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise ValueError("a tensor's shape is impossible")
    if count_with_empty(shape) >= MAX_SIZE:
        raise ValueError("a tensor's shape is impossible")
    return math.prod(shape)


def count_with_empty(shape: Iterable[int]) -> int:
    """Return the entries of a nested list of a shape: a million empty rows are no numbers."""
    return math.prod(max(size, 1) for size in shape)


class _ValueBuilder(_Builder):
    """Leaves tensors out."""

    def build_storage(self, *_: Any) -> None:
        return None

    def build_tensor(self, *_: Any) -> None:
        return None


def _read_zip(path: Path, builder_type: type[_Builder] = _Builder) -> Any:
    """A zip archive: ``NAME/data.pkl`` and ``NAME/data/KEY`` for each storage."""
    with path.open("rb") as file:
        builder = builder_type(_translate(file, "zip"), path.stat().st_size)
        (places, pickled), (content,) = builder.load_both()
        folder = pickled.removesuffix("data.pkl")
        for key, storage in builder.storages.items():
            start, size, checksum = places[f"{folder}data/{key}"]
            if size != len(storage):
                raise ValueError(_OTHER_SIZE.format(key))
            file.seek(start)
            builder.fill_storage(key, file)
            if zlib.crc32(storage.numpy()) != checksum:
                raise ValueError(f"the checksum of {folder}data/{key} does not fit")
    return content


def _read_legacy(path: Path) -> Any:
    """Pickles of magic number, protocol, system, content and storage keys; then the storages."""
    with path.open("rb") as file:
        builder = _Builder(_translate(file, "legacy"), path.stat().st_size)
        start, (_, protocol, system, content, keys) = builder.load_both()
        if protocol != LEGACY_PROTOCOL:
            raise ValueError("it does not begin as torch's files do")
        if not system.get("little_endian", True):
            raise ValueError("its numbers are big-endian")
        if sorted(keys) != sorted(builder.storages):
            raise ValueError("its storages are not those of its tensors")
        file.seek(start)
        for key in keys:
            if int.from_bytes(file.read(COUNT_BYTES), "little") != builder.counts[key]:
                raise ValueError(_OTHER_SIZE.format(key))
            builder.fill_storage(key, file)
    return content
