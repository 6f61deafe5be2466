"""Errors of an index, or of what is asked of it."""

from utils.errors import UserError


class IndexFolderError(UserError):
    """The index folder can't be used: missing, damaged, of a newer version, or locked."""


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


class ModelUnavailableError(UserError):
    """The model of an index, which embeds pictures, is not where it was when the index was made."""
