"""Parquet files of an index: one commit of it, in bounded memory, completely or not at all."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.export.reading import (
    ExportedVideo,
    describe_vectors,
    read_vectors,
    read_videos,
)
from retrieval.export.schema import (
    FORMAT,
    PURPOSE,
    TABLES,
    Column,
    Precision,
    build_schema,
    list_columns,
)
from retrieval.index.location import is_url
from retrieval.index.roots import Roots
from retrieval.search.snapshot import Snapshot
from retrieval.video_index import VideoIndex
from utils.errors import UserError
from utils.files import atomic_folder, write_json
from utils.optional import import_optional

MANIFEST = "export.json"
_ROWS = 8192  # of a row group


class TableWriter:
    """Writes one file, a row group at a time.

    Args:
        schema: a ``pyarrow.Schema``.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._pa = import_optional("pyarrow", PURPOSE)
        parquet = import_optional("pyarrow.parquet", PURPOSE)
        self._schema = schema
        self._writer = parquet.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[Any] = []
        self._num_waiting = self.num_rows = 0

    def add(self, columns: Mapping[str, Sequence[Any] | NDArray]) -> None:
        """Add rows, given by column; vectors are (N, E), boxes lists of time and corners."""
        arrays = [self._build_array(field.type, columns[field.name]) for field in self._schema]
        table = self._pa.Table.from_arrays(arrays, schema=self._schema)
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        self.num_rows += table.num_rows
        if self._num_waiting >= _ROWS:
            self._flush()

    def add_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows, given one by one, with the columns in their order."""
        if rows:
            self.add(dict(zip(self._schema.names, zip(*rows, strict=True), strict=True)))

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._num_waiting:
            table = self._pa.concat_tables(self._waiting).combine_chunks()
            self._writer.write_table(table, row_group_size=_ROWS)
        self._waiting, self._num_waiting = [], 0

    def _build_array(self, kind: Any, values: Sequence[Any] | NDArray) -> Any:
        pa = self._pa
        if pa.types.is_fixed_size_list(kind):
            numbers = np.ascontiguousarray(values, kind.value_type.to_pandas_dtype()).ravel()
            return pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=kind)
        if pa.types.is_list(kind):
            stops = np.cumsum([0, *map(len, values)], dtype=np.int32)
            rows = np.array([row for one in values for row in one], np.float32).reshape(-1, 5)
            parts = [pa.array(np.ascontiguousarray(column)) for column in rows.T]
            boxes = pa.StructArray.from_arrays(parts, fields=list(kind.value_type))
            return pa.ListArray.from_arrays(pa.array(stops), boxes, type=kind)
        return pa.array(values, kind)


def export_parquet(
    index: VideoIndex, folder: Path, precision: Precision = "float32"
) -> dict[str, int]:
    """Write one commit of an index as Parquet files; returns the number of rows of each table.

    The folder is there when it is complete. An earlier export in it is replaced, and stays as it is
    where anything goes wrong.

    Args:
        precision: of the vectors of windows; those of frames are float16 as the index has them.

    Raises:
        UserError: ``pyarrow`` is missing, or the folder holds something else.
    """
    import_optional("pyarrow.parquet", PURPOSE)
    location = index.store.location
    check_target(folder, Path(location))
    folder = folder.resolve()  # a link stays one
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary, index.reading() as (reader, snapshot):
        description = {
            "format": FORMAT,
            "index": location if is_url(location) else str(Path(location).absolute()),
            "commit": snapshot.number,
            "model": snapshot.model,
            "windows": snapshot.meta["windows"],
            "vectors": precision,
        }
        kinds = describe_vectors(snapshot)
        columns = {table.name: list_columns(table, kinds) for table in TABLES}
        columns = {name: listed for name, listed in columns.items() if listed}
        with ExitStack() as stack:
            writers: dict[str, TableWriter] = {}
            for name, listed in columns.items():
                schema = build_schema(listed, kinds.width, precision, description)
                writers[name] = TableWriter(temporary / f"{name}.parquet", schema)
                stack.callback(writers[name].close)
            roots = Roots.from_meta(snapshot.meta)
            for found in read_videos(reader, snapshot):
                _add_video(writers, found, roots)
                _add_entries(writers, found, snapshot)
                _add_lines(writers, found)
        rows = {name: writer.num_rows for name, writer in writers.items()}
        manifest = description | {"rows": rows, "columns": _describe(columns)}
        write_json(temporary / MANIFEST, manifest)
    return rows


def check_target(folder: Path, index: Path) -> None:
    """Raise ``UserError`` where a folder holds anything but an earlier export."""
    if folder.resolve().is_relative_to(index.resolve()):
        raise UserError(f"{folder}: lies in the index; give a folder elsewhere")
    if not folder.exists():
        return
    remedy = "give a folder that is not there yet, or an earlier export, which is replaced"
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; {remedy}")
    names = {path.name for path in folder.iterdir()}
    foreign = sorted(names - {MANIFEST, *(f"{table.name}.parquet" for table in TABLES)})
    if foreign:
        raise UserError(f"{folder}: holds {foreign[0]}, which is no part of an export; {remedy}")
    if names and not _is_export(folder / MANIFEST):
        raise UserError(f"{folder}: holds files, but no {MANIFEST} of an export; {remedy}")


def _is_export(manifest: Path) -> bool:
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"format", "rows", "columns"} <= found.keys()


def _describe(columns: Mapping[str, list[Column]]) -> dict[str, list[dict[str, str]]]:
    return {
        name: [
            {"name": one.name, "type": one.type, "unit": one.unit, "meaning": one.meaning}
            for one in listed
        ]
        for name, listed in columns.items()
    }


def _add_video(writers: Mapping[str, TableWriter], found: ExportedVideo, roots: Roots) -> None:
    video = found.video
    root, _ = roots.split(video.video)
    path = _escape(video.video)
    is_text = path == video.video
    row = (
        video.id, path, None if is_text else os.fsencode(video.video), _escape(root),
        _escape(str(roots.folders.get(root, ""))), video.duration_s, video.width, video.height,
        found.stamp.size, found.stamp.mtime_ns, found.stamp.sha256,
    )  # fmt: skip
    writers["videos"].add_rows([row])


def _escape(name: str) -> str:
    """Return a name of a file as text that UTF-8 has."""
    return name.encode("utf-8", "backslashreplace").decode()


def _add_entries(
    writers: Mapping[str, TableWriter], found: ExportedVideo, snapshot: Snapshot
) -> None:
    times = {entry: span for entry, *span in found.entries}
    for part in read_vectors(snapshot, list(times)):
        starts, ends = zip(*(times[entry] for entry in part.ids.tolist()), strict=True)
        videos = np.full(len(part.ids), found.video.id)
        columns = {"id": part.ids, "video_id": videos, "start_s": starts, "end_s": ends}
        writers["entries"].add(columns | part.arrays)
        if part.frames is not None:
            entries = np.repeat(part.ids, part.frame_counts)
            columns = {"entry_id": entries, "time_s": part.frame_times, "vector": part.frames}
            writers["frames"].add(columns)


def _add_lines(writers: Mapping[str, TableWriter], found: ExportedVideo) -> None:
    first = 1 + writers["lines"].num_rows
    lines, words, spans = [], [], []
    for number, (line, own) in enumerate(zip(found.lines, found.words, strict=True), first):
        boxes = [(time, *box) for time, box in line.boxes]
        span = line.start_s, line.end_s
        lines.append((number, found.video.id, line.kind, line.text, line.score, *span, boxes))
        shared = number, found.video.id, line.kind, *span, *(line.box or [None] * 4)
        words += [(word, reduced, *shared) for word, reduced in own.items()]
    times = {entry: span for entry, *span in found.entries}
    for entry, position in found.places:
        (start, end), line = times[entry], found.lines[position]
        begins = min(max(start, line.start_s), end)
        spans.append((entry, first + position, begins, max(begins, min(end, line.end_s))))
    for name, rows in (("lines", lines), ("words", words), ("spans", spans)):
        writers[name].add_rows(rows)
