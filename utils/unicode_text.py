"""Unicode texts of foreign files: half characters, and names that are spelled in two ways."""

import unicodedata


def has_surrogates(text: str) -> bool:
    """Whether a text holds half a character (a lone surrogate), which no encoding can write."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def replace_surrogates(text: str) -> str:
    """Join the halves of characters, and put U+FFFD for a half that is alone."""
    if not has_surrogates(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def compose(text: str) -> str:
    """Return a text in NFC: an accent that stands behind its letter (as on a Mac) is part of it."""
    return unicodedata.normalize("NFC", text)
