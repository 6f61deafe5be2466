"""Errors of an index, or of what is asked of it."""

from pathlib import Path

from utils.errors import UserError

LIBRARY_LOCK = "find.lock"  # in the folder above an index that is find.py's


class IndexFolderError(UserError):
    """The index folder can't be used: missing, damaged, of a newer version, or locked."""


class DamagedIndexError(IndexFolderError):
    """Something in an index folder is not what was written there.

    Args:
        folder: of the index.
        file: that is not right, in it.
        what: is wrong with it.
    """

    def __init__(self, folder: Path, file: Path | str, what: str) -> None:
        remedy = f"python index.py VIDEOS --out {folder} --repair"
        if (folder.parent / LIBRARY_LOCK).exists():
            remedy = f"python find.py --library {folder.parent}"
        super().__init__(
            f"{folder / file}: {what}; the index is damaged: {remedy} makes anew what is not right "
            "and keeps the rest"
        )
        self.folder, self.file, self.what = folder, str(file), what


def explain_file_error(folder: Path, file: Path | str, error: OSError) -> IndexFolderError:
    """Return the error for the user where a file of an index can't be read."""
    if isinstance(error, PermissionError):
        return IndexFolderError(f"{folder / file}: can't be read ({error.strerror}); give access")
    return DamagedIndexError(folder, file, str(error.strerror))


class OtherModelError(IndexFolderError):
    """The index was made with another model, or with other settings of it."""


class WordsOnlyError(UserError):
    """The index has no model: it can't be searched by meaning."""

    def __init__(self) -> None:
        super().__init__(
            "this index holds words only, and a search by meaning needs a model: search by text "
            "(--mode keyword), or add one: python index.py VIDEOS --out INDEX --model MODEL"
        )


class UnknownEntryError(UserError):
    """There is no entry with this id (any more)."""


class MissingFileError(UserError):
    """An entry's file is not there (any more), or lies outside of the indexed folder."""


class UnreachableFileError(MissingFileError):
    """The store that an entry's file is in does not answer, or refuses to give it."""


class ModelUnavailableError(UserError):
    """The model of an index, which embeds pictures, is not where it was when the index was made."""
