"""Verification of an index in LanceDB: everything in it is read, and compared with the rest.

LanceDB has no checksums of its own. Vectors and thumbnails have them here; of the other tables it
is seen that they can be read, have as many rows as were written, and name only what is there.
"""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from retrieval.errors import DamagedIndexError
from retrieval.index.arrays import keeps_frames
from retrieval.index.records import Damage
from retrieval.lance.model_files import find_damage as find_model_damage
from retrieval.lance.schema import (
    ENTRIES,
    LINES,
    PARTS,
    POSTINGS,
    VIDEOS,
    WINDOW,
    WORDS,
    hash_arrays,
    list_tables,
    name_model,
    name_vectors,
    read_lists,
    read_vectors,
)
from retrieval.lance.view import CommitView

_ROWS = 1024  # that are read at a time


def check_tables(view: CommitView) -> Iterator[Damage]:
    """Yield what is wrong at first sight: tables that are gone, or have other numbers of rows."""
    meta = view.commit.meta
    for name in sorted(list_tables(meta)):
        if name not in view.commit.tables:
            yield Damage(f"{name}.lance", "is named by no commit")
            continue
        try:
            view.open(name)
        except DamagedIndexError as error:
            yield Damage(error.file, error.what)
    rows = {name: state.rows for name, state in view.commit.tables.items()}
    for name in {ENTRIES, name_vectors(meta)} & rows.keys():
        if rows[name] != meta["num_rows"]:
            yield Damage(f"{name}.lance", f"has {rows[name]} rows and not {meta['num_rows']}")


def verify(view: CommitView) -> Iterator[Damage]:
    """Yield all that is wrong."""
    found = list(check_tables(view))
    yield from found
    if found:  # what else is read can't be relied on
        return
    meta = view.commit.meta
    checks = [_check_entries, _check_lines, _check_postings]
    generations = [meta, *([meta["successor"]] if meta.get("successor") else [])]
    for check in checks:
        try:
            yield from check(view)
        except DamagedIndexError as error:
            yield Damage(error.file, error.what)
    for generation in generations:
        try:
            yield from _check_vectors(view, generation)
            if (model := name_model(generation)) is not None:
                yield from find_model_damage(view.open(model), generation)
        except DamagedIndexError as error:
            yield Damage(error.file, error.what)


def _check_entries(view: CommitView) -> Iterator[Damage]:
    videos = view.videos["id"].to_numpy()
    others = ~np.isin(view.entries.videos, videos)
    if others.any():
        yield Damage(f"{ENTRIES}.lance", f"has {others.sum()} entries of no video")
    for name, ids in ((VIDEOS, videos), (ENTRIES, view.entries.ids)):
        if len(np.unique(ids)) < len(ids):
            yield Damage(f"{name}.lance", "has an id twice")
    paths = view.videos["path"].to_pylist()
    if len(set(paths)) < len(paths):
        yield Damage(f"{VIDEOS}.lance", "has a path twice")
    for batch in view.open(ENTRIES).scan(["id", "thumbnail", "checksum"], rows=_ROWS):
        values = (column.to_pylist() for column in batch.columns)
        for entry, thumbnail, checksum in zip(*values, strict=True):
            if zlib.crc32(thumbnail) != checksum:
                what = f"the thumbnail of entry {entry} holds something else than was written"
                yield Damage(f"{ENTRIES}.lance", what)


def _check_lines(view: CommitView) -> Iterator[Damage]:
    videos = view.videos["id"].to_numpy()
    columns = ["video_id", "id", "text", "score", "start_s", "end_s", "boxes", "kind"]
    others = 0
    for batch in view.open(LINES).scan(columns, rows=_ROWS):
        others += int((~np.isin(batch.column("video_id").to_numpy(), videos)).sum())
    if others:
        yield Damage(f"{LINES}.lance", f"has {others} lines of no video")


def _check_postings(view: CommitView) -> Iterator[Damage]:
    words = view.open(WORDS).read(["id", "text", "reduced"])
    texts = words["text"].to_pylist()
    if len(set(texts)) < len(texts):
        yield Damage(f"{WORDS}.lance", "has a word twice")
    known = {
        "word_id": words["id"].to_numpy(),
        "entry_id": view.entries.ids,
        "line_id": view.open(LINES).read(["id"])["id"].to_numpy(),
    }
    others = dict.fromkeys(known, 0)
    for batch in view.open(POSTINGS).scan(list(known), rows=1 << 16):
        for column, ids in known.items():
            others[column] += int((~np.isin(batch.column(column).to_numpy(), ids)).sum())
    for column, count in others.items():
        if count:
            what = f"names {count} times a {column} that is not there"
            yield Damage(f"{POSTINGS}.lance", what)


def _check_vectors(view: CommitView, meta: dict[str, Any]) -> Iterator[Damage]:
    name = name_vectors(meta)
    if name is None:
        return
    width, ids = meta["width"], []
    columns = [WINDOW, *(PARTS[part] for part in meta["leaves_out"])]
    of_frames = ["frames", "frame_times"] if keeps_frames(meta) else []
    for batch in view.open(name).scan(["id", "checksum", *columns, *of_frames], rows=_ROWS):
        parts = [read_vectors(batch.column(column), width) for column in columns]
        if of_frames:
            parts += [read_lists(batch.column("frames"), width)]
            parts += [read_lists(batch.column("frame_times"), 1)]
        ids.append(batch.column("id").to_numpy())
        wanted = batch.column("checksum").to_numpy()
        for row, entry in enumerate(ids[-1].tolist()):
            if hash_arrays([part[row] for part in parts]) != wanted[row]:
                what = f"the vectors of entry {entry} are not what was written"
                yield Damage(f"{name}.lance", what)
    if meta is view.commit.meta and set(np.concatenate([[], *ids])) != set(view.entries.ids):
        yield Damage(f"{name}.lance", "has other entries than there are")
