"""Errors that the user can mend: a command shows their text and no traceback."""


class UserError(ValueError):
    """Something the user gave is wrong; the text says what, where, and the remedy."""
