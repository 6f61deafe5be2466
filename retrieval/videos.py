"""The videos of a folder, as a user keeps them: any depth, any name, any usual container."""

import os
from pathlib import Path

from data_loader.video_container import VIDEO_EXTENSIONS
from utils.errors import UserError


def find_videos(folder: str | Path) -> list[Path]:
    """List the videos below a folder by their extensions (``VIDEO_EXTENSIONS``, case ignored).

    Hidden files and folders (names that begin with a dot) are left out, as are symbolic links that
    lead out of ``folder``. Linked folders are not entered: what lies in ``folder`` is found where
    it lies. Names may hold anything, blanks, quotes and line ends included.

    Args:
        folder: may itself be a symbolic link.

    Returns:
        Paths that begin with ``folder``, sorted; empty where there is no video.

    Raises:
        UserError: there is no such folder, or it or a folder in it can't be read. Nothing is left
            out for that: an index would take what it can't see for deleted.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}; give the folder that holds the videos")
    root = folder.resolve()
    found = []
    for here, folders, files in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(here, name) for name in files if not name.startswith(".")]
        found += [path for path in paths if _is_video(path, root)]
    return sorted(found)


def _is_video(path: Path, root: Path) -> bool:
    if path.suffix.lower() not in VIDEO_EXTENSIONS:
        return False
    if path.exists() and not path.is_file():  # a named pipe would be waited for without end
        return False
    return not path.is_symlink() or path.resolve().is_relative_to(root)


def _unreadable(error: OSError) -> None:
    raise UserError(
        f"{os.fsdecode(error.filename)}: the folder can't be read ({error.strerror}); give access "
        "to it, or move it elsewhere"
    ) from error


def shown(name: str | Path) -> str:
    """Return a name or another text as one line that any terminal can show."""
    text = str(name)
    return text if text.isprintable() else ascii(text)
