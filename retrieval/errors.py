"""What can be wrong with an index, or with what is asked of it."""

from utils.errors import UserError


class IndexFolderError(UserError):
    """The index folder can't be used: missing, damaged, of a newer version, or locked."""


class UnknownEntryError(UserError):
    """There is no entry of this number (any more)."""


class MissingFileError(UserError):
    """An entry's file is not there (any more), or lies outside of the indexed folder."""
