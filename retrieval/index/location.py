"""Location of an index: which store keeps what is at a path, or at a URL."""

import re
from pathlib import Path

from retrieval.index.folder_store import FolderStore
from retrieval.index.store import IndexStore

_LANCE = ".lance"  # ending of a table's name
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def open_store(location: str | Path) -> IndexStore:
    """Return the store of a location; nothing is read or made as yet.

    ``SCHEME://…`` and a name that ends in ``.lance`` are a LanceDB table, all else a folder.

    Raises:
        UserError: what that kind of store needs is not installed.
    """
    if is_url(location) or Path(location).suffix == _LANCE:
        from retrieval.lance.store import LanceStore  # needs packages that are not always there

        return LanceStore(str(location))
    return FolderStore(Path(location))


def parse_location(text: str) -> str | Path:
    """Return a location as a command is given it."""
    return text if is_url(text) else Path(text)


def is_url(location: str | Path) -> bool:
    """Whether a location is none in the file system, but ``SCHEME://…``."""
    return isinstance(location, str) and _URL.match(location) is not None
