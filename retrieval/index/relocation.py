"""Folders of videos that lie elsewhere now: an index keeps all that it has of what is in them."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from retrieval.index.records import KnownVideo, decode_path, encode_path
from retrieval.index.roots import ONLY, Folder, Roots, parse_folder
from retrieval.index.store import StoreWriter
from utils.errors import UserError
from utils.files import FileStamp


class Relocation(NamedTuple):
    """What changes by it."""

    roots: Roots  # as they are afterwards
    concerned: list[str]  # videos that lie elsewhere, by the names that they have afterwards
    renamed: dict[str, str]  # name of a video afterwards -> before


def plan_relocation(roots: Roots, names: Iterable[str], old: Folder, new: Folder) -> Relocation:
    """Return what changes when the folder ``old`` is ``new`` from now on, both absolute.

    ``old`` is a root, a folder above some of them (a disk, the home of a user), or a folder within
    one; where one of the two is at a URL, a root or above one.

    Raises:
        UserError: there is nothing of ``old``, or ``new`` is no folder, or holds none of its
            videos.
    """
    if not isinstance(old, Path) or not isinstance(new, Path):
        return _plan_to_or_from_url(roots, names, str(old), str(new))
    if not new.is_dir():
        raise UserError(f"{new}: no such folder; give the one that {old} is now")
    moved = {
        name: new / folder.relative_to(old)
        for name, folder in roots.folders.items()
        if isinstance(folder, Path) and folder.is_relative_to(old)
    }
    if moved:
        after = replace(roots, folders={**roots.folders, **moved})
        found = Relocation(after, [name for name in names if roots.split(name)[0] in moved], {})
    else:
        found = _plan_within(roots, names, old, new)
    if not any(found.roots.locate(name).is_file() for name in found.concerned):
        raise UserError(
            f"{new}: holds none of the {len(found.concerned)} videos that were in {old}; give the "
            "folder that this one is now"
        )
    return found


def _plan_to_or_from_url(roots: Roots, names: Iterable[str], old: str, new: str) -> Relocation:
    """Do as ``plan_relocation`` where one of the folders is at a URL."""
    moved = {
        name: parse_folder(new + str(folder)[len(old) :])
        for name, folder in roots.folders.items()
        if f"{folder}/".startswith(f"{old}/")
    }
    if not moved:
        raise UserError(
            f"{old}: is none of the indexed folders and above none; they are {roots.describe()}"
        )
    after = replace(roots, folders={**roots.folders, **moved})
    concerned = [name for name in names if roots.split(name)[0] in moved]
    if not set(concerned) & set(after.list_videos().names):
        raise UserError(
            f"{new}: holds none of the {len(concerned)} videos that were in {old}; give the folder "
            "that this one is now"
        )
    return Relocation(after, concerned, {})


def _plan_within(roots: Roots, names: Iterable[str], old: Path, new: Path) -> Relocation:
    """Return what changes where the folder that has moved is within a root."""
    place = next(
        (
            (root, folder)
            for root, folder in roots.folders.items()
            if isinstance(folder, Path) and old.is_relative_to(folder)
        ),
        None,
    )
    if place is None:
        raise UserError(f"{old}: nothing in it is indexed; the folders are {roots.describe()}")
    start = roots.name_video(place[0], f"{old.relative_to(place[1]).as_posix()}/")
    target = roots.find_root(new)
    if target is None and place[0] == ONLY:
        raise UserError(f"{new}: lies out of the indexed folder {place[1]}; move it into that")
    after = roots if target is not None else roots.add(new)
    root, path = target or (next(name for name in after.folders if name not in roots.folders), ".")
    inside = after.name_video(root, "" if path == "." else f"{path}/")
    renamed = {inside + name.removeprefix(start): name for name in names if name.startswith(start)}
    return Relocation(after, list(renamed), renamed)


def relocate_folder(
    writer: StoreWriter,
    old: Folder,
    new: Folder,
    move_documents: Callable[[dict[str, str]], None] | None = None,
) -> int:
    """Let an index look for videos in ``new`` that were in ``old``; returns their number.

    Args:
        move_documents: called with name after -> before, where names change.

    Raises:
        UserError: as ``plan_relocation``.
    """
    known, roots = writer.read_videos(), Roots.from_meta(writer.meta)
    found = plan_relocation(roots, known, old, new)
    clash = sorted((found.renamed.keys() & known.keys()) - set(found.renamed.values()))
    if clash:
        raise UserError(f"{new}: its {clash[0]} is in the index already, as another video")
    if found.renamed:
        if move_documents is not None:
            move_documents(found.renamed)
        ids = {known[before].id: name for name, before in found.renamed.items()}
        writer.rename_videos(ids)
    values = found.roots.to_meta()
    source = writer.meta.get("ocr") or {}
    is_here = isinstance(old, Path) and isinstance(new, Path)
    if source.get("kind") == "folder" and is_here:  # its documents may have moved with it
        documents = decode_path(source["folder"])
        if documents.is_relative_to(old) and (new / documents.relative_to(old)).is_dir():
            moved = encode_path(new / documents.relative_to(old))
            values["ocr"] = source | {"folder": moved}
    writer.set_meta(**values)
    return len(found.concerned)


def has_followed(before: Roots, known: Mapping[str, KnownVideo], now: Roots) -> bool:
    """Whether an index's only folder is gone, and another one has most of its videos.

    They are known by their sizes and times.

    Args:
        before, known: the folder of the index, and its videos.
        now: the other one.
    """
    is_only = before.folders.keys() == now.folders.keys() == {ONLY}
    # Of a copy at a URL the times are others; --relocate says it.
    if not is_only or not all(isinstance(roots.folders[ONLY], Path) for roots in (before, now)):
        return False
    if os.path.lexists(before.folders[ONLY]):
        return False
    found = set()
    for name in now.list_videos().names:
        with suppress(OSError):
            found.add(now.look_at(name))
    stamps = [FileStamp(video.stamp.size, video.stamp.mtime_ns) for video in known.values()]
    return 2 * sum(stamp in found for stamp in stamps) > len(stamps)
