"""Columns of an exported index: the one definition that the files and their documentation have.

E is the width of the model's common space.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from utils.optional import import_optional

FORMAT = 1  # of the files; a column that changes its meaning makes another one
METADATA = b"textvr"  # key of a file's metadata
PURPOSE = "an export"
Precision = Literal["float32", "float16"]

BOXES = "list<struct<time_s, left, top, right, bottom: float>>"
VECTOR = "fixed_size_list<float>[E]"  # or halffloat: --vectors float16
HALF_VECTOR = "fixed_size_list<halffloat>[E]"


@dataclass(frozen=True)
class Column:
    """A column of a table; ``present`` says in which exports it is, where not in all."""

    name: str
    type: str
    unit: str
    meaning: str
    present: str = ""


@dataclass(frozen=True)
class Table:
    """A file ``NAME.parquet``."""

    name: str
    meaning: str
    columns: tuple[Column, ...]


_FUSES = "where the model fuses frames and words"
_CORNER = "of the line's box, mean over its frames; null of what is not in the picture"

TABLES = (
    Table("videos", "One row a video, by id.", (
        Column("id", "int64", "", "of the video; stays as long as its file is unchanged"),
        Column("path", "string", "", "within the index, `/` between its parts; in an index of "
               "several folders it begins with the name of one. What is no UTF-8 is escaped"),
        Column("path_bytes", "binary", "", "the path as it is, where that is no UTF-8; else null"),
        Column("root", "string", "", "name of its folder; empty in an index of one folder"),
        Column("folder", "string", "", "that folder, absolute where the index is, or its URL"),
        Column("duration_s", "double", "s", "until the end of its last frame"),
        Column("width", "int32", "pixel", "of a frame"),
        Column("height", "int32", "pixel", "of a frame"),
        Column("size", "int64", "byte", "of the file, when it was indexed"),
        Column("modified_ns", "int64", "ns since 1970, UTC", "the file's last change, likewise"),
        Column("sha256", "string", "", "of the file's content, hexadecimal"),
    )),
    Table("entries", "One row a window of a video, which is what a search finds.", (
        Column("id", "int64", "", "of the entry, as `Hit.id`"),
        Column("video_id", "int64", "", "its video"),
        Column("start_s", "double", "s", "where the window begins, from the video's first frame"),
        Column("end_s", "double", "s", "where it ends"),
        Column("vector", VECTOR, "", "embedding, of length 1", "where the index has a model"),
        Column("without_vision", VECTOR, "", "embedding of its words alone, of length 1", _FUSES),
        Column("without_ocr", VECTOR, "", "embedding of its frames alone, of length 1", _FUSES),
    )),
    Table("frames", "One row a frame that the model was shown; a file that is there where the "
          "index has frame vectors (`index.py --vectors frames`).", (
        Column("entry_id", "int64", "", "its entry"),
        Column("time_s", "double", "s", "when it is shown, from the video's first frame"),
        Column("vector", HALF_VECTOR, "", "embedding, of length 1"),
    )),
    Table("lines", "One row a line of text of a video.", (
        Column("id", "int64", "", "of the line, in this export only"),
        Column("video_id", "int64", "", "its video"),
        Column("kind", "string", "", "`read` in the picture, `spoken`, or the `name` of the file"),
        Column("text", "string", "", "as it was read or said"),
        Column("score", "double", "", "confidence of the reading, 0 to 1"),
        Column("start_s", "double", "s", "when it is first seen, or begins to be said"),
        Column("end_s", "double", "s", "when it was last seen, or ends"),
        Column("boxes", BOXES, "s; share of the frame", "where it is in each frame in which it was "
               "spotted, from the left and from the top; empty of what is not in the picture"),
    )),
    Table("words", "One row a distinct word of a line.", (
        Column("word", "string", "", "as it is compared: without case, accents and outer "
               "punctuation"),
        Column("reduced", "string", "", "also without signs within it, strokes and the like; null "
               "in an index of a format before 4"),
        Column("line_id", "int64", "", "its line"),
        Column("video_id", "int64", "", "the line's video"),
        Column("kind", "string", "", "the line's"),
        Column("start_s", "double", "s", "the line's"),
        Column("end_s", "double", "s", "the line's"),
        Column("left", "float", "share of the width", f"left edge {_CORNER}"),
        Column("top", "float", "share of the height", "top edge, likewise"),
        Column("right", "float", "share of the width", "right edge, likewise"),
        Column("bottom", "float", "share of the height", "bottom edge, likewise"),
    )),
    Table("spans", "One row an entry and a line that is seen or said in it; lines without any word "
          "have none.", (
        Column("entry_id", "int64", "", "the entry"),
        Column("line_id", "int64", "", "the line"),
        Column("start_s", "double", "s", "where the line begins within the entry"),
        Column("end_s", "double", "s", "where it ends within the entry"),
    )),
)  # fmt: skip


@dataclass(frozen=True)
class VectorKinds:
    """Which vectors an index has.

    Attributes:
        width: E; 0: it has none, as it holds words only.
        without: ``vision`` and ``ocr``, of which it has vectors without them.
        has_frames: whether it has vectors of frames.
    """

    width: int
    without: frozenset[str]
    has_frames: bool


def list_columns(table: Table, kinds: VectorKinds) -> list[Column]:
    """Return the columns that a table has of an index with such vectors; none: it has no file."""
    if table.name == "frames" and not kinds.has_frames:
        return []
    names = {"vector", *(f"without_{part}" for part in kinds.without)} if kinds.width else set()
    return [one for one in table.columns if not one.present or one.name in names]


def build_schema(
    columns: Iterable[Column],
    width: int,
    precision: Precision,
    description: Mapping[str, Any],
) -> Any:
    """Return the ``pyarrow.Schema`` of a table; unit and meaning are metadata of each field.

    Args:
        width: E; 0: there are no vectors.
        precision: of the vectors of windows.
        description: of the index, which becomes the metadata of the file, as JSON.
    """
    pa = import_optional("pyarrow", PURPOSE)
    names = "time_s", "left", "top", "right", "bottom"
    place = pa.struct([pa.field(name, pa.float32()) for name in names])
    of_window = pa.float32() if precision == "float32" else pa.float16()
    types = {
        "int32": pa.int32(), "int64": pa.int64(), "float": pa.float32(), "double": pa.float64(),
        "string": pa.string(), "binary": pa.binary(), BOXES: pa.list_(place),
    }  # fmt: skip
    if width:
        types |= {VECTOR: pa.list_(of_window, width), HALF_VECTOR: pa.list_(pa.float16(), width)}
    fields = [
        pa.field(one.name, types[one.type], metadata={"unit": one.unit, "meaning": one.meaning})
        for one in columns
    ]
    return pa.schema(fields, metadata={METADATA: json.dumps(description)})


def describe_tables() -> str:
    """Return all tables and their columns as Markdown; ``docs/export.md`` has this very text."""
    parts = []
    for table in TABLES:
        rows = "".join(
            f"| `{one.name}` | `{one.type}` | {one.unit} | {one.meaning}"
            f"{f' ({one.present})' if one.present else ''} |\n"
            for one in table.columns
        )
        head = "| column | type | unit | meaning |\n|---|---|---|---|\n"
        parts.append(f"### `{table.name}.parquet`\n\n{table.meaning}\n\n{head}{rows}")
    return "\n".join(parts)
