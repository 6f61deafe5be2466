"""What an index is made of and with, and that it stays so."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from base.config import resolved
from retrieval.errors import IndexFolderError
from retrieval.indexing.encoder import ModelFile, WindowEncoder
from retrieval.indexing.windows import STRIDE_S, WINDOW_S, check_windows
from retrieval.storage import database, layout
from retrieval.storage.writer import IndexWriter
from retrieval.videos import find_videos
from utils.errors import UserError
from utils.files import write_json


def list_videos(folder: Path) -> list[str]:
    """Return the paths of the videos within a folder.

    Raises:
        UserError: there are none, or it can't be read.
    """
    names = [path.relative_to(folder).as_posix() for path in find_videos(folder)]
    if not names:
        raise UserError(
            f"{folder}: holds no video; is a disk not there? (An index of it is left as it is; to "
            "be rid of that, delete its folder.)"
        )
    return names


def read_settings(out: Path) -> dict[str, Any] | None:
    """Return what is kept by name in an index; None where there is none as yet.

    Raises:
        IndexFolderError: the folder holds something else, or an index that can't be read.
    """
    begun = (out / layout.LOCK).exists()
    if (out / database.DATABASE).exists() and not (begun and _is_unfinished(out)):
        with closing(database.connect(out)) as connection:
            return database.read_meta(connection)
    if not begun and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise IndexFolderError(f"{out}: holds something else than an index; name another --out")
    return None


def _is_unfinished(out: Path) -> bool:
    """Whether the making of the index was stopped before there was one."""
    try:
        with closing(sqlite3.connect(out / database.DATABASE)) as connection:
            return connection.execute("PRAGMA user_version").fetchone()[0] == 0
    except sqlite3.Error:
        return False


def create(
    videos: Path, out: Path, model: ModelFile, windows: tuple[float, float], encoder: WindowEncoder
) -> None:
    """Make an empty index in a locked folder.

    Args:
        videos: the folder that it is of.
        out: the index.
        model: that it is made with.
        windows: length and distance of entries, seconds.
        encoder: the same model, loaded.
    """
    (out / database.DATABASE).unlink(missing_ok=True)  # of one whose making was stopped
    checksum, width = encoder.save_queries(out / layout.QUERY_ENCODER)
    write_json(out / layout.CONFIG, resolved(model.config))
    meta = {
        "folder": os.fsencode(videos.absolute()).hex(),
        "model": model.identity(),
        "query_encoder": checksum,
        "windows": list(windows),
    }
    IndexWriter.create(out, width, encoder.leaves_out(), meta)


def check_folder(videos: Path, out: Path, settings: dict[str, Any]) -> None:
    """Raise ``IndexFolderError`` where an index is one of another folder."""
    own = indexed_folder(settings)
    if own.resolve() != videos.resolve():
        raise IndexFolderError(
            f"{out}: is the index of {own}, not of {videos}; give that folder, or another --out"
        )


def indexed_folder(settings: dict[str, Any]) -> Path:
    """Return the folder that an index is of."""
    return Path(os.fsdecode(bytes.fromhex(settings["folder"])))


def chosen_windows(
    out: Path, settings: dict[str, Any] | None, window_s: float | None, stride_s: float | None
) -> tuple[float, float]:
    """Return length and distance of an index's entries, seconds.

    Args:
        out: the index.
        settings: its own; None: it is new.
        window_s: what is asked for; None: what it has.
        stride_s: likewise.

    Raises:
        UserError: it has others, or they make no sense.
    """
    own = (WINDOW_S, STRIDE_S) if settings is None else tuple(settings["windows"])
    wanted = (
        own[0] if window_s is None else window_s,
        own[1] if stride_s is None else stride_s,
    )
    check_windows(*wanted)
    if settings is not None and wanted != own:
        raise UserError(
            f"{out}: has windows of {own[0]:g} s every {own[1]:g} s, not of {wanted[0]:g} every "
            f"{wanted[1]:g}; leave out --window and --stride, or give another --out"
        )
    return wanted
