"""Files of torch, and plain pickles, read without running anything that is in them.

A torch file is a zip archive with a pickle and a file of bytes for each storage (torch 1.6 and
later), or a row of pickles followed by the storages (before, often named ``.pth.tar``). The pickles
are translated by ``closed_unpickler`` in a process of its own, the tensors are read here.
"""

import io
import math
import pickle
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from utils.checkpoint import closed_unpickler
from utils.checkpoint.closed_unpickler import InertName, InertRecord, RefusedError
from utils.errors import UserError

__all__ = ["CheckpointError", "InertName", "InertRecord", "RefusedError", "detect_format",
           "make_printable", "read_pickle", "read_torch_file"]  # fmt: skip

LEGACY_PROTOCOL = 1001
COUNT_BYTES = 8  # before each storage of a file that is no zip archive
# What a process that reads pickles may take, and how much more for each byte of them.
MEMORY, MEMORY_PER_BYTE = 2**30, 64
SECONDS, BYTES_PER_SECOND = 30, 2**20
MAX_PICKLE = 2**28  # bytes that count for these limits
# A tensor may show a number many times (a stride of 0), but not so often that a copy is a trap.
MAX_REPEATED = 2**26
_OTHER_SIZE = "storage {} has another size than the file says"
# Numbers, text and bytes: no objects, no fields.
_DTYPE_CODES = re.compile(r"[biufcSUV?]\d{0,9}")
_DTYPES = {f"torch.{n}": value for n, value in vars(torch).items() if type(value) is torch.dtype}
_STORAGES = {f"{kind.title()}Storage": _DTYPES[f"torch.{kind}"] for kind in
             ("bool", "double", "float", "half", "int", "long", "short")}  # fmt: skip
_STORAGES |= {"BFloat16Storage": torch.bfloat16, "ByteStorage": torch.uint8,
              "CharStorage": torch.int8, "ComplexDoubleStorage": torch.complex128,
              "ComplexFloatStorage": torch.complex64, "UntypedStorage": torch.uint8}  # fmt: skip


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


def read_pickle(path: str | Path) -> Any:
    """Read a plain pickle of data: numpy scalars as Python numbers, arrays as numpy arrays.

    Raises:
        CheckpointError: as ``read_torch_file``.
    """

    def read(path: Path) -> Any:
        with path.open("rb") as file:
            return _Builder(_translate(file, 1, path.stat().st_size), as_tensors=False).load()[0][0]

    return _explain(Path(path), read)


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


def _translate(source: IO[bytes] | bytes, count: int, size: int) -> bytes:
    """Return what ``closed_unpickler`` makes of pickles.

    Args:
        source: a file, from its start, or the pickles.
        count: pickles to read.
        size: their bytes, or those of the file that they are in.

    Raises:
        RefusedError: they would run something.
        ValueError: they are damaged, or ask for more memory or time than pickles of this size need.
    """
    size = min(size, MAX_PICKLE)
    memory, seconds = MEMORY + MEMORY_PER_BYTE * size, SECONDS + size // BYTES_PER_SECOND
    program = [sys.executable, "-I", "-S", closed_unpickler.__file__]
    done = subprocess.run(
        [*program, str(count), str(memory), str(seconds)],
        **({"input": source} if isinstance(source, bytes) else {"stdin": source}),
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
            f"to read it takes more than {memory >> 20} MiB of memory or {seconds} s, or crashes "
            "Python"
        )
    return done.stdout


class _Builder(pickle.Unpickler):
    """Reads what ``closed_unpickler`` has written, and makes the tensors and arrays in it.

    Storages are made as tensors ask for them and filled afterwards.

    Args:
        data: its output.
        room: bytes that storages may take in all, those of the file.
        as_tensors: make tensors of arrays.
    """

    def __init__(self, data: bytes, room: int = 0, as_tensors: bool = True) -> None:
        super().__init__(io.BytesIO(data))
        self.room = room
        self.as_tensors = as_tensors
        self.storages: dict[str, Tensor] = {}  # as bytes
        self.counts: dict[str, int] = {}
        self.names = {"Part": self.build, "InertRecord": InertRecord, "InertName": InertName}
        self.names |= {"OrderedDict": OrderedDict, "range": range, "slice": slice}
        self.names |= {"complex": complex, "bytearray": bytearray}

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
            self.room -= size
            if self.room < 0:
                raise ValueError(f"storage {key} is larger than the file")
            self.storages[key] = torch.empty(size, dtype=torch.uint8)
            self.counts[key] = count
        if size != len(self.storages[key]):
            raise ValueError(_OTHER_SIZE.format(key))
        whole = self.storages[key].view(_STORAGES[name])
        return whole if view is None else torch.narrow(whole, 0, view[1], view[2])

    def fill_storage(self, key: str, file: IO[bytes]) -> None:
        """Read the bytes of a storage from where ``file`` stands."""
        if file.readinto(memoryview(self.storages[key].numpy())) != len(self.storages[key]):
            raise ValueError("the file ends too early")

    @staticmethod
    def build_tensor(
        storage: Any, offset: int, size: Any, stride: Any, dtype: InertName | None = None
    ) -> Tensor:
        """Return a view; torch raises RuntimeError where it would reach outside."""
        if not isinstance(storage, Tensor):
            raise ValueError("a tensor has no storage")
        if dtype is not None:
            storage = storage.view(_DTYPES[dtype.class_name])
        view = torch.as_strided(storage, tuple(size), tuple(stride), offset)
        if view.numel() > max(storage.numel(), MAX_REPEATED):
            raise ValueError("a tensor repeats its numbers without end")
        return view

    @staticmethod
    def build_dtype(code: Any, order: str = "=") -> np.dtype:
        if type(code) is not str or not _DTYPE_CODES.fullmatch(code) or order not in "<>=|":
            shown = getattr(code, "class_name", code)
            raise RefusedError(f"wants an array of dtype {shown}")
        return np.dtype(code).newbyteorder(order)

    def build_array(self, data: Any, dtype: Any, shape: tuple[int, ...], order: str) -> Any:
        array = self._read_numbers(data, dtype, math.prod(shape)).reshape(shape, order=order)
        if not self.as_tensors:
            return array.copy()
        if array.dtype.kind in "biufc":
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        return array.tolist()

    def build_scalar(self, data: Any, dtype: Any) -> Any:
        return self._read_numbers(data, dtype, 1).item()

    @staticmethod
    def _read_numbers(data: Any, dtype: Any, count: int) -> np.ndarray:
        if not isinstance(dtype, np.dtype):
            shown = getattr(dtype, "class_name", type(dtype).__name__)
            raise RefusedError(f"wants an array of dtype {shown}")
        data = data.encode("latin-1") if isinstance(data, str) else bytes(data)  # str: of Python 2
        if count * dtype.itemsize != len(data) or count > max(len(data), 1):
            raise ValueError("an array has another size than its shape says")
        return np.frombuffer(data, dtype) if data else np.empty(count, dtype)


def _read_zip(path: Path) -> Any:
    """A zip archive: ``NAME/data.pkl`` and ``NAME/data/KEY`` for each storage."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickled = next((name for name in entries if name.split("/")[1:] == ["data.pkl"]), None)
        if pickled is None:
            raise ValueError("a zip archive without data.pkl")
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}constants.pkl" in entries:
            raise RefusedError("is a TorchScript program")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("its parts are compressed, which torch's are not")
        if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        order = entries.get(f"{folder}byteorder")
        if order is not None and archive.read(order).strip() != b"little":
            raise ValueError("its numbers are big-endian")
        data = _translate(archive.read(pickled), 1, entries[pickled].file_size)
        builder = _Builder(data, path.stat().st_size)
        (content,), _ = builder.load()
        for key, storage in builder.storages.items():
            entry = entries[f"{folder}data/{key}"]
            if entry.file_size != len(storage):
                raise ValueError(_OTHER_SIZE.format(key))
            with archive.open(entry) as file:
                builder.fill_storage(key, file)
    return content


def _read_legacy(path: Path) -> Any:
    """Pickles of magic number, protocol, system, content and storage keys; then the storages."""
    with path.open("rb") as file:
        size = path.stat().st_size
        builder = _Builder(_translate(file, 5, size), size)
        (_, protocol, system, content, keys), start = builder.load()
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
