"""Files of a model in an index in LanceDB: its configuration and its query encoder.

They are a table, a row for some megabytes of a file, so that they are where the index is; to be
read they are copied once into a local cache folder, named by their checksums.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.index import checksums
from retrieval.index.records import Damage
from retrieval.lance.database import DamagedStoreError, Database, Table
from retrieval.lance.schema import build_model_schema, name_model
from utils.files import atomic_folder, compute_crc32

if TYPE_CHECKING:
    import pyarrow as pa

_PART = 1 << 23  # bytes of a row


def save_files(database: Database, folder: Path, meta: dict[str, Any]) -> None:
    """Write the files of a model, which ``meta`` names, from a folder into their table."""
    import pyarrow as pa

    name = name_model(meta)
    if name is None:
        return
    schema = build_model_schema()

    def read_parts() -> "Iterator[pa.RecordBatch]":
        for file in meta[checksums.FILES]:
            with (folder / file).open("rb") as opened:
                part = 0
                while (content := opened.read(_PART)) or not part:  # an empty file is a row, too
                    columns = [
                        pa.array([file]),
                        pa.array([part]),
                        pa.array([content], pa.large_binary()),
                    ]
                    yield pa.RecordBatch.from_arrays(columns, schema=schema)
                    part += 1

    table = database.create(name, schema)
    table.append(pa.RecordBatchReader.from_batches(schema, read_parts()))


def find_damage(table: Table, meta: dict[str, Any]) -> list[Damage]:
    """Return what is wrong with the files of a model in their table."""
    found = {}
    for file, content in _read_contents(table):
        size, checksum = found.get(file, (0, 0))
        found[file] = size + len(content), zlib.crc32(content, checksum)
    damages = []
    for file, (size, checksum) in meta[checksums.FILES].items():
        if file not in found:
            damages.append(Damage(file, "is gone"))
        elif found[file][0] != size:
            damages.append(Damage(file, f"has {found[file][0]} bytes and not {size}"))
        elif found[file][1] != checksum:
            damages.append(Damage(file, "holds something else than was written"))
    return damages


def copy_files(table: Table, cache: Path, meta: dict[str, Any], location: str) -> Path:
    """Return a folder in the cache with the files of a model, copied if need be.

    Raises:
        DamagedStoreError: one is not what was written.
        OSError: the cache can't be written to.
    """
    listed = meta[checksums.FILES]
    folder = cache / str(name_model(meta))
    if _is_complete(folder, listed):
        return folder
    damages = find_damage(table, meta)
    if damages:
        raise DamagedStoreError(location, *damages[0])
    cache.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        for file, content in _read_contents(table):
            if file in listed:
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                with (temporary / file).open("ab") as opened:
                    opened.write(content)
    return folder


def _is_complete(folder: Path, listed: dict[str, list[int]]) -> bool:
    """Whether a copy has all files, by their sizes and those that are small by their content."""
    for file, (size, checksum) in listed.items():
        path = folder / file
        if not path.is_file() or path.stat().st_size != size:
            return False
        if size <= _PART and compute_crc32(path) != checksum:
            return False
    return True


def _read_contents(table: Table) -> Iterator[tuple[str, bytes]]:
    """Yield the parts of all files, as they were written."""
    for batch in table.scan(["file", "content"], rows=1):
        yield from zip(
            batch.column("file").to_pylist(), batch.column("content").to_pylist(), strict=True
        )
