"""Reads files of torch, and plain pickles, without running anything that is in them.

A torch file is a zip archive with a pickle and a file of bytes for each storage (torch 1.6 and
later), or a row of pickles followed by the storages (before, often named ``.pth.tar``).
"""

import io
import mmap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from utils.checkpoint.errors import CheckpointError
from utils.checkpoint.pickle_machine import run_pickle
from utils.checkpoint.rebuild_tensors import storage_request, typed
from utils.checkpoint.records import InertName, InertRecord, RefusedError, printable

__all__ = ["InertName", "InertRecord", "format_of", "read_inert", "read_pickle"]

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how files begin that are no zip archives
COUNT_BYTES = 8  # before each storage of such a file


def read_inert(path: str | Path) -> Any:
    """Read a torch file; tensors on the CPU, plain values, ``InertRecord`` for everything else.

    Raises:
        CheckpointError: it can't be read, is damaged, or would run something: what is named.
    """
    path = Path(path)
    return _guarded(path, _read_zip if format_of(path) == "zip" else _read_legacy)


def read_pickle(path: str | Path) -> Any:
    """Read a plain pickle of data: numpy scalars as Python numbers, arrays as numpy arrays.

    Raises:
        CheckpointError: as ``read_inert``.
    """
    return _guarded(Path(path), _read_plain)


def format_of(path: Path) -> str:
    """Return ``safetensors``, ``zip`` or ``legacy``: how torch would read the file."""
    if path.suffix == ".safetensors":
        return "safetensors"
    return "zip" if zipfile.is_zipfile(path) else "legacy"


def _guarded(path: Path, read: Callable[[Path], Any]) -> Any:
    """Read, and say what is wrong with the file in one line."""
    try:
        return read(path)
    except RefusedError as error:
        raise CheckpointError(
            f"{path}: {printable(str(error))}; what a file asks for is never executed. Use one "
            "that holds tensors and plain values, such as the state_dict alone"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror or error})") from error
    except Exception as error:  # damaged bytes end in KeyError, struct.error, IndexError …
        text = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise CheckpointError(f"{path}: is damaged or no checkpoint ({printable(text)})") from error


def _read_plain(path: Path) -> Any:
    return run_pickle(io.BytesIO(path.read_bytes()))


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
        storages: dict[str, Tensor] = {}

        def storage(value: Any) -> Tensor:
            dtype, key, count, _ = storage_request(value)
            if key not in storages:
                entry = entries[f"{folder}data/{key}"]
                with archive.open(entry) as file:
                    data = torch.empty(entry.file_size, dtype=torch.uint8)
                    storages[key] = _read_into(data, file)
            if count * dtype.itemsize != len(storages[key]):
                raise ValueError(f"storage {key} has another size than the file says")
            return typed(storages[key], dtype)

        return run_pickle(io.BytesIO(archive.read(pickled)), storage)


def _read_into(data: Tensor, file: IO[bytes]) -> Tensor:
    """Fill a tensor of bytes from a file and return it."""
    view, done = memoryview(data.numpy()), 0
    while done < len(view):
        read = file.readinto(view[done : done + 2**24])
        if not read:
            raise ValueError("the file ends too early")
        done += read
    return data


def _read_legacy(path: Path) -> Any:
    """Pickles of magic number, protocol, system, content and storage keys; then the storages."""
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        if run_pickle(file) != MAGIC or run_pickle(file) != PROTOCOL:
            raise ValueError("it does not begin as torch's files do")
        if not run_pickle(file).get("little_endian", True):
            raise ValueError("its numbers are big-endian")
        storages = _LegacyStorages(len(file))
        content = run_pickle(file, storages.of)
        keys = run_pickle(file)
        if sorted(keys) != sorted(storages.data):
            raise ValueError("its storages are not those of its tensors")
        opened.seek(file.tell())
        for key in keys:
            count = int.from_bytes(opened.read(COUNT_BYTES), "little")
            if count != storages.counts[key]:
                raise ValueError(f"storage {key} has another size than the file says")
            _read_into(storages.data[key], opened)
        return content


class _LegacyStorages:
    """The storages that a pickle asks for: made when it is read, filled afterwards.

    Args:
        room: bytes that they may take in all.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.data: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def of(self, value: Any) -> Any:
        """Return the storage of a persistent id, or the class of a pickled module."""
        if type(value) is tuple and len(value) == 4 and value[0] == "module":
            return value[1]  # the others are its source
        dtype, key, count, view = storage_request(value)
        if key not in self.data:
            self.room -= count * dtype.itemsize
            if self.room < 0:
                raise ValueError(f"storage {key} is larger than the file")
            self.data[key] = torch.empty(count * dtype.itemsize, dtype=torch.uint8)
            self.counts[key] = count
        whole = typed(self.data[key], dtype)
        return whole if view is None else torch.narrow(whole, 0, view[1], view[2])
