"""Errors of an index, or of what is asked of it."""

from utils.errors import UserError


class IndexFolderError(UserError):
    """The index folder can't be used: missing, damaged, of a newer version, or locked."""


class UnknownEntryError(UserError):
    """There is no entry with this id (any more)."""


class MissingFileError(UserError):
    """An entry's file is not there (any more), or lies outside of the indexed folder."""
