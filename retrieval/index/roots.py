"""Root folders of an index: where its videos lie, and which files those are.

A root is a folder here, or one at a URL; whoever reads a video asks for it by its name.

``index.py`` has one folder, and a video is named by its path in it. The library of ``find.py`` has
any number, each with a name, and a video is named ``NAME/PATH``: so a folder that moves, or another
one that comes, renames no video.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import Self

from data_loader.readers.container import list_searchable
from retrieval.index.records import ContentStamp, encode_path
from retrieval.index.remote_videos import Place, RemoteVideo, RemoteVideos
from utils.errors import UserError
from utils.files import FileListing, FileStamp
from utils.remote_files import is_url
from utils.remote_store import StoreUnreachableError

ONLY = ""  # the name of a root that is the only one, and part of no video's name
Folder = Path | RemoteVideos


def parse_folder(text: str) -> Folder:
    """Return the folder that a path or URL names; raises ``UserError``."""
    return RemoteVideos(text) if is_url(text) else Path(text)


def make_absolute(folder: Folder) -> Folder:
    """Return a folder so that it is the same wherever a program is started."""
    return folder.absolute() if isinstance(folder, Path) else folder


def encode_folder(folder: Folder) -> str:
    """Return a folder as ``meta`` keeps it."""
    return encode_path(folder) if isinstance(folder, Path) else os.fsencode(folder.url).hex()


def decode_folder(text: str) -> Folder:
    """Return the folder that ``encode_folder`` was given."""
    return parse_folder(os.fsdecode(bytes.fromhex(text)))  # no absolute path has "://" in it


def is_same_folder(one: Folder, other: Folder) -> bool:
    """Whether two folders are the same; links are followed."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return one == other


class OpenedVideo(NamedTuple):
    """A video as a file here: its own, or a copy of what is at a URL."""

    path: Path
    copied: ContentStamp | None  # of what was copied; None: it is the file itself

    def read_stamp(self) -> ContentStamp:
        """Return the stamp of its content; raises ``UserError``."""
        return self.copied or ContentStamp.of(self.path)


@dataclass
class VideoListing(FileListing):
    """The video files that there are, by the names that the index gives them.

    Attributes:
        absent: name of a root -> why its videos can't be seen now; what the index has of them
            stays, as that of videos in folders that can't be read.
        unsettled: videos that are being written, which wait.
    """

    absent: dict[str, str] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)

    def find_kept(self, known: Iterable[str]) -> set[str]:
        """Return those videos of an index of which it keeps what it has, unseen."""
        starts = tuple(f"{name}/" for name in (*self.absent, *self.unreadable))
        return {name for name in known if name.startswith(starts) or name in self.unsettled}

    def add(self, found: FileListing, prefix: str) -> None:
        """Add what was found in a folder, under names that begin with ``prefix``."""
        self.names += [prefix + name for name in found.names]
        self.link_targets += found.link_targets
        self.num_others += found.num_others
        self.num_links += found.num_links
        self.left_out |= {prefix + name: kind for name, kind in found.left_out.items()}
        self.unreadable |= {prefix + name: reason for name, reason in found.unreadable.items()}
        self.hidden += [prefix + name for name in found.hidden]
        self.excluded += [prefix + name for name in found.excluded]


@dataclass(frozen=True)
class Roots:
    """The folders of an index by their names, absolute; one that is named ``ONLY`` is alone.

    What is asked about a video at a URL raises ``StoreUnreachableError`` where nothing of that can
    be had.

    ``exclude`` are patterns of what in them is left out, see ``utils.files.list_files``.
    """

    folders: Mapping[str, Folder]
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: "Folder | Roots", exclude: Iterable[str] = ()) -> "Roots":
        """Return the roots of an index of one folder; roots are returned as they are."""
        if isinstance(folder, Roots):
            return folder
        return cls({ONLY: make_absolute(folder)}, tuple(exclude))

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Self:
        """Return the roots that the ``meta`` of an index names."""
        exclude = tuple(meta.get("exclude") or ())
        if "roots" in meta:
            folders = {name: decode_folder(path) for name, path in meta["roots"].items()}
            return cls(folders, exclude)
        return cls({ONLY: decode_folder(meta["folder"])}, exclude)

    def to_meta(self) -> dict[str, Any]:
        """Return the values of ``meta`` that ``from_meta`` reads."""
        exclude = {"exclude": list(self.exclude) or None}  # None is no value
        if ONLY in self.folders:
            return {"folder": encode_folder(self.folders[ONLY])} | exclude
        roots = {name: encode_folder(folder) for name, folder in self.folders.items()}
        return {"roots": roots} | exclude

    def describe(self) -> str:
        """Return the folders, for messages."""
        return ", ".join(map(str, self.folders.values()))

    def locate(self, video: str) -> Place:
        """Return where a video is; raises ``UserError`` where its root is none of these."""
        root, path = self.split(video)
        if root not in self.folders:
            raise UserError(f"{video}: {root} is no folder of this library any more")
        folder = self.folders[root]
        return folder / path if isinstance(folder, Path) else RemoteVideo(folder, path)

    def look_at(self, video: str) -> FileStamp:
        """Return what tells without reading it that a video is unchanged.

        Raises ``UserError`` or ``OSError``.
        """
        place = self.locate(video)
        return FileStamp.of(place) if isinstance(place, Path) else place.get_status().make_stamp()

    def read_stamp(self, video: str) -> ContentStamp:
        """Read all of a video for the stamp of its content; raises ``UserError``."""
        place = self.locate(video)
        if isinstance(place, Path):
            return ContentStamp.of(place)
        return place.videos.read_stamp(place.path)

    def find_same(self, video: str, known: ContentStamp) -> ContentStamp | None:
        """Return the stamp of a video that still has this content; see ``ContentStamp.find_same``.

        Raises ``UserError`` or ``OSError`` where it can't be read.
        """
        place = self.locate(video)
        if isinstance(place, Path):
            return known.find_same(place)
        return place.videos.find_same(place.path, known)

    @contextmanager
    def open_video(self, video: str) -> Iterator[OpenedVideo]:
        """Give a video as a file for a ``with`` block: its own, or a copy that is removed then.

        Raises ``UserError`` where it can't be copied, or its root is none of these.
        """
        place = self.locate(video)
        if isinstance(place, Path):
            yield OpenedVideo(place, None)
            return
        with place.videos.fetch(place.path) as copy:
            yield OpenedVideo(copy.path, copy.stamp)

    def split(self, video: str) -> tuple[str, str]:
        """Return the name of a video's root, and the path within it."""
        if ONLY in self.folders:
            return ONLY, video
        root, _, path = video.partition("/")
        return root, path

    def name_video(self, root: str, path: str) -> str:
        """Return the name of a video by its root and its path within it."""
        return path if root == ONLY else f"{root}/{path}"

    def find_root(self, path: Path) -> tuple[str, str] | None:
        """Return the root that a file or folder lies in, and its path within that; None: in none.

        The root itself has the path ``.``; links are followed on both sides.
        """
        resolved = path.resolve()
        for name, folder in self.folders.items():
            if not isinstance(folder, Path):
                continue
            for inside, outside in ((path.absolute(), folder), (resolved, folder.resolve())):
                if inside.is_relative_to(outside):
                    return name, inside.relative_to(outside).as_posix()
        return None

    def list_videos(self) -> VideoListing:
        """List the videos of all roots.

        A folder that is alone must be there and hold one; of several, one that is not there, can't
        be read or is empty (as the place of a disk is that is unplugged) is ``absent``.

        Raises:
            UserError: the only folder is not there, can't be read, or holds no video.
        """
        listing = VideoListing()
        if ONLY in self.folders:
            found = _list_folder(self.folders[ONLY], self.exclude)
            listing.add(found, "")
            if not found.names:
                said, is_here = listing.describe_left_out(), isinstance(self.folders[ONLY], Path)
                doubt = "is a disk not there?" if is_here else "is the URL right?"
                raise UserError(
                    f"{self.folders[ONLY]}: holds no video; {doubt} (An index of it "
                    "is left as it is; to be rid of that, delete its folder.)"
                    + (f" {said}" if said else "")
                )
            return listing
        for root, folder in self.folders.items():
            try:
                found = _list_folder(folder, self.exclude)
            except UserError:
                is_gone = isinstance(folder, Path) and not folder.is_dir()
                listing.absent[root] = "is not there" if is_gone else "can't be read"
                continue
            if not found.names:
                listing.absent[root] = "holds no video"
            listing.add(found, f"{root}/")
        listing.names.sort()
        return listing

    def add(self, folder: Path) -> "Roots":
        """Return these and another one, named after its folder, so that no other has its name."""
        base = name = folder.name or "root"
        number = 1
        while name in self.folders:
            number += 1
            name = f"{base}-{number}"
        return replace(self, folders={**self.folders, name: folder})

    def remove(self, names: Collection[str]) -> "Roots":
        """Return these without some of them."""
        left = {name: path for name, path in self.folders.items() if name not in names}
        return replace(self, folders=left)


def _list_folder(folder: Folder, exclude: Iterable[str]) -> FileListing:
    if isinstance(folder, Path):
        return list_searchable(folder, exclude)
    with explain_unreachable():
        return folder.list_searchable(exclude)


@contextmanager
def explain_unreachable() -> Iterator[None]:
    """Turn ``StoreUnreachableError`` into a ``UserError``, where a run ends."""
    try:
        yield
    except StoreUnreachableError as error:
        raise UserError(str(error)) from error
