"""Root folders of an index: where its videos lie, and which files those are.

``index.py`` has one folder, and a video is named by its path in it. The library of ``find.py`` has
any number, each with a name, and a video is named ``NAME/PATH``: so a folder that moves, or another
one that comes, renames no video.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from typing_extensions import Self

from data_loader.readers.container import list_searchable
from retrieval.index.records import decode_path, encode_path
from utils.errors import UserError
from utils.files import FileListing

ONLY = ""  # the name of a root that is the only one, and part of no video's name


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

    ``exclude`` are patterns of what in them is left out, see ``utils.files.list_files``.
    """

    folders: Mapping[str, Path]
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: "Path | Roots", exclude: Iterable[str] = ()) -> "Roots":
        """Return the roots of an index of one folder; roots are returned as they are."""
        if isinstance(folder, Roots):
            return folder
        return cls({ONLY: folder.absolute()}, tuple(exclude))

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Self:
        """Return the roots that the ``meta`` of an index names."""
        exclude = tuple(meta.get("exclude") or ())
        if "roots" in meta:
            folders = {name: decode_path(path) for name, path in meta["roots"].items()}
            return cls(folders, exclude)
        return cls({ONLY: decode_path(meta["folder"])}, exclude)

    def to_meta(self) -> dict[str, Any]:
        """Return the values of ``meta`` that ``from_meta`` reads."""
        exclude = {"exclude": list(self.exclude) or None}  # None is no value
        if ONLY in self.folders:
            return {"folder": encode_path(self.folders[ONLY])} | exclude
        return {"roots": {name: encode_path(path) for name, path in self.folders.items()}} | exclude

    def describe(self) -> str:
        """Return the folders, for messages."""
        return ", ".join(map(str, self.folders.values()))

    def locate(self, video: str) -> Path:
        """Return the file of a video; raises ``UserError`` where its root is none of these."""
        root, path = self.split(video)
        if root not in self.folders:
            raise UserError(f"{video}: {root} is no folder of this library any more")
        return self.folders[root] / path

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
            found = list_searchable(self.folders[ONLY], self.exclude)
            listing.add(found, "")
            if not found.names:
                said = listing.describe_left_out()
                raise UserError(
                    f"{self.folders[ONLY]}: holds no video; is a disk not there? (An index of it "
                    "is left as it is; to be rid of that, delete its folder.)"
                    + (f" {said}" if said else "")
                )
            return listing
        for root, folder in self.folders.items():
            try:
                found = list_searchable(folder, self.exclude)
            except UserError:
                listing.absent[root] = "is not there" if not folder.is_dir() else "can't be read"
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
