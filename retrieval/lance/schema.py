"""Tables of an index in LanceDB: their columns, and rows as they are written and read.

``videos``, ``entries``, ``lines``, ``words`` and ``postings`` (where a word stands) are what a
folder keeps in its database; ``vectors-NNNNNN`` has an entry's embeddings, those of each generation
of models in a table of their own, and ``model-CHECKSUM`` the files of a model. Ids are integers
from 1 and are never given twice. Shapes: E width of the common space.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.arrays import EMBEDDINGS, FRAMES, WITHOUT, keeps_frames
from retrieval.index.checksums import FILES
from retrieval.index.records import ContentStamp, NewEntry, NewTrack, NewVideo
from retrieval.lance.database import PURPOSE
from utils.optional import import_optional

if TYPE_CHECKING:
    import pyarrow as pa

VIDEOS, ENTRIES, LINES, WORDS, POSTINGS = "videos", "entries", "lines", "words", "postings"
CONTENT = (VIDEOS, ENTRIES, LINES, WORDS, POSTINGS)
WINDOW = "window"  # column of the vectors of windows
PARTS = {part: f"without_{part}" for part in WITHOUT}
# Columns that are looked up, each of which has an index of its own.
LOOKED_UP = {
    VIDEOS: (),
    ENTRIES: ("id", "video_id"),
    LINES: ("id", "video_id"),
    WORDS: ("id", "text"),
    POSTINGS: ("word_id", "entry_id"),
}


def name_vectors(meta: dict[str, Any]) -> str | None:
    """Return the name of the table of vectors; None: the index holds words only."""
    return None if meta.get("width") is None else f"vectors-{meta['generation']:06}"


def name_model(meta: dict[str, Any]) -> str | None:
    """Return the name of the table of a model's files; None where there are none."""
    files = meta.get(FILES)
    if not files:
        return None
    return f"model-{hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:16]}"


def list_tables(meta: dict[str, Any]) -> set[str]:
    """Return the names of the tables that an index of this ``meta`` has, beside its commits."""
    names = [name_vectors(meta), name_model(meta)]
    if (successor := meta.get("successor")) is not None:
        names += [name_vectors(successor), name_model(successor)]
    return {*CONTENT, *(name for name in names if name is not None)}


def build_schemas() -> "dict[str, pa.Schema]":
    """Return the schemas of the tables that every index has."""
    pa = import_optional("pyarrow", PURPOSE)
    whole, real, text = pa.int64(), pa.float64(), pa.string()
    columns = {
        VIDEOS: [
            ("id", whole), ("path", pa.binary()), ("stamp", text), ("ocr_stamp", text),
            ("duration_s", real), ("width", pa.int32()), ("height", pa.int32()),
        ],
        ENTRIES: [
            ("id", whole), ("video_id", whole), ("start_s", real), ("end_s", real),
            ("thumbnail", pa.large_binary()), ("checksum", pa.uint32()),
        ],
        LINES: [
            ("id", whole), ("video_id", whole), ("text", text), ("score", real), ("start_s", real),
            ("end_s", real), ("boxes", pa.list_(pa.list_(pa.float32(), 5))), ("kind", text),
        ],
        WORDS: [("id", whole), ("text", text), ("reduced", text)],
        POSTINGS: [("word_id", whole), ("entry_id", whole), ("line_id", whole)],
    }  # fmt: skip
    return {name: pa.schema(listed) for name, listed in columns.items()}


def build_vector_schema(meta: dict[str, Any]) -> "pa.Schema":
    """Return the schema of the table of vectors."""
    pa = import_optional("pyarrow", PURPOSE)
    vector = pa.list_(pa.float32(), meta["width"])
    columns = [("id", pa.int64()), (WINDOW, vector)]
    columns += [(PARTS[part], vector) for part in meta["leaves_out"]]
    if keeps_frames(meta):
        frames = pa.list_(pa.list_(pa.float16(), meta["width"]))
        columns += [("frames", frames), ("frame_times", pa.list_(pa.float64()))]
        columns += [("num_frames", pa.int32())]
    return pa.schema([*columns, ("checksum", pa.uint32())])


def build_model_schema() -> "pa.Schema":
    """Return the schema of the table of a model's files."""
    pa = import_optional("pyarrow", PURPOSE)
    columns = [("file", pa.string()), ("part", pa.int64()), ("content", pa.large_binary())]
    return pa.schema(columns)


def build_vector_rows(meta: dict[str, Any], entries: Sequence[tuple[int, NewEntry]]) -> "pa.Table":
    """Return the rows of entries (by id) in the table of vectors."""
    import pyarrow as pa

    schema = build_vector_schema(meta)
    ids = np.array([entry_id for entry_id, _ in entries], dtype=np.int64)
    names = {WINDOW: EMBEDDINGS} | {PARTS[part]: WITHOUT[part] for part in meta["leaves_out"]}
    arrays = {
        column: np.stack([entry.embeddings[name] for _, entry in entries], dtype=np.float32)
        for column, name in names.items()
    }
    parts: list[list[NDArray]] = [
        [rows[number] for rows in arrays.values()] for number in range(len(ids))
    ]
    columns: dict[str, Any] = {"id": pa.array(ids)}
    for column, rows in arrays.items():
        columns[column] = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), meta["width"])
    if keeps_frames(meta):
        counts = [len(entry.frame_times) for _, entry in entries]
        if 0 in counts or counts != [len(entry.embeddings[FRAMES]) for _, entry in entries]:
            raise ValueError("an entry has no frames, or not as many vectors as times")
        frames = [entry.embeddings[FRAMES].astype(np.float16, copy=False) for _, entry in entries]
        times = [np.asarray(entry.frame_times, dtype=np.float64) for _, entry in entries]
        stops = pa.array(np.cumsum([0, *counts], dtype=np.int32))
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(np.concatenate(frames).ravel()), meta["width"]
        )
        columns["frames"] = pa.ListArray.from_arrays(stops, vectors)
        columns["frame_times"] = pa.ListArray.from_arrays(stops, pa.array(np.concatenate(times)))
        columns["num_frames"] = pa.array(counts, pa.int32())
        for own, *more in zip(parts, frames, times, strict=True):
            own += more
    columns["checksum"] = pa.array([hash_arrays(own) for own in parts], pa.uint32())
    return pa.table(columns, schema=schema)


def hash_arrays(arrays: Sequence[NDArray]) -> int:
    """Return the checksum of the arrays of one entry, one after the other."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array), checksum)
    return checksum


def build_video_row(video_id: int, video: NewVideo) -> dict[str, Any]:
    """Return the row of a video."""
    return {
        "id": video_id,
        "path": os.fsencode(video.path),
        "stamp": dump_stamp(video.stamp),
        "ocr_stamp": dump_stamp(video.ocr_stamp),
        "duration_s": video.duration_s,
        "width": video.width,
        "height": video.height,
    }


def build_entry_row(entry_id: int, video_id: int, entry: NewEntry) -> dict[str, Any]:
    """Return the row of an entry."""
    return {
        "id": entry_id,
        "video_id": video_id,
        "start_s": entry.start_s,
        "end_s": entry.end_s,
        "thumbnail": entry.thumbnail,
        "checksum": zlib.crc32(entry.thumbnail),
    }


def build_line_row(line_id: int, video_id: int, line: NewTrack) -> dict[str, Any]:
    """Return the row of a line of text; its boxes are (F, 5) float32."""
    return {
        "id": line_id,
        "video_id": video_id,
        "text": line.text,
        "score": line.score,
        "start_s": line.start_s,
        "end_s": line.end_s,
        "boxes": np.ascontiguousarray(line.boxes, dtype=np.float32),
        "kind": line.kind,
    }


def build_rows(schema: "pa.Schema", rows: Sequence[dict[str, Any]]) -> "pa.Table":
    """Return rows, given one by one, as a table."""
    import pyarrow as pa

    columns = {}
    for column in schema:
        values = [row[column.name] for row in rows]
        if column.name == "boxes":
            columns[column.name] = _build_boxes(values)
        else:
            columns[column.name] = pa.array(values, column.type)
    return pa.table(columns, schema=schema)


def _build_boxes(values: Sequence[NDArray]) -> "pa.Array":
    import pyarrow as pa

    stops = pa.array(np.cumsum([0, *map(len, values)], dtype=np.int32))
    numbers = np.concatenate([np.zeros((0, 5), np.float32), *values])
    return pa.ListArray.from_arrays(
        stops, pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 5)
    )


def read_lists(column: "pa.ChunkedArray | pa.Array", width: int) -> list[NDArray]:
    """Return the array (F, width) of each row of a column of lists."""
    counts, numbers = read_flat(column)
    return np.split(numbers.reshape(-1, width), np.cumsum(counts)[:-1]) if len(counts) else []


def read_flat(column: "pa.ChunkedArray | pa.Array") -> tuple[NDArray, NDArray]:
    """Return the length (N,) of each row's list, and the numbers of all of them."""
    import pyarrow as pa

    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in chunks]
    numbers = [_flatten(chunk) for chunk in chunks]
    if not chunks:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    return np.concatenate(counts), np.concatenate(numbers)


def read_vectors(column: "pa.ChunkedArray | pa.Array", width: int) -> NDArray:
    """Return a column of vectors as (N, E)."""
    import pyarrow as pa

    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    rows = [_flatten(chunk).reshape(-1, width) for chunk in chunks]
    return rows[0] if len(rows) == 1 else np.concatenate([np.zeros((0, width), np.float32), *rows])


def _flatten(array: "pa.Array") -> NDArray:
    """Return the numbers of lists, of lists of lists or vectors."""
    while hasattr(array, "flatten") and array.type.num_fields:
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)


def dump_stamp(stamp: ContentStamp | None) -> str:
    """Return a stamp as JSON."""
    return json.dumps(None if stamp is None else asdict(stamp))


def parse_stamp(text: str) -> ContentStamp | None:
    """Read what ``dump_stamp`` has made."""
    values = json.loads(text)
    return None if values is None else ContentStamp(**values)
